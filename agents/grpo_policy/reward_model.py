"""A reward model of Transformers: a reward function that is a sequence classifier.

    env.rewards={rm: {model: FOLDER_OR_HUB_ID, scale: [-10, 10], clip: [0, 1]}}

It scores whole episodes when they are over. Without torch, so that a missing package is an error in
one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from grpo_envs.errors import require, require_training
from grpo_envs.types import Problem, Turn

if TYPE_CHECKING:
    from grpo_policy.classifier import Classifier

_AT = "env.rewards.rm"


class RewardModel:
    """Scores episodes, `batch` of them in one forward pass.

    The score is the logit of a model with one label, or the probability of the chosen label of
    several. The environments of a process share the weights.
    """

    batched = True
    keeps_time = True
    each_alone = True

    def __init__(
        self,
        *,
        model: str,
        label: str | int | None = None,
        device: str = "auto",
        dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        batch: int = 16,
        revision: str | None = None,
    ) -> None:
        """Load the model, unless this process has loaded it already.

        Args:
            model: A folder or a hub id.
            label: The name or number of a label, for a model that has several.
            device: cpu, cuda, cuda:1, ...; auto: a GPU if there is one.
            dtype: The dtype of the weights; auto: bf16 on a GPU, fp32 on a CPU.
            batch: Episodes of a forward pass.
            revision: The revision of a hub id.

        Raises:
            ConfigError: there is no such model or device, the model has no sequence-classification
                head, the label is missing or unknown, or a package is not installed.
        """
        require(batch > 0, f"{_AT}.batch", batch, "1 or more")
        require_training(_AT)
        self._source = (model, revision, device, dtype)
        self._label = self._classifier.label(label)
        self._batch = batch

    def __str__(self) -> str:
        """Return path, size, dtype and device of the model."""
        return str(self._classifier)

    def __call__(
        self,
        problems: Sequence[Problem],
        answers: Sequence[str],
        episodes: Sequence[Sequence[Turn]],
    ) -> list[float | Exception]:
        """Return the score of each episode, or the exception that says why there is none."""
        return self._classifier.scores(problems, episodes, self._label, self._batch)

    @property
    def _classifier(self) -> Classifier:
        from grpo_policy.classifier import classifier  # torch, which may not be installed

        return classifier(*self._source)

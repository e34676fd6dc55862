"""Keys that do not go together are refused before a model is loaded."""

import re
from pathlib import Path

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.training.trainable import require_trainable
from tests.support.full_shards import FULL, write_site


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler with weights of its own is installed."""
    monkeypatch.syspath_prepend(write_site(tmp_path))


@pytest.mark.usefixtures("apart")
def test_with_weights_in_shards_an_engine_samples() -> None:
    require_trainable(compose_run(FULL))
    line = (
        "trainer.shard=full with sampler=torch, which samples with the weights of its process: "
        "none has them whole. Allowed: "
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}") as told:
        require_trainable(compose_run(FULL[:1]))
    allowed = str(told.value).partition("Allowed: ")[2]
    assert allowed == "sampler=apart, sampler=vllm, or trainer.shard=optimizer."


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("model.lora.rank=4", "trainer.shard=full with model.lora.rank=4: adapters are merged in"),
        ("trainer.precision=fp16", "trainer.shard=full with trainer.precision=fp16: gradients are"),
    ],
)
def test_what_is_not_exact_in_shards_is_refused(key: str, line: str) -> None:
    require_trainable(compose_run([key]))
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}.*trainer.shard=optimizer.$"):
        require_trainable(compose_run([*FULL, key]))


def test_a_misspelt_shard_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.shard=ful\b.*full"):
        compose_run(["trainer.shard=ful"])

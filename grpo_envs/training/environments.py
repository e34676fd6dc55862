"""The environments of a run. No torch here: a mistake in `env.*` ends the run within a second."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_envs.config.schema import RunConfig
from grpo_envs.env import TextEnv, plugins
from grpo_envs.env.grading import place
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, require
from grpo_envs.runtime.processes import ALONE, Processes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envs:
    """The environments of a run, for training and for evaluation."""

    train: GroupVectorEnv
    held_out: TextEnv
    problems: int
    """Number of held-out problems, at most `trainer.eval_problems`."""
    others: Mapping[str, tuple[TextEnv, int]] = field(default_factory=dict)
    """Environment and number of problems of each of `trainer.evaluations`, by name."""

    def close(self) -> None:
        """Close all environments and graders."""
        every: list[TextEnv | GroupVectorEnv] = [self.train, self.held_out]
        for env in (*every, *(env for env, _ in self.others.values())):
            close_env(env)


def close_env(env: TextEnv | GroupVectorEnv) -> None:
    """Close an environment; an error of its `close` is only a warning."""
    try:
        env.close()
    except Exception as error:  # noqa: BLE001 - a package's code may raise anything
        name = type(env.env if isinstance(env, GroupVectorEnv) else env).__name__
        log.warning("%s.close() failed: %s: %s", name, type(error).__name__, error)


def make_envs(cfg: RunConfig, processes: Processes = ALONE) -> Envs:
    """Make the environments that `cfg.env` names.

    Args:
        cfg: The configuration.
        processes: The processes that share the problems of a step.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    _require_of_the_environment(cfg)
    size, prompts = cfg.agent.group_size, cfg.trainer.prompts_per_step
    least = processes.count
    require(
        prompts >= least, "trainer.prompts_per_step", prompts, f"{least} or more, one a process"
    )
    members = len(processes.share(range(prompts))) * size
    with ExitStack() as made:
        env = plugins.make(cfg.env["name"], **cfg.env_keywords)
        made.callback(close_env, env)
        held_out, problems = make_held_out(cfg)
        made.callback(close_env, held_out)
        others = {}
        for name, keys in cfg.trainer.evaluations.items():
            others[name] = _make_other(cfg, name, keys)
            made.callback(close_env, others[name][0])
        train = GroupVectorEnv(env, members, size)
        made.pop_all()  # no error: they stay open
    return Envs(train=train, held_out=held_out, problems=problems, others=others)


def _make_other(cfg: RunConfig, name: str, keys: Mapping[str, Any]) -> tuple[TextEnv, int]:
    """Make the environment of one of `trainer.evaluations`, see `make_held_out`."""
    same = keys.get("name", cfg.env["name"]) == cfg.env["name"]
    try:
        return make_held_out(replace(cfg, env={**(cfg.env if same else {}), **keys}))
    except ConfigError as error:
        raise ConfigError(f"trainer.evaluations.{name}: {error}") from error


def place_graders(cfg: RunConfig, members: GroupVectorEnv, device: str) -> None:
    """Set where training answers are graded, by `trainer.graders`; log why if it is elsewhere.

    Args:
        cfg: The configuration.
        members: The training environment.
        device: The type of the device that samples: cpu, cuda.

    Raises:
        ConfigError: the environment cannot be graded there, or a cluster cannot grade it.
    """
    where, cause = place(members.env, cfg.trainer.graders, device)
    members.grade_in(where)
    if cause:
        log.info("answers are graded in the run's own process: %s", cause)


def make_held_out(cfg: RunConfig) -> tuple[TextEnv, int]:
    """Make the held-out environment; return it and the number of problems to evaluate.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    _require_of_the_environment(cfg)
    env = plugins.make(cfg.env["name"], split="eval", **cfg.env_keywords)
    problems = cfg.trainer.eval_problems
    return env, problems if env.rows is None else min(problems, env.rows.count("eval"))


def _require_of_the_environment(cfg: RunConfig) -> None:
    """Refuse keys in `env` that the run itself sets."""
    if "split" in cfg.env_keywords:
        raise ConfigError("env.split is set by the run: train to train on, eval to evaluate on.")

"""The environments of a run. No torch here: a mistake in `env.*` is told within a second."""

from dataclasses import dataclass

from grpo_envs.config.schema import RunConfig
from grpo_envs.env import TextEnv, plugins
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, require
from grpo_envs.runtime.processes import ALONE, Processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envs:
    """Where a run trains and where it is evaluated."""

    train: GroupVectorEnv
    held_out: TextEnv
    problems: int
    """How many of them there are to evaluate on, at most as many as asked for."""


def make_envs(cfg: RunConfig, processes: Processes = ALONE) -> Envs:
    """Make the environments that `cfg.env` names.

    Args:
        cfg: Names them.
        processes: Those that share the problems of a step.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    _require_no_split(cfg)
    size, prompts = cfg.agent.group_size, cfg.trainer.prompts_per_step
    least = processes.count
    require(
        prompts >= least, "trainer.prompts_per_step", prompts, f"{least} or more, one a process"
    )
    members = len(processes.share(range(prompts))) * size
    env = plugins.make(cfg.env["name"], **cfg.env_keywords)
    held_out, problems = make_held_out(cfg)
    return Envs(train=GroupVectorEnv(env, members, size), held_out=held_out, problems=problems)


def make_held_out(cfg: RunConfig) -> tuple[TextEnv, int]:
    """Make the environment to evaluate on; return it and how many problems it is to give.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    _require_no_split(cfg)
    env = plugins.make(cfg.env["name"], split="eval", **cfg.env_keywords)
    problems = cfg.trainer.eval_problems
    return env, problems if env.rows is None else min(problems, env.rows.count("eval"))


def _require_no_split(cfg: RunConfig) -> None:
    if "split" in cfg.env_keywords:
        raise ConfigError("env.split is set by the run: train to train on, eval to evaluate on.")

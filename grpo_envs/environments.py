"""The environments of a run. No torch here: a mistake in `env.*` is told within a second."""

from dataclasses import dataclass

from grpo_envs import plugins
from grpo_envs.config import RunConfig
from grpo_envs.errors import ConfigError
from grpo_envs.vector import GroupVectorEnv


@dataclass(frozen=True, slots=True, kw_only=True)
class Envs:
    """Where a run trains and where it is evaluated."""

    train: GroupVectorEnv
    held_out: GroupVectorEnv
    """One member a problem, `problems` of them (one where there are none to evaluate on)."""
    problems: int


def make_envs(cfg: RunConfig) -> Envs:
    """Make the environments that `cfg.env` names.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    name, keywords = cfg.env["name"], cfg.env_keywords
    if "split" in keywords:
        raise ConfigError("env.split is set by the run: train to train on, eval to evaluate on.")
    size = cfg.agent.group_size
    members = cfg.trainer.prompts_per_step * size
    train = GroupVectorEnv(plugins.make(name, **keywords), members, size)
    held_out = plugins.make(name, split="eval", **keywords)
    problems = cfg.trainer.eval_problems
    if held_out.rows is not None:
        problems = min(problems, held_out.rows.count("eval"))
    return Envs(train=train, held_out=GroupVectorEnv(held_out, max(1, problems)), problems=problems)

"""The source of groups that a configuration selects."""

from __future__ import annotations

from grpo_envs.config.schema import RunConfig
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.processes import Processes
from grpo_envs.runtime.stopping import Stop
from grpo_envs.training.agent import Parts
from grpo_envs.training.ahead import Ahead
from grpo_envs.training.decoding import training_decoding
from grpo_envs.training.source import InStep, Source
from grpo_policy.imitation import Demonstrations
from grpo_policy.parts import held_whole
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.room import Room
from grpo_policy.samplers import Sampler


def make_source(
    cfg: RunConfig,
    parts: Parts,
    sampler: Sampler,
    env: GroupVectorEnv,
    *,
    room: Room,
    stop: Stop,
    processes: Processes,
) -> Source:
    """Return the source of the groups of each step.

    Args:
        cfg: The configuration; `trainer.lag` decides.
        parts: The policy, and its decoding.
        sampler: The sampler, with the policy's weights.
        env: The training environment.
        room: Finds the problems that fit into the model's context; or `Demonstrations`, from which
            the agent then learns.
        stop: The stop request of the run.
        processes: The processes that share the problems of a step.
    """
    policy, leave = parts.policy, Stop() if cfg.trainer.lag else stop
    rollout = Rollout(env, policy.chat, sampler, parts.decoding, cfg.seed, tick=leave.check)
    source = InStep(
        begin=lambda step: _begin(rollout, cfg, policy, step),
        rollout=processes.shared(room if isinstance(room, Demonstrations) else rollout),
        room=room,
        prompts=cfg.trainer.prompts_per_step,
        seed=cfg.seed,
        resamplings=cfg.agent.resamplings,
        flat=cfg.agent.flat,
        max_invalid=cfg.trainer.max_invalid_fraction,
        publish=lambda: _publish(policy, sampler),
    )
    if not cfg.agent.imitates:  # demonstrations always succeed: nothing to adapt to
        source.adapt = env.env.adapt
    if not cfg.trainer.lag:
        return source
    return Ahead(
        source=source,
        lag=cfg.trainer.lag,
        policy=policy,
        sampler=sampler,
        stop=stop,
        leave=leave,
    )


def _begin(rollout: Rollout, cfg: RunConfig, policy: Policy, step: int) -> None:
    """Set the decoding of a step, whose temperature may change."""
    rollout.decoding = training_decoding(cfg, policy, step)


def _publish(policy: Policy, sampler: Sampler) -> None:
    """Give the weights to the sampler if they have changed."""
    if sampler.version != policy.version:
        with held_whole(policy.model):
            sampler.sync(policy)

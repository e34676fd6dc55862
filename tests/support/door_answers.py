"""Answers of many kinds to problems of five environments, and what they earn in our own runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grpo_envs.env import TextEnv
from grpo_envs.env.calls import read_calls
from grpo_envs.env.plugins import make
from grpo_envs.env.rewards import summed
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.seeding import rng_for
from grpo_envs.types import Problem, Turn

ENVIRONMENTS = ("math", "code", "format", "countdown", "guess")
_SAID = ("", " ", "<answer>1</answer>", "<think>x</think> 7", "é ∑ \U0001f600", "<answer>\n2\n")


@dataclass(frozen=True)
class Case:
    """The answers of one episode, and what they earn."""

    seed: int
    answers: tuple[str, ...]
    total: float | None


def cases(name: str, count: int, *, by_tools: bool = False) -> list[Case]:
    """Return `count` episodes of training problems with the rewards that a run would see.

    Args:
        name: The environment's.
        count: How many, from problem 0 on.
        by_tools: Whether every call is as a protocol for tools makes it: it can be read, and is a
            turn of its own.
    """
    env = make(name)
    members = GroupVectorEnv(env, 1)
    try:
        return [_played(members, seed, by_tools) for seed in range(count)]
    finally:
        members.close()


def _played(members: GroupVectorEnv, seed: int, by_tools: bool) -> Case:
    members.reset(seed=[seed])
    rewards, said = [], []
    for answer in _answers(members.env, seed, by_tools):
        _, _, terminated, truncated, _ = members.step([answer])
        said.append(answer)
        rewards.append(members.replies[0].reward)
        if terminated[0] or truncated[0]:
            break
    reward = summed(rewards)
    return Case(seed, tuple(said), reward.total if reward.valid else None)


def _answers(env: TextEnv, seed: int, by_tools: bool) -> Iterator[str]:
    """Yield answers without end: a good player's, another problem's, or nonsense."""
    rng = rng_for("doors", type(env).__name__, seed)
    problem, turns = env.problem(seed), list[Turn]()
    while True:
        answer = _one(env, problem, turns, rng.randrange(8))
        if by_tools and read_calls(answer)[1]:
            answer = env.demonstrate(problem, turns)
        yield answer
        said = env.reply_batch([problem], [[*turns, Turn(action=answer)]])[0].observation
        turns.append(Turn(action=answer, observation=said))


def _one(env: TextEnv, problem: Problem, turns: list[Turn], kind: int) -> str:
    good = env.demonstrate(problem, turns)
    spoilt = (good[:-1], f" {good}\n", good.upper(), _SAID[len(good) % len(_SAID)])
    return good if kind < len(spoilt) else spoilt[kind - len(spoilt)]

"""A single episode: a group of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_envs.env.rewards import merged, summed
from grpo_envs.env.scored import Played
from grpo_envs.types import Problem, Reply, Reward, Turn

if TYPE_CHECKING:
    from grpo_envs.env.text import TextEnv


class Episode:
    """One problem, played answer by answer."""

    def __init__(self, env: TextEnv, problem: Problem) -> None:
        self.env, self.problem = env, problem
        self.turns: list[Turn] = []
        self.rewards: list[Reward] = []
        """The reward of each answer; the last includes the parts of functions that see the
        group."""
        self.terminated = self.truncated = False

    @property
    def over(self) -> bool:
        """Whether the environment ended the episode, or no answer is left."""
        return self.terminated or self.truncated

    @property
    def reward(self) -> Reward:
        """The sum of the rewards of all answers."""
        return summed(self.rewards)

    def answer(self, action: str) -> Reply:
        """Grade an answer and return the environment's reply."""
        (reply,) = self.env.reply_batch([self.problem], [[*self.turns, Turn(action=action)]])
        self.turns.append(heard(action, reply))
        self.rewards.append(reply.reward)
        self.terminated = reply.done
        self.truncated = not reply.done and len(self.turns) >= self.env.turns_of(self.problem)
        if self.over:
            (earned,) = _at_the_end(self.env, [self.problem], [self.turns], [self.reward])
            self.rewards[-1] = merged([reply.reward, earned])
        return dataclasses.replace(reply, reward=self.rewards[-1])

    def transcript(self) -> str:
        """Return the prompt, the answers and the observations, a line each."""
        lines = [f"prompt: {self.problem.prompt}"]
        for turn in self.turns:
            lines.append(f"policy: {turn.action}")
            if turn.observation:
                lines.append(f"env:    {turn.observation}")
        return "\n".join(lines)


def heard(action: str, reply: Reply) -> Turn:
    """Return an answer with the reply to it."""
    return Turn(action=action, observation=reply.observation, reward=reply.reward.total)


def graded_alone(
    env: TextEnv, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
) -> list[Reward]:
    """Return what single answers earn: episodes of one turn, each a group of one."""
    rewards = [reply.reward for reply in env.reply_batch(problems, episodes)]
    earned = _at_the_end(env, problems, episodes, rewards)
    return [merged(pair) for pair in zip(rewards, earned, strict=True)]


def _at_the_end(
    env: TextEnv,
    problems: Sequence[Problem],
    episodes: Sequence[Sequence[Turn]],
    rewards: Sequence[Reward],
) -> list[Reward]:
    """Return the rewards of functions that see whole episodes, each episode a group of one."""
    if not env.waits:
        return [Reward(weights=reward.weights) for reward in rewards]
    triples = zip(problems, episodes, rewards, strict=True)
    groups = [Played(problem, [turns], [reward]) for problem, turns, reward in triples]
    return [earned for (earned,) in env.group_rewards(groups)]

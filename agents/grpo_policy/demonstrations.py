"""Demonstrations: environments play their own problems, as prompts and answers to imitate.

A demonstration has the same tokens as a rollout with these answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from grpo_envs.env import TextEnv
from grpo_envs.env.rewards import summed
from grpo_envs.seeding import rng_for
from grpo_envs.types import Problem, Reply, Reward, Tool, Turn
from grpo_policy.chat import Chat

IGNORED = -100
"""The label of a token that is not learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and the answers to imitate: one, or those of a conversation."""

    system_prompt: str
    prompt: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    results: tuple[tuple[str, ...], ...] = ()
    """Results of the tool calls of each turn, see `Reply.results`; () if no turn has any."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The turns of a prompt that is a conversation, see `Problem.messages`."""
    reward: Reward = field(default_factory=Reward)
    """The sum of the answers' rewards; an empty reward if they are not graded."""


def demonstration(env: TextEnv, number: int, direct_share: float) -> Demonstration:
    """Return the demonstration of problem `number`, not graded.

    `direct_share` of the demonstrations answer without thinking and without calling a tool.
    """
    problem = env.problem(number, "train")
    direct = rng_for("pretrain", number).random() < direct_share
    change = partial(_direct, problem) if direct else str
    return played(env, problem, graded=False, change=change)


def played(
    env: TextEnv, problem: Problem, *, graded: bool = True, change: Callable[[str], str] = str
) -> Demonstration:
    """Return an episode that the environment plays itself.

    Args:
        env: The environment.
        problem: One of its problems.
        graded: Whether the last answer is graded, too; the other answers always need a reply.
        change: Changes an answer that the environment demonstrates.
    """
    turns: list[Turn] = []
    replies: list[Reply] = []
    over = False
    while not over:
        answer = Turn(action=change(env.demonstrate(problem, turns)))
        over = len(turns) + 1 == env.turns_of(problem)
        reply = Reply(reward=Reward())
        if graded or not over:
            reply = env.reply_batch([problem], [[*turns, answer]])[0]
        over = over or reply.done
        total = reply.reward.total if graded else 0.0
        turns.append(replace(answer, observation=reply.observation, reward=total))
        replies.append(reply)
    return Demonstration(
        system_prompt=env.system_prompt_of(problem),
        prompt=problem.prompt,
        messages=problem.messages,
        turns=tuple(turns),
        tools=problem.tools,
        results=tuple(reply.results for reply in replies),
        reward=summed([reply.reward for reply in replies]) if graded else Reward(),
    )


def _direct(problem: Problem, answer: str) -> str:
    if problem.tools:
        return problem.solution
    return re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)


def encode(chat: Chat, demo: Demonstration) -> tuple[list[int], list[int]]:
    """Return tokens and labels of a demonstration; the labels are IGNORED outside the answers."""
    tools = [tool.schema for tool in demo.tools]
    tokens = list(chat.render(demo.prompt, demo.system_prompt, demo.messages, tools))
    labels = [IGNORED] * len(tokens)
    for number, turn in enumerate(demo.turns):
        begun = chat.opened(tuple(tokens))  # some templates open the thought themselves
        answer = [*chat.encode(turn.action.removeprefix(begun)), chat.turn_end]
        reply: tuple[int, ...] = ()
        if turn is not demo.turns[-1]:
            results = demo.results[number] if demo.results else ()
            said, action = turn.observation, turn.action
            reply = chat.follow_up(said, ended=True, results=results, answer=action)
        tokens += [*answer, *reply]
        labels += [*answer, *[IGNORED] * len(reply)]
    return tokens, labels

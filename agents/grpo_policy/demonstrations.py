"""What the bundled model is shown: environments play themselves, as prompts and answers.

A demonstration becomes the tokens that a rollout of it would have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from grpo_envs.env import TextEnv
from grpo_envs.seeding import rng_for
from grpo_envs.types import Problem, Tool, Turn
from grpo_policy.chat import Chat

IGNORED = -100
"""The label of a token that is not to be learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and answers to imitate: one, or those of a conversation."""

    system_prompt: str
    prompt: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    results: tuple[tuple[str, ...], ...] = ()
    """Of the tool calls of each turn, see `Reply.results`; () where no turn has any."""


def demonstration(env: TextEnv, number: int, direct_share: float) -> Demonstration:
    """Return the demonstration of problem `number`.

    A share of them is direct: it answers without thinking and without calling a tool.
    """
    problem = env.problem(number, "train")
    direct = rng_for("pretrain", number).random() < direct_share
    turns: list[Turn] = []
    results: list[tuple[str, ...]] = []
    over = False
    while not over:
        answer = env.demonstrate(problem, turns)
        if direct:
            answer = _direct(problem, answer)
        over, reply = len(turns) + 1 == env.turns_of(problem), None
        if not over:
            reply = env.respond(problem, [*turns, Turn(action=answer)])
            over = reply.done
        turns.append(Turn(action=answer, observation=reply.observation if reply else ""))
        results.append(reply.results if reply else ())
    return Demonstration(
        system_prompt=env.system_prompt_of(problem),
        prompt=problem.prompt,
        turns=tuple(turns),
        tools=problem.tools,
        results=tuple(results),
    )


def _direct(problem: Problem, answer: str) -> str:
    if problem.tools:
        return problem.solution
    return re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)


def encode(chat: Chat, demo: Demonstration) -> tuple[list[int], list[int]]:
    """Return tokens and labels of a demonstration; the labels are IGNORED outside the answers."""
    tools = [tool.schema for tool in demo.tools]
    tokens = list(chat.render(demo.prompt, demo.system_prompt, tools=tools))
    labels = [IGNORED] * len(tokens)
    for number, turn in enumerate(demo.turns):
        answer = [*chat.tokenizer(turn.action)["input_ids"], chat.eos_ids[0]]
        reply: tuple[int, ...] = ()
        if turn is not demo.turns[-1]:
            results = demo.results[number] if demo.results else ()
            said, action = turn.observation, turn.action
            reply = chat.follow_up(said, ended=True, results=results, answer=action)
        tokens += [*answer, *reply]
        labels += [*answer, *[IGNORED] * len(reply)]
    return tokens, labels

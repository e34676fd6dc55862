"""The data types that all floors exchange, in the order in which a step uses them.

Problem -> (policy) -> Completion -> (env) -> Reward -> Group -> (agent) -> update

Axis letters used in names everywhere: P problems, G completions per problem, B = P*G, T tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

REWARD_TOLERANCE = 1e-9
"""Two rewards that differ by at most this are equal; absolute, and relative to the larger one."""
LONGEST_GOLD = 2000
"""Characters of a gold that `gold_text` shows; the tests of a program can be far longer."""


def compare_rewards(one: float, other: float) -> int:
    """Return -1, 0 or 1: `one` is less than, equal to or more than `other`.

    A reward is a weighted sum of floats, so equal rewards may differ in the last bits. All code
    compares rewards with this function.

    >>> compare_rewards(0.3 + 0.3 + 0.3 + 0.1, 1.0)
    0
    """
    if math.isclose(one, other, rel_tol=REWARD_TOLERANCE, abs_tol=REWARD_TOLERANCE):
        return 0
    return 1 if one > other else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the policy may call, as chat templates receive it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema (2020-12) of the arguments, of type `object`."""

    @property
    def schema(self) -> dict[str, Any]:
        """The tool in the form of OpenAI's `tools`, which chat templates take."""
        about = {"name": self.name, "description": self.description}
        return {"type": "function", "function": {**about, "parameters": dict(self.parameters)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call that the policy wrote."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """JSON values by parameter name; empty if the call could not be read."""
    error: str = ""
    """Why the call could not be read; '' if it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question, and the data needed to grade an answer."""

    prompt: str
    """Text shown to the policy."""
    gold: Any
    """Whatever the environment's `score` compares against. Never shown to the policy."""
    solution: str
    """A completion that must earn the maximum; `check_env` plays it. '' if a dataset has none."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth logging: level, source row, topic. JSON values only."""
    system_prompt: str | None = None
    """The system message before this prompt; None: the environment's."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The messages of a prompt that is a conversation, each with `role` (user or assistant) and
    `content`; the last is the user's, and `prompt` is their transcript. () if the prompt is a
    text."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The dataset's row by its own column names, the gold included: for reward functions only."""
    max_turns: int | None = None
    """Answers per episode of this problem; None: the environment's number."""
    tools: tuple[Tool, ...] = ()
    """The tools that the policy may call in an episode of this problem, see
    `grpo_envs/env/calls.py`."""


def gold_text(gold: Any) -> str:
    """Return a problem's gold as text for people: a string unchanged, else its `repr`; cut off.

    >>> gold_text("104"), gold_text((1, "a"))
    ('104', "(1, 'a')")
    """
    text = gold if isinstance(gold, str) else repr(gold)
    return text if len(text) <= LONGEST_GOLD else f"{text[:LONGEST_GOLD]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the policy in an episode, and the environment's observation."""

    action: str
    observation: str = ""
    reward: float = 0.0
    """The weighted reward of this answer alone. While the environment grades the answer it is 0:
    `respond` sees the rewards of earlier turns, and 0 for the last."""
    note: str = ""
    """The grader's remark on this answer, or why its grading failed: for people, in logged
    completions. '' in the turns that `respond` sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer, or a whole conversation after its prompt."""

    text: str
    token_ids: tuple[int, ...] = ()
    """The sampled tokens, the end-of-turn token included. Never re-tokenised from `text`."""
    logprobs: tuple[float, ...] = ()
    """Natural-log probability of each token at sampling time, at the sampling temperature."""
    finish_reason: str = "stop"
    """`stop`: the policy ended its (last) turn; `length`: it ran out of tokens."""
    mask: tuple[bool, ...] = ()
    """False for tokens that the policy did not choose: those between turns, and those that a
    sampler inserted; () if it chose all."""
    turns: tuple[Turn, ...] = ()
    """The turns of a conversation; () for a single answer."""
    turn_lengths: tuple[int, ...] = ()
    """Tokens of each answer, inserted ones included; () if `mask` alone gives the lengths."""
    turn_starts: tuple[int, ...] = ()
    """The index of each answer's first token; () for a single answer."""

    @property
    def length(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.mask) if self.mask else len(self.token_ids)

    @property
    def longest_turn(self) -> int:
        """Tokens of its longest answer; limits on the length of one answer apply to this number.

        >>> Completion(text="", token_ids=(1,) * 6, mask=(True, True, False, True) * 2).longest_turn
        3
        """
        turns = [sum(1 for _ in run) for chosen, run in groupby(self.mask) if chosen]
        return max(self.turn_lengths or turns, default=len(self.token_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A score as named parts, and whether the grader's machinery worked."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """Raw value of each part, each in [0, 1] unless the environment says otherwise."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each part in `total`; a part that is not named weighs 1."""
    valid: bool = True
    """False if the grader failed (sandbox down, plugin raised); a wrong answer is valid."""
    error: str = ""
    """Why the reward is not valid; always '' for a valid one."""
    note: str = ""
    """A remark on the grading for people; nothing is computed from it."""

    def __post_init__(self) -> None:
        """Move the `error` of a valid reward to its note."""
        if self.valid and self.error:
            notes = [text for text in (self.note, self.error) if text]
            object.__setattr__(self, "note", "; ".join(notes))
            object.__setattr__(self, "error", "")

    @property
    def detail(self) -> str:
        """The text for people: `error` if the reward is not valid, else `note`."""
        return self.error or self.note

    @property
    def total(self) -> float:
        """The weighted sum of the parts, which is what the agent learns from. 0 if not valid."""
        if not self.valid:
            return 0.0
        return math.fsum(self.weights.get(name, 1.0) * x for name, x in self.parts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The environment's answer to a turn."""

    reward: Reward
    observation: str = ""
    """Shown to the policy before its next turn."""
    done: bool = True
    results: tuple[str, ...] = ()
    """The results of the turn's tool calls, in the order of the calls. A model reads them in the
    `tool` role of its template; `observation` is all of them as one text, for people and for models
    without that role. () if the observation is a user's message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem with their rewards; GRPO compares them with each other."""

    key: int
    """The problem's seed. Groups with equal prompts and different keys stay separate."""
    prompt: str
    prompt_ids: tuple[int, ...]
    """The prompt rendered with the model's chat template, as tokens."""
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The problem's `meta`."""
    gold: str = ""
    """The problem's gold as text, see `gold_text`; for people only."""
    system_prompt: str = ""
    """The system message before the prompt."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The schemas of the tools that the policy may call, see `Tool.schema`."""
    version: int = 0
    """Version of the weights that sampled the completions, see `Policy.version`."""

    @property
    def flat(self) -> bool:
        """Whether all valid rewards are equal, or there are fewer than two: nothing to compare."""
        totals = [reward.total for reward in self.rewards if reward.valid]
        return not totals or compare_rewards(max(totals), min(totals)) == 0

"""The nouns that travel through the system, in the order they appear.

Problem -> (policy) -> Completion -> (env) -> Reward -> Group -> (agent) -> update

Axis letters used in names everywhere: P problems, G completions per problem, B = P*G, T tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

REWARD_TOLERANCE = 1e-9
"""Two rewards that differ by no more are equal: absolute, and relative to the larger of the two."""
LONGEST_GOLD = 2000
"""Characters of a gold that are shown; tests of a program can be far longer."""


def compare_rewards(one: float, other: float) -> int:
    """Return -1, 0 or 1: `one` is less than, equal to or more than `other`.

    A reward is a weighted sum of floats, so equal ones may differ in the last bits. Every
    comparison of two rewards is made here.

    >>> compare_rewards(0.3 + 0.3 + 0.3 + 0.1, 1.0)
    0
    """
    if math.isclose(one, other, rel_tol=REWARD_TOLERANCE, abs_tol=REWARD_TOLERANCE):
        return 0
    return 1 if one > other else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the policy may call, as a chat template is given it."""

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
    """JSON values by the names of parameters; empty where the call could not be read."""
    error: str = ""
    """Why the call could not be read; '' of one that could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with what is needed to grade an answer to it."""

    prompt: str
    """Text shown to the policy."""
    gold: Any
    """Whatever the environment's `score` compares against. Never shown to the policy."""
    solution: str
    """A completion that must earn the maximum, which `check_env` plays back; '' where a dataset
    has none."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth logging: level, source row, topic. JSON values only."""
    system_prompt: str | None = None
    """The system message before this prompt; None for the environment's."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The turns of a prompt that is a conversation, each with `role` (user or assistant) and
    `content`, the user's last; `prompt` is then their transcript. () where the prompt is a text."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row of a dataset by its own names, the gold among them: for reward functions only."""
    max_turns: int | None = None
    """Answers per episode of this problem; None for the environment's number."""
    tools: tuple[Tool, ...] = ()
    """What the policy may call in an episode of this problem, see `grpo_envs/env/calls.py`."""


def gold_text(gold: Any) -> str:
    """Return a problem's gold for people: a text as it is, else as Python writes it, cut off.

    >>> gold_text("104"), gold_text((1, "a"))
    ('104', "(1, 'a')")
    """
    text = gold if isinstance(gold, str) else repr(gold)
    return text if len(text) <= LONGEST_GOLD else f"{text[:LONGEST_GOLD]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the policy in an episode, and what the environment said to it."""

    action: str
    observation: str = ""
    reward: float = 0.0
    """The weighted reward of this answer alone. 0 while the environment grades it: `respond` sees
    the rewards of the earlier turns, and 0 in the last."""
    note: str = ""
    """The remark on the grading of this answer, or why its grading failed: for people, in what was
    sampled. '' in the turns that `respond` sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer, or all of a conversation after its prompt."""

    text: str
    token_ids: tuple[int, ...] = ()
    """What was sampled, the end-of-turn token included. Never re-tokenised from `text`."""
    logprobs: tuple[float, ...] = ()
    """Natural-log probability of each token at sampling time, at the sampling temperature."""
    finish_reason: str = "stop"
    """`stop`: the policy ended its (last) turn; `length`: it ran out of tokens."""
    mask: tuple[bool, ...] = ()
    """False on tokens that the policy did not choose: those between turns, and those that a
    sampler put in; () where all are its."""
    turns: tuple[Turn, ...] = ()
    """The turns of a conversation; () for a single answer."""
    turn_lengths: tuple[int, ...] = ()
    """Tokens of each answer, those put in included; () where the mask says it."""
    turn_starts: tuple[int, ...] = ()
    """The place of each answer's first token; () for a single answer."""

    @property
    def length(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.mask) if self.mask else len(self.token_ids)

    @property
    def longest_turn(self) -> int:
        """Tokens of its longest answer: what a limit on one answer's length is about.

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
    """False when the grader failed (sandbox down, plugin raised), which is not a wrong answer."""
    error: str = ""
    """Why it is not valid; always '' of a valid one."""
    note: str = ""
    """A remark on the grading for people; nothing is computed from it."""

    def __post_init__(self) -> None:
        """Keep the `error` that a valid reward is given as its note."""
        if self.valid and self.error:
            notes = [text for text in (self.note, self.error) if text]
            object.__setattr__(self, "note", "; ".join(notes))
            object.__setattr__(self, "error", "")

    @property
    def detail(self) -> str:
        """The text for people: why it is not valid, else the note."""
        return self.error or self.note

    @property
    def total(self) -> float:
        """The weighted sum of the parts: the number the learner sees. 0 when not valid."""
        if not self.valid:
            return 0.0
        return math.fsum(self.weights.get(name, 1.0) * x for name, x in self.parts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an environment answers to a turn."""

    reward: Reward
    observation: str = ""
    """Shown to the policy before its next turn."""
    done: bool = True
    results: tuple[str, ...] = ()
    """The results of the turn's tool calls, in their order. Where there are any, a model reads them
    in its template's `tool` role, and `observation` is all of them as one text, for people and for
    models without that role. () where the observation is a user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one problem, with their rewards: what GRPO compares."""

    key: int
    """The problem's seed. Two groups with equal prompts and different keys are two groups."""
    prompt: str
    prompt_ids: tuple[int, ...]
    """The prompt rendered with the model's chat template, as tokens."""
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The problem's."""
    gold: str = ""
    """The problem's gold as text, see `gold_text`: for people, nothing is computed from it."""
    system_prompt: str = ""
    """The system message before the prompt."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The schemas of what the policy may call, see `Tool.schema`."""
    version: int = 0
    """Of the policy's weights that sampled the completions, see `Policy.version`."""

    @property
    def flat(self) -> bool:
        """Whether all valid rewards are equal, or fewer than two: there is nothing to compare."""
        totals = [reward.total for reward in self.rewards if reward.valid]
        return not totals or compare_rewards(max(totals), min(totals)) == 0

"""One group of a run, in the terms of its loss: from rewards to advantages, token by token.

Numbers have nine significant digits, as float32 needs: a calculation by hand from these numbers
gives what the run calculated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from grpo_envs.errors import ConfigError
from grpo_envs.runs.record import Record, Row
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.terminal import one_line

_RULE, _DDOF = "agent.advantage.name", "agent.advantage.ddof"
_COLUMNS = {
    "turn": "turn",
    "sampled": "log p sampled",
    "old": "log p old",
    "new": "log p new",
    "reference": "log p ref",
    "teacher": "log p teacher",
    "ratio": "ratio",
    "loss/clipped": "clipped",
    "apart": "apart",
    "fork": "fork",
    "loss/kl": "KL",
    "policy/entropy": "entropy",
    "policy/correction": "correction",
    "reward": "reward",
    "value": "V old",
    "gae": "A",
    "return": "return",
    "of rewards": "A rewards",
    "advantage": "advantage",
    "loss/policy": "loss",
    "weight": "weight",
    "value new": "V new",
    "critic/loss": "V loss",
    "critic/clipped": "V clipped",
}
"""Columns of the table of tokens, by the name of the term."""
_MEANT = {
    "apart": "apart: 1 where the objective treats the token apart",
    "fork": "fork: 1 where the objective counts, at the tokens of the highest entropy",
    "reward": "reward: r_t of the token; V old: the value of the state before it, before the step; "
    "A: the advantage before it is whitened; return: A + V old",
    "value new": "V new: the value in this update; V loss: before agent.critic.coef and the mean",
    "of rewards": "A rewards: the advantage without the teacher",
}
"""What columns mean whose titles do not say it, by the name of the term."""
_OF_TOKENS = ("agent.loss.", "agent.critic.")
"""Keys whose formulas are about single tokens; the others are about advantages."""
_ROUNDING = 1e-5
"""Rewards are compared in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A part of an explanation."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The group, completion and update to explain."""

    step: int
    group: int = 0
    """Number of the group in the step, from 0."""
    member: int | None = None
    """The completion to show token by token; None: the one with the largest advantage."""
    update: int | None = None
    """The update of the step, from 1; None: the last one that the completion took part in."""


def explain(run: Record, place: Place) -> Iterator[str | Table]:
    """Yield lines and tables that explain a group.

    Raises:
        ConfigError: the run has no such step, group, member or update.
    """
    step = [row for row in run.completions if row["step"] == place.step]
    known = sorted({row["step"] for row in run.completions})
    if not step:
        raise ConfigError(f"--step={place.step}. Allowed: {_shown(known)}.")
    size = int(run.config.get("agent.group_size", 1))
    _require("--group", place.group, len(step) // size, 0)
    members = step[place.group * size :][:size]
    noted = [row for row in _noted(run) if (row["step"], row["group"]) == (place.step, place.group)]
    yield f"step {place.step}, group {place.group}: problem {members[0]['problem']}"
    yield f"prompt: {one_line(members[0]['prompt'], 200)}"
    yield from _advantages(run, members, noted, step)
    best = max(range(size), key=lambda number: abs(members[number]["advantage"]))
    member = best if place.member is None else place.member
    _require("--member", member, size, 0)
    mine = [row for row in noted if row["member"] == member]
    if mine:
        yield from _tokens(run, mine, place.update)
    else:
        yield _not_noted(run, place)


def _shown(steps: Sequence[int]) -> str:
    """Return the steps of a run's completions in words.

    >>> _shown([1, 2, 3]), _shown([1, 40])
    ('1 to 3', '1, 40')
    """
    if not steps:
        return "none, completions.jsonl is empty or not there"
    whole = list(steps) == list(range(steps[0], steps[-1] + 1))
    return f"{steps[0]} to {steps[-1]}" if whole else ", ".join(map(str, steps))


def last_noted(run: Record, before: int | None = None) -> Place | None:
    """Return the last group with recorded tokens, before the step if one is given."""
    noted = [row for row in _noted(run) if before is None or row["step"] < before]
    return Place(step=noted[-1]["step"], group=noted[-1]["group"]) if noted else None


def _not_noted(run: Record, place: Place) -> str:
    groups = sorted({row["group"] for row in _noted(run) if row["step"] == place.step})
    if groups:
        return f"tokens: not recorded of this group, but of {', '.join(map(str, groups))}"
    count = run.config.get("agent.log_tokens", 0)
    more = "agent.log_tokens=4 records 4 groups per step"
    return f"tokens: not recorded (agent.log_tokens={count}). {more}"


def _noted(run: Record) -> list[dict[str, Any]]:
    file = run.path / "tokens.jsonl"
    return read_jsonl(file) if file.is_file() else []


def _require(option: str, value: int, count: int, first: int) -> None:
    if not first <= value < first + count:
        raise ConfigError(f"{option}={value}. Allowed: {first} to {first + count - 1}.")


def _advantages(
    run: Record, members: Sequence[Row], noted: Sequence[Row], step: Sequence[Row]
) -> Iterator[str | Table]:
    """Yield how the group's rewards became advantages."""
    compared = {row["member"]: math.fsum(row["compared"]) for row in noted if "compared" in row}
    rewards = [row["reward"] for row in members]
    lessened = any(abs(r - rewards[number]) > _ROUNDING for number, r in compared.items())
    if lessened:
        rewards = [compared.get(number, reward) for number, reward in enumerate(rewards)]
    parts = list(dict.fromkeys(name for row in members for name in row["parts"]))
    found = {row["member"]: row.get("of_member", {}) for row in noted}
    more = list(next(iter(found.values()), {}))
    header = ["member", *parts, "reward", *(["r"] if lessened else []), *more, "advantage"]
    header += ["tokens", ""]
    rows = []
    for number, (row, reward) in enumerate(zip(members, rewards, strict=True)):
        cells = [str(number), *(_number(row["parts"].get(name)) for name in parts)]
        cells += [_number(row["reward"]), *([_number(reward)] if lessened else [])]
        cells += [_number(found.get(number, {}).get(name)) for name in more]
        remark = "" if row["valid"] else "invalid: no part of the mean, advantage 0"
        rows.append([*cells, _number(row["advantage"]), str(row["tokens"]), remark])
    yield Table(header=header, rows=rows)
    if lessened:
        yield "r: the reward less the penalties of agent.overlong and of agent.loss.kl_in=reward"
    if _RULE not in run.config:
        name = run.config.get("agent.name")
        yield f"agent.name={name} compares no group: its advantages are of single tokens"
        yield from _of_advantages(run, noted)
        return
    valid = [r for r, row in zip(rewards, members, strict=True) if row["valid"]]
    yield from _statistics(run, valid, "the group")
    yield from _of_advantages(run, noted)
    if run.config.get("agent.advantage.turns", "episode") != "episode":
        yield "turns are compared separately: an advantage above is a mean over its tokens"
        yield from _turns(run, members, noted)
    if all(row["advantage"] == 0 for row in members):
        yield "every advantage is 0: nothing differs in the group, it teaches nothing"
    everyone = [row["reward"] for row in step if row["valid"]]
    yield from _statistics(run, everyone, "the step, before penalties")


def _of_advantages(run: Record, noted: Sequence[Row]) -> Iterator[str]:
    """Yield how advantages are made, and the numbers of the whole step that they need."""
    yield from _formulas(run, of_tokens=False)
    of_step: Mapping[str, float] = noted[0].get("of_step", {}) if noted else {}
    if of_step:
        yield "the step: " + ", ".join(f"{name}={_number(x)}" for name, x in of_step.items())


def _formulas(run: Record, *, of_tokens: bool) -> Iterator[str]:
    """Yield the formulas of a token's terms, or those of advantages and rewards."""
    for key, text in run.about.get("formulas", {}).items():
        if (key.startswith(_OF_TOKENS) and key != "agent.loss.kl_in") is of_tokens:
            yield f"{key}={text}"


def _turns(run: Record, members: Sequence[Row], noted: Sequence[Row]) -> Iterator[str | Table]:
    """Yield what is compared in each turn: with the members that took it."""
    compared = {row["member"]: row["compared"] for row in noted if "compared" in row}
    ahead = float(run.config.get("agent.advantage.discount", 1.0))
    discounted = run.config["agent.advantage.turns"] == "discounted"
    rows, by_turn = [], dict[int, list[float]]()
    for number, row in enumerate(members):
        rewards = compared.get(number, [])[: len(row["turns"]) or 1]
        for turn, reward in enumerate(rewards):
            to_go = math.fsum(ahead**n * later for n, later in enumerate(rewards[turn:]))
            if row["valid"]:
                by_turn.setdefault(turn, []).append(to_go if discounted else reward)
            cells = [str(number), str(turn), _number(reward)]
            rows.append([*cells, *([_number(to_go)] if discounted else [])])
    if rows:
        more = ["reward to go"] if discounted else []
        yield Table(header=["of member", "turn", "r of turn", *more], rows=rows)
    for turn, values in sorted(by_turn.items()):
        yield from _statistics(run, values, f"turn {turn}")


def _statistics(run: Record, values: Sequence[float], what: str) -> Iterator[str]:
    if not values:
        yield f"{what}: no reward is valid"
        return
    ddof, n, mean = int(run.config[_DDOF]), len(values), fmean(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    std = math.sqrt(squares / max(n - ddof, 1))
    divisor = "n - 1 (G - 1)" if ddof else "n (G)"
    yield (
        f"{what}: n={n} mean={_number(mean)} std={_number(std)}, where std^2 is the sum of "
        f"(r - mean)^2 divided by {divisor}, as {_DDOF}={ddof} says"
    )


def _tokens(run: Record, rows: Sequence[Row], asked: int | None) -> Iterator[str | Table]:
    """Yield a completion token by token, in one update."""
    numbers = [row["update"] for row in rows]
    update = numbers[-1] if asked is None else asked
    if update not in numbers:
        raise ConfigError(f"--update={update}. Allowed: {', '.join(map(str, numbers))}.")
    row = rows[numbers.index(update)]
    terms: Mapping[str, Sequence[float]] = row["terms"]
    columns = {name: title for name, title in _COLUMNS.items() if name in terms}
    taken = ", ".join(map(str, numbers))
    yield f"member {row['member']} in update {update}; it took part in {taken} of the step"
    yield from _formulas(run, of_tokens=True)
    yield from _missing(terms)
    yield from (text for name, text in _MEANT.items() if name in terms)
    texts = [one_line(text, 24) or "''" for text in row["tokens"]]
    body = [
        [str(place), text, *(_number(terms[name][place]) for name in columns)]
        for place, text in enumerate(texts)
    ]
    yield Table(header=["t", "token", *columns.values()], rows=body)
    yield from _sums(terms)


def _missing(terms: Mapping[str, Sequence[float]]) -> Iterator[str]:
    if "reference" not in terms:
        yield "log p ref, KL: none, as agent.loss.beta=0 needs no reference"
    if terms["old"] == terms["new"]:
        yield "log p old is log p new: the first update after sampling, so every ratio is 1"


def _sums(terms: Mapping[str, Sequence[float]]) -> Iterator[str]:
    for name, title in (("loss/policy", "loss"), ("loss/kl", "KL"), ("critic/loss", "V loss")):
        if name in terms:
            mean = _number(fmean(terms[name]))
            yield f"mean of {title}={mean} ({name} is that over all tokens of an update)"
    counted = [x * y for x, y in zip(terms["weight"], _ones(terms, "fork"), strict=True)]
    pairs = zip(counted, terms["loss/policy"], strict=True)
    total = _number(math.fsum(weight * loss for weight, loss in pairs))
    yield f"sum of weight * loss={total} (without correction, KL penalty and entropy bonus)"


def _ones(terms: Mapping[str, Sequence[float]], name: str) -> Sequence[float]:
    return terms.get(name, [1.0] * len(terms["weight"]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.9g}"


def as_text(parts: Sequence[str | Table]) -> str:
    """Return an explanation as lines; columns are two spaces apart and are not wrapped."""
    return "\n".join(part if isinstance(part, str) else _aligned(part) for part in parts)


def _aligned(table: Table) -> str:
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    texts = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text.rstrip() for text in texts)

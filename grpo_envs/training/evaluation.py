"""Evaluation of a policy: held-out problems, answered greedily and sampled, and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from grpo_envs.env import TextEnv, rewards
from grpo_envs.env.rewards import Part
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runs.rows import completion_rows
from grpo_envs.runs.statistics import Estimate, mean_of, pass_at_k, share_of
from grpo_envs.runtime.processes import ALONE, Processes, RolloutFn
from grpo_envs.runtime.progress import Phase, phase
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Group, Reward
from grpo_policy.room import Room

Row = Mapping[str, Any]
"""One graded answer, see `completion_rows`; `decoding` is greedy or sampled."""
STRATA = ("env", "level")
"""Keys of the problems' `meta` that make strata."""


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """Answers the problems 0, 1, ... of the held-out split, the same problems each time."""

    env: TextEnv
    room: Room
    """Leaves out the problems that are too long for the model's context."""
    problems: int
    """Number of problems; 0 for no evaluation."""
    samples: int
    """Sampled answers to each problem at `temperature`, beside the greedy one."""
    temperature: float
    play: Callable[[GroupVectorEnv, float], RolloutFn]
    """Returns a function that plays the environment with the policy at a temperature (0:
    greedy)."""
    processes: Processes = ALONE
    """Processes that share the problems; each of them returns all answers."""
    _answering: Phase = field(default_factory=lambda: Phase(""))
    _players: dict[tuple[int, int], RolloutFn] = field(default_factory=dict)
    _members: list[GroupVectorEnv] = field(default_factory=list)

    def __call__(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return the `eval/...` metrics and the answers.

        `eval/too_long` is the number of problems that were left out because they are too long for
        the model's context.

        Raises:
            ConfigError: all problems are too long.
        """
        problems = self.room.among(range(self.problems))
        if not problems:
            raise self.room.no_problem()
        with self.shown(len(problems)):
            rows = self.answers(problems)
        left_out = float(self.problems - len(problems))
        return {**eval_metrics(rows, self.env.own_parts), "eval/too_long": left_out}, rows

    @contextmanager
    def shown(self, problems: int) -> Iterator[None]:
        """Show the progress of answering this number of problems."""
        share = problems * (1 + self.samples) // self.processes.count
        with phase("answering held-out problems", share) as self._answering:
            yield

    def answered(self, count: int) -> None:
        """Count answers, for `shown`."""
        self._answering.advance(count)

    def answers(self, problems: Sequence[int]) -> list[dict[str, Any]]:
        """Return the graded answers to these problems: greedy answers, then sampled ones.

        `right` tells whether an answer is right, see `rewards.is_right`. `room` has found the
        problems, so each leaves room for an answer.
        """
        rows = [{"decoding": "greedy"} | row for row in self._rows(problems, 1, 0.0)]
        if self.samples:
            sampled = self._rows(problems, self.samples, self.temperature)
            rows += [{"decoding": "sampled"} | row for row in sampled]
        return [row | {"right": is_right(row, self.env.own_parts)} for row in rows]

    def close(self) -> None:
        """Stop the graders. The environment is not closed: its owner does that."""
        for members in self._members:
            members.close(shared=True)
        self._members.clear()
        self._players.clear()

    def _rows(
        self, problems: Sequence[int], each: int, temperature: float
    ) -> Iterator[dict[str, Any]]:
        def play(seeds: Sequence[int], timer: Timer) -> list[Group]:
            shape = (len(seeds) * each, each if temperature else 0)
            if shape not in self._players:
                members = GroupVectorEnv(self.env, len(seeds) * each, each)
                self._members.append(members)
                self._players[shape] = self.play(members, temperature)
            return self._players[shape](seeds, timer)

        yield from completion_rows(self.processes.shared(play)(problems, Timer()))


def eval_metrics(rows: Sequence[Row], own: Mapping[str, Part]) -> dict[str, float]:
    """Return the metrics of an evaluation: `eval/<name>` for each of `estimates`.

    `eval/ci95` is half the width of the 95 % interval of `eval/accuracy`, `eval/reward_ci95` of
    `eval/reward`, `eval/pass@k_ci95` of `eval/pass@k`. `eval/invalid` is the share of all answers
    whose grading failed.
    """
    found = estimates(rows, own)
    metrics = {f"eval/{name}": estimate.mean for name, estimate in found.items()}
    for name, estimate in found.items():
        if name in ("reward", "sampled_reward") or (name.startswith("pass@") and "/" not in name):
            metrics[f"eval/{name}_ci95"] = estimate.half_width
        elif name == "accuracy":
            metrics["eval/ci95"] = estimate.half_width
    return metrics | {"eval/invalid": fmean(not row["valid"] for row in rows)}


def estimates(
    rows: Sequence[Row], own: Mapping[str, Part], by: Sequence[str] = STRATA
) -> dict[str, Estimate]:
    """Return the metrics of the answers, with 95 % intervals clustered by problem.

    For greedy answers: `accuracy`, the share that is right (see `rewards.is_right`); `reward` and
    `reward/<part>`; `length` in tokens; `truncated`. For sampled answers: `pass@k`,
    `sampled_reward` and `sampled_reward/<part>`, `sampled_length`, `sampled_truncated`. If there
    are strata: `accuracy/<stratum>` and `pass@1/<stratum>`. Problems with the same prompt form one
    cluster. An invalid reward counts as 0; if no reward is valid,
    the figures of rewards are left out.

    Args:
        rows: The answers.
        own: The environment's own parts.
        by: Keys of the problems' `meta` that make strata.
    """
    found = _figures(rows, own, by).items()
    return {name: estimate(_by_prompt(values)) for name, (estimate, values) in found}


def differences(
    a: Sequence[Row],
    b: Sequence[Row],
    own: Mapping[str, Part],
    by: Sequence[str] = STRATA,
) -> dict[str, Estimate]:
    """Return the paired difference `b - a` of each metric, over the problems that both answered.

    The difficulty that a problem has for both cancels (arXiv 2411.00640, section 4.2).
    """
    of_a, of_b = (_figures(rows, own, by) for rows in (a, b))
    found = {}
    for name in [name for name in of_a if name in of_b]:
        left, right = (_by_number(figures[name][1]) for figures in (of_a, of_b))
        shared = [number for number in left if number in right]
        gains = [(left[n][0], right[n][1] - left[n][1]) for n in shared]
        if gains:
            found[name] = mean_of(_by_prompt(gains))
    return found


def strata(rows: Sequence[Row], by: Sequence[str]) -> dict[str, list[Row]]:
    """Return rows by strata of their problems' `meta`: `math`, `math/level_2`, `topic_x`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        meta, source = row["meta"], str(row["meta"].get("env", ""))
        for key in by:
            if key == "env" and source:
                found.setdefault(source, []).append(row)
            elif isinstance(meta.get(key), str | int | float):  # no lists or objects
                name = f"{key}_{meta[key]}"
                found.setdefault(f"{source}/{name}" if source else name, []).append(row)
    return dict(sorted(found.items()))


def is_right(row: Row, own: Mapping[str, Part]) -> bool:
    """Return whether an answer is right, see `rewards.is_right`."""
    return rewards.is_right(Reward(parts=row["parts"], valid=row["valid"]), own)


def by_problem(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return rows by the number of their problem."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["problem"], []).append(row)
    return found


_Values = list[tuple[Row, float]]
_Figure = tuple[Callable[[Mapping[str, Sequence[float]]], Estimate], _Values]
"""The estimator of a mean, and the values."""


def _figures(rows: Sequence[Row], own: Mapping[str, Part], by: Sequence[str]) -> dict[str, _Figure]:
    found: dict[str, _Figure] = {}
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    if any_valid(greedy):
        found["accuracy"] = share_of, _right(greedy, own)
        for name, some in _graded(strata(greedy, by)):
            found[f"accuracy/{name}"] = share_of, _right(some, own)
    if any_valid(sampled):
        most = min(map(len, by_problem(sampled).values()))
        for k in sorted({2**i for i in range(most.bit_length())} | {most}):
            found[f"pass@{k}"] = share_of, _passed(sampled, own, k)
        for name, some in _graded(strata(sampled, by)):
            found[f"pass@1/{name}"] = share_of, _passed(some, own, 1)
    return found | _means(greedy, "") | _means(sampled, "sampled_")


def any_valid(rows: Sequence[Row]) -> bool:
    """Return whether any answer was graded: without one, nothing is known of rewards."""
    return any(row["valid"] for row in rows)


def _graded(found: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, Sequence[Row]]]:
    return ((name, rows) for name, rows in found.items() if any_valid(rows))


def _right(rows: Sequence[Row], own: Mapping[str, Part]) -> _Values:
    return [(row, float(is_right(row, own))) for row in rows]


def _passed(rows: Sequence[Row], own: Mapping[str, Part], k: int) -> _Values:
    values = []
    for some in by_problem(rows).values():
        right = sum(is_right(row, own) for row in some)
        values.append((some[0], pass_at_k(len(some), right, k)))
    return values


def _means(rows: Sequence[Row], prefix: str) -> dict[str, _Figure]:
    if not rows:
        return {}
    found: dict[str, _Figure] = {}
    if any_valid(rows):
        found[f"{prefix}reward"] = mean_of, [(row, float(row["reward"])) for row in rows]
        for name in sorted({name for row in rows if row["valid"] for name in row["parts"]}):
            found[f"{prefix}reward/{name}"] = _part(rows, name)
    cut = [(row, float(row["finish_reason"] == "length")) for row in rows]
    found[f"{prefix}length"] = mean_of, [(row, float(row["tokens"])) for row in rows]
    found[f"{prefix}truncated"] = share_of, cut
    return found


def _part(rows: Sequence[Row], name: str) -> _Figure:
    """Return a part's values for the problems that it applies to; 0 if a reward is invalid."""
    there = [row for row in rows if name in row["parts"] or not row["valid"]]
    values = [(row, float(row["parts"][name]) if row["valid"] else 0.0) for row in there]
    return share_of if all(0 <= value <= 1 for _, value in values) else mean_of, values


def _by_prompt(values: _Values) -> dict[str, list[float]]:
    """Return values by prompt, the clusters of an interval."""
    found: dict[str, list[float]] = {}
    for row, value in values:
        found.setdefault(row["prompt"], []).append(value)
    return found


def _by_number(values: _Values) -> dict[int, tuple[Row, float]]:
    """Return the mean value of each problem, with a row of it."""
    found: dict[int, list[tuple[Row, float]]] = {}
    for row, value in values:
        found.setdefault(row["problem"], []).append((row, value))
    return {n: (some[0][0], fmean(value for _, value in some)) for n, some in found.items()}

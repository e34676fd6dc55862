"""Variants of a run compared over seeds: their results, differences and intervals.

A variant consists of all runs that agree in the keys `by`; its runs differ in the keys `over` (the
seed). Two variants are compared in pairs of runs with equal values of `over`: with the same seed,
runs have the same problems in the same order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

from grpo_envs.errors import ConfigError, nearest, require_one_of
from grpo_envs.runs.record import Record, record_of
from grpo_envs.runs.statistics import (
    Estimate,
    PairedDifference,
    interquartile_mean_over,
    mean_over,
    paired_difference,
)
from grpo_envs.runtime.files import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The keys and metrics of a comparison."""

    metrics: Sequence[str]
    by: Sequence[str] = ()
    """Keys that define a variant; () for the overrides in which the runs differ."""
    over: Sequence[str] = ("seed",)
    """Keys in which the runs of a variant differ."""
    tasks: str = ""
    """A key whose values are tasks, which are strata of the bootstrap; '' for one task."""
    baseline: str = ""
    """The variant that the others are compared with; '' for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Runs that agree in the keys of `Question.by`."""

    name: str
    runs: Mapping[tuple[str, str], Record]
    """Runs by task and unit: the values of `Question.tasks` and of `Question.over`."""

    def strata(self, metric: str) -> list[list[float]]:
        """Return the values of the runs of each task."""
        found: dict[str, list[float]] = {}
        for (task, _), run in self.runs.items():
            found.setdefault(task, []).append(reached(run, metric))
        return list(found.values())

    def by_unit(self, metric: str) -> dict[str, float]:
        """Return the mean over tasks for each unit that has runs of all tasks."""
        tasks = {task for task, _ in self.runs}
        units = {unit for _, unit in self.runs}
        whole = [u for u in units if all((task, u) in self.runs for task in tasks)]
        return {u: fmean(reached(self.runs[t, u], metric) for t in tasks) for u in sorted(whole)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A metric of a variant, and its difference from the baseline."""

    variant: str
    metric: str
    runs: int
    mean: Estimate
    iqm: Estimate
    """The interquartile mean."""
    pairs: int
    """Units that both this variant and the baseline have; 0 for the baseline itself."""
    difference: PairedDifference | None
    """None with fewer than two pairs."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs sorted into variants, with remarks."""

    question: Question
    by: Sequence[str]
    """Keys that define a variant."""
    variants: Sequence[Variant]
    """The variants, the baseline first."""
    remarks: Sequence[str] = field(default_factory=list)
    """Lines about runs that are left out and keys that differ."""

    @cached_property
    def results(self) -> list[Result]:
        """The results, metric by metric."""
        return [
            _result(variant, self.variants[0], metric)
            for metric in self.question.metrics
            for variant in self.variants
        ]


def reached(run: Record, metric: str) -> float:
    """Return a run's final value of a metric: of the last evaluation, or a mean of the last steps.

    Metrics of training steps are noisy, so the value is the mean over the last quarter of steps, at
    most 20.
    """
    evaluated = [row[metric] for row in run.evals if metric in row]
    return float(evaluated[-1]) if evaluated else run.late(metric)


def compare(runs: Sequence[Record], question: Question) -> Comparison:
    """Sort runs into variants and leave out what cannot be compared.

    Raises:
        ConfigError: no run has such a metric, key or baseline, or none can be compared.
    """
    kept, remarks = _comparable(runs, question.metrics)
    by = question.by or varying(kept, [*question.over, question.tasks])
    for option, keys in (("--by", by), ("--over", question.over), ("--tasks", [question.tasks])):
        for key in filter(None, keys):
            _require_key(option, key, kept)
    found: dict[str, dict[tuple[str, str], Record]] = {}
    for run in kept:
        members = found.setdefault(variant_name(run, by), {})
        place = (setting(run, question.tasks), _named(run, question.over))
        if place in members:
            other = shown(members[place].path)
            remarks.append(f"left out {shown(run.path)}: as {other}, {place[1] or 'no key'} alike")
        members.setdefault(place, run)
    variants = [Variant(name=name, runs=members) for name, members in found.items()]
    if question.baseline:
        names = [variant.name for variant in variants]
        short = {name.partition("=")[2]: name for name in names}
        chosen = short.get(question.baseline, question.baseline)
        require_one_of("--baseline", chosen, names)
        variants.sort(key=lambda variant: variant.name != chosen)
    remarks += _differing(variants, by, [*question.over, question.tasks])
    return Comparison(question=question, by=by, variants=variants, remarks=remarks)


def over_seeds(runs: Sequence[Record], metric: str) -> Comparison | None:
    """Return the variants compared over seeds; None if finished runs have only one seed."""
    done = [
        run
        for run in runs
        if run.state == "done" and any(metric in row for row in (*run.steps, *run.evals))
    ]
    if len({setting(run, "seed") for run in done}) < 2:
        return None
    return compare(done, Question(metrics=[metric]))


def read(paths: Sequence[Path]) -> list[Record]:
    """Return the records of runs; repeated folders count once."""
    return [record_of(path) for path in dict.fromkeys(paths)]


def setting(run: Record, key: str) -> str:
    """Return the value of a key or the option of a group in a run, as text; '' if there is none.

    >>> setting(Record(Path("run"), [], [], {"agent.name": "grpo", "seed": 3}, {}, "done"), "seed")
    '3'
    """
    for found in (run.about.get("choices", {}), run.config, run.overrides):
        if key in found:
            value = found[key]
            return value if isinstance(value, str) else json.dumps(value)
    return str(run.config.get(f"{key}.name", ""))


def varying(runs: Sequence[Record], but: Sequence[str] = ()) -> list[str]:
    """Return the overrides in which runs differ, in the order of the commands."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if key not in but)
    return [key for key in keys if len({setting(run, key) for run in runs}) > 1]


def variant_name(run: Record, by: Sequence[str]) -> str:
    """Return the name of the variant that a run belongs to."""
    return _named(run, by) or "all runs"


def _named(run: Record, keys: Sequence[str]) -> str:
    return " ".join(f"{key}={setting(run, key) or '-'}" for key in keys)


def _comparable(runs: Sequence[Record], metrics: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Return finished runs of one length that have the metrics, and remarks on the other runs.

    Raises:
        ConfigError: no run is left, or no run has a metric.
    """
    done = [run for run in runs if run.state == "done" and run.steps]
    left = {shown(run.path): run.state for run in runs if run not in done}
    known = {name for run in done for row in (*run.steps, *run.evals) for name in row} - {"step"}
    for metric in metrics if done else ():
        if metric not in known:
            close = nearest(metric, known)
            raise ConfigError(
                f"--metric={metric}: no run has it.{close or f' Allowed: {_all(known)}.'}"
            )
    lengths = Counter(run.steps[-1]["step"] for run in done)
    usual = max(lengths, key=lambda steps: (lengths[steps], steps), default=0)
    kept = []
    for run in done:
        own = {name for row in (*run.steps, *run.evals) for name in row}
        missing = [metric for metric in metrics if metric not in own]
        if run.steps[-1]["step"] != usual:
            left[shown(run.path)] = f"{run.steps[-1]['step']} steps, others {usual}"
        elif missing:
            left[shown(run.path)] = f"no {', '.join(missing)}"
        else:
            kept.append(run)
    remarks = [f"left out {path}: {why}" for path, why in left.items()]
    if not kept:
        raise ConfigError("; ".join(["no run can be compared", *remarks[:3]]) + ".")
    return kept, remarks


def _all(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _require_key(option: str, key: str, runs: Sequence[Record]) -> None:
    known = {name for run in runs for name in (*run.config, *run.overrides)}
    known |= {name for run in runs for name in run.about.get("choices", {})}
    known |= {name.removesuffix(".name") for name in known if name.endswith(".name")}
    if key not in known:
        raise ConfigError(f"{option}={key}: no run has such a key.{nearest(key, known)}")


def _differing(
    variants: Sequence[Variant], by: Sequence[str], over: Sequence[str]
) -> Iterator[str]:
    """Yield lines about the keys that differ between variants, or within a variant."""
    keys = dict.fromkeys(k for v in variants for run in v.runs.values() for k in run.settings)
    expected: list[str] = []
    beside: list[str] = []
    for key in keys:
        if _belongs(key, over):
            continue
        values = [{_value(run, key): None for run in v.runs.values()} for v in variants]
        mixed = [v.name for v, found in zip(variants, values, strict=True) if len(found) > 1]
        if mixed:
            said = " and ".join(values[[v.name for v in variants].index(mixed[0])])
            also = f"differs beside {_options('--over', over)}: {key}={said} in {mixed[0]}"
            yield f"warning: {also}"
        elif len({*map(tuple, values)}) > 1:
            each = f"{key} ({', '.join(value for found in values for value in found)})"
            (expected if _belongs(key, by) else beside).append(each)
    if expected:
        yield f"differ between the variants: {'; '.join(expected)}"
    if beside:
        yield f"warning: differ beside {_options('--by', by)}: {'; '.join(beside)}"


def _belongs(key: str, groups: Sequence[str]) -> bool:
    """Return whether a key is one of `groups`, or below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in groups if name)


def _value(run: Record, key: str) -> str:
    return json.dumps(run.settings.get(key))


def _options(option: str, keys: Sequence[str]) -> str:
    return f"{option} {','.join(filter(None, keys))}"


def _result(variant: Variant, baseline: Variant, metric: str) -> Result:
    strata = variant.strata(metric)
    own, base = variant.by_unit(metric), baseline.by_unit(metric)
    pairs = [own[unit] - base[unit] for unit in own if unit in base and variant is not baseline]
    return Result(
        variant=variant.name,
        metric=metric,
        runs=sum(map(len, strata)),
        mean=mean_over(strata),
        iqm=interquartile_mean_over(strata),
        pairs=len(pairs),
        difference=paired_difference(pairs) if len(pairs) > 1 else None,
    )

"""Variants of a run compared over seeds: their results, differences and intervals.

A variant consists of all runs that agree in the keys `by`; its runs differ in the keys `over` (the
seed). Two variants are compared in pairs of runs with equal values of `over`: with the same seed,
runs have the same problems in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

from grpo_envs.errors import ConfigError, nearest, require, require_one_of
from grpo_envs.runs.comparable import comparable, names_of, reached
from grpo_envs.runs.record import Record, record_of
from grpo_envs.runs.statistics import (
    Estimate,
    PairedDifference,
    interquartile_mean_over,
    mean_over,
    paired_difference,
)
from grpo_envs.runs.variants import named, setting, variant_name, varying
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

    @property
    def tasks(self) -> set[str]:
        """The tasks of its runs."""
        return {task for task, _ in self.runs}

    def units(self, tasks: set[str]) -> set[str]:
        """Return the units that have runs of all these tasks."""
        every = {unit for _, unit in self.runs} if tasks else set()
        return {unit for unit in every if all((task, unit) in self.runs for task in tasks)}

    def mean(self, metric: str, unit: str, tasks: set[str]) -> float:
        """Return the mean over the tasks of a unit."""
        return fmean(reached(self.runs[task, unit], metric) for task in tasks)


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
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why runs are left out, by their folder."""
    remarks: Sequence[str] = field(default_factory=list)
    """Lines about keys that differ, and about runs without a pair."""

    @property
    def ended(self) -> str:
        """A warning that names the runs that a limit ended early; '' if there are none."""
        runs = [run for variant in self.variants for run in variant.runs.values() if run.stopped]
        each = [f"{shown(run.path)} (step {run.steps[-1]['step']}, {run.stopped})" for run in runs]
        line = f"warning: ended by a limit, compared by their last values: {'; '.join(each)}"
        return line if runs else ""

    @property
    def about_runs(self) -> str:
        """One line that names the runs that are left out, or ended by a limit; '' if none is."""
        named = [f"{path} ({why})" for path, why in sorted(self.left_out.items())]
        left_out = f"left out of the comparison: {'; '.join(named)}" if named else ""
        return ". ".join(filter(None, (left_out, self.ended)))

    @cached_property
    def results(self) -> list[Result]:
        """The results, metric by metric."""
        return [
            _result(variant, self.variants[0], metric)
            for metric in self.question.metrics
            for variant in self.variants
        ]


def compare(runs: Sequence[Record], question: Question) -> Comparison:
    """Sort runs into variants and leave out what cannot be compared.

    Raises:
        ConfigError: no run has such a metric, key or baseline, or none can be compared.
    """
    _require(runs, question)
    kept, left = comparable(runs, question.metrics)
    if not kept:
        few = [f"left out {path}: {why}" for path, why in [*left.items()][:3]]
        raise ConfigError("; ".join(["no run can be compared", *few]) + ".")
    by = question.by or varying(kept, [*question.over, question.tasks])
    for option, keys in (("--by", by), ("--over", question.over), ("--tasks", [question.tasks])):
        for key in filter(None, keys):
            _require_key(option, key, kept)
    found: dict[str, dict[tuple[str, str], Record]] = {}
    for run in kept:
        members = found.setdefault(variant_name(run, by), {})
        place = (setting(run, question.tasks), named(run, question.over))
        if place in members:
            other = shown(members[place].path)
            left[shown(run.path)] = f"as {other}, {place[1]} alike"
        members.setdefault(place, run)
    variants = [Variant(name=name, runs=members) for name, members in found.items()]
    if question.baseline:
        names = [variant.name for variant in variants]
        short = {name.partition("=")[2]: name for name in names}
        chosen = short.get(question.baseline, question.baseline)
        require_one_of("--baseline", chosen, names)
        variants.sort(key=lambda variant: variant.name != chosen)
    remarks = [*_differing(variants, by, [*question.over, question.tasks])]
    for variant in variants[1:]:
        remarks += _unpaired(variant, variants[0])
    return Comparison(question=question, by=by, variants=variants, left_out=left, remarks=remarks)


def over_seeds(runs: Sequence[Record], metric: str) -> Comparison | None:
    """Return the variants compared over seeds; None if finished runs have only one seed."""
    kept, _ = comparable(runs, [metric])
    if len({setting(run, "seed") for run in kept}) < 2:
        return None
    return compare(runs, Question(metrics=[metric]))


def read(paths: Sequence[Path]) -> list[Record]:
    """Return the records of runs; repeated folders count once."""
    return [record_of(path) for path in dict.fromkeys(paths)]


def _require(runs: Sequence[Record], question: Question) -> None:
    """Refuse a metric that no finished run has, no metric or key, and a key with two roles."""
    known = {name for run in runs if run.state == "done" for name in names_of(run)}
    for metric in question.metrics if known else ():
        if metric not in known:
            close = nearest(metric, known)
            raise ConfigError(
                f"--metric={metric}: no run has it.{close or f' Allowed: {_all(known)}.'}"
            )
    for option, values in (("--metric", question.metrics), ("--over", question.over)):
        require(bool(values), option, "", "names, separated by commas")
    roles = [("--by", question.by), ("--over", question.over), ("--tasks", [question.tasks])]
    taken: dict[str, str] = {}
    for option, keys in roles:
        for key in filter(None, keys):
            if taken.setdefault(key, option) != option:
                raise ConfigError(f"{taken[key]}={key} with {option}={key}. Allowed: one of them.")


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


def _unpaired(variant: Variant, baseline: Variant) -> Iterator[str]:
    """Yield lines about the tasks and units that only one of two variants has."""
    tasks = variant.tasks & baseline.tasks
    if only := sorted(variant.tasks ^ baseline.tasks):
        said = f"warning: {variant.name} and {baseline.name} do not both have {', '.join(only)}"
        yield f"{said}: pairs compare {', '.join(sorted(tasks)) or 'nothing'}"
    own, base = variant.units(tasks), baseline.units(tasks)
    alone = [f"{unit} of {variant.name}" for unit in sorted(own - base)]
    alone += [f"{unit} of {baseline.name}" for unit in sorted(base - own)]
    if alone:
        shared = ", ".join(sorted(own & base)) or "nothing"
        said = f"{variant.name} minus {baseline.name} is over the pairs of {shared}"
        yield f"{said}; without a pair: {', '.join(alone)}"


def _belongs(key: str, groups: Sequence[str]) -> bool:
    """Return whether a key is one of `groups`, or below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in groups if name)


def _value(run: Record, key: str) -> str:
    return json.dumps(run.settings.get(key))


def _options(option: str, keys: Sequence[str]) -> str:
    return f"{option} {','.join(filter(None, keys))}"


def _result(variant: Variant, baseline: Variant, metric: str) -> Result:
    strata = variant.strata(metric)
    tasks = variant.tasks & baseline.tasks
    units = sorted(variant.units(tasks) & baseline.units(tasks))
    pairs = [variant.mean(metric, u, tasks) - baseline.mean(metric, u, tasks) for u in units]
    if variant is baseline:
        pairs = []
    return Result(
        variant=variant.name,
        metric=metric,
        runs=sum(map(len, strata)),
        mean=mean_over(strata),
        iqm=interquartile_mean_over(strata),
        pairs=len(pairs),
        difference=paired_difference(pairs) if len(pairs) > 1 else None,
    )

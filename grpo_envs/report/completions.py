"""The completions for the browser of a page, as JSON; the browser shows them as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_envs.runs.record import Record

_MOST = 5000
"""The most completions in the browser, of all runs together."""
_MOST_CHARACTERS = 8_000_000
_KEPT = ("step", "problem", "prompt", "text", "reward", "parts", "valid", "error", "advantage")


def about_runs(runs: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Return for each run the weights of its reward components, and `ddof` of a group's std."""
    return {
        name: {
            "weights": run.about.get("weights", {}),
            "ddof": run.config.get("agent.advantage.ddof", 1),
        }
        for run, name in zip(runs, names, strict=True)
    }


def browsable(runs: Sequence[Record], names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the completions to show, as whole groups evenly over the steps, and their number."""
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for i, run in enumerate(runs):
        for row in run.completions:
            groups.setdefault((i, row["step"], row["problem"]), []).append(row)
    everything = list(groups.items())
    total = sum(len(rows) for _, rows in everything)
    characters = sum(len(r["text"]) + len(r["prompt"]) for _, rows in everything for r in rows)
    share = min(1.0, _MOST / max(total, 1), _MOST_CHARACTERS / max(characters, 1))
    kept = everything
    if share < 1:
        count = max(1, int(len(everything) * share))
        kept = [everything[i * len(everything) // count] for i in range(count)]
    rows = [small(names[key[0]], row) for key, rows in kept for row in rows]
    what = "All" if len(rows) == total else f"{len(rows):,} of"
    more = "" if len(rows) == total else ": whole groups, evenly over the steps"
    return rows, f"{what} {total:,} completions{more}."


def small(run: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a completion for the browser; runs of version 0.1 lack some."""
    found = {key: row[key] for key in _KEPT}
    found |= {"run": run, "tokens": row["tokens"], "cut": row["finish_reason"] == "length"}
    found |= {key: row[key] for key in ("note", "gold") if row.get(key)}
    return found | ({"turns": row["turns"]} if len(row["turns"]) > 1 else {})


def contexts(
    runs: Sequence[Record], names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the system messages and tools of some completions, each once.

    Args:
        runs: The runs.
        names: The names of the runs.
        rows: The completions, see `small`.

    Returns:
        Objects with `system_prompt`, `tools` and `of`: the `[run, step, problem]` of their groups.
    """
    shown = {(row["run"], row["step"], row["problem"]) for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for run, name in zip(runs, names, strict=True):
        for row in run.problems:
            place = (name, row["step"], row["problem"])
            if place in shown:
                said = {key: row[key] for key in ("system_prompt", "tools")}
                found.setdefault(repr(said), {**said, "of": []})["of"].append(place)
    return list(found.values())

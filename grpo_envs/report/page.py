"""The page of a report. What a model wrote is data: escaped, or set as text, never HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from grpo_envs.doctor import diagnose
from grpo_envs.report.figures import colours, figures
from grpo_envs.runs.curves import half_width_of
from grpo_envs.runs.record import Record

_HERE = Path(__file__).parent
_MOST = 5000
"""Completions in the browser, of all runs together."""
_MOST_CHARACTERS = 8_000_000
_FIGURE = '<figure><figcaption>{}</figcaption><div class="chart"></div></figure>'
_MOST_CHANGED = 12
"""Problems whose answers before and after are shown."""


def page(runs: Sequence[Record]) -> str:
    """Return the page as HTML."""
    names = _names(runs)
    rows, extent = _browsable(runs, names)
    drawn = list(figures(runs, names))
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(", ".join(names) if len(runs) > 1 else _title(runs[0])),
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        summary="".join(_summary(runs, names)),
        figures="".join(_FIGURE.format(escape(title)) for title, _ in drawn),
        charts=_safe(f"[{','.join(str(figure.to_json()) for _, figure in drawn)}]"),
        changed="".join(_changed(runs[0])) if len(runs) == 1 else "",
        extent=escape(extent),
        rows=_safe(json.dumps(rows, separators=(",", ":"), ensure_ascii=False)),
        browser=(_HERE / "browser.js").read_text(encoding="utf-8"),
        drawing=(_HERE / "charts.js").read_text(encoding="utf-8"),
        config=_config(runs, names),
    )


def _names(runs: Sequence[Record]) -> list[str]:
    """Return short names that tell the runs apart: the last folders of their paths that differ."""
    paths = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _title(run: Record) -> str:
    own = str(run.about.get("name") or run.path.resolve().name)
    return f"{run.config.get('env.name', 'run')}: {own}"


def _summary(runs: Sequence[Record], names: Sequence[str]) -> Iterator[str]:
    """Yield, for each run, how far it came, the evaluation before and after, and what is wrong."""
    for run, name, colour in zip(runs, names, colours(len(runs)), strict=True):
        planned = run.config.get("trainer.steps", "?")
        seconds = sum(run.column("time/step"))
        last = run.steps[-1]["step"] if run.steps else 0
        state = f"; {run.state}" if run.state.startswith("failed") else ""
        yield f'<section class="run"><h2><i style="background:{colour}"></i>{escape(name)}</h2>'
        yield f"<p>{last} of {planned} steps in {seconds / 60:.1f} minutes{escape(state)}</p>"
        if run.evals:
            yield _evaluations(run)
        findings = diagnose(run)
        yield "<h3>What the doctor sees</h3>"
        for finding in findings:
            yield (
                f"<p><b>{escape(finding.says)}</b><br>seen: {escape(finding.evidence)}<br>"
                f"turn: {escape(finding.turn)}</p>"
            )
        yield "" if findings else "<p>Nothing is wrong that can be seen from here.</p>"
        yield "</section>"


def _evaluations(run: Record) -> str:
    first, last = run.evals[0], run.evals[-1]
    rows = []
    for name in last:
        if name.startswith("eval/") and not name.endswith("ci95"):
            half = half_width_of(name)
            cells = [
                f"{row[name]:.3f}" + (f" &plusmn; {row[half]:.3f}" if half in row else "")
                for row in (first, last)
                if name in row
            ]
            rows.append([escape(name.removeprefix("eval/")), *cells])
    head = ["held-out", f"step {first['step']}", f"step {last['step']}"]
    return _table([head, *rows])


def _changed(run: Record) -> Iterator[str]:
    """Yield what was answered before and after, of problems whose reward changed most."""
    answers = [row for row in run.answers if "evaluation" not in row]
    steps = sorted({row["step"] for row in answers})
    if len(steps) < 2:
        return
    of = {
        step: {
            row["problem"]: row
            for row in answers
            if row["step"] == step and row["decoding"] == "greedy"
        }
        for step in (steps[0], steps[-1])
    }
    before, after = of.values()
    gains = {n: after[n]["reward"] - row["reward"] for n, row in before.items() if n in after}
    order = sorted((n for n in gains if gains[n]), key=lambda n: (-abs(gains[n]), n))
    kinds = [[n for n in order if gains[n] > 0], [n for n in order if gains[n] < 0]]
    chosen = [*kinds[0][: _MOST_CHANGED - 4], *kinds[1][:4]]
    rose, fell, same = len(kinds[0]), len(kinds[1]), sum(not gain for gain in gains.values())
    yield "<h2>Before and after</h2>"
    yield f"<p>Greedy answers to held-out problems: {rose} earn more, {fell} less, {same} the same."
    yield '</p><div class="pairs">'
    for n in chosen:
        yield f'<article><p class="prompt">{escape(before[n]["prompt"])}</p>'
        for label, row in (("before", before[n]), ("after", after[n])):
            yield f"<h4>{label}: {row['reward']:.2f}</h4><pre>{escape(row['text'])}</pre>"
            if detail := row["error"] or row.get("note"):
                yield f'<p class="note">{escape(detail)}</p>'
        yield "</article>"
    yield "</div>"


def _browsable(runs: Sequence[Record], names: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the completions to show, whole groups evenly over the steps, and how many they are."""
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
    rows = [_small(names[key[0]], row) for key, rows in kept for row in rows]
    what = "All" if len(rows) == total else f"{len(rows):,} of"
    more = "" if len(rows) == total else ": whole groups, evenly over the steps"
    return rows, f"{what} {total:,} completions{more}."


def _small(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("step", "problem", "prompt", "text", "reward", "parts", "valid", "error", "advantage")
    turns = [[turn["action"], turn["observation"]] for turn in row["turns"]]
    more = {"run": name, "tokens": row["tokens"], "cut": row["finish_reason"] == "length"}
    more["note"] = row.get("note", "")  # rows of runs of version 0.1 have none
    return {key: row[key] for key in keys} | more | ({"turns": turns} if len(turns) > 1 else {})


def _safe(text: str) -> str:
    """Return JSON that can stand within <script>: no text of a model can end it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _config(runs: Sequence[Record], names: Sequence[str]) -> str:
    """Return the configurations and versions side by side, those that differ first."""
    flat = [
        {**run.config, **{f"version of {k}": v for k, v in run.about.get("versions", {}).items()}}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    keys.sort(key=lambda key: len({json.dumps(config.get(key)) for config in flat}) == 1)
    rows = [
        [escape(key), *(escape(json.dumps(config.get(key))) for config in flat)] for key in keys
    ]
    return _table([["key", *map(escape, names)], *rows])


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are HTML already, the first row is the head."""
    head, *body = rows
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'

"""Held-out answers on a page: answers whose reward changed, and answers that stayed wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from grpo_envs.report.html import labelled
from grpo_envs.runs.record import Record

_Row = Mapping[str, Any]
_MOST_CHANGED = 12
"""The most problems with a changed reward that are shown."""
_MOST_WORSE = 4
"""The most of them with a lower reward."""
_MOST_WRONG = 12
"""The most problems with wrong answers in both evaluations that are shown."""


def held_out(run: Record) -> Iterator[str]:
    """Yield the sections on the greedy answers of the first and the last evaluation, as HTML."""
    own = [row for row in run.answers if "evaluation" not in row]  # without trainer.evaluations
    greedy = [row for row in own if row["decoding"] == "greedy"]
    steps = sorted({row["step"] for row in greedy})
    if len(steps) < 2:
        return
    before, after = (
        {row["problem"]: row for row in greedy if row["step"] == step}
        for step in (steps[0], steps[-1])
    )
    pairs = {n: (row, after[n]) for n, row in before.items() if n in after}
    yield from _changed(pairs)
    yield from _stayed_wrong(pairs)


def _changed(pairs: Mapping[int, tuple[_Row, _Row]]) -> Iterator[str]:
    """Yield both answers to the problems with the largest changes of the reward."""
    gains = {n: after["reward"] - before["reward"] for n, (before, after) in pairs.items()}
    order = sorted((n for n in gains if gains[n]), key=lambda n: (-abs(gains[n]), n))
    rose, fell = [n for n in order if gains[n] > 0], [n for n in order if gains[n] < 0]
    same = len(gains) - len(order)
    yield '<h2 id="changed">Before and after</h2>'
    yield f"<p>Greedy answers to held-out problems: {len(rose)} earn more, {len(fell)} less, "
    yield f"{same} the same.</p>"
    yield from _articles([pairs[n] for n in rose[: _MOST_CHANGED - _MOST_WORSE]])
    yield from _articles([pairs[n] for n in fell[:_MOST_WORSE]])


def _stayed_wrong(pairs: Mapping[int, tuple[_Row, _Row]]) -> Iterator[str]:
    """Yield both answers to problems whose answers were wrong before and after.

    Runs that began with version 0.1 do not record which answers are right.
    """
    said = [pair for pair in pairs.values() if all("right" in row for row in pair)]
    wrong = [pair for pair in said if not any(row["right"] for row in pair)]
    if not said:
        return
    yield '<h2 id="wrong">Stayed wrong</h2>'
    shown = f"; {_MOST_WRONG} of them are shown" if len(wrong) > _MOST_WRONG else ""
    yield f"<p>{len(wrong)} of {len(said)} held-out problems were answered wrong in the first "
    yield f"and in the last evaluation{shown}.</p>"
    yield from _articles([wrong[i] for i in _spread(len(wrong), _MOST_WRONG)])


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` numbers below `count`, evenly spaced.

    >>> _spread(10, 3), _spread(2, 3)
    ([0, 3, 6], [0, 1])
    """
    kept = min(count, most)
    return [i * count // kept for i in range(kept)]


def _articles(pairs: Sequence[tuple[_Row, _Row]]) -> Iterator[str]:
    """Yield the problem, its gold and both answers of each pair."""
    if not pairs:
        return
    yield '<div class="pairs">'
    for pair in pairs:
        yield f'<article><p class="prompt">{escape(pair[0]["prompt"])}</p>'
        yield labelled("gold", pair[1].get("gold", ""))
        for label, row in zip(("before", "after"), pair, strict=True):
            yield f"<h4>{label}: {row['reward']:.2f}</h4><pre>{escape(row['text'])}</pre>"
            if detail := row["error"] or row.get("note"):
                yield f'<p class="note">{escape(detail)}</p>'
        yield "</article>"
    yield "</div>"

"""What a command is doing while its user waits: `with phase("loading the model"): ...`.

A phase shows nothing for its first two seconds. Then a terminal shows its name, its progress and
its duration; without a terminal, stderr gets one line for each phase. The environment variable
GRPO_ENVS_PROGRESS=0 silences all phases.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

from grpo_envs.runtime import launch
from grpo_envs.runtime.terminal import lines_are_named

PATIENCE = 2.0
"""Seconds before a phase shows itself."""
SWITCH = "GRPO_ENVS_PROGRESS"
_under_way: dict[str, Phase] = {}
"""The phases that have not ended, by name."""
_lock = Lock()


@dataclass(slots=True)
class Phase:
    """One phase of a command, with an optional count."""

    what: str
    total: int = 0
    """The number to count up to; 0 if nothing is counted."""
    done: int = 0
    _shown: Progress | None = None
    _timer: Timer | None = None
    _ended: bool = False
    _lock: Lock = field(default_factory=Lock)

    def advance(self, count: int = 1) -> None:
        """Add to the count."""
        with self._lock:
            self.done += count
            self.total = max(self.total, self.done)  # a conversation has more than one answer
            self._refresh()

    def expect(self, count: int) -> None:
        """Raise the total by `count`."""
        with self._lock:
            self.total += count
            self._refresh()

    def begin(self) -> None:
        """Show the phase after a while."""
        self._timer = Timer(PATIENCE, self._show)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """End the phase, and remove it from the display."""
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            if self._shown is not None:
                self._shown.stop()

    def _show(self) -> None:
        with self._lock:
            if self._ended:
                return
            if (console := _console()).is_terminal:
                self._shown = _display(console)
                self._shown.add_task(self.what, count="")
                self._refresh()
                self._shown.start()
            else:
                sys.stderr.write(f"{self._line()}\n")

    def _line(self) -> str:
        return (
            f"{self.what} ({self.done} of {self.total}) ..." if self.total else f"{self.what} ..."
        )

    def _refresh(self) -> None:
        if self._shown is not None:
            (task,) = self._shown.task_ids
            count = f"{self.done} of {self.total}" if self.total else ""
            self._shown.update(task, completed=self.done, total=self.total or None, count=count)


@contextmanager
def phase(what: str, total: int = 0) -> Iterator[Phase]:
    """Show a phase until the block ends.

    A phase with the same name in another thread is not shown a second time.

    Args:
        what: Name of the phase, such as `loading the model`.
        total: Number to count up to with `Phase.advance`; 0: nothing is counted.
    """
    made = Phase(what, total)
    with _lock:
        first = _under_way.setdefault(what, made) is made
    if first and _speaks():
        made.begin()
    try:
        yield made
    finally:
        made.end()
        if first:
            with _lock:
                del _under_way[what]


def _speaks() -> bool:
    """Return whether this process shows its phases; helper processes do not.

    Concurrent jobs of a sweep are the exception: their lines have a name.
    """
    if os.environ.get(SWITCH) == "0" or not launch.speaks():
        return False
    return multiprocessing.parent_process() is None or lines_are_named()


def _console() -> Console:
    """Return the console of log lines if it is a terminal (lines stay above it); else stderr's."""
    import rich  # here: modules of the sandbox import this module
    from rich.console import Console

    own = rich.get_console()
    return own if own.is_terminal else Console(stderr=True)


def _display(console: Console) -> Progress:
    """Return a display with the name, the progress and the duration of a phase."""
    from rich import progress

    return progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.TextColumn("{task.fields[count]}"),
        progress.TimeElapsedColumn(),
        console=console,
        transient=True,
    )

"""Ctrl-C and SIGTERM: a run that is asked to stop saves first."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from grpo_envs.runtime import launch

log = logging.getLogger(__name__)
_PATIENCE = 25.0
"""Seconds after SIGTERM; cluster managers kill after 30."""


class StopNow(Exception):
    """Ends a step during sampling; a resumed run samples the step again."""


class Stop:
    """Whether the run is to end.

    The first Ctrl-C lets the step finish, the second one kills. SIGTERM ends sampling at once and
    lets an update finish. After 25 seconds it ends the process in any case; a resumed run then
    repeats the steps since the last checkpoint.
    """

    def __init__(self, *, patient: bool = True) -> None:
        """Start without a request.

        Args:
            patient: Whether the first Ctrl-C lets the step finish. False in a run of several
                processes, because their launcher kills them after 30 seconds: Ctrl-C then acts like
                SIGTERM.
        """
        self.patient = patient
        self.asked = False
        self.terminated = False
        """Whether SIGTERM has come."""

    def check(self) -> None:
        """Raise if SIGTERM has come; called at points where no work is lost.

        Raises:
            StopNow: SIGTERM has come.
        """
        if self.terminated:
            raise StopNow

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle both signals in the block. Only the main thread may handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        timer = threading.Timer(_PATIENCE, _give_up)
        timer.daemon = True

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            log.warning("Ctrl-C: finishing this step, then saving. Again: stop at once.")

        def terminate(number: int, frame: FrameType | None) -> None:
            if not self.terminated:
                self.asked = self.terminated = True
                timer.start()
                log.warning("%s: saving, then ending.", signal.Signals(number).name)

        signal.signal(signal.SIGINT, interrupt if self.patient else terminate)
        signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)


def end_on_sigterm() -> None:
    """Let SIGTERM end the process with exit code 0 while there is nothing to save."""

    def end(number: int, frame: FrameType | None) -> None:
        if launch.speaks():
            os.write(2, b"grpo_envs: SIGTERM: ended, there was nothing to save.\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def _give_up() -> None:
    log.warning("SIGTERM: no time to finish; a resume repeats the steps since the last checkpoint.")
    os._exit(0)

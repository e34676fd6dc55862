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
    """Leaves a step in the midst of sampling: what was sampled is sampled again after a resume."""


class Stop:
    """Whether the run is to end.

    The first Ctrl-C lets the step finish, the second kills. SIGTERM leaves sampling at once, lets
    an update finish, and ends the process after 25 seconds, whatever it is at: then the steps since
    the last checkpoint are made again.
    """

    def __init__(self, *, patient: bool = True) -> None:
        """Be ready.

        Args:
            patient: Whether the first Ctrl-C lets the step finish. Not so in a run of several
                processes, whose launcher kills them after 30 seconds: there it is as SIGTERM.
        """
        self.patient = patient
        self.asked = False
        self.terminated = False
        """Whether it was SIGTERM."""

    def check(self) -> None:
        """Call it where nothing is lost by leaving.

        Raises:
            StopNow: SIGTERM has come.
        """
        if self.terminated:
            raise StopNow

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take both signals for a while. Only in the main thread: no other may handle signals."""
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
    """Let SIGTERM end the process with 0 if there is nothing to save: before training, after."""

    def end(number: int, frame: FrameType | None) -> None:
        if launch.speaks():
            os.write(2, b"grpo_envs: SIGTERM: ended, there was nothing to save.\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def _give_up() -> None:
    log.warning("SIGTERM: no time to finish; the steps since the last checkpoint are made again.")
    os._exit(0)

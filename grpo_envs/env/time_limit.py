"""A time limit on somebody else's code, which need not end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

_AGAIN_S = 1.0
"""The code is interrupted again after so long, where it caught the exception and went on."""
_SOON_S = 0.001
"""For a limit of somebody else's that passed meanwhile."""


class TooLong(BaseException):
    """A call did not end in time; no Exception, which the interrupted code would catch."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Interrupt the block after `seconds` (of wall time).

    Python interrupts its main thread only: in another thread the block has no limit. A limit that
    somebody else set with SIGALRM, such as a test's, is put back afterwards.

    Args:
        seconds: The limit.
        what: The subject of the message: "draw(rng, 'train')".

    Raises:
        TooLong: the block did not end in time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooLong(f"{what} did not end within {seconds:g} s")

    began = monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = max(left - (monotonic() - began), _SOON_S)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)

"""A time limit for code that may not end, such as a package's environment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

_AGAIN_S = 1.0
"""Seconds until code that caught the exception is interrupted again."""
_SOON_S = 0.001
"""Seconds before an outer limit rings, if its time has passed in the meantime."""


class TooLong(BaseException):
    """A call did not end in time. Not an Exception, which the interrupted code might catch."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Interrupt the block after `seconds` (of wall time).

    Python interrupts only the main thread: in another thread the block has no limit. An outer limit
    with SIGALRM, such as that of a test, is restored afterwards.

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

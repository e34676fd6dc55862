"""A time limit for code that may not end, such as a package's environment."""

import signal
import threading
from time import monotonic
from types import FrameType

_AGAIN_S = 1.0
"""Seconds until code that caught the exception is interrupted again."""
_SOON_S = 0.001
"""Seconds before an outer limit rings, if its time has passed in the meantime."""


class TooLong(BaseException):
    """A call did not end in time. Not an Exception, which the interrupted code might catch."""


class time_limit:
    """Interrupts the block of a `with` after some seconds (of wall time).

    Python interrupts only the main thread: in another thread the block has no limit. An outer limit
    with SIGALRM, such as that of a test, is restored afterwards.

    Args:
        seconds: The limit.
        what: The subject of the message: "draw(rng, 'train')".

    Raises:
        TooLong: the block did not end in time; nothing is raised once it has ended.
    """

    def __init__(self, seconds: float, what: str) -> None:
        """Set the limit.

        Args:
            seconds: The limit.
            what: The subject of the message: "draw(rng, 'train')".
        """
        self._seconds, self._what = seconds, what

    def __enter__(self) -> None:
        self._limited = threading.current_thread() is threading.main_thread()
        if self._limited:
            self._began = monotonic()
            self._before = signal.setitimer(signal.ITIMER_REAL, 0)
            self._handler = signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_S)

    def __exit__(self, *_: object) -> None:
        if not self._limited:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        left, interval = self._before
        if left:
            rest = max(left - (monotonic() - self._began), _SOON_S)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)

    def _ring(self, _signal: int, frame: FrameType | None) -> None:
        # Before and after the block an exception would leave the timer on, to interrupt whatever
        # comes then. The timer rings again soon if the block is still to come.
        around = (time_limit.__enter__.__code__, time_limit.__exit__.__code__)
        if frame is None or frame.f_code not in around:
            raise TooLong(f"{self._what} did not end within {self._seconds:g} s")

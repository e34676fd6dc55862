"""Sessions of one server: an episode goes on in its session, or is replayed in another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from grpo_env_openenv.wire import Full, Lost, Outside, Session, Told, Unreachable, WireError

T = TypeVar("T")
log = logging.getLogger(__name__)
_TRIES = 3
"""Lost connections during one step after which it fails: an answer may crash the server."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0


class Sessions:
    """Up to `most` connections to a server, shared by all threads.

    An episode is a function of its reset and its steps. A session that has played exactly these
    steps goes on; otherwise they are replayed in another session. So an episode survives a lost
    connection and a restarted server.
    """

    def __init__(self, base: str, most: int, timeout: float) -> None:
        """Store the settings; nothing connects yet.

        Args:
            base: The address of the server.
            most: Connections at once.
            timeout: Seconds to wait for a reply of the server, and for a lost server to come back.
        """
        self.base, self.most, self.timeout = base, most, timeout
        self._idle: list[Session] = []
        """Idle sessions; the last used one is at the end."""
        self._count = 0
        """Connections that are open or being opened."""
        self._limited = False
        """Whether the server allowed fewer connections than `most`."""
        self._changed = threading.Condition()

    def play(self, moves: Sequence[str], sent: int = 1) -> list[Told]:
        """Return the server's answers to a reset and to each step, up to the episode's end.

        Args:
            moves: The data of the reset and of each step after it, as JSON.
            sent: The number of moves at the end that are sent in any case, even if a session has
                answers to them.

        Raises:
            WireError: the server cannot be reached or refuses a move; one line.
        """
        return self._with(lambda session: session.play(moves, sent), moves, sent)

    def tools(self) -> list[Mapping[str, Any]]:
        """Return the server's tools."""
        return self._with(Session.ask_tools, (), 0)

    def close(self) -> None:
        """Close the connections that are not in use; a later call opens them again."""
        with self._changed:
            closed, self._idle = self._idle, []
            self._count -= len(closed)
            self._changed.notify_all()
        for session in closed:
            session.close()

    def _with(self, call: Callable[[Session], T], moves: Sequence[str], sent: int) -> T:
        patience = _Patience(self.timeout)
        while True:
            session = self._take(moves, sent)
            try:
                return self._use(session, call)
            except Full as error:
                if not self._make_do(error):
                    patience.wait(error)
            except Lost as error:
                if session is None:  # an idle session may only be older than a restart
                    patience.wait(error)

    def _use(self, session: Session | None, call: Callable[[Session], T]) -> T:
        try:
            session = session or Session(self.base, self.timeout)
            result = call(session)
        except BaseException as error:
            sound = isinstance(error, Outside) and session is not None
            self._leave(session, sound=sound)
            raise
        self._leave(session, sound=True)
        return result

    def _take(self, moves: Sequence[str], sent: int) -> Session | None:
        """Return a session, or None if a new one may be opened; wait until there is either."""
        with self._changed:
            while True:
                found = self._best(moves, sent)
                if found is None and self._count < self.most:
                    self._count += 1
                    return None
                if found is None and self._idle:
                    found = self._idle[0]
                if found is not None:
                    self._idle.remove(found)
                    return found
                self._changed.wait()

    def _best(self, moves: Sequence[str], sent: int) -> Session | None:
        """Return the session that has played most of these moves, or a free session."""
        standing = [(session.match(moves, sent), session) for session in self._idle]
        played, best = max(standing, key=lambda pair: pair[0], default=(0, None))
        return best if played else next((x for x in self._idle if x.free), None)

    def _leave(self, session: Session | None, *, sound: bool) -> None:
        """Give a session back; close it if it is not sound. None: it was never opened."""
        with self._changed:
            if sound and session is not None:
                self._idle.append(session)
            else:
                self._count -= 1
            self._changed.notify()
        if session is not None and not sound:
            session.close()

    def _make_do(self, error: Full) -> bool:
        """Limit the number of sessions to the existing ones; return whether there are any."""
        with self._changed:
            if not self._count:
                return False
            if not self._limited:
                text = "env.sessions=%d: %s. It goes on with the sessions that there are."
                log.warning(text, self.most, error)
            self._limited, self.most = True, self._count
            return True


@dataclass(slots=True)
class _Patience:
    """The waiting time for a server."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    next_s: float = _FIRST_WAIT_S
    tries: int = 0

    def wait(self, error: WireError) -> None:
        """Wait a while, longer each time.

        Raises:
            WireError: `error`, if the time or the tries are used up.
        """
        self.tries += isinstance(error, Lost) and not isinstance(error, Unreachable)
        if self.tries == _TRIES or time.monotonic() - self.began > self.seconds:
            raise error
        time.sleep(self.next_s)
        self.next_s = min(2 * self.next_s, _LONGEST_WAIT_S)


_shared: WeakValueDictionary[tuple[str, int, float], Sessions] = WeakValueDictionary()


def shared_sessions(base: str, most: int, timeout: float) -> Sessions:
    """Return the sessions of a server; environments of one process share them.

    Training and evaluation are two environments, and many servers allow only one session.
    """
    key = (base, most, timeout)
    sessions = _shared.get(key) or Sessions(*key)
    _shared[key] = sessions
    return sessions

"""Open sessions of running episodes with tools: sessions of environments and of MCP servers.

`respond` is a function of a problem and its turns, so these are the key of a session. If the
session is not open, for example in another process, a new one is opened and the calls are made
again.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from grpo_envs.env.mcp_client import Connection, Server
from grpo_envs.errors import GrpoEnvsError, ToolFailed
from grpo_envs.types import Call, Problem, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A call of the policy, and its result."""

    call: Call
    result: str
    """The text that the policy reads."""
    failed: bool
    """Whether the result is an error of the call, or an error that the tool reports
    (ValueError)."""


class Episode:
    """One episode: its calls so far, and its session, which is opened on first use."""

    def __init__(self, problem: Problem, open_session: Callable[[Problem], Any]) -> None:
        """Begin an episode of a problem; `open_session` opens its session."""
        self.problem = problem
        self.turns: tuple[Turn, ...] = ()
        """The turns so far, with their observations."""
        self.calls: list[Answered] = []
        """All calls so far, in order."""
        self._open_session = open_session
        self._held = ExitStack()
        self._state: list[Any] = []
        self._connections: dict[int, Connection] = {}

    @property
    def state(self) -> Any:
        """The value that the environment's `session` yields for this episode."""
        if not self._state:
            with _session("opened"):
                opened = self._open_session(self.problem)
                if not isinstance(opened, AbstractContextManager | Iterator):
                    allowed = "a generator that yields it once, or a context manager"
                    raise ToolFailed(f"session(problem) returned {opened!r}. Allowed: {allowed}.")
                if not isinstance(opened, AbstractContextManager):
                    opened = contextmanager(lambda: opened)()
                self._state.append(self._held.enter_context(opened))
        return self._state[0]

    def connection(self, server: Server) -> Connection:
        """Return the episode's own session with a server.

        Raises:
            ToolFailed: the server cannot be started or reached.
        """
        if id(server) not in self._connections:
            connection = server.connect()
            self._held.callback(connection.close)
            self._connections[id(server)] = connection
        return self._connections[id(server)]

    def close(self) -> None:
        """Close all sessions of the episode.

        Raises:
            ToolFailed: the environment's `session` raises an exception.
        """
        with _session("closed"):
            self._held.close()


@contextmanager
def _session(done: str) -> Iterator[None]:
    """Say of an exception that the session could not be opened, or closed."""
    try:
        yield
    except GrpoEnvsError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise ToolFailed(f"session(problem) could not be {done}: {cause}") from error


class Sessions:
    """Episodes that wait for their next turn. Several threads may use it."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` episodes: beyond that, the oldest one is closed."""
        self._most = most
        self._kept: list[Episode] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Sessions], tuple[int]]:
        """Pickle without open sessions; another process makes their calls again."""
        return Sessions, (self._most,)

    def take(self, problem: Problem, turns: Sequence[Turn]) -> Episode | None:
        """Remove and return the episode of the problem with exactly these turns."""
        said = [(turn.action, turn.observation) for turn in turns]
        with self._lock:
            for i, episode in enumerate(self._kept):
                same = episode.problem is problem or episode.problem == problem
                if [(t.action, t.observation) for t in episode.turns] == said and same:
                    return self._kept.pop(i)
        return None

    def keep(self, episode: Episode) -> None:
        """Keep an episode for its next turn."""
        with self._lock:
            self._kept.append(episode)
            old = self._kept[: -self._most]
            del self._kept[: -self._most]
        _close(old)

    def close(self) -> None:
        """Close all episodes."""
        with self._lock:
            old, self._kept = self._kept, []
        _close(old)


def _close(episodes: Sequence[Episode]) -> None:
    """Close episodes that no reward depends on any more; an exception becomes a warning."""
    for episode in episodes:
        try:
            episode.close()
        except GrpoEnvsError as error:
            warnings.warn(str(error), stacklevel=2)

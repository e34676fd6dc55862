"""Episodes of a server, with what finds one that does not repeat itself."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_env_openenv.sessions import Sessions
from grpo_env_openenv.wire import Told, WireError
from grpo_envs.errors import ConfigError
from grpo_envs.types import Problem, Reply, Reward, Turn

_KEPT = 20_000
"""States of episodes that are remembered: those of some steps of a run."""
_NO_REPEAT = "the server does not repeat itself after reset(seed=...)"
_SHOWN = 60
_COMMON = 20


class Player:
    """Draws problems from a server, and has it answer the turns of an episode.

    A problem is known by what the server is given to reset, in `Problem.columns`: its gold is the
    server's. What a state of an episode answered once it must answer again; so a server that
    ignores seeds is found in a group, whose members say the same now and then, though all its
    problems open alike.
    """

    def __init__(self, sessions: Sessions, reset: Mapping[str, Any]) -> None:
        self._sessions, self._reset = sessions, dict(reset)
        self._seen: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def problem(self, seed: int, split: str) -> Problem:
        """Return problem number `seed` of `split`."""
        raise NotImplementedError

    def reply(self, problem: Problem, turns: Sequence[Turn], *, last: bool) -> Reply:
        """Answer the last of `turns`.

        Args:
            problem: What is played.
            turns: The answers so far.
            last: Whether the episode has no room for more.

        Raises:
            WireError: the server failed, or does not repeat itself.
        """
        raise NotImplementedError

    def shown(self, told: Told) -> str:
        """Return the text of an observation."""
        raise NotImplementedError

    def open(self, columns: Mapping[str, Any]) -> Told:
        """Reset a session anew; return what the server says.

        Args:
            columns: What the server is given: its problem's `columns`.

        Raises:
            ConfigError: the server fails.
        """
        try:
            return self._sessions.play([self._opening(columns)])[0]
        except WireError as error:
            raise ConfigError(f"env.url={self._sessions.base}: {error}.") from error

    def play(self, problem: Problem, steps: Sequence[str], sent: int = 1) -> list[Told]:
        """Play an episode up to its end or the last of `steps`; return what is answered to them.

        Args:
            problem: What is played.
            steps: Actions, as JSON.
            sent: So many of the last ones are new, and sent in any case.

        Raises:
            WireError: the server failed, opened with another prompt, or answers otherwise than it
                has answered the same steps before.
        """
        moves = [self._opening(problem.columns), *steps]
        opening, *told = self._sessions.play(moves, sent)
        prompt = self.shown(opening)
        if prompt != problem.prompt:
            now, before = _where_they_differ(prompt, problem.prompt)
            drawn = f"with {before!r} when the problem was drawn"
            raise WireError(f"{_NO_REPEAT}: it opened with {now!r}, and {drawn}")
        mark = hashlib.sha256(problem.prompt.encode("utf-8", "surrogatepass") + moves[0].encode())
        for number, (step, each) in enumerate(zip(steps, told, strict=False), 1):
            mark.update(f"\0{step}".encode())
            now = json.dumps([self.shown(each), each.get("reward"), bool(each.get("done"))])
            before = self._remembered(mark.digest(), now)
            if before != now:
                again = "{}, and before with {}".format(*_where_they_differ(now, before))
                raise WireError(f"{_NO_REPEAT}: step {number} was answered with {again}")
        return told

    def _opening(self, columns: Mapping[str, Any]) -> str:
        return json.dumps({**self._reset, **{key: columns[key] for key in self._keys}})

    @property
    def _keys(self) -> Sequence[str]:
        """Those of the columns that the server is given."""
        return ("seed",)

    def _remembered(self, state: bytes, now: str) -> str:
        """Return what was answered in this state the first time; `now` where this is it."""
        with self._lock:
            before = self._seen.setdefault(state, now)
            self._seen.move_to_end(state)
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return before


def require_repeated(turns: Sequence[Turn], said: Sequence[str]) -> None:
    """Compare what a replay says with what the policy was told.

    Args:
        turns: The answers, with the observations of all but the last.
        said: What the server says to each now; fewer where the episode ended.

    Raises:
        WireError: they differ.
    """
    for number, (turn, again) in enumerate(zip(turns[:-1], said, strict=False), 1):
        if turn.observation not in ("", again):
            was = "{!r}, and when played again {!r}".format(
                *_where_they_differ(turn.observation, again)
            )
            raise WireError(f"{_NO_REPEAT}: turn {number} was answered with {was}")
    if len(said) < len(turns):
        raise WireError(f"{_NO_REPEAT}: turn {len(said)} went on, and when played again it ended")


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Return what two texts say where they begin to differ.

    >>> _where_they_differ("How many legs have ten cows?", "How many legs have ten ants?")
    ('...any legs have ten cows?', '...any legs have ten ants?')
    """
    pairs = enumerate(zip(one, other, strict=False))
    length = min(len(one), len(other))
    start = max(0, next((i for i, (a, b) in pairs if a != b), length) - _COMMON)
    first, second = ("..." * (start > 0) + text[start : start + _SHOWN] for text in (one, other))
    return first, second


def invalid(error: object) -> Reply:
    """Return the end of an episode whose reward is not known."""
    return Reply(reward=Reward(valid=False, error=str(error)))

"""Episodes of a server, and the checks that find a server which is not deterministic."""

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
"""States of episodes that are remembered, about those of a few steps of a run."""
_NO_REPEAT = "the server does not repeat itself after reset(seed=...)"
_SHOWN = 60
_COMMON = 20


class Player:
    """Draws problems from a server, and gets its replies to the turns of an episode.

    A problem is identified by its arguments of the server's reset, in `Problem.columns`; only the
    server knows the gold. The same state of an episode must always get the same reply. So a server
    that ignores seeds is found even if all its problems open alike: members of a group sometimes
    give the same answer.
    """

    def __init__(self, sessions: Sessions, reset: Mapping[str, Any]) -> None:
        self._sessions, self._reset = sessions, dict(reset)
        self._seen: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def problem(self, seed: int, split: str) -> Problem:
        """Return problem number `seed` of `split`."""
        raise NotImplementedError

    def reply(self, problem: Problem, turns: Sequence[Turn], *, last: bool) -> Reply:
        """Return the reply to the last of `turns`.

        Args:
            problem: The problem.
            turns: The answers so far.
            last: Whether the last turn is the last that the episode may have.

        Raises:
            WireError: the server failed, or is not deterministic.
        """
        raise NotImplementedError

    def shown(self, told: Told) -> str:
        """Return the text of an observation."""
        raise NotImplementedError

    def open(self, columns: Mapping[str, Any]) -> Told:
        """Reset a session; return the server's answer.

        Args:
            columns: The problem's `columns`, which contain the arguments of the reset.

        Raises:
            ConfigError: the server fails.
        """
        try:
            return self._sessions.play([self._opening(columns)])[0]
        except WireError as error:
            raise ConfigError(f"env.url={self._sessions.base}: {error}.") from error

    def play(self, problem: Problem, steps: Sequence[str], sent: int = 1) -> list[Told]:
        """Play an episode up to its end or the last of `steps`; return the answers to the steps.

        Args:
            problem: The problem.
            steps: Actions, as JSON.
            sent: The number of new steps at the end, which are sent in any case.

        Raises:
            WireError: the server failed, opened with another prompt, or gave the same steps another
                answer than before.
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
        """The columns that are arguments of the reset."""
        return ("seed",)

    def _remembered(self, state: bytes, now: str) -> str:
        """Return the first answer in this state, which is `now` if there was none before."""
        with self._lock:
            before = self._seen.setdefault(state, now)
            self._seen.move_to_end(state)
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return before


def require_repeated(turns: Sequence[Turn], said: Sequence[str]) -> None:
    """Compare the replies of a replay with those that the policy saw.

    Args:
        turns: The answers, with the observations of all but the last.
        said: The server's replies to them now; fewer if the episode ended.

    Raises:
        WireError: the replies differ.
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
    """Return an excerpt of two texts around their first difference.

    >>> _where_they_differ("How many legs have ten cows?", "How many legs have ten ants?")
    ('...any legs have ten cows?', '...any legs have ten ants?')
    """
    pairs = enumerate(zip(one, other, strict=False))
    length = min(len(one), len(other))
    start = max(0, next((i for i, (a, b) in pairs if a != b), length) - _COMMON)
    first, second = ("..." * (start > 0) + text[start : start + _SHOWN] for text in (one, other))
    return first, second


def invalid(error: object) -> Reply:
    """Return the last reply of an episode whose reward is unknown."""
    return Reply(reward=Reward(valid=False, error=str(error)))

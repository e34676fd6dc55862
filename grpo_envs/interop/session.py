"""A session of a server: it plays one episode at a time, and its observations are JSON values.

A session has a problem and the turns so far. It never sends the gold answer: an observation has
what `TextEnv.reset` shows a player, and the parts of a reward. The reason of a failed grading is
only in the server's log, because an exception may quote the gold.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grpo_envs.env import SPLITS, TextEnv
from grpo_envs.env.episode import Episode
from grpo_envs.errors import ConfigError, GrpoEnvsError, ResetNeeded, require, require_one_of
from grpo_envs.interop.served import Served
from grpo_envs.types import Reply, Reward

log = logging.getLogger(__name__)
Told = dict[str, Any]
"""An observation's fields, as JSON values."""
_SEEDS = 2**31
_RESET = ("seed", "split", "episode_id")


class Session:
    """A session on a server, with one episode at a time."""

    def __init__(self, served: Served) -> None:
        self.served, self.env = served, served.env
        self.split = self.env.split
        self.seed: int | None = None
        self._episode: Episode | None = None
        self._over = False
        self.steps = 0
        """Number of answers of the episode so far."""

    async def reset(self, seed: Any = None, **others: Any) -> Told:
        """Begin an episode on problem number `seed` of `split` (a random one when None).

        Raises:
            ConfigError: a keyword is unknown, a value is not allowed, or no problem is drawn.
        """
        for name in others:
            require_one_of("reset keyword", name, _RESET)
        split = others.get("split", self.env.split)
        require_one_of("split", split, SPLITS)
        whole = seed is None or (type(seed) is int and seed >= 0)
        require(whole, "seed", repr(seed)[:80], "a whole number from 0 on, or null")
        number = secrets.randbelow(_SEEDS) if seed is None else seed
        try:
            problem = await self.served.call(lambda: self.env.problem(number, split))
        except TimeoutError as error:
            late = f"drawing {split} problem {number} took longer than {self.served.seconds:g} s"
            raise ConfigError(f"env={self.served.name}: {late}.") from error
        except GrpoEnvsError:
            raise
        except Exception as error:  # noqa: BLE001  an environment can raise anything
            why = self._withheld(f"drawing {split} problem {number}", repr(error))
            raise ConfigError(f"env={self.served.name}: {why}.") from None
        self._episode, self._over, self.steps = Episode(self.env, problem), False, 0
        self.split, self.seed = split, number
        return {
            "prompt": sendable(problem.prompt),
            **sendable(self.env.info_of(problem)),
            "answers_left": self.env.turns_of(problem),
            "rewards": _counted(self.env),
            "reward_range": list(self.env.range_of(problem)),
        }

    async def step(self, message: Any) -> Told:
        """Grade an answer.

        Raises:
            ResetNeeded: there is no episode, or it is over.
            ConfigError: the answer is not a text.
        """
        episode = self._episode
        if episode is None or self._over:
            why = "the episode is over" if self._over else "there is no episode in this session"
            raise ResetNeeded(f"{why}: reset first, on the same connection (WebSocket /ws).")
        said = _text(message)
        reply = await self._reply(episode, said)
        reward = reply.reward
        self.steps += 1
        left = 0 if reply.done else self.env.turns_of(episode.problem) - self.steps
        self._over = left <= 0
        return {
            "prompt": sendable(reply.observation),
            "results": sendable(reply.results),
            "answers_left": max(0, left),
            "parts": self.env.parts_of(reward) if reward.valid else {},
            "reward": reward.total if reward.valid else None,
            "done": self._over,
            "metadata": {
                "valid": reward.valid,
                "error": reward.error,
                "terminated": reply.done,
            },
        }

    async def _reply(self, episode: Episode, said: str) -> Reply:
        """Return the reply to an answer; an invalid reward has the error that a client sees."""
        try:
            reply = await self.served.call(lambda: episode.answer(said))
        except TimeoutError:
            late = f"the grading took longer than {self.served.seconds:g} s"
            return Reply(reward=Reward(valid=False, error=late))
        except GrpoEnvsError:
            raise
        except Exception as error:  # noqa: BLE001  a grader can raise anything
            reply = Reply(reward=Reward(valid=False, error=repr(error)))
        if reply.reward.valid:
            return reply
        what = f"grading an answer to {self.split} problem {self.seed}"
        told = self._withheld(what, reply.reward.error)
        return replace(reply, reward=Reward(valid=False, error=told))

    def _withheld(self, what: str, cause: str) -> str:
        """Log why something failed; return the message for the client, without the cause."""
        log.warning("env=%s: %s failed: %s", self.served.name, what, sendable(cause))
        return f"{what} failed; the server's log says why"


def sendable(value: Any) -> Any:
    """Return a JSON value with lone surrogates as escapes: UTF-8 cannot encode them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {sendable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list | tuple) else value


def _counted(env: TextEnv) -> Told:
    """Return the weight of each part; for the environment's own parts also their range."""
    own = {
        name: {"weight": part.weight, "range": list(part.values)}
        for name, part in env.own_parts.items()
    }
    return {name: {"weight": x, "own": own.get(name)} for name, x in env.weights.items()}


def _text(message: Any) -> str:
    """Return an answer as text; a client that reads the answer `7` as JSON sends a number."""
    whole = isinstance(message, int) and not isinstance(message, bool)
    require(isinstance(message, str) or whole, "message", type(message).__name__, "a text")
    return str(message)

"""An environment as an OpenEnv server: one TextEnv for all sessions, as grading has no state.

A session holds a problem and the turns so far. It never sends the gold answer: an observation has
what `TextEnv.reset` tells a player, and the parts of a reward.

OpenEnv (0.10) differs from Gymnasium: it has no `truncated`, so `done` is true as well where the
turns are used up, and a reward may be null: that of an answer whose grading failed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import (
    Action,
    ConcurrencyConfig,
    EnvironmentMetadata,
    Observation,
    State,
)
from pydantic import Field, WithJsonSchema

import grpo_envs
from grpo_envs.env import SPLITS
from grpo_envs.errors import ConfigError, GrpoEnvsError, ResetNeeded, require, require_one_of
from grpo_envs.interop.served import Served
from grpo_envs.types import Problem, Reply, Reward, Turn

_SEEDS = 2**31
_IDLE_S = 3600.0
"""A session that was opened without a connection (MCP) gives its place back after so long."""
_ENDING_S = 0.2
"""Time to send what sessions are told at the end."""
_RESET = ("seed", "split", "episode_id")


class TextAction(Action):
    """What a policy says."""

    # Checked at the step: pydantic's `str` has no lone surrogates, which an answer may have.
    message: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        description="The policy's answer, as it was written"
    )


class TextObservation(Observation):
    """What an environment says. `reward` is null at a reset, and where the grading failed."""

    prompt: str = Field("", description="The question; after an answer, what is said to it")
    system_prompt: str = Field("", description="At a reset: the system message; '' for none")
    messages: list[dict[str, Any]] = Field(
        default_factory=list, description="At a reset: the prompt's turns, if it is a conversation"
    )
    tools: list[dict[str, Any]] = Field(
        default_factory=list, description="At a reset: tools that may be called, as OpenAI has them"
    )
    meta: dict[str, Any] = Field(default_factory=dict, description="At a reset: level, source, ...")
    answers_left: int = Field(0, description="Answers that the episode has room for")
    parts: dict[str, float] = Field(
        default_factory=dict, description="The parts of the reward, before their weights"
    )


class TextState(State):
    """Which problem a session plays; never its gold answer."""

    env: str = ""
    split: str = ""
    seed: int | None = Field(None, description="The number of the problem; null before a reset")


class Session(Environment):
    """A place on the server: one episode at a time."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served, self.env = served, served.env
        self._problem: Problem | None = None
        self._turns: tuple[Turn, ...] = ()
        self._over = False
        self._state = TextState(env=served.name)

    async def reset_async(
        self, seed: Any = None, episode_id: str | None = None, **others: Any
    ) -> TextObservation:
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
        self._problem, self._turns, self._over = problem, (), False
        episode = episode_id or str(uuid4())
        self._state = TextState(episode_id=episode, env=self.served.name, split=split, seed=number)
        told = {"prompt": problem.prompt, **self.env.info_of(problem)}
        return TextObservation(**_sendable(told), answers_left=self.env.turns_of(problem))

    async def step_async(
        self, action: TextAction, timeout_s: float | None = None, **_: Any
    ) -> TextObservation:
        """Grade an answer.

        Raises:
            ResetNeeded: there is no episode, or it is over.
            ConfigError: the answer is no text.
        """
        if self._problem is None or self._over:
            why = "the episode is over" if self._over else "there is no episode in this session"
            raise ResetNeeded(f"{why}: reset first, on the same connection (WebSocket /ws).")
        said = _text(action.message)
        problem, turns = self._problem, [*self._turns, Turn(action=said)]
        try:
            (reply,) = await self.served.call(lambda: self.env.reply_batch([problem], [turns]))
        except TimeoutError:
            error = f"the grading took longer than {self.served.seconds:g} s"
            reply = Reply(reward=Reward(valid=False, error=error))
        reward = reply.reward
        self._turns += (Turn(action=said, observation=reply.observation, reward=reward.total),)
        self._state.step_count = len(self._turns)
        left = 0 if reply.done else self.env.turns_of(problem) - len(self._turns)
        self._over = left <= 0
        return TextObservation(
            prompt=_sendable(reply.observation),
            answers_left=max(0, left),
            parts=self.env.parts_of(reward) if reward.valid else {},
            reward=reward.total if reward.valid else None,
            done=self._over,
            metadata={"valid": reward.valid, "error": _sendable(reward.error)},
        )

    def reset(
        self, seed: Any = None, episode_id: str | None = None, **others: Any
    ) -> TextObservation:
        """Do the same without an event loop; OpenEnv's server calls the other."""
        return asyncio.run(self.reset_async(seed, episode_id, **others))

    def step(
        self, action: TextAction, timeout_s: float | None = None, **others: Any
    ) -> TextObservation:
        """Do the same without an event loop."""
        return asyncio.run(self.step_async(action, timeout_s, **others))

    @property
    def state(self) -> TextState:
        """Which problem is played."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the environment's name and the first line of its docstring."""
        about = (type(self.env).__doc__ or "").strip().partition("\n")[0]
        return EnvironmentMetadata(
            name=f"grpo_envs/{self.served.name}",
            description=about or type(self.env).__name__,
            version=grpo_envs.__version__,
        )


def app(served: Served, sessions: int) -> FastAPI:
    """Return the server's application, with room for so many sessions at once."""
    made: FastAPI = create_fastapi_app(
        lambda: Session(served),
        TextAction,
        TextObservation,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=sessions, session_timeout=_IDLE_S),
        env_name=served.name,
        state_cls=TextState,
        mode="simulation",
    )

    def refuse(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": _sendable(str(error))}, status_code=400)

    made.add_exception_handler(GrpoEnvsError, refuse)
    return made


def listen(host: str, port: int) -> socket.socket:
    """Return a socket at this address; port 0 for any that is free.

    Raises:
        ConfigError: the address is taken, or none of this machine's.
    """
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        number = error.errno or 0  # below 0: of a name that is no host's
        cause = os.strerror(number) if number > 0 else error.strerror
        raise ConfigError(f"--host {host} --port {port}: {cause}. Choose another.") from error


class Server(uvicorn.Server):
    """`run(sockets=[...])` serves until Ctrl-C or SIGTERM, then calls the handlers from before."""

    def __init__(self, served: Served, sessions: int) -> None:
        made = app(served, sessions)
        super().__init__(uvicorn.Config(made, log_level="warning", access_log=False))
        self._served = served

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the sessions whose answers are being graded, then end all of them."""
        self._served.end()
        await asyncio.sleep(_ENDING_S)
        await super().shutdown(sockets)


def _text(message: Any) -> str:
    """Return an answer as text; a client that reads the answer `7` as JSON sends a number."""
    whole = isinstance(message, int) and not isinstance(message, bool)
    require(isinstance(message, str) or whole, "message", type(message).__name__, "a text")
    return str(message)


def _sendable(value: Any) -> Any:
    """Return a value of JSON with lone surrogates written as escapes: UTF-8 has none."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_sendable(key): _sendable(item) for key, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list | tuple) else value

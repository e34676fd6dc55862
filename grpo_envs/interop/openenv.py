"""An environment as an OpenEnv server. All sessions share one TextEnv: grading is stateless.

OpenEnv (0.10) differs from Gymnasium. It has no `truncated`, so `done` is also true when the turns
are used up. A reward may be null: the grading of the answer failed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
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
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.interop.served import Served
from grpo_envs.interop.session import Session, sendable

_IDLE_S = 3600.0
"""Seconds after which an idle session without a connection (MCP) is closed."""
_ENDING_S = 10.0
"""Longest time in seconds for answering the last messages of sessions, when the server ends."""


class TextAction(Action):
    """An answer of a policy."""

    # Checked in `step`: pydantic's `str` allows no lone surrogates, which an answer may have.
    message: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        description="The policy's answer, as it was written"
    )


class TextObservation(Observation):
    """A reply of the environment. `reward` is null at a reset, and if the grading failed."""

    prompt: str = Field("", description="The question; after an answer, the reply to it")
    system_prompt: str = Field("", description="At a reset: the system message; '' for none")
    messages: list[dict[str, Any]] = Field(
        default_factory=list, description="At a reset: the prompt's turns, if it is a conversation"
    )
    tools: list[dict[str, Any]] = Field(
        default_factory=list, description="At a reset: tools that may be called, in OpenAI's form"
    )
    meta: dict[str, Any] = Field(default_factory=dict, description="At a reset: level, source, ...")
    answers_left: int = Field(0, description="Answers that the episode still allows")
    parts: dict[str, float] = Field(
        default_factory=dict, description="The parts of the reward, before their weights"
    )
    results: list[str] = Field(
        default_factory=list, description="After an answer with tool calls: the result of each call"
    )
    rewards: dict[str, Any] = Field(
        default_factory=dict,
        description="At a reset: the weight of each part, and the range of the environment's own",
    )
    reward_range: list[float] = Field(
        default_factory=list, description="At a reset: the least and the largest possible reward"
    )


class TextState(State):
    """The problem that a session plays, without its gold answer."""

    env: str = ""
    split: str = ""
    seed: int | None = Field(None, description="The number of the problem; null before a reset")


class Place(Environment):
    """A session with the interface of OpenEnv's server."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._session = Session(served)
        self._state = TextState(env=served.name)

    async def reset_async(
        self, seed: Any = None, episode_id: str | None = None, **others: Any
    ) -> TextObservation:
        """Begin an episode, see `Session.reset`."""
        session = self._session
        told = await session.reset(seed, **others)
        self._state = TextState(
            episode_id=episode_id or str(uuid4()),
            env=session.served.name,
            split=session.split,
            seed=session.seed,
        )
        return TextObservation(**told)

    async def step_async(
        self, action: TextAction, timeout_s: float | None = None, **_: Any
    ) -> TextObservation:
        """Grade an answer, see `Session.step`."""
        told = await self._session.step(action.message)
        self._state.step_count = self._session.steps
        return TextObservation(**told)

    def reset(
        self, seed: Any = None, episode_id: str | None = None, **others: Any
    ) -> TextObservation:
        """Reset without an event loop; OpenEnv's server calls `reset_async`."""
        return asyncio.run(self.reset_async(seed, episode_id, **others))

    def step(
        self, action: TextAction, timeout_s: float | None = None, **others: Any
    ) -> TextObservation:
        """Step without an event loop."""
        return asyncio.run(self.step_async(action, timeout_s, **others))

    @property
    def state(self) -> TextState:
        """The problem that is played."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Return the environment's name and the first line of its docstring."""
        served = self._session.served
        about = (type(served.env).__doc__ or "").strip().partition("\n")[0]
        return EnvironmentMetadata(
            name=f"grpo_envs/{served.name}",
            description=about or type(served.env).__name__,
            version=grpo_envs.__version__,
        )


def app(served: Served, sessions: int) -> FastAPI:
    """Return the server's application for up to `sessions` sessions at once."""
    made: FastAPI = create_fastapi_app(
        lambda: Place(served),
        TextAction,
        TextObservation,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=sessions, session_timeout=_IDLE_S),
        env_name=served.name,
        state_cls=TextState,
        mode="simulation",
    )

    def refuse(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": sendable(str(error))}, status_code=400)

    made.add_exception_handler(GrpoEnvsError, refuse)
    return made


def listen(host: str, port: int) -> socket.socket:
    """Return a socket at this address; port 0 means any free port.

    Raises:
        ConfigError: the address is in use, or does not belong to this machine.
    """
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        number = error.errno or 0  # below 0: the host name is unknown
        cause = os.strerror(number) if number > 0 else error.strerror
        raise ConfigError(f"--host {host} --port {port}: {cause}. Choose another.") from error


class Unanswered:
    """ASGI middleware that knows the messages of WebSocket sessions that wait for an answer."""

    def __init__(self, within: Any) -> None:
        """Take the application."""
        self._within = within
        self.messages: set[object] = set()
        """One object for each message that was received and is not answered yet."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a connection. A session that asks for its next message has answered the last."""
        last = object()

        async def received() -> Any:
            nonlocal last
            self.messages.discard(last)
            message = await receive()
            if message["type"] == "websocket.receive":
                last = object()
                self.messages.add(last)
            return message

        try:
            await self._within(scope, received, send)
        finally:
            self.messages.discard(last)


class Server(uvicorn.Server):
    """`run(sockets=[...])` serves until Ctrl-C or SIGTERM, then calls the previous handlers."""

    def __init__(self, served: Served, sessions: int, ready: Callable[[], object]) -> None:
        """Take what is served.

        Args:
            served: The environment.
            sessions: At once.
            ready: Called once connections are answered. Before that the socket takes them, and a
                client waits in the handshake, for which it has a time limit (OpenEnv's 10 s).
        """
        self._unanswered = Unanswered(app(served, sessions))
        super().__init__(uvicorn.Config(self._unanswered, log_level="warning", access_log=False))
        self._served, self._ready = served, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer connections, then say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Notify the sessions whose answers are being graded, then end all sessions."""
        self._served.end()
        last, until = {*self._unanswered.messages}, time.monotonic() + _ENDING_S
        while last & self._unanswered.messages and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

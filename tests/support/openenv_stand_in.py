"""A server with OpenEnv's routes, in a thread: the protocol is tried without its 43 packages.

tests/interop/test_openenv.py asks it and the real one the same things. As a program it serves one
of our environments, on a free port: `python -m tests.support.openenv_stand_in math --wait 0.1`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR
from typing import Any, Protocol

from jsonschema import Draft202012Validator
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from grpo_envs.env import TextEnv
from grpo_envs.env.plugins import make
from grpo_envs.interop.served import Served
from grpo_envs.interop.session import Session

Told = dict[str, Any]


class Episodes(Protocol):
    """What a session plays: fields of observations, `reward` and `done` among them."""

    def reset(self, *args: Any, **data: Any) -> Told:
        """Begin an episode."""

    def step(self, action: Told) -> Told:
        """Answer an action."""


def schema(action: Mapping[str, Any], *fields: str, needed: tuple[str, ...] = ()) -> Told:
    """Return what /schema says: the properties of actions, and the names of observations' fields.

    Args:
        action: JSON Schema of each field of an action.
        fields: Of an observation, beside those that each has.
        needed: The fields of an action that must be there; all when empty.
    """
    own = {"metadata": {"type": "object"}}
    return {
        "action": {
            "type": "object",
            "properties": {**own, **action},
            "required": list(needed or action),
            "additionalProperties": False,
        },
        "observation": {
            "type": "object",
            "properties": {**own, "done": {}, "reward": {}, **{field: {} for field in fields}},
        },
        "state": {},
    }


class StandIn:
    """What is behind the routes. Tests look into it, and tell it to fail."""

    def __init__(self, make: Callable[[], Episodes], about: Told, *, room: int = 256) -> None:
        self.make, self.about, self.room = make, about, room
        self.validator = Draft202012Validator(about["action"])
        self.open: set[ServerConnection] = set()
        self.opened = self.resets = self.steps = 0
        self.under = ""
        """The path before the routes."""
        self.hang_up = 0
        """So many of the next steps end their connection instead of being answered."""
        self.before: Callable[[str], object] = lambda _kind: None
        """Called before a `reset` or a `step` is answered."""
        self._lock = threading.Lock()

    def route(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a GET; a WebSocket goes on."""
        if request.path == f"{self.under}/ws":
            return None
        known = {"/schema": self.about, "/health": {"status": "healthy"}}
        inside = request.path.startswith(self.under)
        said = known.get(request.path.removeprefix(self.under)) if inside else None
        return connection.respond(200 if said else 404, json.dumps(said))

    def session(self, connection: ServerConnection) -> None:
        """Play in one connection until it ends."""
        with self._lock:
            full = len(self.open) >= self.room
            if not full:
                self.open.add(connection)
                self.opened += 1
        try:
            if full:
                text = f"Server at capacity: {self.room}/{self.room} sessions active"
                connection.send(error("CAPACITY_REACHED", text))
                return
            episodes = self.make()
            for message in connection:
                connection.send(self.answer(episodes, json.loads(message), connection))
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self.open.discard(connection)

    def answer(self, episodes: Episodes, asked: Told, connection: ServerConnection) -> str:
        """Answer a message."""
        data = asked["data"]
        self.before(asked["type"])
        try:
            if asked["type"] == "reset":
                self.resets += 1
                return observation(episodes.reset(**data))
            self.steps += 1
            with self._lock:
                self.hang_up, now = max(0, self.hang_up - 1), self.hang_up > 0
            if now:
                connection.socket.shutdown(SHUT_RDWR)
            tools = {data.get("type"), data.get("tool_name")} == {"list_tools", None}
            if not tools and not self.validator.is_valid(data):
                return error("VALIDATION_ERROR", "Invalid message", errors=[{"msg": "not allowed"}])
            return observation(episodes.step(data))
        except Exception as failed:  # noqa: BLE001  told, as the real server does
            return error("EXECUTION_ERROR", str(failed))


def observation(told: Told) -> str:
    """Return a message with an observation."""
    fields = {key: value for key, value in told.items() if key not in ("reward", "done")}
    fields.setdefault("metadata", {})
    data = {"observation": fields, "reward": told.get("reward"), "done": told.get("done", False)}
    if fields["metadata"]:
        data["metadata"] = fields["metadata"]
    return json.dumps({"type": "observation", "data": data})


def error(code: str, text: str, **more: Any) -> str:
    """Return a message with an error."""
    return json.dumps({"type": "error", "data": {"message": text, "code": code, **more}})


class Ours:
    """A session of an environment of ours, with every field that the real server sends."""

    def __init__(self, served: Served) -> None:
        self.session = Session(served)

    def reset(self, *_: Any, **data: Any) -> Told:
        return {**_EMPTY, **asyncio.run(self.session.reset(**data))}

    def step(self, action: Told) -> Told:
        return {**_EMPTY, **asyncio.run(self.session.step(action["message"]))}


_EMPTY: Told = {
    **{"prompt": "", "system_prompt": "", "messages": [], "tools": [], "meta": {}},
    **{"answers_left": 0, "parts": {}, "results": [], "rewards": {}, "reward_range": []},
}


def ours(env: TextEnv, *, room: int = 256) -> StandIn:
    """Return a server of an environment of ours."""
    served = Served("served", env, 60.0)
    about = schema({"message": {"type": "string"}}, *_EMPTY)
    return StandIn(lambda: Ours(served), about, room=room)


@contextmanager
def serving(stand_in: StandIn, port: int = 0) -> Iterator[str]:
    """Serve meanwhile; gives the address. At the end every connection is cut."""
    server: Server = serve(
        stand_in.session, "127.0.0.1", port, process_request=stand_in.route, ping_interval=None
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield "ws://{}:{}".format(*server.socket.getsockname())
    finally:
        server.shutdown()
        thread.join(20)
        for connection in [*stand_in.open]:
            with suppress(OSError):  # it has just ended by itself
                connection.socket.shutdown(SHUT_RDWR)


class Slow(Ours):
    """A session whose steps wait, as for a browser."""

    def __init__(self, served: Served, seconds: float) -> None:
        super().__init__(served)
        self.seconds = seconds

    def step(self, action: Told) -> Told:
        time.sleep(self.seconds)
        return super().step(action)


def main() -> None:
    """Serve until the end; print the address."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that a step waits")
    options = parser.parse_args()
    served = Served(options.name, make(options.name), 60.0)
    about = ours(served.env).about
    with serving(StandIn(lambda: Slow(served, options.wait), about)) as url:
        print(f"env={options.name} at {url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

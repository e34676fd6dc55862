"""OpenEnv's protocol (0.10): each WebSocket is a session, which plays one episode at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from grpo_envs.errors import ConfigError, require, require_extra

Told = Mapping[str, Any]
"""A server's answer to `reset` or `step`: `observation`, `reward`, `done`."""
_SECURE = ("wss", "https")
_SCHEMES = ("ws", "http", *_SECURE)
_LARGEST = 2**26  # bytes of a message
_CLOSING_S = 1.0
_NO_SERVER = "it is no OpenEnv server"
_CAPACITY, _VALIDATION = "CAPACITY_REACHED", "VALIDATION_ERROR"
_LINE = 300


class WireError(Exception):
    """A server did not do what was requested; the message is one line."""


class Lost(WireError):
    """A connection ended before the answer arrived."""


class Unreachable(Lost):
    """No connection can be opened."""


class Full(WireError):
    """The server does not allow another session."""


class Outside(WireError):
    """The server refuses an action by its schema; the answer is wrong, not the server."""


def base_of(url: Any) -> str:
    """Return the address of a server from `env.url`, without its last slash and route `/ws`.

    >>> base_of("ws://127.0.0.1:8000/ws")
    'ws://127.0.0.1:8000'

    Raises:
        ConfigError: `url` is not such an address.
    """
    allowed = "the address of an OpenEnv server, as in ws://127.0.0.1:8000 or https://host/path"
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port is None or parts.port > 0
    except ValueError:  # the port, or brackets that do not match
        raise ConfigError(f"env.url={url}. Allowed: {allowed}.") from None
    known = parts.scheme in _SCHEMES and bool(parts.hostname) and port
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    require(known and plain, "env.url", url, allowed)
    path = parts.path.rstrip("/").removesuffix("/ws").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _routed(base: str, kind: str, route: str) -> str:
    """Return the address of a route: `kind` is `http`, or `ws` for the WebSocket."""
    scheme, colon, rest = base.partition(":")
    return f"{kind}{'s' * (scheme in _SECURE)}{colon}{rest}{route}"


def schema_of(base: str, timeout: float) -> Mapping[str, Any]:
    """Return a server's /schema with the schemas of its actions and observations.

    Raises:
        ConfigError: websockets is not installed, or no OpenEnv server answers.
    """
    require_extra("openenv-client", "env=openenv", ["websockets"])
    try:
        with urlopen(_routed(base, "http", "/schema"), timeout=timeout) as answer:
            text = answer.read()
    except HTTPError as error:
        raise ConfigError(f"env.url={base}: /schema answers {error.code}: {_NO_SERVER}.") from error
    except (OSError, ValueError, HTTPException) as error:
        why = _one_line(getattr(error, "reason", error))
        raise ConfigError(f"env.url={base}: no OpenEnv server answers: {why}.") from error
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"env.url={base}: /schema is not JSON: {_NO_SERVER}.") from error
    kinds = ("action", "observation")
    known = isinstance(schema, Mapping) and all(isinstance(schema.get(x), Mapping) for x in kinds)
    require(known, "env.url", base, "an OpenEnv server, whose /schema has action and observation")
    return dict(schema)


class Session:
    """A connection, and the episode that it plays."""

    def __init__(self, base: str, timeout: float) -> None:
        """Connect.

        Args:
            base: The address of the server, see `base_of`.
            timeout: Seconds that connecting and each answer may take.

        Raises:
            Unreachable: the server cannot be reached.
        """
        from websockets.exceptions import WebSocketException  # an extra, found in `schema_of`
        from websockets.sync.client import connect

        self._timeout = timeout
        self._open = ExitStack()
        self._moves, self._told = list[str](), list[Told]()
        try:
            self._socket = self._open.enter_context(
                connect(
                    _routed(base, "ws", "/ws"),
                    open_timeout=timeout,
                    close_timeout=_CLOSING_S,
                    ping_interval=None,  # a server that steps in its event loop cannot answer pings
                    max_size=_LARGEST,
                )
            )
        except (OSError, WebSocketException) as error:
            raise Unreachable(f"{base}: no connection: {_one_line(error)}") from error

    def match(self, moves: Sequence[str], sent: int) -> int:
        """Return how many moves the session has played, if an episode can go on from there.

        Args:
            moves: The data of a reset and of each step after it, as JSON.
            sent: The number of moves at the end that must still be sent.

        Returns:
            The number, or 0 if the session has played other moves or too many of these.
        """
        played = len(self._moves)
        fits = played <= len(moves) - sent and self._moves == list(moves[:played])
        return played if fits else 0

    @property
    def free(self) -> bool:
        """Whether no running episode would be lost: there is none, or it has no step or is over."""
        return len(self._moves) < len(("reset", "step")) or bool(self._told[-1].get("done"))

    def play(self, moves: Sequence[str], sent: int) -> list[Told]:
        """Play an episode up to its end or the last of these moves.

        Args:
            moves: The data of a reset and of each step after it, as JSON.
            sent: The number of moves at the end that are sent even if they were sent before.

        Returns:
            The answers to the reset and to each step.

        Raises:
            WireError: the server refused a move; the episode is lost.
        """
        told = self._told if self.match(moves, sent) else []
        self._moves = []  # no other episode may go on from here until all moves are answered
        for number, move in enumerate(moves[len(told) :], len(told)):
            if told and told[-1].get("done"):
                break
            told = [*told, self._ask("step" if number else "reset", move)]
        self._moves, self._told = list(moves[: len(told)]), told
        return told

    def ask_tools(self) -> list[Mapping[str, Any]]:
        """Return the server's tools: `name`, `description`, `input_schema` of each."""
        self._moves = []
        tools = self._ask("step", '{"type": "list_tools"}')["observation"].get("tools")
        return [tool for tool in tools or () if isinstance(tool, Mapping)]

    def close(self) -> None:
        """Close the connection; the server ends the session."""
        self._open.close()

    def _ask(self, kind: str, data: str) -> Told:
        from websockets.exceptions import ConnectionClosed

        try:
            with suppress(ConnectionClosed):  # `recv` raises it again, or returns the reason
                self._socket.send(f'{{"type": "{kind}", "data": {data}}}')
            answer = json.loads(self._socket.recv(timeout=self._timeout))
        except TimeoutError as error:
            late = f"the server took longer than env.timeout={self._timeout:g} s for a {kind}"
            raise WireError(late) from error
        except (ConnectionClosed, OSError) as error:
            raise Lost(f"the connection ended during a {kind}: {_one_line(error)}") from error
        except ValueError as error:
            raise WireError(f"the server's answer to a {kind} is not JSON") from error
        return _observed(answer, kind)


def _observed(answer: Any, kind: str) -> Told:
    """Return the data of an answer.

    Raises:
        WireError: the answer is an error, or has no observation.
    """
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, Mapping):
        raise WireError(f"the server's answer to a {kind} is not a message of OpenEnv")
    if answer.get("type") == "error":
        code, said = data.get("code"), data.get("message")
        details = data.get("errors") if isinstance(data.get("errors"), list) else []
        first = details[0].get("msg") if details and isinstance(details[0], Mapping) else ""
        line = _one_line(f"the server refused a {kind} ({code}): {said} {first or ''}".rstrip(" ."))
        raise {_CAPACITY: Full, _VALIDATION: Outside}.get(str(code), WireError)(line)
    if not isinstance(data.get("observation"), Mapping):
        raise WireError(f"the server's answer to a {kind} has no observation")
    return data


def _one_line(error: object) -> str:
    return " ".join(f"{error}".split())[:_LINE] or type(error).__name__

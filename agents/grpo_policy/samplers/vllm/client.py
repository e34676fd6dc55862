"""A server of vLLM behind HTTP: one call, one connection, one time limit."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from grpo_envs.errors import ConfigError, GrpoEnvsError

_LOOK = 0.5
"""Seconds between two looks whether a server that starts is ready."""
_LOOK_TIMEOUT = 2.0
"""Seconds that such a look takes at most."""
_CONNECT_TIMEOUT = 5.0
"""Seconds until there is a connection, at most: the system of the other machine makes it, however
busy the server is."""
_ACKNOWLEDGED = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}
"""Options of a connection [s, s, 1, ms]: where the other machine has acknowledged nothing for 25 s
it is lost. A server may be silent for longer; its machine is not."""
_LONGEST = 300
"""Characters of a server's message that are shown."""


class ServerLost(GrpoEnvsError):
    """A server cannot be reached, died, hangs, or has other weights than it should."""


class Refused(GrpoEnvsError):
    """A server answers that it will not do what it was asked: nor would another one."""


class Missing(Refused):
    """It has nothing of the name that it was asked for."""


def require_url(url: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and not parts.query
        _ = parts.port  # which raises where it is no number
    except ValueError:
        right = False
    if not right:
        raise ConfigError(f"sampler.urls: {url}. Allowed: addresses such as http://127.0.0.1:8000.")
    return url.rstrip("/")


class Server:
    """Calls the routes of a server. Any number of threads may do so at once."""

    def __init__(self, url: str, timeout: float) -> None:
        """Remember where it is; connects to nothing yet.

        Args:
            url: Its address.
            timeout: Seconds of silence after which it is lost.
        """
        self.url, self.timeout = require_url(url), timeout
        parts = urlsplit(self.url)
        self.host = str(parts.hostname)
        self._port, self._path = parts.port, parts.path
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()

    def get(self, route: str, timeout: float | None = None) -> Any:
        """Return what the server says at a route, see `_call`."""
        return self._call("GET", route, None, timeout)

    def post(
        self, route: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Return what the server answers to a request, see `_call`."""
        return self._call("POST", route, body, timeout)

    def ready(self) -> bool:
        """Return whether the server is up."""
        try:
            self.get("/health", _LOOK_TIMEOUT)
        except (ServerLost, Refused):
            return False
        return True

    def wait(self, limit: float, check: Callable[[float], None]) -> None:
        """Return once the server is up.

        Args:
            limit: Seconds until then, at most.
            check: Called again and again with the seconds so far; what it raises ends the waiting.

        Raises:
            ServerLost: it takes longer.
        """
        begun = time.monotonic()
        while not self.ready():
            waited = time.monotonic() - begun
            check(waited)
            if waited > limit:
                raise ServerLost(f"{self.url}: not ready after {limit:.0f} s")
            time.sleep(_LOOK)

    def abort(self) -> None:
        """End the calls that are under way: each raises `ServerLost`."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    _shut(connection.sock)

    def _call(
        self, method: str, route: str, body: Mapping[str, Any] | None, timeout: float | None
    ) -> Any:
        """Make a call.

        Returns:
            The answer, read from JSON where it is that; else its text.

        Raises:
            ServerLost: there was no answer in time, or one of a server that fails.
            Refused: the server refuses it.
        """
        limit = timeout or self.timeout
        connection = self._kind(self.host, self._port, timeout=min(limit, _CONNECT_TIMEOUT))
        try:
            with self._lock:
                self._open.add(connection)
            self._connect(connection, limit)
            content = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, self._path + route, content, headers)
            with connection.getresponse() as response:
                return self._read(route, response)
        except TimeoutError as error:
            if error.errno == errno.ETIMEDOUT:  # of the system, see `_ACKNOWLEDGED`
                raise ServerLost(f"{self.url}: its machine or the network is gone") from error
            raise ServerLost(f"{self.url}{route}: no answer in {limit:g} s") from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an answer cut off
            cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerLost(f"{self.url}: {cause}") from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _connect(self, connection: HTTPConnection, limit: float) -> None:
        """Connect; from then on the connection waits for `limit` seconds [s]."""
        try:
            connection.connect()
        except TimeoutError as error:
            raise ServerLost(f"{self.url}: no connection in {connection.timeout:g} s") from error
        connection.sock.settimeout(limit)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _ACKNOWLEDGED.items():
            if hasattr(socket, name):  # not in all systems
                connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _read(self, route: str, response: HTTPResponse) -> Any:
        text = response.read().decode("utf-8", "replace")
        if response.status >= 500:
            raise ServerLost(f"{self.url}{route}: {_message(text) or response.reason}")
        if response.status >= 400:
            said = _message(text) or response.reason
            kind = Missing if response.status == HTTPStatus.NOT_FOUND else Refused
            raise kind(f"{self.url}{route}: {response.status}, {said}")
        form = response.headers.get_content_type()
        return json.loads(text) if form == "application/json" and text else text


def _message(text: str) -> str:
    """Return what an answer says of an error, in one line."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = text
    while isinstance(found, dict):
        found = next((found[key] for key in ("error", "message", "detail") if key in found), text)
    return " ".join(str(found).split())[:_LONGEST]


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        return

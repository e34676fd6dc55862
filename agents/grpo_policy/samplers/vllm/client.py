"""An HTTP client of a vLLM server: each call has its own connection and time limit."""

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
"""Seconds between two checks whether a starting server is ready."""
_LOOK_TIMEOUT = 2.0
"""The most seconds of such a check."""
_CONNECT_TIMEOUT = 5.0
"""The most seconds until there is a connection: the other machine's kernel accepts it, however
busy the server is."""
_ACKNOWLEDGED = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}
"""Socket options [s, s, 1, ms]: the connection is lost if the other machine acknowledges nothing
for 25 s. The server may be silent for longer; its machine still acknowledges."""
_LONGEST = 300
"""The most characters of a server's message that are shown."""


class ServerLost(GrpoEnvsError):
    """A server cannot be reached, died, hangs, or has other weights than it should."""


class Refused(GrpoEnvsError):
    """A server refuses a request, as any other server would."""


class Missing(Refused):
    """The server has nothing of the requested name."""


def require_url(url: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ConfigError: `url` is not an address.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and not parts.query
        _ = parts.port  # raises if the port is not a number
    except ValueError:
        right = False
    if not right:
        raise ConfigError(f"sampler.urls: {url}. Allowed: addresses such as http://127.0.0.1:8000.")
    return url.rstrip("/")


class Server:
    """Calls the routes of a server; several threads may call at once."""

    def __init__(self, url: str, timeout: float) -> None:
        """Store the address; nothing connects yet.

        Args:
            url: The address of the server.
            timeout: Seconds of silence after which the server counts as lost.
        """
        self.url, self.timeout = require_url(url), timeout
        parts = urlsplit(self.url)
        self.host = str(parts.hostname)
        self._port, self._path = parts.port, parts.path
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()

    def get(self, route: str, timeout: float | None = None) -> Any:
        """Return the answer of a route, see `_call`."""
        return self._call("GET", route, None, timeout)

    def post(
        self, route: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Return the answer to a request, see `_call`."""
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
            limit: The most seconds to wait.
            check: Called repeatedly with the seconds so far; its exceptions end the waiting.

        Raises:
            ServerLost: the server was not up after `limit` seconds.
        """
        begun = time.monotonic()
        while not self.ready():
            waited = time.monotonic() - begun
            check(waited)
            if waited > limit:
                raise ServerLost(f"{self.url}: not ready after {limit:.0f} s")
            time.sleep(_LOOK)

    def abort(self) -> None:
        """End the running calls: each raises `ServerLost`."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    _shut(connection.sock)

    def _call(
        self, method: str, route: str, body: Mapping[str, Any] | None, timeout: float | None
    ) -> Any:
        """Make a call.

        Returns:
            The parsed answer if it is JSON; else its text.

        Raises:
            ServerLost: there was no answer in time, or the server failed.
            Refused: the server refuses the request.
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
            if error.errno == errno.ETIMEDOUT:  # from the kernel, see `_ACKNOWLEDGED`
                raise ServerLost(f"{self.url}: its machine does not respond") from error
            raise ServerLost(f"{self.url}{route}: no answer in {limit:g} s") from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a truncated answer
            cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerLost(f"{self.url}: {cause}") from error
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _connect(self, connection: HTTPConnection, limit: float) -> None:
        """Connect; afterwards the connection has a timeout of `limit` seconds."""
        try:
            connection.connect()
        except TimeoutError as error:
            raise ServerLost(f"{self.url}: no connection in {connection.timeout:g} s") from error
        connection.sock.settimeout(limit)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _ACKNOWLEDGED.items():
            if hasattr(socket, name):  # not all systems have all of them
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
    """Return the error message of an answer, in one line."""
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
    except OSError:  # the other side has closed already
        return

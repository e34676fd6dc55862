"""Sessions with MCP servers (Model Context Protocol), through the official SDK (extra `mcp`).

The SDK is asynchronous: all sessions of a process run in one event loop, in a thread. A server over
stdio is a separate process, which ends with its session, or at the latest with this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from grpo_envs.errors import ConfigError, ToolFailed
from grpo_envs.runtime import with_parent
from grpo_envs.types import Tool

_CLOSE_S = 10.0
"""The SDK gives a server's process about 4 s to end before it is killed."""
_SHOWN = 200


class Server:
    """An MCP server: a program that is started for each session, or a URL."""

    def __init__(
        self, command: tuple[str, ...], env: dict[str, str], *, shared: bool, start_s: float
    ) -> None:
        """Take the arguments of `mcp`."""
        self.command, self.env, self.shared, self.start_s = command, env, shared, start_s
        self._lock, self._sharing = threading.Lock(), threading.Lock()
        self._shared: Connection | None = None
        self._begun: list[Connection] = []
        self._tools: list[Tool] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the server without its sessions."""
        return _server, (self.command, self.env, self.shared, self.start_s)

    def __repr__(self) -> str:
        """Return the command or URL."""
        return f"MCP server {' '.join(self.command)}"

    def tools(self) -> list[Tool]:
        """Return the server's tools; the server is asked once.

        Raises:
            ConfigError: the server cannot be started or reached, or does not answer.
        """
        if not self._tools:
            try:
                connection = self.connect()
                self._tools = connection.tools(self.start_s)
                connection.close()
            except ToolFailed as error:
                raise ConfigError(f"{error}.") from None
        return self._tools

    def copy(self) -> Server:
        """Return the same server for another environment, with separate sessions."""
        copy = Server(self.command, self.env, shared=self.shared, start_s=self.start_s)
        copy._tools = self.tools()
        return copy

    def connect(self) -> Connection:
        """Begin a session.

        Raises:
            ToolFailed: the server cannot be started or reached.
        """
        connection = Connection(self)
        with self._lock:
            self._begun = [each for each in self._begun if not each.left] + [connection]
        return connection

    def connection(self) -> Connection:
        """Return the session that episodes share; a new one if it has ended.

        Raises:
            ToolFailed: the server cannot be started or reached.
        """
        with self._sharing:
            if self._shared is None or self._shared.ended:
                self._shared = self.connect()
            return self._shared

    def close(self) -> None:
        """End all sessions, and wait for their end."""
        with self._lock:
            old, self._begun = self._begun, []
        for connection in old:
            connection.close()
        for connection in old:
            connection.wait()


def _server(command: tuple[str, ...], env: dict[str, str], shared: bool, start_s: float) -> Server:
    return Server(command, env, shared=shared, start_s=start_s)


class Connection:
    """One session with a server."""

    def __init__(self, server: Server) -> None:
        """Begin the session.

        Raises:
            ToolFailed: the server cannot be started or reached in time.
        """
        self.ended = False
        """Whether the session was closed, or its server is gone."""
        self._server = server
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._ready: Future[None] = Future()
        self._leave, self._left = asyncio.Event(), threading.Event()
        self._last_words = ""
        asyncio.run_coroutine_threadsafe(self._hold(), _loop())
        try:
            self._ready.result(server.start_s)
        except FutureTimeoutError:
            self.close()
            raise ToolFailed(f"{server} did not answer within {server.start_s:g} s") from None
        except Exception as error:
            raise ToolFailed(f"{server} cannot be used: {self._cause(error)}") from error

    def tools(self, seconds: float) -> list[Tool]:
        """Return the server's tools.

        Raises:
            ToolFailed: the server does not list them in time.
        """
        return [
            Tool(name=t.name, description=t.description or "", parameters=t.input_schema)
            for t in self._wait(self._list(), "tools/list", seconds)
        ]

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float) -> str:
        """Return the result of a tool as text.

        Raises:
            ValueError: the server says that the call is wrong.
            TimeoutError: there is no result in time.
            ToolFailed: the server is gone.
        """
        result = self._wait(self._client.call_tool(name, dict(arguments)), name, seconds)
        text = "\n".join(_text(part) for part in result.content)
        if result.is_error:
            raise ValueError(text)
        return text

    def close(self) -> None:
        """Start to end the session, and the server's process with it."""
        self.ended = True
        _loop().call_soon_threadsafe(self._end)

    @property
    def left(self) -> bool:
        """Whether the server's process has ended, too."""
        return self._left.is_set()

    def wait(self) -> None:
        """Wait until the session has ended."""
        self._left.wait(_CLOSE_S)

    def _end(self) -> None:
        self._leave.set()
        if self._task is not None and not self._ready.done():
            self._task.cancel()

    def _wait(self, coroutine: Any, what: str, seconds: float) -> Any:
        from mcp.shared.exceptions import MCPError
        from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

        answered = asyncio.run_coroutine_threadsafe(coroutine, _loop())
        try:
            return answered.result(seconds)
        except FutureTimeoutError:
            answered.cancel()
            raise TimeoutError(f"took longer than {seconds:g} s") from None
        except Exception as error:
            if isinstance(error, MCPError) and error.code in (INVALID_PARAMS, METHOD_NOT_FOUND):
                raise ValueError(str(error)) from error
            self.close()
            self.wait()
            raise ToolFailed(f"{self._server} failed in {what}: {self._cause(error)}") from error

    def _cause(self, error: BaseException) -> str:
        """Return the message of an exception, and the server's last line on stderr."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        own = str(error) or type(error).__name__
        return f"{own} ({self._last_words})" if self._last_words else own

    async def _list(self) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                return found

    async def _hold(self) -> None:
        """Enter and leave the session in one task, as the SDK's cancel scopes require."""
        from mcp import Client

        self._task = asyncio.current_task()
        failure: BaseException | None = None
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
            try:
                async with Client(self._transport(stderr)) as self._client:
                    self._ready.set_result(None)
                    await self._leave.wait()
            except BaseException as error:  # noqa: BLE001  handed over, or of a session that ends
                failure = error
            stderr.seek(0)
            self._last_words = (stderr.read().strip().splitlines() or [""])[-1][:_SHOWN]
        self.ended = True
        if not self._ready.done():
            self._ready.set_exception(failure or EOFError("it ended"))
        self._left.set()

    def _transport(self, stderr: TextIO) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        first, *rest = self._server.command
        if first.startswith(("http://", "https://")):
            return first
        program = sys.executable if first == "python" else first
        command = with_parent.command(program, *rest)
        parameters = StdioServerParameters(
            command=command[0], args=command[1:], env=self._server.env, cwd=Path.cwd()
        )
        return stdio_client(parameters, errlog=stderr)


class _OneLine(logging.Filter):
    """Says in one line what the SDK logs with a traceback: text on the stdout of a server."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record of a failure; keep all."""
        if record.exc_info:
            record.msg, record.args, record.exc_info = _NO_MESSAGE, (), None
        return True


_NO_MESSAGE = "An MCP server wrote a line to stdout that is no MCP message: print to stderr there."
logging.getLogger("mcp.client.stdio").addFilter(_OneLine())


def _text(part: Any) -> str:
    """Return a part of a result as text; for other types, the name of the type."""
    return str(part.text) if part.type == "text" else f"[{part.type}]"


@cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
    return loop


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process; a forked process needs a new one."""
    return _loop_of(os.getpid())

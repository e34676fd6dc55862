"""An environment's tools in verifiers: an MCP server for each episode, in this process.

verifiers' own tool servers are processes that know the task but not the earlier calls of an
episode. So each episode has a server here, which the agent uses. Written for verifiers 0.4.0.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import mcp_types as mcp
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecuritySettings
from verifiers.v1.mcp import SharedToolServer

from grpo_envs.env.calls import write_call
from grpo_envs.interop.rows import Episode

_BARE = ""
"""The name of a server whose tools have no prefix."""


@asynccontextmanager
async def tools_of(episode: Episode) -> AsyncIterator[dict[str, SharedToolServer] | None]:
    """Serve an episode's tools within the context; yield None if it has none.

    Every call is a turn: verifiers makes the calls of an answer one at a time.
    """
    if not episode.problem.tools:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as at:
        server = _Server(uvicorn.Config(_app(episode), log_level="critical"))
        serving = asyncio.create_task(server.serve(sockets=[at]))
        try:
            url = f"http://127.0.0.1:{at.getsockname()[1]}/mcp"
            yield {_BARE: SharedToolServer(url=url, local=True)}
        finally:
            server.should_exit = True
            await serving


def _app(episode: Episode) -> Any:
    shown = [
        mcp.Tool(name=t.name, description=t.description, input_schema=dict(t.parameters))
        for t in episode.problem.tools
    ]
    one_at_a_time = asyncio.Lock()

    async def listed(*_: Any) -> mcp.ListToolsResult:
        return mcp.ListToolsResult(tools=shown)

    async def called(_: Any, asked: mcp.CallToolRequestParams) -> mcp.CallToolResult:
        async with one_at_a_time:
            if episode.over:
                said = "The episode is over."
            else:
                call = write_call(asked.name, asked.arguments or {})
                said = await asyncio.to_thread(episode.answer, call)
        return mcp.CallToolResult(content=[mcp.TextContent(text=said)])

    # An agent's container reaches the server under another host name.
    anywhere = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return Server("grpo-envs", on_list_tools=listed, on_call_tool=called).streamable_http_app(
        json_response=True, stateless_http=True, transport_security=anywhere
    )


class _Server(uvicorn.Server):
    """Leaves SIGINT and SIGTERM to verifiers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

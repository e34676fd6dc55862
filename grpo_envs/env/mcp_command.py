"""`grpo_envs.mcp`: the command or URL of an MCP server whose tools an environment offers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from grpo_envs.env.mcp_client import Server
from grpo_envs.errors import ConfigError, require, require_extra


def mcp(
    *command: str,
    env: Mapping[str, str] | None = None,
    shared: bool = False,
    start_s: float = 30.0,
) -> Server:
    """Return an MCP server, an element of `ToolEnv.tools`: all its tools are the environment's.

    Args:
        command: A program that speaks MCP over stdio, with its arguments (`"python", "server.py"`;
            `python` stands for this interpreter), or the URL of a running server.
        env: Environment variables of the program, in addition to the SDK's defaults such as PATH
            and HOME.
        shared: Whether all episodes share one session, for a server without state. By default each
            episode that calls a tool has its own session; over stdio a session is a process.
        start_s: The longest time that a session may take to start, in seconds.

    Raises:
        ConfigError: the SDK is not installed, no command is given, or a value is not allowed.
    """
    _require_command(command)
    given = {} if env is None else env
    texts = isinstance(given, Mapping) and all(
        isinstance(x, str) for kv in given.items() for x in kv
    )
    require(texts, "mcp: env", env, "{NAME: text}")
    require(type(shared) is bool, "mcp: shared", shared, "True or False")
    seconds = type(start_s) in (int, float) and 0 < start_s < math.inf
    require(seconds, "mcp: start_s", start_s, "seconds above 0")
    require_extra("mcp", "grpo_envs.mcp", ("mcp",))
    return Server(command, dict(given), shared=shared, start_s=start_s)


def _require_command(command: tuple[str, ...]) -> None:
    texts = all(isinstance(part, str) and part for part in command)
    require(bool(command) and texts, "mcp", command, "a program and its arguments, or a URL")
    words = command[0].split()
    if len(command) == 1 and len(words) > 1 and not Path(command[0]).exists():
        apart = ", ".join(map(repr, words))
        raise ConfigError(f"mcp={command}. Allowed: one argument per word, as in mcp({apart}).")

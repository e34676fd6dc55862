"""Making the tool calls of a turn: checks, limits, time limits, and results as text."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Protocol

from grpo_envs.env.deadlines import in_time
from grpo_envs.env.mcp_client import Server
from grpo_envs.env.tool_arguments import LONGEST_MISTAKE, wrong_arguments
from grpo_envs.env.tool_schema import (
    checked,
    require_parameters,
    takes_state,
    tool_from,
    tool_of_schema,
)
from grpo_envs.env.tool_session import Answered, Episode
from grpo_envs.errors import ConfigError, GrpoEnvsError, ToolFailed, nearest, require
from grpo_envs.runtime.daemons import side_by_side
from grpo_envs.types import Call, Tool

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """Limits of an episode with tools: `env.tool_limits={calls: 8, call_s: 2}`."""

    calls: int | None = None
    """Calls of an episode; None: limited only by the number of turns."""
    calls_per_turn: int = 4
    result_chars: int = 2000
    """Characters of a result; a longer result is cut off, with a remark."""
    call_s: float = 10.0
    """Seconds that a call may take."""
    sessions: int = 128
    """Episodes whose sessions stay open between two turns; the calls of others are made again."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> ToolLimits:
        """Read `env.tool_limits`.

        Raises:
            ConfigError: a limit is unknown, or its value is not allowed.
        """
        require(given is None or isinstance(given, Mapping), _KEY, given, "limits by name")
        usual = {field.name: field.default for field in fields(cls)}
        for name, value in (given or {}).items():
            if name not in usual:
                close = nearest(str(name), usual)
                raise ConfigError(f"{_KEY}={name}. Allowed: {', '.join(usual)}.{close}")
            seconds = name == "call_s"
            number = type(value) in ((int, float) if seconds else (int,)) and value > 0
            number = number and not (seconds and value > _DAY_S)
            none = name == "calls" and value is None
            allowed = f"seconds above 0, up to {_DAY_S}" if seconds else "a whole number above 0"
            require(number or none, f"{_KEY}.{name}", value, allowed)
        return cls(**{**asdict(cls()), **(given or {})})


_KEY = "env.tool_limits"


class OwnTool(Protocol):
    """A tool of an environment."""

    @property
    def tool(self) -> Tool:
        """The description that the policy gets."""

    @property
    def in_order(self) -> bool:
        """Whether the calls of a turn must be sequential, because they share a session."""

    def bind(self, arguments: Mapping[str, Any], episode: Episode) -> Callable[[], Any]:
        """Open the session that the tool needs; return the call, which has a time limit.

        The call returns the result, or raises ValueError to report a mistake to the policy.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A tool that is a Python function."""

    tool: Tool
    function: Callable[..., Any]
    in_order: bool

    def bind(self, arguments: Mapping[str, Any], episode: Episode) -> Callable[[], Any]:
        """Return the call of the function, with the episode's state if it takes one."""
        return partial(self.function, *([episode.state] if self.in_order else []), **arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool of an MCP server."""

    tool: Tool
    server: Server
    seconds: float

    @property
    def in_order(self) -> bool:
        """Whether each episode has a session of its own."""
        return not self.server.shared

    def bind(self, arguments: Mapping[str, Any], episode: Episode) -> Callable[[], Any]:
        """Return the call in the episode's session, or in the one that all episodes share."""
        shared = self.server.shared
        connection = self.server.connection() if shared else episode.connection(self.server)
        clean = json.loads(_clean(json.dumps(dict(arguments), ensure_ascii=False)))
        return partial(connection.call, self.tool.name, clean, self.seconds)


def own_tools(given: Iterable[Any], limits: ToolLimits, owner: str) -> dict[str, OwnTool]:
    """Return an environment's tools by name.

    Args:
        given: Functions, pairs of schema and function, and MCP servers.
        limits: Limits of the calls.
        owner: The environment's name, for messages.

    Raises:
        ConfigError: an element is not a tool, two tools have the same name, there is no tool, a
            function does not accept the parameters of its schema, or a server cannot list its
            tools.
    """
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
        raise ConfigError(f"{owner}.tools={given!r}. Allowed: a list of {_ALLOWED}.")
    tools: dict[str, OwnTool] = {}
    for each in (tool for item in given for tool in _own(item, limits)):
        if each.tool.name in tools:
            raise ConfigError(f"{owner}.tools: two of them have the name {each.tool.name}.")
        tools[each.tool.name] = each
    if not tools:
        raise ConfigError(f"{owner}.tools is empty. Allowed: {_ALLOWED}.")
    return tools


_ALLOWED = "functions, (schema, function) or grpo_envs.mcp(...)"


def _own(given: Any, limits: ToolLimits) -> list[OwnTool]:
    if isinstance(given, Server):
        server, seconds = given.copy(), limits.call_s
        tools = [checked(tool) for tool in server.tools()]
        if not tools:
            raise ConfigError(f"{server} has no tools.")
        return [ServerTool(tool=tool, server=server, seconds=seconds) for tool in tools]
    if isinstance(given, tuple) and len(given) == 2 and callable(given[1]):
        tool, function = tool_of_schema(given[0]), given[1]
    elif callable(given) and not inspect.isclass(given):
        tool, function = tool_from(given), given
    else:
        raise ConfigError(f"tools: {given!r} is not a tool. Allowed: {_ALLOWED}.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"tool {tool.name} is a generator. Allowed: a function that returns.")
    require_parameters(tool, function)
    return [FunctionTool(tool=tool, function=function, in_order=takes_state(function))]


def answer_calls(
    calls: Sequence[Call], tools: Mapping[str, OwnTool], episode: Episode, limits: ToolLimits
) -> list[Answered]:
    """Make the calls of a turn; return their results in order.

    All calls beyond the limit of a turn get one result together, an error. The other calls are made
    concurrently or, if one of them uses a session, one after the other.

    Raises:
        ToolFailed: a tool raised anything but ValueError, or took too long within a session.
        GrpoEnvsError: a tool raised it (SandboxError, for example).
    """
    calls, beyond = calls[: limits.calls_per_turn], calls[limits.calls_per_turn :]
    made = len(episode.calls)
    answers = {i: _mistake(call, tools, limits, made + i) for i, call in enumerate(calls)}
    ready = {i: tools[calls[i].name] for i, mistake in answers.items() if not mistake}
    jobs = {i: own.bind(calls[i].arguments, episode) for i, own in ready.items()}
    values: dict[int, Any] = {}
    if any(own.in_order for own in ready.values()):
        for i, job in jobs.items():
            (values[i],) = in_time([job], limits.call_s)
            if isinstance(values[i], TimeoutError):
                raise ToolFailed(f"tool {calls[i].name} {values[i]}: its session is lost")
            _raise_failure(calls[i].name, values[i])
    elif jobs:
        alone = ([job] for job in jobs.values())
        made_now = side_by_side(partial(in_time, seconds=limits.call_s), alone, most=len(jobs))
        values.update({i: value for i, (value,) in zip(jobs, made_now, strict=True)})
    found = [
        _answered(call, values[i], limits) if i in values else _refused(call, answers[i])
        for i, call in enumerate(calls)
    ]
    if beyond:
        most = limits.calls_per_turn
        found.append(_refused(beyond[0], f"{len(beyond)} calls not made: {most} in one turn."))
    return found


def _refused(call: Call, why: str) -> Answered:
    return Answered(call=call, result=_clean(f"error: {why}"), failed=True)


def _mistake(call: Call, tools: Mapping[str, OwnTool], limits: ToolLimits, before: int) -> str:
    """Return why a call cannot be made after `before` other calls of its episode; '' if it can."""
    if limits.calls is not None and before >= limits.calls:
        return f"no call is left of {limits.calls}. Answer without one."
    if call.error:
        return call.error[:LONGEST_MISTAKE]
    if call.name not in tools:
        name = call.name[:LONGEST_MISTAKE]
        return f"no tool {name!r}. Tools: {', '.join(tools)}.{nearest(name, tools)}"
    return wrong_arguments(call, tools[call.name].tool)


def _answered(call: Call, value: Any, limits: ToolLimits) -> Answered:
    _raise_failure(call.name, value)
    try:
        result = value if isinstance(value, str) else _as_text(value, call.name)
    except ValueError as error:  # an integer of too many digits
        value = error
    if isinstance(value, ValueError | TimeoutError):
        result = f"error: {str(value) or type(value).__name__}"
    return Answered(
        call=call,
        result=_clean(_cut(result, limits.result_chars)),
        failed=isinstance(value, Exception),
    )


def _raise_failure(name: str, value: Any) -> None:
    if isinstance(value, ValueError | TimeoutError) or not isinstance(value, BaseException):
        return
    if isinstance(value, GrpoEnvsError):
        raise value
    cause = f"{type(value).__name__}: {value}"
    raise ToolFailed(
        f"tool {name} raised {cause} (a tool raises ValueError for a mistake of its caller)"
    ) from value


_JSON = (bool, int, float, list, tuple, dict)
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


def _as_text(value: Any, name: str) -> str:
    """Return a result as JSON; what JSON cannot hold, as Python writes it.

    Raises:
        ToolFailed: Python writes an object with its address, which differs from call to call.
        ValueError: an integer has more digits than Python writes.
    """
    plain = value if value is None or isinstance(value, _JSON) else _plain(value)
    try:
        dumped = json.dumps(plain, ensure_ascii=False, default=_plain)
        text = plain if isinstance(plain, str) else dumped
    except (TypeError, ValueError):  # keys that are no text, or a list that contains itself
        text = str(value)
    if found := _ADDRESS.search(text):
        raise ToolFailed(f"tool {name} returned {found[0]}. Allowed: text, or a value for JSON")
    return text


def _plain(value: Any) -> Any:
    """Return a set as a sorted list, for its order differs from run to run, and others as text."""
    return sorted(value, key=repr) if isinstance(value, set | frozenset) else str(value)


def _cut(text: str, most: int) -> str:
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]}... ({left} characters more)"


def _clean(text: str) -> str:
    """Return a text without lone surrogates, which tokenizers do not accept."""
    return text.encode("utf-8", "replace").decode("utf-8")

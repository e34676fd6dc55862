"""Episodes with tools for TRL, where the tools are the public methods of a class.

TRL does not take a tool's JSON Schema: Transformers derives the schema from the type hints and the
docstring of each method (`get_json_schema`). So this module makes methods from which Transformers
derives the schemas of the environment's tools. Written for TRL 1.16.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from transformers.utils.chat_template_utils import get_json_schema

from grpo_envs.env import TextEnv
from grpo_envs.env.calls import write_call
from grpo_envs.errors import ConfigError
from grpo_envs.interop.rows import Episode, Graded, Row
from grpo_envs.types import Tool

_INSTEAD = "Give GRPOTrainer rollout_func=task.rollout_func instead."
_OF_TRL = ("get_reward",)
"""Methods that TRL calls itself; `reset` is defined in our class."""
_PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool, "object": dict}
_LOOKED_AT = 32
"""Problems of a split whose tools are compared."""


class ToolEpisode:
    """An episode whose answers are tool calls."""

    _tools: ClassVar[tuple[Tool, ...]] = ()

    def __init__(self) -> None:
        self._episode: Episode | None = None

    def reset(self, **columns: Any) -> None:
        """Begin the episode of a row; its prompt is in the data set.

        Raises:
            ConfigError: the columns are not a row, or its problem has other tools.
        """
        episode = Episode(Row.of(columns))
        if episode.problem.tools != self._tools:
            raise ConfigError(_several(columns["env"]))
        self._episode = episode

    def _said(self, text: str) -> str:
        episode = self._running
        return "The episode is over." if episode.over else episode.answer(text)

    @property
    def _running(self) -> Episode:
        if self._episode is None:
            raise ConfigError("ToolEpisode: reset(**row) comes first.")
        return self._episode


def earned(episode: ToolEpisode, completion: Sequence[Mapping[str, Any]] | str) -> Graded:
    """Return the reward of the calls, and of the answer in an environment with tools.

    The answer is the last turn, which has no call. If a limit of TRL ended the episode before it,
    there is no answer; without any call and answer the reward is that of ''.
    """
    last = completion[-1] if episode._tools and completion else ""
    if isinstance(last, Mapping) and last["role"] == "assistant" and not last.get("tool_calls"):
        episode._said(last.get("content") or "")
    return episode._running.graded


class AnswerEpisode(ToolEpisode):
    """An episode of an environment without tools: each answer is a call of `answer`."""

    def answer(self, text: str) -> str:
        """Give your answer, and hear what the environment says to it.

        Args:
            text: Your answer, in the form that the instructions ask for.
        """
        return self._said(text)


def episodes_of(name: str, env: TextEnv) -> type[ToolEpisode]:
    """Return the class of an environment's episodes.

    Args:
        name: The name of the environment, for messages.
        env: An environment whose problems have the same tools, or none.

    Raises:
        ConfigError: the tools of its problems differ, or TRL cannot represent one of them.
    """
    tools = env.problem(0).tools
    if any(env.problem(seed).tools != tools for seed in range(1, _LOOKED_AT)):
        raise ConfigError(_several(name))
    if not tools:
        return AnswerEpisode
    methods = {tool.name: _method(name, tool) for tool in tools}
    return type("ToolEpisode", (ToolEpisode,), {"_tools": tools, **methods})


def _several(name: str) -> str:
    return (
        f"env={name}: its problems have different tools, but environment_factory shows the same to "
        f"all. {_INSTEAD}"
    )


def _method(env: str, tool: Tool) -> Callable[..., str]:
    """Return a method that calls a tool, and from which Transformers derives the tool's schema.

    Raises:
        ConfigError: TRL would not treat it as a tool, or Transformers derives another schema.
    """

    def call(self: ToolEpisode, /, **arguments: Any) -> str:
        return self._said(write_call(tool.name, arguments))

    cause = "its name"
    if not (hasattr(ToolEpisode, tool.name) or tool.name.startswith("_") or tool.name in _OF_TRL):
        cause = "" if _described(call, tool) else "its schema"
    if cause:
        raise ConfigError(
            f"env={env}: environment_factory cannot show the tool {tool.name} as it is ({cause}). "
            f"{_INSTEAD}"
        )
    return call


def _described(call: Any, tool: Tool) -> bool:
    """Set a function's name, hints and docstring; return whether they give the tool's schema."""
    properties, required = (tool.parameters.get(key, {}) for key in ("properties", "required"))
    described = [f"    {name}: {about.get('description')}" for name, about in properties.items()]
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__name__ = tool.name
    call.__doc__ = "\n".join([tool.description, "", *(["Args:", *described] if described else [])])
    try:
        call.__annotations__ = {name: _hint(about) for name, about in properties.items()}
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hint,
                default=inspect.Parameter.empty if name in required else None,
            )
            for name, hint in call.__annotations__.items()
        ]
        call.__signature__ = inspect.Signature([self, *parameters])
        return bool(get_json_schema(call) == tool.schema)
    except (AttributeError, KeyError, TypeError, ValueError):  # no hint for a type of the schema
        return False


def _hint(schema: Mapping[str, Any]) -> Any:
    """Return the type hint of a JSON Schema; `_described` checks that it loses nothing."""
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    match schema.get("type"):
        case None:
            return Any
        case "array":
            return list[_hint(schema["items"])] if "items" in schema else list  # type: ignore[misc]
        case "object" if "additionalProperties" in schema:
            return dict[str, _hint(schema["additionalProperties"])]  # type: ignore[misc]
        case kind:
            return _PLAIN[kind]

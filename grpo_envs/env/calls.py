"""Tool calls as text, in the one format that environments, bridges and logs use.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (the form of Hermes and
Qwen2.5), whatever format the model has: the agent's `Chat` translates the model's format into this
one before an environment sees the answer. A turn may hold text and several calls.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_envs.types import Call

TOOL_PARTS: Mapping[str, float] = dict.fromkeys(
    ("tool_calls", "tool_errors", "tool_repeats", "answered"), 0.0
)
"""The reward components that `ToolEnv` adds, and their weights."""
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(rf"{OPEN}(.*?)(?:{CLOSE}|\Z)", re.DOTALL)


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as text.

    >>> write_call("price", {"item": "tea"})
    '<tool_call>{"name": "price", "arguments": {"item": "tea"}}</tool_call>'
    """
    body = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"{OPEN}{body}{CLOSE}"


def write_unreadable(text: str) -> str:
    """Return the text of an unreadable call, which `read_calls` reads as a call with an error.

    >>> read_calls(write_unreadable("price(tea"))[1][0].error
    'a call is {"name": ..., "arguments": {...}}'
    """
    return f"{OPEN}{json.dumps(text, ensure_ascii=False)}{CLOSE}"


def read_calls(action: str) -> tuple[str, list[Call]]:
    """Return the text beside the calls of an answer, and the calls in their order.

    A call has `error` if it is not a JSON object with a name, or if its arguments are not an
    object. Calls in a `<think>` block do not count.

    >>> read_calls('Let me ask. <tool_call>{"name": "price", "arguments": {"item": "tea"}}')
    ('Let me ask.', [Call(name='price', arguments={'item': 'tea'}, error='')])
    """
    head, closed, rest = action.rpartition("</think>")
    if "<think>" in rest:
        return action.strip(), []
    text = f"{head}{closed}{_CALL.sub('', rest)}".strip()
    return text, [_read(found) for found in _CALL.findall(rest)]


def join_results(results: Sequence[str]) -> str:
    """Return the results of a turn's calls as one text, for people and models without the role."""
    return "\n".join(results)


def no_constant(name: str) -> Any:
    """Refuse NaN and infinities, which Python's parser would accept.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is not JSON")


def _read(text: str) -> Call:
    try:
        body = json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        return Call(name="", error=f"the call is not JSON ({error})")
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        return Call(name="", error='a call is {"name": ..., "arguments": {...}}')
    arguments = body.get("arguments", {})
    if not isinstance(arguments, dict):
        return Call(name=body["name"], error="arguments is not an object")
    return Call(name=body["name"], arguments=arguments)

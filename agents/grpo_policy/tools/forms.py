"""The forms in which models write tool calls: one `Form` for each family. Without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_envs.env.calls import no_constant
from grpo_envs.types import Call
from grpo_policy.tools.readers import (
    Tools,
    call_of,
    gemma_call,
    json_calls,
    mistral_calls,
    named,
    python_calls,
    tagged,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Found:
    """A part of an answer that is one call, several calls, or an attempt at a call."""

    start: int
    end: int
    body: str
    """The text between the marks of the form."""
    calls: tuple[Call, ...]
    """The calls; () if the text cannot be read."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a family of models writes calls."""

    name: str
    """A name for messages."""
    find: Callable[[str, Tools], Iterator[Found]]
    """Yields the calls in an answer, in order."""
    token: str = ""
    """A token by which the family's tokenizers are recognised if a template writes no calls."""


def _marked(
    pattern: str, read: Callable[[str, Tools], Sequence[Call]]
) -> Callable[[str, Tools], Iterator[Found]]:
    """Return the function that finds calls between marks; the pattern has the group `body`."""
    compiled = re.compile(pattern, re.DOTALL)

    def find(text: str, tools: Tools) -> Iterator[Found]:
        for match in compiled.finditer(text):
            body = match["body"]
            try:
                calls = tuple(read(body, tools))
            except ValueError:
                calls = ()
            yield Found(match.start(), match.end(), body, calls)

    return find


_BARE = re.compile(r"(?:^|;)\s*(?:<\|python_tag\|>|(?=\{\s*\"name\"\s*:))", re.MULTILINE)
_JSON = json.JSONDecoder(parse_constant=no_constant)


def _find_bare(text: str, _: Tools) -> Iterator[Found]:
    """Find `{"name": ..., "parameters": {...}}` at the beginning of a line, or after a semicolon.

    An unreadable call extends to the end of the answer: nothing marks its end.
    """
    at = 0
    while begun := _BARE.search(text, at):
        try:
            body, at = _JSON.raw_decode(text, begun.end())
            calls: tuple[Call, ...] = (call_of(body, "parameters", "arguments"),)
        except (ValueError, RecursionError):
            calls, at = (), len(text)
        yield Found(begun.start(), at, text[begun.end() : at], calls)


HERMES = Form(
    "JSON in <tool_call>",
    _marked(r"<tool_call>(?P<body>.*?)(?:</tool_call>|\Z)", json_calls),
)
"""Hermes, Qwen2.5, Qwen3: the canonical form of `grpo_envs/env/calls.py`."""
FORMS = (
    HERMES,
    Form(  # Qwen3-Coder, Qwen3.5 and later, Nemotron 3
        "XML: <function=...>",
        _marked(
            r"(?:<tool_call>\s*)?<function=(?P<body>.*?)"
            r"(?:</function>(?:\s*</tool_call>)?|</tool_call>|\Z)",
            tagged(
                r"(?P<name>[^>\n<]+)>",
                r"<parameter=(?P<key>[^>\n<]+)>\n?(?P<value>(?:(?!<parameter=).)*?)\n?</parameter>",
            ),
        ),
    ),
    Form(  # GLM
        "XML: <arg_key>",
        _marked(
            r"<tool_call>(?P<body>(?!\s*[{<]).*?)(?:</tool_call>|\Z)",
            tagged(
                r"\s*(?P<name>[^\s<>]+)",
                r"<arg_key>(?P<key>[^<]+)</arg_key>\s*"
                r"<arg_value>(?P<value>(?:(?!<arg_key>).)*?)</arg_value>",
            ),
        ),
    ),
    Form(  # Muse
        "XML: <invoke name=...>",
        _marked(
            r"(?:<(?:\w+:)?function_calls>\s*)?<(?P<space>\w+:|)invoke name=(?P<body>.*?)"
            r"(?:</(?P=space)invoke>(?:\s*</(?:\w+:)?function_calls>)?|\Z)",
            tagged(
                r'"(?P<name>[^"]+)">',
                r'<(?P<space>\w+:|)parameter name="(?P<key>[^"]+)"[^>]*>'
                r"(?P<value>.*?)</(?P=space)parameter>",
            ),
        ),
    ),
    Form(  # Gemma 4
        "<|tool_call>call:",
        _marked(r"<\|tool_call>(?P<body>.*?)(?:<tool_call\|>|\Z)", gemma_call),
    ),
    Form(  # gpt-oss, which ends its turn with the call
        "to=functions.",
        _marked(
            r"(?:<\|channel\|>\w+ +)?to=functions\.(?P<body>.*?)(?:(?=<\|call\|>)|\Z)",
            named(r"(?P<name>[\w.-]+?)(?:[\s<][^{]*?)?<\|message\|>(?P<arguments>.*)"),
        ),
    ),
    Form(  # LFM2, whose early templates write no calls
        "Python in <|tool_call_start|>",
        _marked(r"<\|tool_call_start\|>(?P<body>.*?)(?:<\|tool_call_end\|>|\Z)", python_calls),
        token="<|tool_call_start|>",
    ),
    Form(  # DeepSeek
        "<｜tool▁call▁begin｜>",
        _marked(
            r"(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>(?P<body>.*?)"
            r"(?:<｜tool▁call▁end｜>(?:<｜tool▁calls▁end｜>)?|\Z)",
            named(
                r"(?:function<｜tool▁sep｜>)?(?P<name>[\w.-]+)"
                r"(?:<｜tool▁sep｜>|\s*```json\s)(?P<arguments>.*?)(?:\s*```)?\s*"
            ),
        ),
    ),
    Form(  # Mistral
        "[TOOL_CALLS]",
        _marked(r"\[TOOL_CALLS\](?P<body>.*?)(?=\[TOOL_CALLS\]|</s>|\Z)", mistral_calls),
    ),
    Form("bare JSON", _find_bare),  # Llama 3
)
"""All known forms; a model has the first form that reads the call its template writes."""


def response_form(tokenizer: PreTrainedTokenizerBase) -> Form | None:
    """Return the form that a tokenizer's response template reads; None if it has none."""
    if getattr(tokenizer, "response_template", None) is None:
        return None

    def find(text: str, tools: Tools) -> Iterator[Found]:
        try:
            message = tokenizer.parse_response(
                text, prefix="", tools=[dict(tool) for tool in tools]
            )
            found = [call["function"] for call in message.get("tool_calls") or ()]
            calls = tuple(call_of(call, "arguments") for call in found)
        except Exception:  # noqa: BLE001  a template can raise anything on a text without a call
            yield Found(0, len(text), text, ())
            return
        if calls:
            content = str(message.get("content") or "")
            start = text.find(content) + len(content) if content in text else 0
            yield Found(start, len(text), text[start:], calls)

    return Form("the tokenizer's response template", find)

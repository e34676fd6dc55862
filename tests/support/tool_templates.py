"""The chat templates that TRL ships, and the bundled model's: what becomes of tools in each."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from grpo_envs.env.calls import read_calls
from grpo_envs.errors import ConfigError
from grpo_envs.types import Tool
from grpo_policy.chat import Chat, end_tokens
from grpo_policy.models import TINY
from grpo_policy.template import Template

ORDER = Tool(
    name="order",
    description="Order an article.",
    parameters={
        "type": "object",
        "properties": {
            "article": {"type": "string", "description": "Its name."},
            "code": {"type": "string", "description": "Its number, as a text."},
            "count": {"type": "integer", "description": "How many."},
            "express": {"type": "boolean", "description": "Whether it is urgent."},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "Any."},
        },
        "required": ["article", "code"],
    },
)
CALLS: Mapping[str, Mapping[str, Any]] = {
    "words": {"article": "green tea", "code": "A-1"},
    "text that looks like a number": {"article": "tea", "code": "075"},
    "an integer": {"article": "tea", "code": "x", "count": -7},
    "a boolean": {"article": "tea", "code": "x", "express": False},
    "a list": {"article": "tea", "code": "x", "tags": ["a", "b c"]},
    "an apostrophe": {"article": "farmer's tea", "code": "x"},
    "quotation marks": {"article": 'the "best" tea', "code": "x"},
    "two lines": {"article": "tea\nor coffee", "code": "x"},
    "a JSON text": {"article": '{"a": [1, 2]}', "code": "x"},
    "other scripts": {"article": "茶 ☕", "code": "é"},
}
"""Arguments of calls, by what is hard about them."""
_QUESTION = "(the question)"
_MARKS = re.compile(r"<\|[^|<>\n]+\|?>|<[^|<>/\n ]+\|>|<｜[^｜\n]+｜>|<(?:start|end)_of_\w+>|</s>")


def templates() -> dict[str, Path]:
    """The bundled template and those of TRL, where it is installed, by name; none for training."""
    found = {"(bundled)": TINY / "chat_template.jinja"}
    if (spec := importlib.util.find_spec("trl")) and spec.origin:
        folder = Path(spec.origin).parent / "chat_templates"
        files = [file for file in sorted(folder.glob("*.jinja")) if "_training" not in file.stem]
        found |= {file.stem: file for file in files}
    return found


def chat_of(text: str) -> Chat:
    """A chat of a template; the marks that it writes are tokens, as in the tokenizers of models."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = text
    tokenizer.bos_token = "<|endoftext|>"
    marks = sorted({*_MARKS.findall(text)})
    if "<|tool_list_start|>" in marks:  # LFM2, whose first template leaves calls to the model
        marks += ["<|tool_call_start|>", "<|tool_call_end|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    return Chat(tokenizer, end_tokens(tokenizer, None, {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What becomes of tools in a template."""

    shown: str
    """By what the tools are shown."""
    form: str
    """Of calls."""
    lost: tuple[str, ...] = ()
    """Calls that are read otherwise than they were meant, as the template writes them."""
    written: bool = True
    """Whether the template writes calls at all."""
    results: str = ""
    """What follows an answer with a call."""
    refused: str = ""

    def line(self, name: str) -> str:
        """The row of the page of templates."""
        if self.refused:
            cause = self.refused.replace("|", "\\|")
            return f"| {name} | refused: {cause} | | | |"
        form = f"`{self.form}`".replace("|", "\\|")
        read = f"{len(CALLS) - len(self.lost)} of {len(CALLS)}" if self.written else "writes none"
        read += f", not {', '.join(self.lost)}" if self.lost else ""
        if self.shown != "the template":
            return f"| {name} | {self.shown} | {form} | | as the user's message |"
        role = self.results.replace("\n", "\\n").replace("|", "\\|")
        return f"| {name} | {self.shown} | {form} | {read} | `{role}` |"


HEAD = """| template | tools are shown by | a call | calls read back | a result |
|---|---|---|---|---|"""


def row_of(text: str) -> Row:
    """Try a template."""
    chat = chat_of(text)
    try:
        chat.render(_QUESTION, tools=[ORDER.schema])
        use = chat.tool_use
        ids = chat.follow_up("(result)", ended=False, results=["(result)"], answer=_call({}))
    except ConfigError as error:
        return Row(shown="", form="", refused=str(error))
    results = chat.text(ids)
    if not use.shown:
        return Row(shown="the system prompt", form=use.form.name, results=results)
    assert chat.template is not None
    answers = {name: answer_of(chat.template, arguments) for name, arguments in CALLS.items()}
    written = "order" in answers["words"]
    lost = [name for name in CALLS if written and not same(chat, answers[name], CALLS[name])]
    form = use.form.name
    return Row(shown="the template", form=form, lost=tuple(lost), written=written, results=results)


def answer_of(template: Template, arguments: Mapping[str, Any]) -> str:
    """An answer with a call, as the template writes it."""
    function = {"name": ORDER.name, "arguments": dict(arguments)}
    call = {"type": "function", "id": "call00000", "function": function}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    question: dict[str, Any] = {"role": "user", "content": _QUESTION}
    talk = [question, answer]
    return template.apply(talk, opened=False, tools=[ORDER.schema]).partition(_QUESTION)[2]


def same(chat: Chat, answer: str, arguments: Mapping[str, Any]) -> bool:
    """Whether one call of these arguments is read from an answer, and nothing else."""
    _, calls = read_calls(chat.canonical(answer, [ORDER.schema]))
    return [(call.name, call.arguments) for call in calls] == [(ORDER.name, arguments)]


def _call(arguments: Mapping[str, Any]) -> str:
    body = json.dumps({"name": ORDER.name, "arguments": dict(arguments)})
    return f"<tool_call>{body}</tool_call>"

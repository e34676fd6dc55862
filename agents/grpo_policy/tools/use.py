"""How a chat template uses tools: it shows tools, writes calls in a form, and adds results.

There is no list of model names: the template writes a trial call, and the form that reads this call
is the model's. Without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_envs.env.calls import CLOSE, OPEN, write_call, write_unreadable
from grpo_envs.errors import ConfigError
from grpo_envs.types import Call, Tool
from grpo_policy.tools.forms import FORMS, HERMES, Form, Found, response_form
from grpo_policy.tools.readers import Tools

if TYPE_CHECKING:
    from grpo_policy.template import Template

Message = Mapping[str, Any]
_STRING, _NUMBER = {"type": "string", "description": "?"}, {"type": "integer", "description": "?"}
_PROBE = Tool(
    name="tool_probe",
    description="(the tool)",
    parameters={
        "type": "object",
        "properties": {"text_probe": _STRING, "code_probe": _STRING, "count_probe": _NUMBER},
        "required": ["text_probe", "code_probe", "count_probe"],
    },
)
_CALL = Call(
    name=_PROBE.name, arguments={"text_probe": "a b", "code_probe": "075", "count_probe": 7}
)
_ANSWER = "(the answer)"
_NAME = re.compile(r"[\w.-]+")
_MOST_FRAMES = 1000
_USER = {"role": "user", "content": "(the question)"}
_GIVE = "Give another: model.chat_template=FILE."
EXPLAINED = f"""You may call these functions, each of which is described by a line of JSON:
{{functions}}
A call is {OPEN}{{"name": "...", "arguments": {{...}}}}{CLOSE}. What it returns comes next."""
"""The description of tools in the system prompt, for chat templates that show none."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How a model is shown tools, how it writes calls, and how it reads their results."""

    template: Template | None
    """None if the template shows no tools; the system prompt describes them then."""
    form: Form
    """The form of the model's calls."""
    _frames: dict[tuple[str, ...], list[tuple[Message, str]]] = field(
        default_factory=dict, init=False, compare=False
    )
    """For the names of some calls: answers that the template takes, and the text up to their end.
    """

    @classmethod
    def of(cls, template: Template | None) -> ToolUse:
        """Find out how a template uses tools.

        Raises:
            ConfigError: the template shows tools, but its form of calls is unknown, or it drops
                the results of calls.
        """
        if template is None or not _shows(template):
            return cls(None, HERMES)
        use = cls(template, _form_of(template))
        for count in (1, 2):
            if not use.reply(["?"] * count, [_PROBE.name] * count):
                raise ConfigError(f"the model's chat template loses the results of tools. {_GIVE}")
        return use

    @property
    def shown(self) -> bool:
        """Whether the template shows tools."""
        return self.template is not None

    @classmethod
    def end(cls, template: Template) -> str:
        """Return the text that a template writes after a call, which may begin with an end token.

        '' if the template shows no tools, or cannot be used with tools.
        """
        try:
            return cls.of(template).reply(["?"], [_PROBE.name]).lstrip()
        except ConfigError:
            return ""

    def explained(self, system_prompt: str, tools: Tools) -> str:
        """Return the system prompt with a description of the tools."""
        functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        about = EXPLAINED.replace("{functions}", functions)
        return f"{system_prompt}\n\n{about}" if system_prompt else about

    def canonical(self, answer: str, tools: Tools) -> str:
        """Return an answer with its calls in the form of `grpo_envs/env/calls.py`.

        An unreadable call is written as a string between the marks of a call, so that the
        environment answers it with an error. Thoughts do not change.
        """
        if self.form is HERMES:  # the same form
            return answer
        head, mark, said = answer.rpartition("</think>")
        if "<think>" in said:  # the thought is not closed
            return answer
        text, at = head + mark, 0
        for found in self.form.find(said, tools):
            text += said[at : found.start] + _written(found)
            at = found.end
        return text + said[at:]

    def reply(self, results: Sequence[str], names: Sequence[str]) -> str:
        """Return the text between an answer with calls and the next, with results in their role.

        In the rendered conversation the template writes the calls itself. If this fails, the answer
        is plain text: Llama's template refuses an answer with two calls.

        Args:
            results: The results of the calls, in order.
            names: The names of the called functions.

        Returns:
            The text, which begins with the end of the answer; '' if the template shows no results.
        """
        if self.template is None:
            return ""
        known = tuple(name if _NAME.fullmatch(name) else "unknown" for name in names)
        if known not in self._frames:
            if len(self._frames) == _MOST_FRAMES:  # a policy may invent any number of names
                self._frames.clear()
            self._frames[known] = [*self._framed(self.template, known)]
        for answer, head in self._frames[known]:
            with suppress(ConfigError):
                text = _talk(self.template, answer, known, results)
                if text.startswith(head):
                    return text[len(head) :]
        return ""

    def _framed(self, template: Template, names: Sequence[str]) -> Iterator[tuple[Message, str]]:
        """Yield answers after which the template shows results, and the text up to their end."""
        marks = [f"(result {number})" for number in range(len(names))]
        calls = [Call(name=name, arguments=_CALL.arguments) for name in names]
        for answer in (_called(calls), {"role": "assistant", "content": _ANSWER}):
            with suppress(ConfigError):
                framed = _talk(template, answer, names, marks)
                end = self._end(framed.partition(marks[0])[0])
                if end and all(mark in framed[end:] for mark in marks):
                    yield answer, framed[:end]

    def _end(self, before: str) -> int:
        """Return the end of the answer in the text before the first result; 0 if not found."""
        if _ANSWER in before:
            return before.index(_ANSWER) + len(_ANSWER)
        found = [each.end for each in self.form.find(before, [_PROBE.schema]) if each.calls]
        return found[-1] if found and found[-1] < len(before) else 0


def _talk(template: Template, answer: Message, names: Sequence[str], results: Sequence[str]) -> str:
    """Return the text of a question, an answer and the results of its calls."""
    returned = [
        {"role": "tool", "name": name, "tool_call_id": _id(number), "content": result}
        for number, (name, result) in enumerate(zip(names, results, strict=True))
    ]
    return template.apply([_USER, answer, *returned], opened=True, tools=[_PROBE.schema])


def _shows(template: Template) -> bool:
    """Return whether a template shows tools."""
    try:
        text = template.apply([_USER], opened=True, tools=[_PROBE.schema])
    except ConfigError:
        return False
    return all(name in text for name in (_PROBE.name, *_CALL.arguments))


def _form_of(template: Template) -> Form:
    """Return the form that reads the template's trial call.

    Raises:
        ConfigError: no form reads it.
    """
    tools = [_PROBE.schema]
    text = template.apply([_USER, _called([_CALL])], opened=False, tools=tools)
    answer = text.partition(_USER["content"])[2]
    tokenizer = template.tokenizer
    if _PROBE.name not in answer:
        tokens = tokenizer.get_vocab()
        for form in FORMS:
            if form.token in tokens:
                return form
        raise ConfigError(
            f"the model's chat template shows tools, but leaves out calls, so their form is "
            f"unknown. {_GIVE}"
        )
    own = response_form(tokenizer)
    for form in (*FORMS, *([own] if own else [])):
        if [call for found in form.find(answer, tools) for call in found.calls] == [_CALL]:
            return form
    raise ConfigError(
        f"the model's chat template writes a call as {answer.strip()[:80]!r}..., which is an "
        f"unknown form. {_GIVE}"
    )


def _called(calls: Sequence[Call]) -> Message:
    """Return an answer that consists of calls, in the form of Transformers."""
    written = [
        {
            "type": "function",
            "id": _id(number),
            "function": {"name": call.name, "arguments": dict(call.arguments)},
        }
        for number, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": written}


def _id(number: int) -> str:
    return f"call{number:05}"  # Mistral's template requires nine letters and digits


def _written(found: Found) -> str:
    if not found.calls:
        return write_unreadable(found.body)
    return "".join(write_call(call.name, call.arguments) for call in found.calls)

"""A model's chat template, a program that turns messages into text. Without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_envs.errors import ConfigError, nearest
from grpo_policy.tools.readers import Tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "(the answer)"  # the policy's answer in a trial of the template
_OPENED_THOUGHT = re.compile(r"<think>\s*\Z")


@dataclass(frozen=True, slots=True)
class Template:
    """The chat template of a tokenizer, with its variables from the configuration."""

    tokenizer: PreTrainedTokenizerBase
    variables: Mapping[str, Any]
    _kept: dict[tuple[str, ...], bool] = field(default_factory=dict, init=False, compare=False)
    """Whether messages of these roles are rendered, each with its text; a cache."""

    def require_usable(self) -> None:
        """Refuse a template that fails or drops the question, and variables that it does not read.

        Raises:
            ConfigError: one line that says why.
        """
        words = set(re.findall(r"\w+", str(self.tokenizer.chat_template)))
        for name in self.variables:
            if name not in words:
                raise ConfigError(
                    f"model.chat_template_kwargs.{name}: the chat template has no variable of that "
                    f"name.{nearest(name, words)}"
                )
        if not self._keeps("system", "user"):
            self._require_kept("user")

    def prompt(
        self, turns: Sequence[tuple[str, str]], system_prompt: str = "", tools: Tools = ()
    ) -> str:
        """Return a prompt as text, ending with the opening of the answer.

        If a template refuses a system message (Gemma, Mistral 0.1) or drops it silently, the system
        prompt is put before the first user's text.

        Args:
            turns: Role and text of each turn.
            system_prompt: The system prompt; '' for none.
            tools: The tools that the template shows.
        """
        roles = [role for role, _ in turns]
        if system_prompt and self._keeps("system", *roles, tools=tools):
            return self._render(("system", system_prompt), *turns, tools=tools)
        self._require_kept(*roles)
        turns = list(turns)
        if system_prompt:
            first = roles.index("user")
            turns[first] = ("user", f"{system_prompt}\n\n{turns[first][1]}")
        return self._render(*turns, tools=tools)

    def reply(self, observation: str) -> str:
        """Return the text between an answer and the next: the turn's end, and the reply's turn."""
        self._require_kept("user", "assistant", "user")
        talk = (("user", "?"), ("assistant", _ANSWER), ("user", observation))
        return self._render(*talk).partition(_ANSWER)[2]

    def takes_system(self) -> bool:
        """Return whether the template renders a system message."""
        return self._keeps("system", "user")

    def end(self) -> str:
        """Return the text that the template writes after an answer; '' if there is none."""
        try:
            talk = (("user", "?"), ("assistant", _ANSWER))
            rendered = self._render(*talk, opened=False)
        except ConfigError:  # the template takes no answer; a prompt does not need one
            return ""
        return rendered.partition(_ANSWER)[2].strip()

    def _keeps(self, *roles: str, tools: Tools = ()) -> bool:
        """Return whether messages of these roles are rendered, each with its text."""
        key = ("tools", *roles) if tools else roles
        if key not in self._kept:
            self._kept[key] = self._renders(*roles, tools=tools)
        return self._kept[key]

    def _renders(self, *roles: str, tools: Tools) -> bool:
        texts = [f"(text {number} of {role})" for number, role in enumerate(roles)]
        try:
            rendered = self._render(*zip(roles, texts, strict=True), tools=tools)
        except ConfigError:
            return False
        return all(text in rendered for text in texts)

    def _require_kept(self, *roles: str) -> None:
        if not self._keeps(*roles):
            self._render(*((role, "text") for role in roles))  # if this fails, it says why
            raise ConfigError(
                f"the model's chat template leaves out a text of {', '.join(roles)}. "
                "Give another: model.chat_template=FILE."
            )

    def _render(self, *messages: tuple[str, str], opened: bool = True, tools: Tools = ()) -> str:
        try:
            rendered = self._applied(messages, opened=opened, tools=tools)
        except ConfigError:
            if not self._wants_parts():
                raise
        else:
            kept = all(text.strip() in rendered for _, text in messages)
            if kept or not self._wants_parts():
                return rendered
        return self._applied(messages, opened=opened, tools=tools, parts=True)

    def _wants_parts(self) -> bool:
        """Return whether a text must be a list of one part, as for multimodal models (LLaVA)."""
        found = []
        for parts in (False, True):
            try:
                found.append(self._applied([("user", _ANSWER)], opened=True, tools=(), parts=parts))
            except ConfigError:
                found.append("")
        plain, part = found
        return _ANSWER not in plain and _ANSWER in part and "'text'" not in part

    def apply(
        self, messages: Sequence[Mapping[str, Any]], *, opened: bool, tools: Tools = ()
    ) -> str:
        """Return the messages as text.

        Args:
            messages: Messages in the form of Transformers.
            opened: Whether an answer is opened at the end.
            tools: The variable `tools` of the template; () for none.

        Raises:
            ConfigError: the template fails.
        """
        talk = [dict(message) for message in messages]
        given: dict[str, Any] = {"tools": [dict(tool) for tool in tools]} if tools else {}
        given |= self.variables
        try:
            text = self.tokenizer.apply_chat_template(
                talk, add_generation_prompt=opened, tokenize=False, **given
            )
        except Exception as error:  # a template can raise anything
            cause = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise ConfigError(
                f"the model's chat template fails: {type(error).__name__}: {cause}. "
                "Give another: model.chat_template=FILE."
            ) from error
        return str(text)

    def _applied(
        self,
        messages: Sequence[tuple[str, str]],
        *,
        opened: bool,
        tools: Tools,
        parts: bool = False,
    ) -> str:
        talk = [
            {"role": role, "content": [{"type": "text", "text": text}] if parts else text}
            for role, text in messages
        ]
        return self.apply(talk, opened=opened, tools=tools)


def opened_thought(prompt: str) -> str:
    r"""Return the `<think>` at the end of a prompt, with the blanks after it; '' without one.

    >>> opened_thought("7+8?<assistant><think>\n"), opened_thought("<think></think>")
    ('<think>\n', '')
    """
    found = _OPENED_THOUGHT.search(prompt)
    return found[0] if found else ""

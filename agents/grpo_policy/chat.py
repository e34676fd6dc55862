"""Text to tokens and back, by a model's tokenizer and chat template. No weights, no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from grpo_envs.env.calls import read_calls
from grpo_envs.errors import ConfigError
from grpo_policy.template import Template, opened_thought
from grpo_policy.tools.readers import Tools
from grpo_policy.tools.use import ToolUse

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

NO_LIMIT = sys.maxsize
THOUGHT = ("<think>", "</think>")
"""What opens and closes a thought."""
_OPENING_TOKENS = 16
"""Tokens at the end of a prompt that are looked at for an opened thought."""


@dataclass(frozen=True)  # no slots: `template` and `tool_use` are kept
class Chat:
    """A tokenizer with its chat template, the tokens that end a turn, and the context's length."""

    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    context_length: int = NO_LIMIT
    """The most tokens that the model can attend to; `NO_LIMIT` where it names no number."""
    embeddings: int = NO_LIMIT
    """Tokens that the model has embeddings of: a tokenizer may know more of them."""
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the messages, such as `enable_thinking`."""

    def require_usable(self) -> None:
        """Refuse a chat template that fails, and variables that no template reads.

        Raises:
            ConfigError: one line that says why.
        """
        if self.template:
            self.template.require_usable()
        elif self.template_variables:
            raise ConfigError("model.chat_template_kwargs: the model has no chat template.")

    @cached_property
    def template(self) -> Template | None:
        """The chat template; None where the model has none."""
        return template_of(self.tokenizer, self.template_variables)

    @cached_property
    def tool_use(self) -> ToolUse:
        """What the chat template does with tools.

        Raises:
            ConfigError: it shows them, but its calls cannot be read or their results are lost.
        """
        return ToolUse.of(self.template)

    def render(
        self,
        prompt: str,
        system_prompt: str = "",
        messages: Sequence[Mapping[str, str]] = (),
        tools: Tools = (),
    ) -> tuple[int, ...]:
        """Return the tokens of a prompt, through the chat template where the model has one.

        Args:
            prompt: The text.
            system_prompt: The system message before it; '' for none.
            messages: The turns of a prompt that is a conversation, see `Problem.messages`.
            tools: What the policy may call, see `Tool.schema`. The chat template shows them, or
                the system prompt where the template shows none.

        Raises:
            ConfigError: the template fails, or a token has no embedding; see also `tool_use`.
        """
        if tools and not self.tool_use.shown:
            system_prompt, tools = self.tool_use.explained(system_prompt, tools), ()
        if self.template is None:
            text = f"{system_prompt}\n\n{prompt}\n" if system_prompt else prompt
            return self._begun_tokens(text)
        turns = [(turn["role"], turn["content"]) for turn in messages] or [("user", prompt)]
        return self._tokens(self.template.prompt(turns, system_prompt, tools))

    def canonical(self, answer: str, tools: Tools = ()) -> str:
        """Return an answer as environments take it: its tool calls in the one writing.

        Args:
            answer: As the policy wrote it, in its own form.
            tools: What it may call; without any the answer is returned as it is.
        """
        return self.tool_use.canonical(answer, tools) if tools else answer

    def follow_up(
        self, observation: str, *, ended: bool, results: Sequence[str] = (), answer: str = ""
    ) -> tuple[int, ...]:
        """Return the tokens between an answer and the next: the environment's reply, framed.

        What came before is never rendered or tokenised again, so a template that would rewrite
        earlier turns (Qwen3's drops their thoughts) changes nothing in the context.

        Args:
            observation: The environment's reply.
            ended: Whether the policy wrote its turn's end token itself; else it is put in.
            results: What the tools of the answer returned, see `Reply.results`. A template that
                shows tools has them in its `tool` role; else the observation stands for them.
            answer: The answer with the calls of the results, as `canonical` returns it.

        Raises:
            ConfigError: the chat template fails, or ends an answer with none of the end tokens.
        """
        if self.template is None:
            return self._tokens(f"\n{observation}\n")
        text = self._results(results, answer) or self.template.reply(observation)
        ends = [str(self.tokenizer.decode([i])) for i in self.eos_ids]
        end = next((end for end in ends if end and text.lstrip().startswith(end)), "")
        if not end:
            raise ConfigError(
                "model.path: its chat template ends an answer with none of the end tokens "
                f"({', '.join(map(repr, ends))}), so no conversation can go on after one."
            )
        return self._tokens(text.partition(end)[2] if ended else text)

    def _results(self, results: Sequence[str], answer: str) -> str:
        """Return the results framed by the template; '' where it shows no tools, or none came."""
        if not results or not self.tool_use.shown:
            return ""
        names = [call.name for call in read_calls(answer)[1]]
        return self.tool_use.reply(results, [*names, *[""] * len(results)][: len(results)])

    def ended(self, token_ids: tuple[int, ...]) -> bool:
        """Return whether an answer has its end token: one that a stop string ended has not."""
        return token_ids[-1:] != () and token_ids[-1] in self.eos_ids

    def opened(self, context: tuple[int, ...]) -> str:
        """Return what the context's last tokens have written of the answer: an opened `<think>`.

        DeepSeek-R1's template opens the thought itself; graders read it as part of the answer.
        """
        return opened_thought(self.text(context[-_OPENING_TOKENS:]))

    def thought_tokens(self) -> tuple[int, int]:
        """Return the token that opens a thought and the one that closes it.

        Raises:
            ConfigError: the tokenizer has no such tokens.
        """
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in THOUGHT]
        if [len(some) for some in ids] != [1, 1]:
            raise ConfigError(
                f"sampler.thinking_budget: {' and '.join(THOUGHT)} are no tokens of this model. "
                "Allowed: null."
            )
        return ids[0][0], ids[1][0]

    def remarks(self) -> list[str]:
        """Return what is to be known about the template, a line each."""
        if self.template is None:
            return []
        found = []
        own, end = self.tokenizer.eos_token, self.template.end()
        token = end_token(self.tokenizer, end)
        if token is not None and token != self.tokenizer.eos_token_id:
            text = str(self.tokenizer.decode([token]))
            ends = f"this template ends turns with {text}, the model's end token is {own}"
            found.append(f"{ends}: an answer ends at either.")
        elif token is None and end:
            line = end.splitlines()[0]
            text = f"this template ends turns with {line}, which is no token of the model"
            stop = f"""sampler.stop='["{line}"]'"""
            found.append(f"{text}: an answer ends at {own} alone, else give {stop}.")
        if not self.template.takes_system():
            found.append("this template takes no system message: it stands before the user's text.")
        return found

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text as an answer has them: without any that begin or end it."""
        return self._tokens(text)

    @property
    def turn_end(self) -> int:
        """The token that ends an answer: the template's, else the model's first end token."""
        end = self.template.end() if self.template else ""
        token = end_token(self.tokenizer, end)
        return self.eos_ids[0] if token is None else token

    def _begun_tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text with those that begin it (BOS), not with those that end it.

        Some tokenizers append an end token to all that they are given.
        """
        plain = self._tokens(text)
        framed = tuple(self.tokenizer(text)["input_ids"])
        for end in range(len(plain), len(framed) + 1):
            if framed[end - len(plain) : end] == plain:
                return framed[:end]
        return plain

    def _tokens(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if max(ids, default=0) >= self.embeddings:
            token = self.tokenizer.decode([max(ids)])
            raise ConfigError(
                f"model.path: its tokenizer knows {token!r}, for which the model has no embedding; "
                "a prompt has it. Resize the model's embeddings, or take the token out."
            )
        return ids

    def text(self, token_ids: tuple[int, ...]) -> str:
        """Return what tokens stand for, those that frame a turn included."""
        return str(self.tokenizer.decode(list(token_ids)))

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Return the text of a completion, without end tokens and padding.

        Other special tokens stay: tags such as `<think>` may be special ones.
        """
        silent = (*self.eos_ids, self.tokenizer.pad_token_id)
        return self.text(tuple(i for i in token_ids if i not in silent))


def template_of(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]
) -> Template | None:
    """Return a tokenizer's chat template; None where it has none."""
    return None if tokenizer.chat_template is None else Template(tokenizer, variables)


def end_tokens(
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig | None,
    variables: Mapping[str, Any],
) -> tuple[int, ...]:
    """Return every token that ends a turn: the tokenizer's, the model's and the template's.

    Args:
        tokenizer: With its chat template.
        generation: The model's generation config.
        variables: Of the chat template.

    Raises:
        ConfigError: there is none, or the template cannot be used.
    """
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    template = template_of(tokenizer, variables)
    ends = [template.end(), ToolUse.end(template)] if template else []
    written = [end_token(tokenizer, end) for end in ends]
    found = [i for i in (tokenizer.eos_token_id, *ids, *written) if isinstance(i, int)]
    if not found:
        raise ConfigError("model.path: neither the tokenizer nor the model names an end token.")
    return tuple(dict.fromkeys(found))


def end_token(tokenizer: PreTrainedTokenizerBase, end: str) -> int | None:
    """Return the token that begins what a template writes after an answer.

    None where it is no token of its own: ordinary text, which an answer may hold as well.
    """
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    first = next((i for i in ids if str(tokenizer.decode([i])).strip()), None)
    return first if first in special else None

"""Text to tokens and back, by a model's tokenizer and chat template. Without weights and torch."""

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
"""The texts that open and close a thought."""
_OPENING_TOKENS = 16
"""Tokens at the end of a prompt that are searched for an opened thought."""


@dataclass(frozen=True)  # no slots: `template` and `tool_use` are cached properties
class Chat:
    """A tokenizer with its chat template, the tokens that end a turn, and the context length."""

    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    context_length: int = NO_LIMIT
    """The most tokens that the model can attend to; `NO_LIMIT` if its configuration names none."""
    embeddings: int = NO_LIMIT
    """Number of tokens that the model has embeddings for; the tokenizer may have more tokens."""
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template beside the messages, such as `enable_thinking`."""

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
            ConfigError: the template shows tools, but its form of calls cannot be read, or it
                drops the results of calls.
        """
        return ToolUse.of(self.template)

    def render(
        self,
        prompt: str,
        system_prompt: str = "",
        messages: Sequence[Mapping[str, str]] = (),
        tools: Tools = (),
    ) -> tuple[int, ...]:
        """Return the tokens of a prompt, by the chat template if the model has one.

        Args:
            prompt: The text.
            system_prompt: The system message before it; '' for none.
            messages: The turns of a prompt that is a conversation, see `Problem.messages`.
            tools: The tools that the policy may call, see `Tool.schema`. The chat template shows
                them; if it cannot, the system prompt describes them.

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
        """Return an answer as environments take it, with its tool calls in the canonical form.

        Args:
            answer: The answer in the form of the policy's chat template.
            tools: The tools that the policy may call; without tools the answer is not changed.
        """
        return self.tool_use.canonical(answer, tools) if tools else answer

    def follow_up(
        self, observation: str, *, ended: bool, results: Sequence[str] = (), answer: str = ""
    ) -> tuple[int, ...]:
        """Return the tokens between an answer and the next: the environment's reply in a turn.

        Earlier turns are never rendered or tokenised again, so a template that rewrites them
        (Qwen3's removes their thoughts) does not change the context.

        Args:
            observation: The environment's reply.
            ended: Whether the policy wrote the end token of its turn; if not, it is inserted.
            results: The results of the answer's tool calls, see `Reply.results`. A template that
                shows tools writes them in its `tool` role; otherwise the observation is used.
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
                f"({', '.join(map(repr, ends))}), so a conversation cannot continue after one."
            )
        return self._tokens(text.partition(end)[2] if ended else text)

    def _results(self, results: Sequence[str], answer: str) -> str:
        """Return the results as the template writes them; '' without tools in it or results."""
        if not results or not self.tool_use.shown:
            return ""
        names = [call.name for call in read_calls(answer)[1]]
        return self.tool_use.reply(results, [*names, *[""] * len(results)][: len(results)])

    def ended(self, token_ids: tuple[int, ...]) -> bool:
        """Return whether an answer ends with an end token; after a stop string it does not."""
        return token_ids[-1:] != () and token_ids[-1] in self.eos_ids

    def opened(self, context: tuple[int, ...]) -> str:
        """Return the beginning of the answer that the prompt already has: an opened `<think>`.

        DeepSeek-R1's template opens the thought itself; graders read the tag as part of the answer.
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
                f"sampler.thinking_budget: {' and '.join(THOUGHT)} are not tokens of this model. "
                "Allowed: null."
            )
        return ids[0][0], ids[1][0]

    def remarks(self) -> list[str]:
        """Return remarks about the template, a line each."""
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
            found.append("this template takes no system message: it is put before the user's text.")
        return found

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text without added special tokens (BOS, EOS), as in an answer."""
        return self._tokens(text)

    @property
    def turn_end(self) -> int:
        """The token that ends an answer: the template's, else the model's first end token."""
        end = self.template.end() if self.template else ""
        token = end_token(self.tokenizer, end)
        return self.eos_ids[0] if token is None else token

    def _begun_tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, with an added BOS but without an added EOS token.

        Some tokenizers append an end token to every text.
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
                f"model.path: a prompt has the token {token!r}, for which the model has no "
                "embedding. Resize the model's embeddings, or remove the token from the tokenizer."
            )
        return ids

    def text(self, token_ids: tuple[int, ...]) -> str:
        """Return the text of tokens, including the special tokens around a turn."""
        return str(self.tokenizer.decode(list(token_ids)))

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Return the text of a completion, without end tokens and padding.

        Other special tokens stay: tags such as `<think>` may be special tokens.
        """
        silent = (*self.eos_ids, self.tokenizer.pad_token_id)
        return self.text(tuple(i for i in token_ids if i not in silent))


def template_of(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]
) -> Template | None:
    """Return a tokenizer's chat template; None if it has none."""
    return None if tokenizer.chat_template is None else Template(tokenizer, variables)


def end_tokens(
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig | None,
    variables: Mapping[str, Any],
) -> tuple[int, ...]:
    """Return every token that ends a turn: the tokenizer's, the model's and the template's.

    Args:
        tokenizer: The tokenizer, with its chat template.
        generation: The model's generation config.
        variables: Variables of the chat template.

    Raises:
        ConfigError: there is no end token, or the template cannot be used.
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
    """Return the first token of the text that a template writes after an answer.

    None if that is ordinary text, which an answer may contain as well, and no special token.
    """
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    first = next((i for i in ids if str(tokenizer.decode([i])).strip()), None)
    return first if first in special else None

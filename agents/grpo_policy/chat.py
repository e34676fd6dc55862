"""Text to tokens and back, by a model's tokenizer and chat template. No weights, no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_envs.errors import ConfigError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

NO_LIMIT = sys.maxsize
_ANSWER = "(the answer)"  # stands for what the policy said, in a template


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer with its chat template, the tokens that end a turn, and the context's length."""

    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    context_length: int = NO_LIMIT
    """The most tokens that the model can attend to; `NO_LIMIT` where it names no number."""
    embeddings: int = NO_LIMIT
    """Tokens that the model has embeddings of: a tokenizer may know more of them."""

    def render(self, prompt: str, system_prompt: str = "") -> tuple[int, ...]:
        """Return the tokens of a prompt, through the chat template where the model has one."""
        if self.tokenizer.chat_template is None:
            text = f"{system_prompt}\n\n{prompt}\n" if system_prompt else prompt
            return self._tokens(text, special=True)
        messages = [{"role": "user", "content": prompt}]
        if system_prompt:
            messages.insert(0, {"role": "system", "content": system_prompt})
        rendered = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return self._tokens(str(rendered))

    def follow_up(self, observation: str, *, ended: bool) -> tuple[int, ...]:
        """Return the tokens between an answer and the next: the environment's reply, framed.

        What came before is never rendered or tokenised again, so a template that would rewrite
        earlier turns (Qwen3's drops their thoughts) changes nothing in the context.

        Args:
            observation: The environment's reply.
            ended: Whether the policy ended its turn itself; else the end is put in for it.

        Raises:
            ConfigError: the chat template ends an answer with none of the model's end tokens.
        """
        if self.tokenizer.chat_template is None:
            text, end = f"\n{observation}\n", ""
        else:
            answer = {"role": "assistant", "content": _ANSWER}
            asked, reply = ({"role": "user", "content": text} for text in ("?", observation))
            rendered = self.tokenizer.apply_chat_template(
                [asked, answer, reply], add_generation_prompt=True, tokenize=False
            )
            text = str(rendered).partition(_ANSWER)[2]
            ends = [str(self.tokenizer.decode([i])) for i in self.eos_ids]
            end = next((end for end in ends if end and text.startswith(end)), "")
            if not end:
                raise ConfigError(
                    "model.path: its chat template ends an answer with none of the end tokens "
                    f"({', '.join(map(repr, ends))}), so no conversation can go on after one."
                )
        text = text.removeprefix(end) if ended else text
        return self._tokens(text)

    def _tokens(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])
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
        """Return the text of a completion, without the tokens that only end a turn."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None
) -> tuple[int, ...]:
    """Return every token that ends a turn: the tokenizer's and those of the generation config.

    Raises:
        ConfigError: there is none.
    """
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    found = [i for i in (tokenizer.eos_token_id, *ids) if isinstance(i, int)]
    if not found:
        raise ConfigError("model.path: neither the tokenizer nor the model names an end token.")
    return tuple(dict.fromkeys(found))

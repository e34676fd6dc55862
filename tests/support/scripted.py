"""A sampler without weights: a function writes the answers. Neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from grpo_envs.types import Completion
from grpo_policy.chat import NO_LIMIT, Chat
from grpo_policy.samplers import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo_policy.policy import Policy

END = "\0"
"""The letter that ends a turn of `letters`."""


class Letters:
    """A tokenizer whose tokens are letters, without a chat template."""

    chat_template = None
    pad_token_id = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = "".join(map(chr, token_ids))
        return text.replace(END, "") if skip_special_tokens else text


def letters(context_length: int = NO_LIMIT) -> Chat:
    """A chat whose tokens can be counted by hand."""
    tokenizer = cast("PreTrainedTokenizerBase", Letters())
    return Chat(tokenizer, (ord(END),), context_length)


@dataclass
class Scripted:
    """Implements the protocol `Sampler`."""

    chat: Chat
    say: Callable[[str, int], str]
    """From the context as text, and the place among the completions asked for, to an answer."""
    version: int = 0
    contexts: list[str] = field(default_factory=list)
    """Those of every completion, in order."""

    def sync(self, policy: Policy) -> None:
        """Weights change nothing here."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """The last prompt first: a caller may not count on an order."""
        copies = len(seeds) // len(prompts)
        for p in reversed(range(len(prompts))):
            tick()
            context = self.chat.text(prompts[p])
            self.contexts += [context] * copies
            yield p, [self._answer(context, p * copies + i, how) for i in range(copies)]

    def _answer(self, context: str, place: int, how: Decoding) -> Completion:
        text = self.say(context, place)
        tokens = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = (*tokens, self.chat.eos_ids[0])
        assert len(ids) <= how.max_new_tokens, "the script is too long"
        return Completion(text=text, token_ids=ids, logprobs=(-1.0,) * len(ids))

    def release(self) -> None:
        """Nothing is kept."""

    def metrics(self) -> dict[str, float]:
        return {"sampler/answers": float(len(self.contexts))}

    def close(self) -> None:
        """There is nothing to close."""

"""The tokenizer of the bundled model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_policy.demonstrations import Demonstration
from grpo_policy.models import TINY
from grpo_policy.policy import Policy

VOCABULARY = 640
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("<think>", "</think>", "<answer>", "</answer>")
TOOL_WORDS = (
    *("<tool_call>", "</tool_call>", "name", "arguments", "calculator", "expression"),
    *("query", "sql", "SELECT", " FROM", " WHERE", " AND", "(*)"),
)
"""Tokens that were added for tools; no other environment writes these words."""
CHAT_TEMPLATE = TINY / "chat_template.jinja"
_PIECES = r" ?\p{L}+|\p{N}|[^\s\p{L}\p{N}]|\s+"
"""Words with the space before them; single digits and symbols, as in Qwen's tokenizer."""


def make_tokenizer(demos: Sequence[Demonstration]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer for any text; common words become single tokens."""
    texts = [f"system\n{demo.system_prompt}\n" for demo in demos]
    for demo in demos:
        said = "".join(f"assistant\n{t.action}\nuser\n{t.observation}\n" for t in demo.turns)
        texts.append(f"user\n{demo.prompt}\n{said}")
    pieces = [piece for text in texts for piece in re.split("|".join(WORDS), text)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL) - len(WORDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(pieces, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    bpe.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
    )


def add_words(policy: Policy) -> int:
    """Add TOOL_WORDS as tokens with new embeddings; return the number of tokens before."""
    known = len(policy.tokenizer)
    policy.tokenizer.add_tokens([AddedToken(word, normalized=False) for word in TOOL_WORDS])
    policy.model.resize_token_embeddings(len(policy.tokenizer), mean_resizing=False)
    return known

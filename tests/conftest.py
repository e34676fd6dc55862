"""Models that the tests share: the bundled one, and a random one small enough for float64."""

import os

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from grpo_agent.models import TINY, load_policy
from grpo_agent.policy import Policy

# Tests run side by side, one process a core: threads of their own would only be in the way.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # in the programs that tests start


@pytest.fixture
def tiny() -> Policy:
    """The bundled model: greedy answers, real rewards."""
    return load_policy(str(TINY))


@pytest.fixture
def random_policy() -> Policy:
    """An untrained float64 Qwen3 with the bundled tokenizer: exact comparisons."""
    return make_random_policy()


def make_random_policy() -> Policy:
    """The same one in every process."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    return Policy(Qwen3ForCausalLM(config).double(), tokenizer)

"""What cannot be cut into shards is refused; tests/runtime/test_full_shards.py has what can be."""

import os
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from grpo_envs.errors import ConfigError
from grpo_policy.full_sharding import FullShards, outer_layers, require_cuttable
from grpo_policy.learner import Learner, LearnerSettings
from grpo_policy.policy import Policy
from grpo_policy.replicas import sharding_accelerator
from tests.conftest import make_random_policy


def in_fp16(policy: Policy) -> None:
    policy.float().compute_in(torch.float16)


def in_two_dtypes(policy: Policy) -> None:
    policy.model.model.norm.float()


def with_a_number(policy: Policy) -> None:
    policy.model.register_parameter("gain", nn.Parameter(torch.ones((), dtype=torch.double)))


def with_one_matrix_in_two_layers(policy: Policy) -> None:
    first, second = policy.model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight


def with_one_in_and_outside_a_layer(policy: Policy) -> None:
    policy.model.lm_head.weight = policy.model.model.layers[0].mlp.up_proj.weight


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (in_fp16, "Qwen3ForCausalLM computes in float16. Allowed: all of it in bf16 or in fp32"),
        (in_two_dtypes, "Qwen3ForCausalLM computes in float32, float64. Allowed: all of it in"),
        (with_a_number, "cannot be cut (gain is a single number). Allowed: trainer.shard=optimi"),
        (
            with_one_matrix_in_two_layers,
            "(several layers share model.layers.0.mlp.up_proj.weight). Allowed: trainer.shard=op",
        ),
        (
            with_one_in_and_outside_a_layer,
            "(several layers share model.layers.0.mlp.up_proj.weight). Allowed: trainer.shard=op",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(change: Callable[[Policy], None], why: str) -> None:
    policy = make_random_policy()
    require_cuttable(policy)
    change(policy)
    with pytest.raises(ConfigError, match=re.escape(why)):
        require_cuttable(policy)


def test_a_layer_is_gathered_alone_and_what_is_outside_with_the_rest() -> None:
    policy = make_random_policy()
    assert outer_layers(policy) == list(policy.model.model.layers)


def test_one_process_shares_nothing_and_the_next_run_knows_nothing_of_it() -> None:
    before = dict(os.environ)
    accelerator = sharding_accelerator("full", cpu=True)
    assert os.environ.get("ACCELERATE_USE_FSDP") == before.get("ACCELERATE_USE_FSDP")
    learner = Learner(make_random_policy(), LearnerSettings(lr=1e-3), accelerator)
    assert not isinstance(learner._replica, FullShards)

"""The model's context: what limits it, what fits into it, and that no row changes another.

And that the scores of its attention are capped where its configuration says so.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma2PreTrainedModel

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import ModelConfig
from grpo_envs.env.dataset import Row, Rows
from grpo_envs.errors import ConfigError
from grpo_envs.training.build import open_policy
from grpo_envs.types import Completion, Group, Problem, Reward
from grpo_policy.batch import collate
from grpo_policy.context import context_length_of, rope_line
from grpo_policy.exporting import export
from grpo_policy.models import TINY, load_chat, load_policy
from grpo_policy.policy import Policy
from grpo_policy.room import Room
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler, sample
from tests.agents.test_selftest import model_of, saved
from tests.benchmarks.architectures import multimodal
from tests.conftest import Write
from tests.support.scripted import letters

ORIGINAL = 16
SHORT, LONG = [1.0] * 4, [1.0, 2.0, 4.0, 8.0]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


def policy_of(kind: str, **keys: Any) -> Policy:
    return Policy(model_of(kind, **keys), AutoTokenizer.from_pretrained(TINY))


@pytest.mark.parametrize(
    ("rope", "limit", "line"),
    [
        pytest.param(LONGROPE, ORIGINAL, "rope_type=longrope changes", id="longrope"),
        pytest.param(DYNAMIC, 64, "rope_type=dynamic changes", id="dynamic"),
        pytest.param(YARN, 64, "", id="yarn is constant"),
        pytest.param(LINEAR, 64, "", id="linear is constant"),
        pytest.param(None, 64, "", id="no scaling"),
    ],
)
def test_a_rope_that_changes_with_the_length_limits_the_context(
    rope: dict[str, Any] | None, limit: int, line: str
) -> None:
    config = AutoConfig.for_model("llama", max_position_embeddings=64, rope_parameters=rope)
    assert context_length_of(config) == limit
    assert line in rope_line(config)
    assert bool(line) == bool(rope_line(config))


def test_phi3_names_its_original_length_beside_the_rope() -> None:
    rope = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    sizes = {"original_max_position_embeddings": 40, "max_position_embeddings": 160}
    assert context_length_of(AutoConfig.for_model("phi3", rope_scaling=rope, **sizes)) == 40


def test_the_rope_of_one_type_of_layer_is_enough() -> None:
    plain = {"rope_type": "default", "rope_theta": 1e4}
    rope = {"sliding_attention": plain, "full_attention": {**DYNAMIC, "rope_theta": 1e6}}
    config = AutoConfig.for_model(
        "gemma3_text", max_position_embeddings=64, rope_parameters=rope, num_hidden_layers=2
    )
    assert rope_line(config).startswith("context: limited to 64 tokens")


def test_a_run_says_why_its_context_is_short(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("llama", max_position_embeddings=32, rope_parameters=LONGROPE)
    path = saved(model, tmp_path)
    with caplog.at_level("INFO"):
        policy, _ = open_policy(compose_run([f"model.path={path}"]))
    assert policy.context_length == load_chat(path).context_length == ORIGINAL
    assert "context: limited to 16 tokens, prompt and answer together" in caplog.text


def test_the_context_of_a_model_that_also_sees_is_that_of_its_text_model() -> None:
    assert context_length_of(multimodal("gemma3").config) == 256
    assert context_length_of(multimodal("qwen3_5").config) == 256


def row(length: int) -> Group:
    answer = Completion(text="", token_ids=(5, 6, 7), logprobs=(0.0,) * 3)
    return Group(
        key=length, prompt="", prompt_ids=tuple(range(length)), completions=(answer,), rewards=()
    )


@torch.no_grad()
@pytest.mark.parametrize("other", [13, 60])
@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC, YARN], ids=lambda rope: str(rope["rope_type"]))
def test_a_row_does_not_depend_on_its_companions(rope: dict[str, Any], other: int) -> None:
    policy = policy_of("llama", max_position_embeddings=32, rope_parameters=rope)
    policy.share_prompts = False
    alone = policy(collate([row(10)], 0, policy.device), 1.0)[0]
    beside = policy(collate([row(10), row(other)], 0, policy.device), 1.0)[0]
    again = policy(collate([row(10)], 0, policy.device), 1.0)[0]
    torch.testing.assert_close(beside[0], alone[0], rtol=0, atol=1e-6)
    assert torch.equal(again, alone)


# Sampling up to the last position

CONTEXT = 32
LENGTHS = (5, 20, 20, 31)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        pytest.param("gpt2", {}, id="learned positions"),
        pytest.param("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}, id="positions by the mask"),
        pytest.param(
            "gpt_neo",
            {
                "num_layers": 2,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 8,
            },
            id="a mask of the whole context",
        ),
        pytest.param("llama", {}, id="rotary"),
    ],
)
def test_an_answer_ends_at_the_last_position(kind: str, keys: dict[str, Any]) -> None:
    policy = policy_of(kind, max_position_embeddings=CONTEXT, **keys)
    policy.eos_ids = ()
    prompts = [tuple(range(start, start + length)) for start, length in enumerate(LENGTHS)]
    how = Decoding(max_new_tokens=100, temperature=1.0)
    seeds = list(range(2 * len(prompts)))
    found = dict(TorchSampler(policy).sample(prompts, seeds, how))
    assert sorted(found) == [0, 1, 2, 3]
    for p, prompt in enumerate(prompts):
        alone = sample(policy, [prompt], seeds[2 * p : 2 * p + 2], how)
        assert [c.token_ids for c in found[p]] == [c.token_ids for c in alone]
        for completion in found[p]:
            assert len(completion.token_ids) == CONTEXT - len(prompt)
            assert completion.finish_reason == "length"
        group = Group(key=p, prompt="", prompt_ids=prompt, completions=tuple(found[p]), rewards=())
        logps_BT, _ = policy(collate([group], policy.pad_id, policy.device), 1.0)
        sampled_BT = torch.tensor([c.logprobs for c in found[p]])
        torch.testing.assert_close(logps_BT, sampled_BT, rtol=1e-4, atol=1e-4)


def test_an_answer_that_ends_by_itself_at_the_last_position_is_complete() -> None:
    policy = policy_of("gpt2", max_position_embeddings=CONTEXT)
    prompt, how = tuple(range(CONTEXT - 1)), Decoding(max_new_tokens=9, temperature=0.0)
    policy.eos_ids = sample(policy, [prompt], [0], how)[0].token_ids
    (completion,) = sample(policy, [prompt], [0], how)
    assert (completion.finish_reason, len(completion.token_ids)) == ("stop", 1)


def test_a_prompt_that_fills_the_context_cannot_be_answered() -> None:
    policy = policy_of("gpt2", max_position_embeddings=CONTEXT)
    with pytest.raises(ConfigError, match="a prompt has 32 tokens and leaves no room"):
        sample(policy, [tuple(range(CONTEXT))], [0], Decoding(max_new_tokens=1))


# Problems that leave no room


class Lengths(grpo_envs.TextEnv):
    """Problem number n has a prompt of `lengths[n]` letters, and so on in a circle."""

    def __init__(self, *lengths: int, split: str = "train") -> None:
        super().__init__(split)
        self.lengths = lengths

    def problem(self, seed: int, split: str | None = None) -> Problem:
        length = self.lengths[seed % len(self.lengths)]
        return Problem(prompt="x" * length, gold="", solution="")

    def draw(self, rng: random.Random, split: str) -> Problem:
        raise AssertionError("not asked for")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": 0.0})


def test_problems_without_room_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(Lengths(10, 9, 3, 11, 9), letters(10))
    assert room.take(0, 3) == ([1, 2, 4], 2)
    assert room.take(5, 2) == ([6, 7], 1)
    assert room.take(9, 1) == ([9], 0)
    assert room.left_out == 3
    assert room.among(range(5)) == [1, 2, 4]
    first, of_some = (record.getMessage() for record in caplog.records)
    assert first == (
        "2 problems so far of the split train leave no room for an answer in the model's context "
        "of 10 tokens: left out"
    )
    assert of_some.startswith("2 of 5 problems of the split train leave no room")


def test_the_log_counts_in_powers_of_ten(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(Lengths(10, 9), letters(10))
    for step in range(60):
        room.take(2 * step, 1)
    counts = [record.getMessage().split()[0] for record in caplog.records]
    assert counts == ["1", "10"]


def test_a_model_without_a_limit_is_asked_nothing() -> None:
    env = Lengths(10)
    env.problem = None  # type: ignore[assignment, method-assign]
    assert Room(env, letters()).take(5, 3) == ([5, 6, 7], 0)


def test_problems_that_are_all_too_long_are_one_error() -> None:
    asks: list[Callable[[Room], object]] = [lambda room: room.take(0, 2), Room.check]
    for ask in asks:
        with pytest.raises(ConfigError) as caught:
            ask(Room(Lengths(10), letters(10)))
        assert str(caught.value) == (
            "every problem of the split train leaves no room for an answer in the model's context "
            "of 10 tokens. Use shorter problems or a model with a longer context."
        )


def test_a_dataset_is_looked_through_where_long_prompts_are_an_error(write: Write) -> None:
    lines = [{"prompt": "x" * n, "gold": "1"} for n in (5, 6, 7, 8, 9, 30)]

    class OfRows(Lengths):
        rows = Rows(write("rows.jsonl", lines), needs=("prompt", "gold"))

        def problem(self, seed: int, split: str | None = None) -> Problem:
            return self.from_row(self.rows.pick(seed, "train"))

        def from_row(self, row: Row) -> Problem:
            return Problem(prompt=row.text("prompt"), gold="", solution="")

    Room(OfRows(), letters(31), drop=False).check()
    Room(OfRows(), letters(7)).check()
    with pytest.raises(ConfigError, match=r"^env.too_long=error: the prompt 'x+'... has \d+"):
        Room(OfRows(), letters(7), drop=False).check()


# --- capped scores of attention

CAPPED: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 1, "attn_logit_softcapping": 1.0}


@pytest.fixture
def as_before_5_21(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers chose PyTorch's attention for Gemma 2 then, which ignores the cap."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)


@pytest.mark.usefixtures("as_before_5_21")
def test_capped_scores_are_computed_with_their_cap(tmp_path: Path) -> None:
    model = model_of("gemma2", **CAPPED)
    assert model.config._attn_implementation == "sdpa"
    ids = torch.arange(12)[None]
    path = saved(model, tmp_path)
    eager = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    policy = load_policy(path)
    expected = eager(input_ids=ids).logits
    torch.testing.assert_close(policy.model(input_ids=ids).logits, expected)
    for layer in eager.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert (eager(input_ids=ids).logits - expected).abs().max() > 0.1


@pytest.mark.usefixtures("as_before_5_21")
def test_an_attention_that_ignores_the_cap_is_refused(tmp_path: Path) -> None:
    path = saved(model_of("gemma2", **CAPPED), tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_policy(path, ModelConfig(attention="sdpa"))
    assert str(caught.value) == (
        "model.attention=sdpa: Gemma2ForCausalLM does not support it. Allowed: null."
    )


@pytest.mark.usefixtures("as_before_5_21")
def test_an_exported_model_with_capped_scores_is_compared_with_their_cap(tmp_path: Path) -> None:
    policy = load_policy(saved(model_of("gemma2", **CAPPED), tmp_path / "model"))
    export(policy, tmp_path / "exported", "fp32")  # raises if the logits differ


@pytest.mark.usefixtures("as_before_5_21")
def test_scores_without_a_cap_keep_their_attention() -> None:
    policy = policy_of("gemma2", head_dim=8, attn_logit_softcapping=None)
    assert policy.model.config._attn_implementation == "sdpa"

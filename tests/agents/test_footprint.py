"""The planned memory, compared with that of a real update and a real cache."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import DynamicCache

from grpo_envs.config.model import LoraConfig, ModelConfig
from grpo_envs.types import Completion, Group, Reward
from grpo_policy import scoring
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import collate
from grpo_policy.fake_policy import fake_policy, layers_work, state_bytes
from grpo_policy.footprint import MOMENTS_8BIT, SAMPLING, UPDATE, Footprint, Job, footprint
from grpo_policy.learner import Learner, LearnerSettings, Scored
from grpo_policy.live_memory import LiveMemory
from grpo_policy.merging import merged_weights
from grpo_policy.models import TINY, load_config, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.shapes import config_of
from grpo_ppo.agent import PpoAgent
from grpo_ppo.config import PpoConfig
from tests.support.counters import as_on_a_gpu

PROMPT, ANSWER, ROWS = 32, 224, 4
JOB = Job(
    sampled_in=torch.float32,
    device="cpu",
    prompt=PROMPT,
    answer=ANSWER,
    micro_batch_tokens=ROWS * (PROMPT + ANSWER),
    group_size=ROWS,
    completions=ROWS,
    reference=True,
)


@pytest.fixture
def tiny() -> Policy:
    """Return the bundled model with a GPU's layers: a CPU's keep less for the backward pass."""
    return as_on_a_gpu(load_policy(str(TINY)))


def planned(job: Job = JOB, model: ModelConfig | None = None, **kept: Any) -> Footprint:
    """Return the footprint of the bundled model, or of a size of Qwen."""
    size = kept.get("size")
    config = load_config(str(TINY), ModelConfig()) if size is None else config_of(size)
    with fake_policy(config, model or ModelConfig(), kept.get("dtype", torch.float32)) as policy:
        return footprint(policy, job)


@pytest.fixture(scope="module")
def found() -> Footprint:
    """Return the footprint of the bundled model."""
    return planned()


def size(found: Footprint, name: str) -> float:
    (part,) = [part for part in found.parts if part.name == name]
    return part.size


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def groups() -> list[Group]:
    completion = Completion(
        token_ids=(7,) * ANSWER, logprobs=(-1.0,) * ANSWER, text="", finish_reason="length"
    )
    prompt = (5,) * PROMPT
    return [
        Group(key=key, prompt="", prompt_ids=prompt, completions=(completion,) * ROWS, rewards=())
        for key in range(2)  # two micro-batches: with the second there are gradients already
    ]


def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
    return -(scored.logps_BT * scored.batch.mask_BT).sum(), {}


def learner(policy: Policy) -> Learner:
    policy.share_prompts = False  # rows by themselves, as the plan has them
    settings = LearnerSettings(lr=1e-4, micro_batch_tokens=JOB.micro_batch_tokens, reference=True)
    return Learner(policy, settings, Accelerator(cpu=True))


def test_weights_gradients_and_moments_are_those_of_a_real_update(
    tiny: Policy, found: Footprint
) -> None:
    trained = learner(tiny)
    gradients: list[int] = []
    trained.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.append(
            bytes_of(p.grad for group in optimizer.param_groups for p in group["params"])
        )
    )
    batch = collate(groups(), tiny.pad_id, tiny.device)
    trained.learn([(batch, loss)])
    moments = [
        value
        for state in trained.optimizer.state.values()
        for value in state.values()
        if value.ndim
    ]
    assert size(found, "weights") == bytes_of(tiny.parameters())
    assert size(found, "gradients") == gradients[0]
    assert size(found, "moments") == bytes_of(moments)
    assert trained.reference is not None
    assert size(found, "reference") == bytes_of(trained.reference.parameters())


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(ModelConfig(), id="plain"),
        pytest.param(ModelConfig(gradient_checkpointing=True), id="checkpointing"),
        pytest.param(ModelConfig(lora=LoraConfig(rank=4)), id="adapters"),
    ],
)
def test_the_peak_of_an_update_is_that_of_a_real_one(tiny: Policy, cfg: ModelConfig) -> None:
    found = planned(model=cfg)
    if cfg.gradient_checkpointing:
        tiny.checkpoint_layers()
    if cfg.lora.rank:
        add_adapters(tiny, cfg.lora, torch.float32)
    trained = learner(tiny)
    batch = collate(groups(), tiny.pad_id, tiny.device)
    trained.learn([(batch, loss)])  # the moments are there now
    states = [v for state in trained.optimizer.state.values() for v in state.values()]
    merged = merged_weights(tiny.model)
    live = LiveMemory([*tiny.parameters(), *tiny.buffers(), *states, *merged])
    with live:
        trained.learn([(batch, loss)])
    own = [size(found, name) for name in ("gradients", "activations", "scratch")]
    assert sum(own) == pytest.approx(live.peak, rel=0.05)


def test_layers_that_are_alike_are_measured_twice_and_counted_all(tiny: Policy) -> None:
    with fake_policy(tiny.model.config, ModelConfig(), torch.float32) as fake:
        saved = layers_work(fake, ROWS, PROMPT + ANSWER).saved
    inputs_BLD = torch.zeros(ROWS, PROMPT + ANSWER, 128, requires_grad=True)
    with LiveMemory([*tiny.parameters(), *tiny.buffers()]) as live:
        kept = tiny.model.model(inputs_embeds=inputs_BLD, use_cache=False)
    assert kept.last_hidden_state.requires_grad
    assert saved == live.now


def test_a_cache_has_the_size_of_a_real_one(tiny: Policy, found: Footprint) -> None:
    cache = DynamicCache(config=tiny.model.config)
    ids_BL = torch.zeros(ROWS, PROMPT + ANSWER, dtype=torch.long)
    with torch.no_grad():
        tiny.model(input_ids=ids_BL, past_key_values=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    assert size(found, "cache") == bytes_of(t for x in layers for t in (x.keys, x.values))


def test_states_that_do_not_grow_count_once_a_row() -> None:
    config = config_of("3.5-0.8b")
    config.num_hidden_layers, config.layer_types = 4, config.layer_types[:4]
    with fake_policy(config, ModelConfig(), torch.bfloat16) as policy:
        held = state_bytes(policy)
    linear = config.layer_types.count("linear_attention")
    heads, key, value = config.linear_num_value_heads, 128, 128
    recurrent = linear * heads * key * value
    assert 2 * recurrent <= held <= 4.2 * recurrent  # with the last inputs of the convolution


def test_in_bf16_a_copy_computes_and_masters_are_trained() -> None:
    job = replace(JOB, sampled_in=torch.bfloat16)
    found = planned(job, dtype=torch.bfloat16)
    count = found.parameters
    sizes = [size(found, name) for name in ("weights", "masters", "moments", "gradients")]
    assert sizes == [2 * count, 4 * count, 8 * count, 4 * count]
    assert size(found, "reference") == 2 * count


def test_layers_in_four_bits_and_moments_in_eight_are_counted() -> None:
    """Compare with a model that bitsandbytes has quantised, including the scales of its weights."""
    cfg = ModelConfig(quantization="4bit", lora=LoraConfig(rank=4))
    job = replace(JOB, quantized=True, moments=MOMENTS_8BIT)
    found = planned(job, cfg)
    real = load_policy(str(TINY), cfg)
    add_adapters(real, cfg.lora, torch.float32)
    states = [m.weight.quant_state for m in real.model.modules() if hasattr(m, "quant_state")]
    scales = [t for s in states for t in (s.absmax, s.state2.absmax)]
    held = bytes_of(real.model.parameters()) + bytes_of(scales)
    assert len(states) == 7 * 4
    assert size(found, "weights") == pytest.approx(held, rel=0.01)
    assert size(found, "moments") == 2 * found.trained
    assert "merged" not in {part.name for part in found.parts}, "quantised layers stay apart"


def test_prepacked_matrices_of_a_large_model_are_counted_while_a_cpu_samples() -> None:
    job = replace(JOB, reference=False)
    config = config_of("0.6b")
    found = planned(job, size="0.6b")
    (part,) = [part for part in found.parts if part.name == "prepacked"]
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    norms += 2 * config.num_hidden_layers * config.head_dim
    assert part.size == 4 * (found.parameters - norms)  # the head is the embeddings, copied
    assert part.phases == (SAMPLING,)
    for other in (replace(job, device="cuda"), replace(job, engine=True)):
        assert "prepacked" not in {part.name for part in planned(other, size="0.6b").parts}


def test_packed_copies_of_a_head_are_counted_where_a_cpu_scores(
    monkeypatch: pytest.MonkeyPatch, found: Footprint
) -> None:
    monkeypatch.setattr(scoring, "_PACKED_NUMBERS", (0, 1 << 40))
    head = load_policy(str(TINY)).model.get_output_embeddings().weight
    (part,) = [part for part in planned().parts if part.name == "packed head"]
    assert part.size == 2 * head.nbytes
    assert part.phases == (UPDATE,)
    for other in (found, planned(replace(JOB, device="cuda"))):
        assert "packed head" not in {part.name for part in other.parts}


def test_processes_share_masters_and_moments() -> None:
    found = planned(replace(JOB, shards=4, reference=False))
    names = ("weights", "masters", "moments", "gradients")
    assert sum(size(found, name) for name in names) == (8 + 12 / 4) * found.parameters


def test_processes_share_all_of_it_and_an_engine_samples() -> None:
    found = planned(replace(JOB, shards=4, full=True, engine=True), dtype=torch.bfloat16)
    by_name = {part.name: part for part in found.parts}
    shared = sum(by_name[name].size for name in ("weights", "moments", "gradients"))
    assert shared == 16 / 4 * found.parameters
    assert by_name["reference"].size == 2 / 4 * found.parameters
    words = load_config(str(TINY), ModelConfig()).vocab_size
    embeddings, layer = 128 * words, 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384
    gathered = 4 * (embeddings + 2 * layer) + 4 * max(embeddings, layer)
    assert by_name["gathered"].size == pytest.approx(gathered, rel=0.01)
    assert not {"masters", "cache", "logits", "copy"} & by_name.keys()


def test_an_engine_samples_in_memory_of_its_own(found: Footprint) -> None:
    elsewhere = planned(replace(JOB, engine=True, sampled_in=torch.bfloat16))
    assert [part.name for part in elsewhere.parts] == [
        part.name for part in found.parts if part.name not in ("cache", "logits")
    ]
    assert elsewhere.needed(UPDATE) == found.needed(UPDATE)


@pytest.mark.parametrize(("lag", "copies"), [(1, 0), (3, 2)])
def test_with_a_lag_both_phases_hold_their_memory_at_once(
    lag: int, copies: int, found: Footprint
) -> None:
    """A lag adds one copy of the weights or several, as `Ahead` and `SamplerProcess` make them."""
    weights = size(found, "weights")
    late = planned(replace(JOB, lag=lag))
    both = sum(part.size for part in found.parts) + (1 + copies) * weights
    assert late.needed(SAMPLING) == late.needed(UPDATE) == both
    engine = planned(replace(JOB, lag=lag, engine=True))
    assert engine.peak == found.needed(UPDATE) + copies * weights


def test_adapters_alone_have_gradients_and_the_model_is_the_reference() -> None:
    pytest.importorskip("peft")
    found = planned(model=ModelConfig(lora=LoraConfig(rank=4)), dtype=torch.bfloat16)
    assert 0 < found.trained < found.parameters / 2
    assert size(found, "moments") == 8 * found.trained
    assert size(found, "weights") == 2 * found.parameters
    assert "reference" not in [part.name for part in found.parts]
    linear = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384)
    assert size(found, "merged") == 2 * linear
    (merged,) = [part for part in found.parts if part.name == "merged"]
    assert merged.phases == (SAMPLING, UPDATE)


def test_half_of_the_free_memory_holds_the_cache(found: Footprint) -> None:
    free = 32 * 2**20
    held = found.needed(SAMPLING) - size(found, "cache") - size(found, "logits")
    job = replace(JOB, completions=10_000, memory=held + free)
    assert 0.9 * free / 2 < size(planned(job), "cache") <= free / 2
    few = replace(job, batch_tokens=3 * (PROMPT + ANSWER))
    assert size(planned(few), "cache") == 3 / ROWS * size(found, "cache")


def test_the_phases_do_not_count_each_others_parts(found: Footprint) -> None:
    sampled = {part.name for part in found.parts if SAMPLING in part.phases}
    updated = {part.name for part in found.parts if UPDATE in part.phases}
    assert sampled - updated == {"cache", "logits"}
    assert updated - sampled == {"gradients", "activations", "scratch"}
    assert found.peak == max(found.needed(SAMPLING), found.needed(UPDATE))


def test_activations_do_not_grow_with_the_square_of_the_row() -> None:
    """All of it is in bf16; autocast took 2.4 MiB per token, and copies of the weights."""
    job = replace(JOB, device="cuda", micro_batch_tokens=4096, answer=1024 - PROMPT)
    short, long = (
        planned(replace(job, answer=row - PROMPT), size="0.6b", dtype=torch.bfloat16)
        for row in (1024, 4096)
    )
    assert short.a_token / 2**20 == pytest.approx(1.60, rel=0.02)
    assert long.a_token == pytest.approx(short.a_token, rel=0.01)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_critic_takes_what_a_plan_says(tiny: Policy, rank: int, dtype: torch.dtype) -> None:
    """Compare with the weights, masters and moments of a real critic that are its own."""
    lora = ModelConfig(lora=LoraConfig(rank=rank))
    job = replace(JOB, critic=True)
    planned_for = planned(job, lora if rank else None, dtype=dtype)
    if rank:
        add_adapters(tiny, lora.lora, dtype)
    tiny.compute_in(dtype)
    agent = PpoAgent(
        tiny, PpoConfig(lr=1e-4, minibatches=1), Accelerator(cpu=True), Decoding(max_new_tokens=4)
    )
    rewarded = replace(groups()[0], rewards=tuple(Reward(parts={"x": i / 2}) for i in range(ROWS)))
    agent.update([rewarded])
    assert agent.critic is not None
    critic, states = agent.critic.policy, agent.critic.optimizer.state.values()
    shared = {p.data_ptr() for p in tiny.parameters()}
    own = [p for p in critic.parameters() if p.data_ptr() not in shared]
    moments = [value for state in states for value in state.values() if value.ndim]
    taken = bytes_of([*own, *critic.masters.values.values(), *moments])
    head = bytes_of(critic.value_head.parameters()) * 3 if critic.value_head else 0
    assert size(planned_for, "critic") == taken - head
    alone = planned(replace(job, critic=False), lora if rank else None, dtype=dtype)
    assert planned_for.peak == alone.peak + size(planned_for, "critic")

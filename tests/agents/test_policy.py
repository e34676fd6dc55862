"""Scoring tokens: against the plain way in value, gradient and memory, and against sampling."""

import math
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import LoraConfig
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.types import Completion, Group, Reward
from grpo_policy import scoring
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import Batch, collate
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample
from grpo_policy.selftest import settle

PROMPTS = ["What is 1+2?", "What is 48+12+44+7?", "Why?"]
ROWS = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10]), ([11], [12, 13, 14, 15]), ([11], [16, 17, 18])]
TOKENIZER = AutoTokenizer.from_pretrained(TINY)
VOCABULARY, END, PAD = len(TOKENIZER), TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


def qwen3(**changes: Any) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.3,
        **{"tie_word_embeddings": True, **changes},
    )
    return Qwen3ForCausalLM(config)


def gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    """Positions are learnt vectors: unlike rotary ones they show where a prompt is taken to start.
    Dropout is in modules of its own."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=128,
            bos_token_id=END,
            eos_token_id=END,
            initializer_range=0.3,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
    )


def opt(dropout: float = 0.0) -> OPTForCausalLM:
    """The layer itself applies dropout, wherever it is in training mode."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=PAD,
            bos_token_id=END,
            eos_token_id=END,
            init_std=0.3,
            dropout=dropout,
        )
    )


def policy_of(make: Callable[..., PreTrainedModel], **changes: Any) -> Policy:
    """A random float64 model with the bundled tokenizer."""
    torch.manual_seed(0)
    policy = Policy(make(**changes).double(), AutoTokenizer.from_pretrained(TINY))
    policy.share_prompts = False  # which is test_packing.py's
    return policy


def checkpointed(policy: Policy) -> Policy:
    """With gradient checkpointing on, as build.py switches it on."""
    policy.checkpoint_layers()
    return policy


def group(prompt: list[int], *completions: list[int]) -> Group:
    return Group(
        key=0,
        prompt="",
        prompt_ids=tuple(prompt),
        completions=tuple(
            Completion(text="", token_ids=tuple(ids), logprobs=(-1.0,) * len(ids))
            for ids in completions
        ),
        rewards=tuple(Reward(parts={"correct": 0.0}) for _ in completions),
    )


def ragged(policy: Policy) -> Batch:
    groups = [group([5, 6, 7], [8, 9], [10]), group([11], [12, 13, 14, 15], [16, 17, 18])]
    return collate(groups, policy.pad_id, policy.device)


def naive(
    policy: Policy, prompt: list[int], completion: list[int], temperature: float
) -> torch.Tensor:
    """Log-probabilities and entropies of one unpadded row, from the full logits."""
    ids = torch.tensor([prompt + completion])
    logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    logps = logits.log_softmax(dim=-1)
    entropy = -(logps.exp() * logps).sum(dim=-1)
    return torch.stack([logps[torch.arange(len(completion)), torch.tensor(completion)], entropy])


def gradients(policy: Policy) -> dict[str, Tensor]:
    """The gradients of all weights, taken out."""
    named = policy.model.named_parameters()
    found = {n: p.grad.clone() for n, p in named if p.grad is not None}
    policy.zero_grad()
    return found


class Operations(TorchDispatchMode):
    """Notes the names of operations."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lora", [False, True], ids=["", "LoRA"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied head", "head of its own"])
@pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY, 1 << 25], ids=["1 token", "3", "all"])
def test_scores_equal_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, chunk: int, tied: bool, lora: bool
) -> None:
    """Log-probabilities and entropies, and the gradient of a mixture of both."""
    monkeypatch.setitem(scoring._CHUNK_ELEMENTS, "cpu", chunk)
    policy = policy_of(qwen3, tie_word_embeddings=tied)
    if lora:
        add_adapters(policy, LoraConfig(rank=2), torch.float64)
        policy.model.double()
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:  # zeros so far, and nothing of A would show
                nn.init.normal_(parameter, std=0.1)
    logps_BT, entropy_BT = policy(ragged(policy), 0.7, entropy_grad=True)
    expected = [naive(policy, *row, 0.7) for row in ROWS]
    for i, (_, completion) in enumerate(ROWS):
        n = len(completion)
        torch.testing.assert_close(logps_BT[i, :n], expected[i][0])
        torch.testing.assert_close(entropy_BT[i, :n], expected[i][1])
        assert not logps_BT[i, n:].any()
        assert not entropy_BT[i, n:].any()
    (logps_BT.sum() + 3 * entropy_BT.square().sum()).backward()
    got = gradients(policy)
    rows = [values[0].sum() + 3 * values[1].square().sum() for values in expected]
    torch.stack(rows).sum().backward()
    close(got, gradients(policy))
    assert ("lm_head.weight" in got) == (not tied and not lora)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_packed_copies_of_a_head_score_alike(
    monkeypatch: pytest.MonkeyPatch, tiny: Policy, bf16: bool
) -> None:
    """Log-probabilities, entropies and gradients, with a chunk of three tokens."""
    monkeypatch.setitem(scoring._CHUNK_ELEMENTS, "cpu", 3 * len(tiny.tokenizer))
    tiny.model.to(torch.bfloat16 if bf16 else torch.float32)
    used: list[str] = []
    found: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    for sizes in ((1 << 40, 1 << 40), (0, 1 << 40)):
        monkeypatch.setattr(scoring, "_PACKED_NUMBERS", sizes)
        with Operations(used):
            logps_BT, entropy_BT = tiny(ragged(tiny), 0.7)
            logps_BT.sum().backward()
        assert ("_linear_pointwise" in used) == (len(found) == 1)
        found.append((logps_BT, entropy_BT, gradients(tiny)))
    tokens = int(ragged(tiny).mask_BT.sum())
    assert used.count("_linear_pointwise") == 3 * math.ceil(tokens / 3)
    (plain_BT, plain_entropy_BT, plain), (packed_BT, packed_entropy_BT, packed) = found
    gap = 2e-2 if bf16 else 1e-5
    torch.testing.assert_close(packed_BT, plain_BT, rtol=gap, atol=gap)
    torch.testing.assert_close(packed_entropy_BT, plain_entropy_BT, rtol=gap, atol=gap)
    for name, value in plain.items():
        assert (packed[name] - value).norm() / value.norm() < gap, name


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_plain_heads_gradient_is_that_of_autograd(
    monkeypatch: pytest.MonkeyPatch, tiny: Policy, bf16: bool
) -> None:
    """By hand it takes no copy of the weights' gradient for each chunk; nor is it another one."""
    monkeypatch.setitem(scoring._CHUNK_ELEMENTS, "cpu", 3 * len(tiny.tokenizer))
    found: list[dict[str, Tensor]] = []
    is_plain = scoring._is_plain
    if bf16:
        tiny.model.bfloat16()
    for plain in (True, False):
        monkeypatch.setattr(scoring, "_is_plain", lambda head, plain=plain: plain)
        logps_BT, entropy_BT = tiny(ragged(tiny), 0.7, entropy_grad=True)
        (logps_BT.sum() + entropy_BT.square().sum()).backward()
        found.append(gradients(tiny))
    assert is_plain(tiny.model.get_output_embeddings())
    one, other = found
    assert one.keys() == other.keys()
    for name, value in one.items():
        off = (value - other[name]).norm() / other[name].norm()
        assert off < (2e-2 if bf16 else 1e-5), name


@pytest.mark.parametrize("tied", [True, False], ids=["tied head", "head of its own"])
def test_logits_are_never_held_for_a_whole_batch(
    monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    """What the head sees at once: at most a chunk, completion positions only; when sampling, one
    position of each prompt and then of each row."""
    policy = policy_of(qwen3, tie_word_embeddings=tied)
    seen: list[int] = []
    head = policy.model.get_output_embeddings()
    head.register_forward_hook(
        lambda module, args, logits: seen.append(logits.numel() // VOCABULARY)
    )
    monkeypatch.setitem(scoring._CHUNK_ELEMENTS, "cpu", 3 * VOCABULARY + 1)
    logps_BT, _ = policy(ragged(policy), 1.0)
    assert seen == [3, 3, 3, 1]  # 2 + 1 + 4 + 3 tokens; the prompts' positions are not there
    seen.clear()
    logps_BT.sum().backward()
    assert sorted(seen) == [1, 3, 3, 3]  # computed again, not held
    seen.clear()
    prompts = [policy.render(text) for text in PROMPTS]
    sample(policy, prompts, range(6), Decoding(max_new_tokens=4))
    assert seen[0] == 3
    assert seen[1:] == [6] * 3


def test_the_entropy_carries_gradient_only_where_it_is_asked_for(random_policy: Policy) -> None:
    batch = ragged(random_policy)
    detached, attached = (
        random_policy(batch, 1.0)[1],
        random_policy(batch, 1.0, entropy_grad=True)[1],
    )
    assert not detached.requires_grad
    assert attached.requires_grad
    torch.testing.assert_close(detached, attached)


def test_scoring_without_gradient_builds_no_graph(random_policy: Policy) -> None:
    with torch.no_grad():
        logps_BT, entropy_BT = random_policy(ragged(random_policy), 1.0, entropy_grad=True)
    assert not logps_BT.requires_grad
    assert not entropy_BT.requires_grad


# --- gradient checkpointing


def count_layers(policy: Policy) -> Counter[int]:
    """How often each layer's work is done, counted inside it: a repetition counts."""
    counts: Counter[int] = Counter()
    for i, layer in enumerate(policy.model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, i=i: counts.update([i]))
    return counts


def test_gradient_checkpointing_changes_nothing_but_the_work() -> None:
    plain, cheap = policy_of(qwen3), checkpointed(policy_of(qwen3))
    found = []
    for policy, times in ((plain, 1), (cheap, 2)):
        counts = count_layers(policy)
        logps_BT, _ = policy(ragged(policy), 1.0)
        assert counts == dict.fromkeys(range(3), 1)
        assert not any(module.training for module in policy.model.modules())
        (logps_BT * torch.arange(4)).sum().backward()
        assert counts == dict.fromkeys(range(3), times)  # in the backward pass once more
        found.append(gradients(policy))
    close(*found)


def test_gradient_checkpointing_leaves_sampling_alone() -> None:
    """A layer that is left in training mode would throw the cache away."""
    plain, cheap = policy_of(qwen3), checkpointed(policy_of(qwen3))
    prompts = [plain.render(text) for text in PROMPTS]
    how = Decoding(max_new_tokens=8)
    expected = sample(plain, prompts, range(6), how)
    assert sample(cheap, prompts, range(6), how) == expected
    cheap(ragged(cheap), 1.0)[0].sum().backward()
    assert sample(cheap, prompts, range(6), how) == expected
    counts = count_layers(cheap)
    with torch.no_grad():
        cheap(ragged(cheap), 1.0)
    assert counts == dict.fromkeys(range(3), 1)


def test_a_copy_with_gradient_checkpointing_has_layers_of_its_own() -> None:
    """The reference is a copy: it must not follow the policy."""
    policy = checkpointed(policy_of(qwen3))
    reference = deepcopy(policy)
    batch = ragged(policy)
    before = reference(batch, 1.0)[0].detach()
    with torch.no_grad():
        for layer in policy.model.model.layers:
            layer.mlp.down_proj.weight.mul_(2)
    assert (policy(batch, 1.0)[0] - before).abs().max() > 0.1
    assert reference(batch, 1.0)[0].equal(before)


def test_an_exception_while_scoring_leaves_no_layer_in_training_mode() -> None:
    policy = checkpointed(policy_of(qwen3))
    batch = ragged(policy)
    with pytest.raises(IndexError):
        policy(replace(batch, input_ids_BL=batch.input_ids_BL + 1000), 1.0)
    assert not any(module.training for module in policy.model.modules())


def test_a_run_with_gradient_checkpointing(tmp_path: Any) -> None:
    """End to end, from the key of the configuration; warnings are errors here."""
    small = ["trainer.steps=1", "trainer.prompts_per_step=2", "trainer.eval_problems=0"]
    small += ["model.size=tiny", "logger=files", "agent.group_size=2", "sampler.max_new_tokens=6"]
    cfg = compose_run([*small, "model.gradient_checkpointing=true"])
    made = build(cfg, tmp_path, make_envs(cfg))
    counts: Counter[int] = Counter()
    layer = made.policy.model.model.layers[1]
    layer.mlp.register_forward_pre_hook(lambda *_: counts.update([int(torch.is_grad_enabled())]))
    made.run()
    assert counts[1] == 2  # scored once, and once more in the backward pass


# --- dropout and positions: models of other kinds


@pytest.mark.parametrize("cheap", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        pytest.param(qwen3, {"attention_dropout": 0.5}, id="dropout in a function"),
        pytest.param(gpt2, {"dropout": 0.5}, id="dropout in modules"),
        pytest.param(opt, {"dropout": 0.5}, id="dropout in the layer itself"),
    ],
)
def test_no_dropout_neither_in_sampling_nor_in_scoring(
    make: Callable[..., PreTrainedModel], changes: dict[str, Any], cheap: bool
) -> None:
    with_dropout, without = policy_of(make, **changes), policy_of(make)
    if cheap:
        checkpointed(with_dropout)
    given = [group_of(with_dropout, p) for p in range(2)]
    assert given == [group_of(without, p) for p in range(2)]
    batch = collate(given, with_dropout.pad_id, with_dropout.device)
    logps_BT, _ = with_dropout(batch, 1.0)
    torch.testing.assert_close(logps_BT, without(batch, 1.0)[0])
    gap = (logps_BT.detach() - batch.sampled_logps_BT) * batch.mask_BT
    assert gap.abs().max() < 1e-5
    logps_BT.sum().backward()
    got = gradients(with_dropout)
    without(batch, 1.0)[0].sum().backward()
    close(got, gradients(without))


def group_of(policy: Policy, number: int) -> Group:
    prompt = policy.render(PROMPTS[number])
    completions = sample(policy, [prompt], [10 * number, 1], Decoding(max_new_tokens=7))
    return Group(
        key=number,
        prompt="",
        prompt_ids=prompt,
        completions=tuple(completions),
        rewards=(Reward(), Reward()),
    )


@pytest.mark.parametrize("make", [qwen3, gpt2, opt])
def test_a_left_padded_prompt_is_sampled_as_if_it_were_alone(
    make: Callable[..., PreTrainedModel],
) -> None:
    """Padding is masked and positions count from the first real token; then scoring agrees, which
    has its padding on the other side."""
    policy = policy_of(make)
    prompts = [policy.render(text) for text in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) == 3
    how = Decoding(max_new_tokens=9)
    together = sample(policy, prompts, range(6), how)
    for p, prompt in enumerate(prompts):
        alone = sample(policy, [prompt], [2 * p, 2 * p + 1], how)
        for one, other in zip(together[2 * p : 2 * p + 2], alone, strict=True):
            assert one.token_ids == other.token_ids
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6)
            row = naive(policy, list(prompt), list(one.token_ids), 1.0)[0]
            assert one.logprobs == pytest.approx(row.tolist(), abs=1e-5)


# --- the end token, and padding that may be the same


def ended(policy: Policy) -> tuple[tuple[int, ...], list[Completion]]:
    """Samples of which some ended and others did not."""
    prompt = policy.render("Why?")
    completions = sample(policy, [prompt], range(24), Decoding(max_new_tokens=48))
    left = sum(c.finish_reason == "length" for c in completions)
    assert 0 < left < len(completions) / 2, "so many that the sampler lets rows go"
    return prompt, completions


def eager_to_end() -> Policy:
    """A model to which ending is as likely as its favourite token."""
    policy = policy_of(qwen3, tie_word_embeddings=False)
    drawn = sample(policy, [policy.render("Why?")], range(24), Decoding(max_new_tokens=24))
    ((favourite, _),) = Counter(t for c in drawn for t in c.token_ids).most_common(1)
    with torch.no_grad():
        weight = policy.model.lm_head.weight
        weight[policy.eos_ids[0]] = weight[favourite]
    return policy


@pytest.mark.parametrize("shared", [False, True], ids=["", "padding is the end token"])
def test_the_end_token_is_scored_and_padding_is_not(shared: bool) -> None:
    policy = eager_to_end()
    if shared:
        policy.tokenizer.pad_token = policy.tokenizer.eos_token
        policy = Policy(policy.model, policy.tokenizer)
        assert policy.pad_id == policy.eos_ids[0]
    prompt, completions = ended(policy)
    others = ended(eager_to_end())[1]
    for mine, other in zip(completions, others, strict=True):  # whatever the padding is
        assert (mine.token_ids, mine.logprobs) == (other.token_ids, other.logprobs)
    group = Group(
        key=0,
        prompt="",
        prompt_ids=prompt,
        completions=tuple(completions),
        rewards=(Reward(),) * len(completions),
    )
    batch = collate([group], policy.pad_id, policy.device)
    logps_BT, _ = policy(batch, 1.0)
    for i, completion in enumerate(completions):
        n = len(completion.token_ids)
        assert (completion.token_ids[-1] in policy.eos_ids) == (completion.finish_reason == "stop")
        assert batch.mask_BT[i].tolist() == [t < n for t in range(batch.mask_BT.shape[1])]
        row = naive(policy, list(prompt), list(completion.token_ids), 1.0)[0]
        torch.testing.assert_close(logps_BT[i, :n], row)
        assert completion.logprobs == pytest.approx(row.tolist(), abs=1e-5)


def test_without_a_padding_token_the_end_token_pads() -> None:
    policy = policy_of(qwen3)
    tokenizer = policy.tokenizer
    tokenizer.pad_token = None
    assert Policy(policy.model, tokenizer).pad_id == tokenizer.eos_token_id


def test_every_end_token_of_the_model_ends_a_turn() -> None:
    policy = policy_of(qwen3)
    own = policy.tokenizer.eos_token_id
    policy.model.generation_config.eos_token_id = [own, 17, 23]
    policy = Policy(policy.model, policy.tokenizer)
    assert policy.eos_ids == (own, 17, 23)
    completions = sample(policy, [(5, 6)], range(300), Decoding(max_new_tokens=12))
    last = {c.token_ids[-1] for c in completions if c.finish_reason == "stop"}
    assert {17, 23} <= last <= {own, 17, 23}
    assert not any({own, 17, 23} & set(c.token_ids[:-1]) for c in completions)


def test_a_model_that_scales_its_logits_is_scored_by_its_own_head() -> None:
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        logits_scaling=8.0,
        pad_token_id=PAD,
    )
    scaled = Policy(GraniteForCausalLM(config), policy_of(qwen3).tokenizer)
    settle(scaled, "granite")
    assert scaled.own_head
    plain = policy_of(qwen3)
    settle(plain, "qwen3")
    assert not plain.own_head


def test_the_mask_comes_from_lengths_not_from_the_pad_token(random_policy: Policy) -> None:
    """A completion that holds the padding token, or ends with it, keeps all its tokens."""
    pad = random_policy.pad_id
    batch = collate([group([5], [8, pad, 9, pad], [8])], pad, random_policy.device)
    assert batch.mask_BT.tolist() == [[True] * 4, [True, False, False, False]]


def test_rows_are_cut_to_their_longest(random_policy: Policy) -> None:
    batch = ragged(random_policy)
    part = batch.rows(slice(0, 2))
    assert part.input_ids_BL.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 10, random_policy.pad_id]]
    assert part.mask_BT.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(random_policy(part, 1.0)[0], random_policy(batch, 1.0)[0][:2, :2])


def test_a_prompt_goes_through_the_chat_template(tiny: Policy) -> None:
    ids = tiny.render("What is 1+2?", "Be brief.")
    assert tiny.tokenizer.decode(list(ids)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 1+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "system" not in tiny.tokenizer.decode(list(tiny.render("What is 1+2?")))


def test_a_model_without_a_template_gets_plain_text(tiny: Policy) -> None:
    tiny.tokenizer.chat_template = None
    assert tiny.tokenizer.decode(list(tiny.render("1+2?", "Be brief."))) == "Be brief.\n\n1+2?\n"


def test_decoding_keeps_think_and_answer_and_drops_the_end(tiny: Policy) -> None:
    text = "<think>1+2=3\u4f60\U0001f600</think><answer>3</answer>"
    ids = [*tiny.tokenizer(text)["input_ids"], tiny.eos_ids[0]]
    assert tiny.decode(tuple(ids)) == text

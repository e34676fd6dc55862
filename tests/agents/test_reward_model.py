"""A reward model gives what one row by itself gets, or is refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    Gemma2PreTrainedModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

import grpo_envs
from grpo_envs import GroupVectorEnv, errors
from grpo_envs.errors import ConfigError
from grpo_envs.types import Problem, Reply, Reward, Turn
from grpo_policy import classifier as module
from grpo_policy.classifier import classifier
from grpo_policy.models import TINY

Make = Callable[..., str]
ANSWERS = ["7", "It is seven, I am quite sure of it.", "", "seven"]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a classifier of two layers, with the tokenizer of the bundled model."""

    def build(name: str = "rm", *, labels: Sequence[str] = ("good",), **config: Any) -> str:
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        torch.manual_seed(0)
        given = {
            **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48},
            **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
            **{"head_dim": 16, "pad_token_id": tokenizer.pad_token_id},
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            **config,
        }
        folder = tmp_path / name
        Qwen3ForSequenceClassification(Qwen3Config(**given)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    classifier.cache_clear()
    return build


def score_alone(path: str, messages: list[dict[str, str]]) -> torch.Tensor:
    """The logits (L,) of one conversation, as the model's author would get them."""
    model = Qwen3ForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    with torch.no_grad():
        encoded = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        logits_L: torch.Tensor = model(**encoded).logits[0]
        return logits_L


def step(env: grpo_envs.TextEnv, *answers: str) -> list[Reward]:
    members = GroupVectorEnv(env, len(answers), len(answers))
    members.reset(seed=[1])
    members.step(answers)
    return members.episode_rewards


def scored(path: str, **options: Any) -> grpo_envs.TextEnv:
    given = {"model": path, "device": "cpu", **options}
    return grpo_envs.make("math", rewards={"correct": 0, "format": 0, "rm": given})


def messages(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("pad", [True, False], ids=["padded", "no pad token"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_each_answer_gets_what_it_gets_alone(make: Make, batch: int, pad: bool) -> None:
    path = make()
    if not pad:
        config = json.loads((Path(path) / "config.json").read_text())
        (Path(path) / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    env = scored(path, batch=batch)
    prompt = env.problem(1).prompt
    expected = [float(score_alone(path, messages(prompt, answer))) for answer in ANSWERS]
    assert len(set(expected)) == len(ANSWERS)
    found = step(env, *ANSWERS)
    assert [reward.parts["rm"] for reward in found] == pytest.approx(expected, abs=1e-5)


def test_its_score_is_scaled_clipped_and_weighed(make: Make) -> None:
    path = make()
    raw = [reward.parts["rm"] for reward in step(scored(path), *ANSWERS)]
    low, high = min(raw), (min(raw) + max(raw)) / 2
    found = step(scored(path, scale=[low, high], clip=[0, 1], weight=0.5), *ANSWERS)
    expected = [min(1.0, (value - low) / (high - low)) for value in raw]
    assert [reward.parts["rm"] for reward in found] == pytest.approx(expected, abs=1e-4)
    assert [reward.total for reward in found] == pytest.approx([x / 2 for x in expected], abs=1e-4)


@pytest.mark.parametrize("label", ["polite", 1, "1"])
def test_of_several_labels_one_is_chosen(make: Make, label: Any) -> None:
    path = make(labels=["rude", "polite", "odd"])
    env = scored(path, label=label)
    expected = [
        float(score_alone(path, messages(env.problem(1).prompt, answer)).softmax(dim=0)[1])
        for answer in ANSWERS
    ]
    found = step(env, *ANSWERS)
    assert [reward.parts["rm"] for reward in found] == pytest.approx(expected, abs=1e-5)


def test_labels_that_do_not_exclude_each_other(make: Make) -> None:
    path = make(labels=["rude", "polite"], problem_type="multi_label_classification")
    env = scored(path, label="polite")
    logits_L = score_alone(path, messages(env.problem(1).prompt, "7"))
    assert step(env, "7")[0].parts["rm"] == pytest.approx(float(logits_L[1].sigmoid()), abs=1e-5)


class Talk(grpo_envs.TextEnv):
    max_turns = 2

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt="Say.", gold="", solution="", system_prompt="Be kind.")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(), observation="And now?", done=turns[-1].action == "end")


def test_a_conversation_is_scored_once_and_as_a_whole(make: Make) -> None:
    path = make()
    env = Talk(rewards={"rm": {"model": path, "device": "cpu"}})
    members = GroupVectorEnv(env, 2, 2)
    members.reset(seed=[1])
    members.step(["first", "end"])
    members.step(["second", ""])
    system = {"role": "system", "content": "Be kind."}
    short = [system, *messages("Say.", "end")]
    long = [system, *messages("Say.", "first"), *messages("And now?", "second")]
    expected = [float(score_alone(path, each)) for each in (long, short)]
    found = [reward.parts["rm"] for reward in members.episode_rewards]
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_a_chat_template_they_are_a_pair_of_texts(make: Make) -> None:
    path = make()
    (Path(path) / "chat_template.jinja").unlink()
    env = scored(path)
    prompt = env.problem(1).prompt
    model = Qwen3ForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.chat_template is None
    with torch.no_grad():
        expected = model(**tokenizer(prompt, "seven", return_tensors="pt")).logits.item()
    assert step(env, "seven")[0].parts["rm"] == pytest.approx(expected, abs=1e-5)


def test_what_is_too_long_is_invalid(make: Make) -> None:
    found = step(scored(make(max_position_embeddings=60)), "7", "seven " * 50)
    assert [reward.valid for reward in found] == [True, False]
    assert found[1].error.startswith("rm: TooLong: ")
    assert found[1].error.endswith(" tokens, and the reward model attends to 60")


def test_a_lone_surrogate_is_scored(make: Make) -> None:
    assert all(reward.valid for reward in step(scored(make()), "\ud83d", "7"))


def test_environments_of_a_process_share_it_and_loading_draws_no_numbers(make: Make) -> None:
    path = make()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = scored(path), scored(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    step(one, "7")
    step(other, "7")
    assert classifier.cache_info().currsize == 1
    (function,) = one._functions.values()
    assert str(function.function) == f"{path}, 0.0 M parameters in float32 on cpu"


def test_it_may_be_in_half_precision(make: Make) -> None:
    path = make()
    (full,), (half,) = step(scored(path), "7"), step(scored(path, dtype="bf16"), "7")
    assert half.parts["rm"] == pytest.approx(full.parts["rm"], abs=0.05)
    assert half.parts["rm"] != full.parts["rm"]


# Mistakes


def test_capped_scores_of_attention_are_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Transformers 5.21 PyTorch's attention was chosen for Gemma 2; it ignores the cap."""
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 1}
    given: dict[str, Any] = {**sizes, **heads, "vocab_size": len(tokenizer), "num_labels": 1}
    config = Gemma2Config(
        **given,
        pad_token_id=tokenizer.pad_token_id,
        attn_logit_softcapping=0.1,
        initializer_range=0.3,
    )
    Gemma2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    eager = Gemma2ForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    found = classifier(str(tmp_path), None, "cpu", "fp32")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = eager(input_ids=ids).logits
        torch.testing.assert_close(found.model(input_ids=ids).logits, expected)
        for layer in eager.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert (eager(input_ids=ids).logits - expected).abs().max() > 1e-2


def test_a_model_without_a_head_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        scored(str(TINY))
    assert str(caught.value) == (
        f"env.rewards.rm.model={TINY} has no sequence-classification head: it is "
        "Qwen3ForCausalLM. Allowed: a model of a class ...ForSequenceClassification."
    )
    headless = shutil.copytree(TINY, tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    kind = {"architectures": ["Qwen3ForSequenceClassification"]}
    (headless / "config.json").write_text(json.dumps(config | kind))
    with pytest.raises(ConfigError, match=r"lacks weights \(score\.weight\)\.$"):
        scored(str(headless))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {},
            "env.rewards.rm.model=PATH has 2 labels. Choose one: env.rewards.rm.label=... of "
            "rude, polite.",
            id="no label",
        ),
        pytest.param(
            {"label": "polit"},
            "env.rewards.rm.label=polit. Allowed: rude, polite. Did you mean 'polite'?",
            id="no such label",
        ),
        pytest.param(
            {"label": 2}, "env.rewards.rm.label=2. Allowed: rude, polite.", id="no such number"
        ),
        pytest.param(
            {"device": "tpu"}, "env.rewards.rm.device=tpu. Allowed here: auto, cpu", id="a device"
        ),
        pytest.param(
            {"device": "cuda:99"},
            "env.rewards.rm.device=cuda:99. Allowed here: auto, cpu",
            id="no such GPU",
        ),
        pytest.param(
            {"dtype": "bf8"},
            "env.rewards.rm.dtype=bf8. Allowed: auto, fp32, bf16, fp16. Did you mean 'bf16'?",
            id="a type",
        ),
        pytest.param({"batch": 0}, "env.rewards.rm.batch=0. Allowed: 1 or more.", id="no batch"),
        pytest.param(
            {"labl": "rude"}, "no env.rewards.rm.labl. Allowed: env.rewards.rm.model", id="a key"
        ),
        pytest.param(
            {"timeout": 5}, "no env.rewards.rm.timeout. Allowed: env.rewards.rm.model", id="a limit"
        ),
    ],
)
def test_a_mistake_is_one_line(make: Make, options: dict[str, Any], message: str) -> None:
    path = make(labels=["rude", "polite"])
    with pytest.raises(ConfigError) as caught:
        scored(path, **options)
    assert str(caught.value).startswith(message.replace("PATH", path))
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_one_line(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    why = "no such folder, and the hub cannot be reached (ConnectError)"
    monkeypatch.setattr(module, "missing_on_hub", lambda *_: why)
    with pytest.raises(ConfigError) as caught:
        scored("somebody/model")
    assert str(caught.value) == f"env.rewards.rm.model=somebody/model: {why}"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^env\.rewards\.rm\.model=.*broken: [^\n]*$"):
        scored(str(broken))


def test_a_chat_template_that_fails_is_one_line(make: Make) -> None:
    path = make()
    (Path(path) / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(ConfigError) as caught:
        scored(path)
    assert str(caught.value) == f"env.rewards.rm.model={path}: its chat template fails: no"


def test_without_torch_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(ConfigError) as caught:
        scored("anything")
    assert str(caught.value) == 'env.rewards.rm needs torch: pip install -e ".[train]"'

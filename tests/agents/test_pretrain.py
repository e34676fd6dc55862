"""The recipe of the bundled model: what is shown, which tokens are learnt, what it begins with."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import grpo_envs
from grpo_envs.types import Turn
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.pretrain import (
    CYCLES,
    IGNORED,
    Cycle,
    Demonstration,
    adopt,
    demonstration,
    encode,
    loss_of,
    make_model,
    make_tokenizer,
    train,
)

TALK = Demonstration(
    system_prompt="Be kind.",
    prompt="Guess.",
    turns=(
        Turn(action="<answer>3</answer>", observation="higher"),
        Turn(action="<answer>5</answer>"),
    ),
)


def test_the_answers_are_learnt_and_nothing_else(tiny: Policy) -> None:
    tokens, labels = encode(tiny, TALK)
    assert len(tokens) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(tokens, labels, strict=True))
    learnt = tiny.tokenizer.decode([label for label in labels if label != IGNORED])
    assert learnt == "<answer>3</answer><|im_end|><answer>5</answer><|im_end|>"


def test_a_conversation_is_shown_as_a_rollout_plays_it(tiny: Policy) -> None:
    tokens, _ = encode(tiny, TALK)
    assert tiny.tokenizer.decode(tokens) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nGuess.<|im_end|>\n"
        "<|im_start|>assistant\n<answer>3</answer><|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n"
        "<|im_start|>assistant\n<answer>5</answer><|im_end|>"
    )


def test_padding_changes_no_loss(tiny: Policy) -> None:
    policy = Policy(tiny.model.double(), tiny.tokenizer)
    short = Demonstration(system_prompt="", prompt="?", turns=(Turn(action="42"),))
    rows = [encode(policy, demo) for demo in (TALK, short)]
    together = loss_of(policy, rows)
    assert together.item() == pytest.approx(sum(loss_of(policy, [row]).item() for row in rows))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_direct_demonstrations_do_not_think(share: float) -> None:
    envs = [grpo_envs.make("math"), grpo_envs.make("code")]
    for number in range(20):
        demo = demonstration(envs, number, share)
        assert demo.prompt == envs[number % 2].problem(number, "train").prompt
        (turn,) = demo.turns
        thinks = "<think>" in envs[number % 2].problem(number, "train").solution
        assert ("<think>" in turn.action) == (thinks and share == 0.0)


def test_an_earlier_model_keeps_what_both_call_a_token() -> None:
    """With the same tokenizer it is the same model; with another, each token has its row."""
    earlier = load_policy(str(TINY))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY)
    same = Policy(make_model(tokenizer), tokenizer)
    adopt(same, TINY)
    for name, weight in earlier.model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[name]), name
    tokenizer = make_tokenizer([TALK] * 50)
    other = Policy(make_model(tokenizer), tokenizer)
    adopt(other, TINY)
    rows, old = (p.model.get_input_embeddings().weight for p in (other, earlier))
    for token in ("<answer>", "3", "<|im_end|>"):
        places = (p.tokenizer.convert_tokens_to_ids(token) for p in (other, earlier))
        assert torch.equal(rows[next(places)], old[next(places)])


def test_the_recipe_writes_a_model_that_a_run_can_load(tmp_path: Path) -> None:
    cycle = Cycle(environments=("math", "code"), steps=2, lr=1e-3, thinking_steps=1)
    train(tmp_path / "a", (cycle,), seed=0)
    for name, behind in (("b", 1), ("same", 2)):
        train(tmp_path / name, (cycle, cycle), seed=0, earlier=tmp_path / "a", behind=behind)
    first, second, same = (load_policy(str(tmp_path / name)) for name in ("a", "b", "same"))
    assert first.model.config.vocab_size == len(first.tokenizer)
    rows, others, equal = (p.model.get_input_embeddings().weight for p in (first, second, same))
    assert torch.equal(rows, equal)
    assert not torch.equal(rows, others)


def test_the_recipe_shows_installed_environments() -> None:
    for name in {name for cycle in CYCLES for name in cycle.environments}:
        assert isinstance(grpo_envs.make(name), grpo_envs.TextEnv)

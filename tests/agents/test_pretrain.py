"""The recipe of the bundled model: what is shown, which tokens are learnt, what it begins with."""

from pathlib import Path

import pytest
import torch

import grpo_envs
from grpo_envs.types import Turn
from grpo_policy.demonstrations import IGNORED, Demonstration, demonstration, encode
from grpo_policy.models import load_policy
from grpo_policy.policy import Policy
from grpo_policy.pretrain import CYCLES, Cycle, loss_of, make_model, model_as_it_is, train
from grpo_policy.vocabulary import TOOL_WORDS, add_words, make_tokenizer

TALK = Demonstration(
    system_prompt="Be kind.",
    prompt="Guess.",
    turns=(
        Turn(action="<answer>3</answer>", observation="higher"),
        Turn(action="<answer>5</answer>"),
    ),
)


def test_the_answers_are_learnt_and_nothing_else(tiny: Policy) -> None:
    tokens, labels = encode(tiny.chat, TALK)
    assert len(tokens) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(tokens, labels, strict=True))
    learnt = tiny.tokenizer.decode([label for label in labels if label != IGNORED])
    assert learnt == "<answer>3</answer><|im_end|><answer>5</answer><|im_end|>"


def test_a_conversation_is_shown_as_a_rollout_plays_it(tiny: Policy) -> None:
    tokens, _ = encode(tiny.chat, TALK)
    assert tiny.tokenizer.decode(tokens) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nGuess.<|im_end|>\n"
        "<|im_start|>assistant\n<answer>3</answer><|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n"
        "<|im_start|>assistant\n<answer>5</answer><|im_end|>"
    )


def test_padding_changes_no_loss(tiny: Policy) -> None:
    policy = Policy(tiny.model.double(), tiny.tokenizer)
    short = Demonstration(system_prompt="", prompt="?", turns=(Turn(action="42"),))
    rows = [encode(policy.chat, demo) for demo in (TALK, short)]
    together = loss_of(policy, rows)
    assert together.item() == pytest.approx(sum(loss_of(policy, [row]).item() for row in rows))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_direct_demonstrations_do_not_think(share: float) -> None:
    envs = [grpo_envs.make("math"), grpo_envs.make("code")]
    for number in range(20):
        problem = envs[number % 2].problem(number, "train")
        demo = demonstration(envs[number % 2], number, share)
        assert demo.prompt == problem.prompt
        (turn,) = demo.turns
        thinks = "<think>" in problem.solution
        assert ("<think>" in turn.action) == (thinks and share == 0.0)


def test_a_tool_is_called_and_its_result_read_or_the_answer_comes_at_once(tiny: Policy) -> None:
    env = grpo_envs.make("calculator")
    called, direct = (demonstration(env, 0, share) for share in (0.0, 1.0))
    call = (
        '<tool_call>{"name": "calculator", "arguments": {"expression": "79*19-28*90"}}</tool_call>'
    )
    assert [turn.action for turn in called.turns] == [call, "<answer>-1019</answer>"]
    assert [turn.action for turn in direct.turns] == ["<answer>-1019</answer>"]
    tokens, labels = encode(tiny.chat, called)
    shown = tiny.tokenizer.decode(tokens)
    assert "\ncalculator(expression): " in shown
    assert f"{call}<|im_end|>\n<|im_start|>tool\n-1019<|im_end|>\n<|im_start|>assistant\n" in shown
    learnt = tiny.tokenizer.decode([label for label in labels if label != IGNORED])
    assert learnt == f"{call}<|im_end|><answer>-1019</answer><|im_end|>"


def test_new_words_change_no_embedding_and_no_other_text() -> None:
    tokenizer = make_tokenizer([TALK] * 50)
    policy = Policy(make_model(tokenizer), tokenizer)
    before = policy.model.get_input_embeddings().weight.clone()
    ids = policy.render("Guess.", "Be kind.")
    known = add_words(policy)
    assert len(tokenizer) == known + len(TOOL_WORDS) == policy.model.config.vocab_size
    assert torch.equal(policy.model.get_input_embeddings().weight[:known], before)
    assert policy.render("Guess.", "Be kind.") == ids
    assert len(tokenizer("<tool_call>")["input_ids"]) == 1
    assert add_words(policy) == len(tokenizer)


def test_what_is_kept_pulls_back_to_the_model_as_it_was(tiny: Policy) -> None:
    """The gradient vanishes where the model is what it was, and undoes a change elsewhere."""
    rows = [encode(tiny.chat, TALK)]
    before = model_as_it_is(tiny, len(tiny.tokenizer))
    weight = tiny.model.get_input_embeddings().weight
    (still,) = torch.autograd.grad(loss_of(tiny, rows, before), weight)
    assert still.abs().max() < 1e-4
    change = torch.full_like(weight, 0.01)
    with torch.no_grad():
        weight.add_(change)
    (back,) = torch.autograd.grad(loss_of(tiny, rows, before), weight)
    with torch.no_grad():
        weight.sub_(change)
    assert back.abs().max() > 1e-2


def test_tokens_that_are_new_are_unlikely_in_what_is_kept(tiny: Policy) -> None:
    known = len(tiny.tokenizer) - len(TOOL_WORDS)
    before = model_as_it_is(tiny, known)
    ids_BL = torch.tensor([encode(tiny.chat, TALK)[0]])
    assert before(ids_BL)[..., known:].max() == 0


def test_the_recipe_writes_a_model_that_a_run_can_load(tmp_path: Path) -> None:
    first_cycle = Cycle(environments=("math", "code"), steps=2, lr=1e-3, thinking_steps=1)
    cycle = Cycle(environments=("calculator",), kept=("math",), steps=2, lr=1e-3)
    train(tmp_path / "a", (first_cycle,), seed=0)
    for name, behind in (("b", 1), ("same", 2)):
        train(tmp_path / name, (first_cycle, cycle), seed=0, earlier=tmp_path / "a", behind=behind)
    first, second, same = (load_policy(str(tmp_path / name)) for name in ("a", "b", "same"))
    assert first.model.config.vocab_size == len(first.tokenizer)
    rows, others, equal = (p.model.get_input_embeddings().weight for p in (first, second, same))
    assert torch.equal(rows, equal)
    assert not torch.equal(rows, others)


def test_the_recipe_shows_installed_environments() -> None:
    for name in {name for cycle in CYCLES for name in (*cycle.environments, *cycle.kept)}:
        assert isinstance(grpo_envs.make(name), grpo_envs.TextEnv)

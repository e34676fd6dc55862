"""Few-shot prompts: which problems are shown, where, and what is refused."""

from typing import Any

import pytest

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.training.environments import make_envs
from grpo_policy.policy import Policy
from tests.conftest import Write


def test_solved_training_problems_come_before_each_problem() -> None:
    plain, shown = (
        grpo_envs.make("math", split="eval"),
        grpo_envs.make("math", split="eval", shots=2),
    )
    asked, problem = plain.problem(5), shown.problem(5)
    first, second = (plain.problem(number, "train") for number in (0, 1))
    assert [(turn["role"], turn["content"]) for turn in problem.messages] == [
        ("user", first.prompt),
        ("assistant", first.solution),
        ("user", second.prompt),
        ("assistant", second.solution),
        ("user", asked.prompt),
    ]
    assert problem.prompt.endswith(asked.prompt)
    assert first.solution in problem.prompt
    assert (problem.gold, problem.solution) == (asked.gold, asked.solution)
    assert plain.problem(5).messages == ()


def test_a_problem_is_never_shown_before_itself() -> None:
    plain, shown = grpo_envs.make("math"), grpo_envs.make("math", shots=2)
    for number in range(4):
        prompt = plain.problem(number).prompt
        said = [turn["content"] for turn in shown.problem(number).messages]
        assert said.count(prompt) == 1
        assert len(said) == 5


def test_no_held_out_row_is_shown(write: Write) -> None:
    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(40)]
    keys: dict[str, Any] = {
        "dataset": write("rows.jsonl", rows),
        "columns": {"prompt": "question", "gold": "answer"},
        "held_out": 0.5,
    }
    held_out = grpo_envs.make("math", split="eval", **keys)
    assert held_out.rows is not None
    prompts = {held_out.problem(number).prompt for number in range(held_out.rows.count("eval"))}
    for split in ("train", "eval"):
        env = grpo_envs.make("math", split=split, shots=3, **keys)
        said = {turn["content"] for turn in env.problem(0).messages[:-1]}
        assert not said & prompts


def test_a_chat_template_shows_them_as_turns(tiny: Policy) -> None:
    env = grpo_envs.make("math", shots=1)
    problem = env.problem(3)
    text = tiny.chat.text(tiny.chat.render(problem.prompt, "", problem.messages))
    assert text.count("<|im_start|>user\n") == 2
    assert text.count("<|im_start|>assistant\n") == 2
    assert text.endswith(f"{problem.messages[-1]['content']}<|im_end|>\n<|im_start|>assistant\n")


def test_a_run_trains_and_evaluates_with_the_same_ones() -> None:
    envs = make_envs(compose_run(["env.shots=2"]))
    for env in (envs.train.env, envs.held_out):
        assert [each.prompt for each in env.shots.solved] == [
            grpo_envs.make("math").problem(number, "train").prompt for number in range(3)
        ]
    envs.close()


@pytest.mark.parametrize(
    ("name", "shots", "said"),
    [
        ("math", -1, "env.shots=-1. Allowed: a whole number, 0 (none) or more."),
        ("math", "two", "env.shots=two. Allowed: a whole number"),
        ("guess", 2, "env.shots=2: GuessEnv is a conversation"),
        ("calculator", 1, "env.shots=1: CalculatorEnv is a conversation"),
    ],
)
def test_a_mistake_is_one_line(name: str, shots: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make(name, shots=shots)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_too_few_solutions_are_counted(write: Write) -> None:
    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(4)]
    columns = {"prompt": "question", "gold": "answer"}
    with pytest.raises(ConfigError, match=r"has \d training problems with a solution.*0 to \d\.$"):
        grpo_envs.make("math", dataset=write("some.jsonl", rows), columns=columns, shots=9)

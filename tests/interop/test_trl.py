"""TRL: its own trainer trains on our data set, reward function, rollouts and tools.

What needs no trainer of TRL's is tried with given answers in place of a model's.
"""

from __future__ import annotations

import inspect
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import get_json_schema

from grpo_envs.env import TextEnv
from grpo_envs.env.calls import read_calls
from grpo_envs.env.plugins import make
from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from grpo_envs.interop.trl import Task
from grpo_envs.types import Tool
from tests.interop.test_rows import FailingEnv
from tests.support.door_answers import cases
from tests.support.scripted_trainer import ScriptedTrainer, tokenizer


def columns(data: Any) -> dict[str, Any]:
    return {name: data[name] for name in data.column_names if name != "prompt"}


@pytest.mark.parametrize("messages", [True, False])
def test_single_answers_earn_our_rewards(messages: bool) -> None:
    played = cases("countdown", 12)
    task = Task("countdown")
    said: list[Any] = [case.answers[0] for case in played]
    if messages:
        said = [[{"role": "assistant", "content": text}] for text in said]
    (reward,) = task.reward_funcs
    assert reward(said, **columns(task.dataset("train", 12))) == [case.total for case in played]


def test_data_sets_are_of_their_splits() -> None:
    task = Task("countdown", level=2)
    train, held_out = task.train_dataset, task.eval_dataset
    assert (len(train), len(held_out)) == (1024, 128)
    assert ({*train["split"]}, {*held_out["split"]}) == ({"train"}, {"eval"})
    assert {*train["keywords"]} == {'{"level": 2}'}
    assert task.dataset("train", 1, first=7)["seed"][0] == 7


def test_an_invalid_reward_is_none_and_parts_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    env = FailingEnv()
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    task = Task("failing")
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    found = task.reward_funcs[0](
        ["1", "fail", "2"],
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
        **columns(task.dataset("train", 3)),
    )
    assert found == [1.0, None, 0.0]
    assert (metrics, extra) == ({"reward/correct": 0.5}, {"correct": [1.0, None, 0.0]})


def test_a_conversation_is_played_in_tokens() -> None:
    played = cases("guess", 8)
    task = Task("guess")
    data = task.dataset("train", 8)
    trainer = ScriptedTrainer([case.answers for case in played])
    out = task.rollout_func(data["prompt"][:], trainer)
    assert task.reward_funcs[0]([""] * 8, graded=out["graded"]) == [case.total for case in played]
    assert out["turns"] == [len(case.answers) for case in played]
    for i, case in enumerate(played):
        ids, mask, logprobs = (out[key][i] for key in ("completion_ids", "env_mask", "logprobs"))
        assert len(ids) == len(mask) == len(logprobs)
        assert [value == 0 for value in logprobs] == [chosen == 0 for chosen in mask]
        chosen = [token for token, own in zip(ids, mask, strict=True) if own]
        text = tokenizer().decode(chosen)
        assert text == "".join(f"{answer}{tokenizer().eos_token}" for answer in case.answers)
        if len(case.answers) > 1:
            between = [token for token, own in zip(ids, mask, strict=True) if not own]
            assert re.search("higher|lower|from", tokenizer().decode(between))


def test_prompts_are_as_trl_would_render_them() -> None:
    task = Task("guess")
    prompts = task.dataset("train", 2)["prompt"][:]
    trainer = ScriptedTrainer([["x"] * 9] * 2, most=3)
    out = task.rollout_func(prompts, trainer)
    rendered = tokenizer().apply_chat_template(prompts, add_generation_prompt=True)
    assert out["prompt_ids"] == rendered["input_ids"]


def test_a_conversation_ends_where_no_room_is_left() -> None:
    task = Task("guess")
    prompts = task.dataset("train", 1)["prompt"][:]
    wrong = "<answer>1</answer>"
    whole = task.rollout_func(prompts, ScriptedTrainer([[wrong] * 9]))
    (ids,), (mask,) = whole["completion_ids"], whole["env_mask"]
    first = mask.index(0)
    second = first + mask[first:].index(1)
    for most, turns in ((len(ids), whole["turns"][0]), (second, 1), (first - 1, 1)):
        out = task.rollout_func(prompts, ScriptedTrainer([[wrong] * 9], most=most))
        assert out["turns"] == [turns]
        assert out["completion_ids"][0] == ids[: most if most != second else first]
        assert out["env_mask"][0][-1] == 1


def test_answers_by_a_tool_earn_our_rewards() -> None:
    task = Task("guess")
    players: list[Any] = [task.environment_factory() for _ in range(8)]
    played = cases("guess", 8)
    for player, row, case in zip(players, task.dataset("train", 8), played, strict=True):
        player.reset(**row)
        replies = [player.answer(text=answer) for answer in case.answers]
        assert all(replies[:-1])
        assert player.answer("more") == "The episode is over."
    found = task.reward_funcs[0]([""] * 8, environments=players)
    assert found == [case.total for case in played]


def test_an_environments_tools_are_trls_and_the_last_turn_is_the_answer() -> None:
    task = Task("calculator")
    (tool,) = task.env.problem(0).tools
    factory = task.environment_factory
    assert methods_of(factory) == {"calculator", "reset"}
    assert get_json_schema(factory().calculator) == tool.schema  # type: ignore[attr-defined]
    played = cases("calculator", 16, by_tools=True)
    players: list[Any] = [factory() for _ in played]
    completions = []
    for player, row, case in zip(players, task.dataset("train", 16), played, strict=True):
        player.reset(**row)
        *calling, answer = case.answers
        for (call,) in (read_calls(action)[1] for action in calling):
            assert player.calculator(**call.arguments)
        completions.append([{"role": "assistant", "content": answer}])
    found = task.reward_funcs[0](completions, environments=players)
    assert found == [case.total for case in played]


def test_an_episode_that_trl_ended_before_an_answer_has_none() -> None:
    task = Task("calculator")
    player: Any = task.environment_factory()
    player.reset(**task.dataset("train", 1)[0])
    assert player.calculator(expression="1+2") == "3"
    assert player.calculator(expresion="1").startswith("error: calculator has no parameter")
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}
    extra: dict[str, list[float]] = {}
    for ending in ([called], [called, {"role": "tool", "content": "3"}]):
        task.reward_funcs[0]([ending], environments=[player], log_extra=extra.__setitem__)
        assert (extra["tool_calls"], extra["tool_errors"], extra["answered"]) == ([2], [1], [0])


def methods_of(factory: type) -> set[str]:
    """What TRL finds in an environment's class."""
    found = {name for name, _ in inspect.getmembers(factory, predicate=inspect.isfunction)}
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize(
    ("name", "about", "cause"),
    [
        ("reset", {"type": "string"}, "its name"),
        ("get_reward", {"type": "string"}, "its name"),
        ("_hidden", {"type": "string"}, "its name"),
        ("see", {"type": "string", "minLength": 3}, "its schema"),
        ("see", {"type": ["string", "null"]}, "its schema"),
        ("see", {"anyOf": [{"type": "string"}, {"type": "array"}]}, "its schema"),
    ],
)
def test_a_tool_that_trl_cannot_show_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, about: dict[str, Any], cause: str
) -> None:
    monkeypatch.setattr(rows, "_environment", lambda *_: with_tool(name, about))
    with pytest.raises(ConfigError) as caught:
        _ = Task("calculator").environment_factory
    assert f"cannot show the tool {name} as it is ({cause})." in str(caught.value)
    assert "\n" not in str(caught.value)


def shows_lists() -> bool:
    """Whether Transformers' schema of `list` is an array; where not, such a tool is refused."""

    def takes(x: list) -> None:  # type: ignore[type-arg]
        """Take.

        Args:
            x: A list.
        """

    shown = get_json_schema(takes)["function"]["parameters"]["properties"]["x"]
    return bool(shown["type"] == "array")


@pytest.mark.parametrize(
    "about",
    [
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "array"},
        {"type": "object"},
        {},
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_tool_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, about: dict[str, Any], required: bool
) -> None:
    if about == {"type": "array"} and not shows_lists():
        pytest.skip("this release of Transformers shows a list without items as an object")
    env = with_tool("see", about, required=required)
    monkeypatch.setattr(rows, "_environment", lambda *_: env)
    player: Any = Task("calculator").environment_factory()
    assert get_json_schema(player.see) == env.problem(0).tools[0].schema


def with_tool(name: str, about: dict[str, Any], *, required: bool = True) -> TextEnv:
    """An environment with one tool, whose parameter `x` has this schema."""
    env = make("calculator")
    parameters: dict[str, Any] = {"type": "object"}
    parameters["properties"] = {"x": {**about, "description": "What?"}}
    parameters |= {"required": ["x"]} if required else {}
    tool = Tool(name=name, description="See.", parameters=parameters)
    draw = env.problem
    env.problem = lambda *asked: replace(draw(*asked), tools=(tool,))  # type: ignore[method-assign]
    return env


def test_problems_with_different_tools_are_refused() -> None:
    task = Task("mixture", of={"calculator": 1, "countdown": 1})
    with pytest.raises(ConfigError, match="env=mixture: its problems have different tools"):
        _ = task.environment_factory
    other = Task("calculator").environment_factory()
    with pytest.raises(ConfigError, match="env=guess: its problems have different tools"):
        other.reset(**Task("guess").dataset("train", 1)[0])


def test_tools_are_not_left_out_silently() -> None:
    """A problem with tools and one turn is no single answer either."""
    task = Task("calculator", turns=1)
    data = columns(task.dataset("train", 1))
    with pytest.raises(ConfigError, match="env=calculator: a problem with tools"):
        task.reward_funcs[0](["1"], **data)


def test_what_would_be_graded_wrongly_is_refused() -> None:
    task, single = Task("guess"), Task("math")
    data = task.dataset("train", 1)
    with pytest.raises(ConfigError, match=r"rollout_func=task\.rollout_func"):
        task.reward_funcs[0](["x"], **columns(data))
    with pytest.raises(ConfigError, match="played in one process"):
        task.rollout_func(data["prompt"][:], ScriptedTrainer([["x"]], processes=2))
    with pytest.raises(ConfigError, match="the data set is not this task's"):
        task.rollout_func([[{"role": "user", "content": "?"}]], ScriptedTrainer([["x"]]))
    other = columns(single.dataset("train", 1)) | {"digest": ["0"]}
    with pytest.raises(ConfigError, match="its prompt is not the row's"):
        single.reward_funcs[0](["x"], **other)
    with pytest.raises(ConfigError, match="reset"):
        task.environment_factory().answer("x")  # type: ignore[attr-defined]


def trained(task: Task, out: Path, **more: Any) -> Any:
    """Two steps of TRL's own trainer."""
    from tests.benchmarks.trl_learns import trainer_for

    settings = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 128,
        "top_k": 0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's, about Transformers' names
        trainer = trainer_for(task, 2, str(out), settings=settings, **more)
        trainer.train()
    return trainer


@pytest.mark.slow
def test_trl_trains_on_single_answers(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    first, *_ = trained(Task("countdown"), tmp_path).state.log_history
    assert (
        0
        < first["reward"]
        == pytest.approx(first["reward/correct"] + 0.1 * first["reward/format"], abs=1e-5)
    )
    assert first["rewards/reward/mean"] == first["reward"]


@pytest.mark.slow
def test_trl_trains_on_conversations(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    task = Task("guess", level=2)
    trainer = trained(task, tmp_path, rollout_func=task.rollout_func)
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(steps) == 2
    assert all(0 < step["reward"] < 1.11 for step in steps)
    assert max(step["turns"] for step in steps) > 1

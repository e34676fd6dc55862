"""TRL: its own trainer trains on our data set, reward function, rollouts and tools.

What needs no trainer of TRL's is tried with given answers in place of a model's.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.interop import rows
from grpo_envs.interop.trl import Task
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


def test_tools_earn_our_rewards() -> None:
    task = Task("guess")
    players = [task.environment_factory() for _ in range(8)]
    played = cases("guess", 8)
    for player, row, case in zip(players, task.dataset("train", 8), played, strict=True):
        player.reset(**row)
        replies = [player.answer(text=answer) for answer in case.answers]
        assert all(replies[:-1])
        assert player.answer("more") == "The episode is over."
    found = task.reward_funcs[0]([""] * 8, environments=players)
    assert found == [case.total for case in played]


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
        task.environment_factory().answer("x")


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

"""Reward functions written for TRL are called as its trainer calls them, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from grpo_env_math import MathEnv
from grpo_envs.env import reward_functions, trl_functions
from grpo_envs.env.trl_functions import TrlFunction, is_trl
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.types import Problem, Reward, Turn
from tests.conftest import Write

CHAT = ({"role": "user", "content": "1+1?"},)
TEXT = Problem(prompt="1+1?", gold="2", solution="", columns={"truth": "2", "prompt": "x"})
SAID = Problem(prompt="1+1?", gold="2", solution="", messages=CHAT, columns={"truth": "2"})


def exact(completions: list[str], truth: list[str], **kwargs: Any) -> list[float]:
    return [float(text == gold) for text, gold in zip(completions, truth, strict=True)]


def all_in(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
    seen.append((prompts, completions, kwargs))
    return [0.0] * len(completions)


def messages(completions: list[list[dict[str, str]]], **kwargs: Any) -> list[float]:
    return [float(len(completion[0]["content"])) for completion in completions]


async def later(completions: Any, truth: Any, **_: Any) -> list[float | None]:
    return [None, float("nan"), 1.0][: len(completions)]


def narrow(completions: Any, truth: Any, scale: float = 2.0) -> list[float]:
    return [scale] * len(completions)


def log_both(completions: Any, log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
    log_extra("column", ["a"])
    log_metric("name", 0.5)
    return [0.0] * len(completions)


class Called:
    """An instance of a class, as TRL's own functions are."""

    def __call__(self, completions: Sequence[str], **kwargs: Any) -> list[float]:
        return [0.5 for _ in completions]


seen: list[Any] = []


def use(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]
) -> Callable[..., list[Reward]]:
    """Return what asks the function as an environment does: by its name, with options."""
    monkeypatch.setattr(reward_functions, "available", lambda _: {"trl": None})
    monkeypatch.setattr(reward_functions, "load", lambda *_: function)

    def ask(*problems: Problem, answers: Sequence[str] = ("2", "3", "4"), **options: Any) -> Any:
        _, found = reward_functions.compose({"correct": 1.0}, {"trl": {"weight": 1, **options}})
        return found["trl"](problems, answers[: len(problems)])

    return ask


def values(rewards: Sequence[Reward]) -> list[float | None]:
    assert all(reward.valid for reward in rewards), rewards
    return [reward.parts.get("trl") for reward in rewards]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(exact, [1.0, 0.0], id="columns by name"),
        pytest.param(messages, [1.0, 1.0], id="annotated as messages"),
        pytest.param(later, [None, None], id="async, None and NaN do not apply"),
        pytest.param(narrow, [2.0, 2.0], id="without kwargs"),
        pytest.param(Called(), [0.5, 0.5], id="an instance"),
        pytest.param(functools.partial(narrow, scale=3.0), [3.0, 3.0], id="a partial"),
    ],
)
def test_it_is_called_as_trl_calls_it(
    function: Callable[..., Any], expected: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_trl(function)
    assert values(use(monkeypatch, function)(TEXT, TEXT)) == expected


def test_nan_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trl_functions._warn.cache_clear()
    ask = use(monkeypatch, later)
    for _ in range(2):
        assert values(ask(TEXT, TEXT)) == [None, None]
    assert [record.message for record in caplog.records] == [
        "env.rewards.trl returns NaN: it counts as not applying to the answer, as in TRL"
    ]


def test_completions_are_texts_or_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = use(monkeypatch, all_in)
    seen.clear()
    ask(TEXT)
    ask(SAID)
    ask(TEXT, messages=True)
    ask(SAID, messages=False)
    answer = [{"role": "assistant", "content": "2"}]
    assert [(prompts, completions) for prompts, completions, _ in seen] == [
        (["1+1?"], ["2"]),
        ([[*CHAT]], [answer]),
        ([[*CHAT]], [answer]),
        (["1+1?"], ["2"]),
    ]
    assert {name for name in seen[0][2] if not name.startswith("log_")} == {"truth"}


def test_what_it_would_log_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask = use(monkeypatch, log_both)
    ask(TEXT)
    ask(TEXT)
    assert sum("log_metric: this is not written" in text for text in caplog.messages) == 1


def needs_state(completions: Any, trainer_state: Any, **_: Any) -> list[float]:
    return []


def needs_ids(completion_ids: Any, **_: Any) -> list[float]:
    return []


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (needs_state, {}, "env.rewards.trl asks for trainer_state, which only TRL's trainer has."),
        (needs_ids, {}, "env.rewards.trl asks for completion_ids, which only TRL's trainer has."),
        (narrow, {"scael": 1}, "no key of env.rewards.trl 'scael'. Allowed: messages, scale"),
        (exact, {"messages": "yes"}, "env.rewards.trl.messages=yes. Allowed: true or false."),
    ],
)
def test_what_cannot_be_called_is_refused(
    function: Any, options: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GrpoEnvsError) as caught:
        use(monkeypatch, function)(TEXT, **options)
    assert message in str(caught.value)


def test_a_column_that_is_missing_is_refused_before_training(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, exact)
    rows = [{"prompt": f"{i}?", "gold": i, "truths": i} for i in range(4)]
    env = MathEnv(dataset=write("rows.jsonl", rows), rewards={"trl": 1.0})
    with pytest.raises(ConfigError, match=r"column 'truth'\. There is gold, prompt, truths\."):
        env.require_columns()
    with pytest.raises(ConfigError, match="none: its problems are no dataset's"):
        MathEnv(rewards={"trl": 1.0}).require_columns()


def test_it_sees_every_column_of_the_row(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, exact)
    rows = [{"prompt": f"{i}?", "truth": str(i), "kind": "x"} for i in range(4)]
    env = MathEnv(
        dataset=write("rows.jsonl", rows), columns={"gold": "truth"}, rewards={"trl": 1.0}
    )
    env.require_columns()
    problem = env.problem(0)
    assert (problem.columns["truth"], problem.meta) == (problem.gold, {"kind": "x"})
    (reply,) = env.reply_batch([problem], [[Turn(action=problem.gold)]])
    assert reply.reward.parts["trl"] == 1.0


def test_what_is_no_list_makes_the_reward_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrlFunction.make("trl", exact, {}).columns == {"truth"}
    use(monkeypatch, lambda completions, **_: 0.5)
    env = MathEnv(rewards={"trl": 1.0})
    (reply,) = env.reply_batch([TEXT], [[Turn(action="2")]])
    assert not reply.reward.valid

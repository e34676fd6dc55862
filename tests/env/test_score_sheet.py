"""The score sheet of `python -m grpo_envs.check`: what answers of each kind earn, by hand."""

import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from grpo_env_code import CodeEnv
from grpo_env_format import FormatEnv
from grpo_env_games.guess import GuessEnv
from grpo_env_math import MathEnv
from grpo_env_mixture import MixtureEnv
from grpo_envs import Problem, Reply, Reward, TextEnv, Turn, check
from grpo_envs.env import plugins
from grpo_envs.env.score_sheet import Row, demonstration, score_sheet
from tests.conftest import Write

KINDS = ["gold", "empty", "truncated", "wrong", "hacked", "echo"]


def by_kind(env: TextEnv, seed: int = 0) -> dict[str, Row]:
    rows = score_sheet(env, seed)
    assert [row.kind for row in rows] == KINDS
    return {row.kind: row for row in rows}


def earned(rows: Mapping[str, Row]) -> dict[str, list[float | None]]:
    """Each row's parts, then its total."""
    return {
        kind: [*row.parts.values(), None if row.total is None else round(row.total, 9)]
        for kind, row in rows.items()
    }


# By hand


def test_math() -> None:
    rows = by_kind(MathEnv())
    assert rows["gold"].answers == ("<think>48+12=60\n60+44=104</think><answer>104</answer>",)
    assert rows["truncated"].answers == ("<think>48+12=60\n60+44=104<",)
    assert rows["echo"].answers == ("What is 48+12+44?",)
    other = rows["wrong"].answers[0]
    assert other == MathEnv().problem(1).solution
    assert earned(rows) == {
        "gold": [1, 1, 1.1],
        "empty": [0, 0, 0],
        "truncated": [0, 0, 0],
        "wrong": [0, 1, 0.1],
        "hacked": [0, 1, 0.1],  # well formed, and wrong
        "echo": [0, 0, 0],
    }
    assert all(row.valid and not row.note for row in rows.values())


def test_code() -> None:
    rows = by_kind(CodeEnv())  # f(x): x times 20 plus 15
    assert rows["gold"].answers == ("```python\ndef f(x):\n    return 20*x+15\n```",)
    assert earned(rows) == {
        "gold": [1, 1, 1, 1.2],
        "empty": [0, 0, 0, 0],
        "truncated": [0, 0, 0, 0],  # "```python\ndef f(x):\n  ": the block has no end
        "wrong": [0, 1, 1, 0.2],  # it runs
        "hacked": [0, 0, 1, 0.1],  # a block that exits at once
        "echo": [0, 0, 0, 0],
    }


def test_a_conversation_is_played_to_its_end() -> None:
    rows = by_kind(GuessEnv(rewards={"quick": 0.5}))  # 210, of 208 to 214, in 3 turns
    assert rows["gold"].answers == (
        "<think>208 to 214</think><answer>211</answer>",
        "<think>208 to 210</think><answer>209</answer>",
        "<think>210 to 210</think><answer>210</answer>",
    )
    assert rows["empty"].answers == ("", "", "")
    assert earned(rows) == {
        "gold": [1, 1, 0, 1.1],  # no turn is left
        "empty": [0, 0, 0, 0],
        "truncated": [0, 0, 0, 0],  # "<answer>21", three times
        "wrong": [0, 1, 0, 0.1],
        "hacked": [0, 1, 0, 0.1],
        "echo": [0, 0, 0, 0],
    }


def test_format() -> None:
    rows = by_kind(FormatEnv())  # a json object with the keys hat map
    assert rows["gold"].answers == (
        '<think>1 hat\n2 map</think><answer>{"hat":1,"map":2}</answer>',
    )
    assert rows["truncated"].answers == ("<think>1 hat\n2 map</think><ans",)
    assert earned(rows) == {
        "gold": [1, 1, 1.1],
        "empty": [0, 0, 0],
        "truncated": [0, 0, 0],
        "wrong": [0, 1, 0.1],
        "hacked": [0, 0, 0],  # the gold stands in no solution, so nothing is put in its shape
        "echo": [0, 0, 0],
    }


def test_an_added_reward_function_has_a_column() -> None:
    brief = {"length": {"weight": -0.2, "most": 10, "slope": 10}}
    rows = earned(by_kind(MathEnv(rewards=brief)))
    assert rows["echo"] == [0, 0, 0.7, -0.14]  # 17 characters
    assert rows["gold"] == [1, 1, 1, 0.9]
    assert rows["hacked"][-1] == 0  # " ", not the well-formed ones: they are long


def test_parts_of_another_environment_do_not_apply() -> None:
    rows = by_kind(MixtureEnv(of={"math": 1, "countdown": 1}))  # the first one is countdown's
    assert earned(rows)["gold"] == [None, None, 1, 1, 1.1]
    assert list(rows["gold"].parts)[:2] == ["math/correct", "math/format"]


# Planted


class Sum(TextEnv):
    """A sum that is graded soundly."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        gold = str(rng.randrange(10, 100))
        return Problem(prompt=f"{gold} + 0?", gold=gold, solution=f"<answer>{gold}</answer>")

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.solution)})


class AnywhereCounts(Sum):
    """Pays for the gold anywhere in the answer."""

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(problem.gold in answer)})


class Crashes(Sum):
    """Its grader fails on what breaks parsers."""

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == problem.prompt:
            raise ValueError("no [red]\x1b[2Jnumber")
        return Reward(parts={"correct": float(answer == problem.solution)})


class Silent(Sum):
    """Its problems have no solution."""

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.gold)})

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"{rng.random()}?", gold="7", solution="")


class OneGold(Sum):
    """All of its problems have one answer."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"{rng.random()}?", gold="7", solution="<answer>7</answer>")


class Pays(Sum):
    """Pays a quarter for each turn that says "answer", up to three; `bye` ends it."""

    parts: ClassVar[Mapping[str, float]] = {"said": 2.0}
    max_turns = 3

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        said = turns[-1].action
        paid = Reward(parts={"said": 0.25 * ("answer" in said)})
        return Reply(reward=paid, observation="go on", done=said == "bye")

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        return "bye" if turns else "answer"


def test_a_hole_shows_in_what_hacks_earn() -> None:
    sound, cheatable = by_kind(Sum()), by_kind(AnywhereCounts())
    assert sound["hacked"].total == 0
    assert cheatable["hacked"].total == cheatable["gold"].total == 1
    gold = cheatable["gold"].answers[0].removeprefix("<answer>").removesuffix("</answer>")
    (hack,) = cheatable["hacked"].answers
    assert f"299 {gold} -1" in hack
    assert cheatable["echo"].total == 1  # this prompt holds it, too


def test_the_parts_of_the_turns_add_up() -> None:
    rows = by_kind(Pays())
    assert rows["gold"].answers == ("answer", "bye")
    assert earned(rows)["gold"] == [0.25, 0.5]
    assert len(rows["wrong"].answers) == 3
    assert earned(rows)["wrong"] == [0.75, 1.5]


def test_what_there_is_not_is_said() -> None:
    rows = by_kind(Silent())
    for kind in ("gold", "truncated"):
        assert rows[kind].answers == ()
        assert rows[kind].note == "the problem has no solution"
    assert earned(rows)["gold"] == [None, None]
    assert earned(rows)["empty"] == [0, 0]
    assert "another gold" in rows["wrong"].note
    assert "another gold" in by_kind(OneGold())["wrong"].note
    assert demonstration(Silent(), Silent().problem(0)) == []


def test_a_grader_that_fails_is_not_a_zero() -> None:
    row = by_kind(Crashes())["echo"]
    assert not row.valid
    assert earned({"echo": row})["echo"] == [None, None]
    assert "ValueError" in row.note


def test_wrong_is_the_next_problem_with_another_gold() -> None:
    class Pairs(Sum):
        def problem(self, seed: int, split: str | None = None) -> Problem:
            gold = str(seed // 3)
            return Problem(prompt=f"{seed}?", gold=gold, solution=f"={gold}")

    assert by_kind(Pairs(), 3)["wrong"].answers == ("=2",)


# The command


def run_check(monkeypatch: pytest.MonkeyPatch, env: TextEnv | type[TextEnv], *options: str) -> int:
    monkeypatch.setattr(plugins, "make", lambda name, **_: env() if isinstance(env, type) else env)
    monkeypatch.setattr(sys, "argv", ["check", "env=math", "--problems=3", *options])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        check.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def sheet_of(out: str) -> dict[str, list[str]]:
    """The cells of the printed sheet."""
    lines = out.partition("the rewards of answers to it")[2].splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    return {row[0]: row[1:] for row in cells}


def test_check_prints_the_prompt_and_the_sheet() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpo_envs.check", "env=math", "--problems=3", "--seed=5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    prompt = MathEnv().problem(5, "train").prompt
    assert f"Training problem 5, and the rewards of answers to it:\n{prompt}\n" in done.stdout
    rows = sheet_of(done.stdout)
    assert list(rows) == KINDS
    assert rows["gold"][1:] == ["1", "1", "1.1", "yes"]
    assert rows["wrong"][1:] == ["0", "1", "0.1", "yes"]
    assert done.stdout.index("15 of 15") < done.stdout.index("Training problem 5")


def test_the_keys_are_shown_with_the_values_that_they_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    option = ["env=gsm8k", "env.dataset=openai/gsm8k", "env.split=train"]  # its YAML sets more
    assert run_check(monkeypatch, MathEnv(), *option) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("keys: ")]
    words = line.removeprefix("keys: env.").split(" env.")
    shown = dict(word.split("=", 1) for word in words)
    assert shown["dataset"] == "openai/gsm8k"
    assert shown["columns"] == '{prompt: "question", gold: "answer"}'
    assert shown["level"] == "1"
    assert shown["terms"] == "null"


def test_an_environment_on_eval_is_answered_on_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = MathEnv("eval")
    assert run_check(monkeypatch, env) == 0
    assert f"answers to it:\n{env.problem(0, 'train').prompt}\n" in capsys.readouterr().out


def test_markup_and_control_characters_do_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    prompt = "[red]3+4[/nope] \x1b[2J :smile:"
    rows = [{"prompt": f"{prompt}{n}", "gold": str(n)} for n in range(40)]
    run_check(monkeypatch, MathEnv(dataset=write("rows.jsonl", rows)))
    printed = capsys.readouterr().out
    assert "answers to it:\n[red]3+4[/nope] \\x1b[2J :smile:" in printed
    assert "\x1b" not in printed
    echo = sheet_of(printed)["echo"][0]
    assert echo.startswith("[red]3")
    assert ":smile:" in echo


def test_a_failure_stands_below_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(monkeypatch, Crashes()) == 1
    printed = capsys.readouterr().out
    assert sheet_of(printed)["echo"][1:] == ["-", "-", "no"]
    assert "\necho: ValueError: no [red]\\x1b[2Jnumber\n" in printed


def test_a_repeated_answer_stands_there_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(monkeypatch, GuessEnv()) == 0
    printed = capsys.readouterr().out
    assert sheet_of(printed)["truncated"][0] == "<answer>21 (x3)"
    shown = printed.partition("to it:")[2].partition("\nhacked:")[0]
    assert max(map(len, shown.splitlines())) <= 80


def test_many_parts_are_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_check(monkeypatch, MixtureEnv())
    gold = sheet_of(capsys.readouterr().out)["gold"]
    assert len(gold) == 1 + 6 + 2
    assert "…" not in "".join(gold)
    assert gold.count("-") == 4


def test_an_environment_that_cannot_draw_has_no_sheet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(Sum):
        def draw(self, rng: random.Random, split: str) -> Problem:
            raise RuntimeError("two\nlines")

    assert run_check(monkeypatch, Fails()) == 1
    assert (
        "no score sheet of training problem 0: RuntimeError: two lines\n" in capsys.readouterr().out
    )


def test_a_seed_below_zero_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(monkeypatch, Sum(), "--seed=-1") == 2
    assert capsys.readouterr().err == "grpo_envs: --seed=-1. Allowed: 0 or more.\n"


class DrawsForever(MathEnv):
    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            pass


def test_check_ends_where_a_call_does_not() -> None:
    """In a process of its own, which it leaves without waiting for anything."""
    script = (
        "import sys\nfrom grpo_envs import check\n"
        "from tests.env.test_score_sheet import DrawsForever\n"
        "check.plugins.make = lambda name, **_: DrawsForever()\n"
        "sys.argv = ['check', 'env=math', '--timeout=0.2']\ncheck.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "within 0.2 s" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("The other promises are not tried")


def test_a_constructor_that_does_not_end_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OpensForever(Sum):
        def __init__(self) -> None:
            while True:
                pass

    assert run_check(monkeypatch, OpensForever, "--timeout=0.05") == 2
    captured = capsys.readouterr()
    message = "the constructor did not end within 0.5 s (10 times --timeout)."
    assert (captured.out, captured.err) == ("", f"grpo_envs: env=math: {message}\n")


def test_a_constructor_may_take_longer_than_a_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OpensSlowly(Sum):
        def __init__(self) -> None:
            time.sleep(0.6)
            super().__init__()

    assert run_check(monkeypatch, OpensSlowly, "--timeout=0.2") != 2
    assert "gold" in sheet_of(capsys.readouterr().out)

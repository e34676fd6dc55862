"""`python -m grpo_envs.play`: a person in the place of the model."""

import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from transformers import AutoConfig

from grpo_env_games.guess import GuessEnv
from grpo_env_math import MathEnv
from grpo_envs import Problem, Reply, Reward, TextEnv, Turn, play
from grpo_envs.env import plugins
from grpo_envs.errors import ConfigError
from grpo_policy.chat import NO_LIMIT
from grpo_policy.models import TINY, load_chat
from grpo_policy.policy import Policy
from tests.support import forked

SYSTEM = "You may think in <think></think>. Answer in <answer></answer>."


Play = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """Play with a text or bytes as the input; return the exit code, stdout and stderr."""

    def run(said: str | bytes, *options: str) -> tuple[int, str, str]:
        given = said.encode() if isinstance(said, str) else said
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", ["play", *options])
        code = 0
        try:
            play.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def through_a_pipe(said: str, *options: str) -> tuple[int, str, str]:
    """The same as a program of its own."""
    done = forked.run(Path.cwd(), "grpo_envs.play", *options, said=said)
    return done.returncode, done.stdout, done.stderr


def rewards(told: str) -> list[dict[str, list[str]]]:
    """The numbers of each printed table: of each part its value, weight and weighted value."""
    tables: list[dict[str, list[str]]] = []
    for line in told.splitlines():
        if line.startswith("┏"):
            tables.append({})
        elif line.startswith("│"):
            name, *numbers = (cell.strip() for cell in line.split("│")[1:-1])
            tables[-1][name] = numbers
    return tables


def chatted(user: str) -> str:
    """A prompt, as the bundled model's template has it."""
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )


# Through a pipe


def test_an_answer_of_several_lines_is_graded() -> None:
    problem = MathEnv().problem(1)
    code, told, errors = through_a_pipe(
        f"<think>one\n\ntwo</think>\n<answer>{problem.gold}</answer>\n.\n",
        *("env=math", "--seed=1", "env.rewards={format: 0.5, length: {weight: -0.2, most: 0}}"),
    )
    assert (code, errors) == (0, "")
    assert told.startswith("model: the bundled tiny Qwen3")
    assert f"problem 1 of train, as the model sees it:\n{chatted(problem.prompt)}" in told
    size = len(f"<think>one\n\ntwo</think>\n<answer>{problem.gold}</answer>") / 200
    assert rewards(told) == [
        {
            "correct": ["1", "1", "1"],
            "format": ["1", "0.5", "0.5"],
            "length": [f"{size:.4g}", "-0.2", f"{-0.2 * size:.4g}"],
            "total": ["", "", f"{1.5 - 0.2 * size:.4g}"],
        }
    ]
    assert "valid: yes\n" in told
    assert problem.solution not in told
    assert told.endswith("Another problem? Enter: the next one, q: quit.\n\n")


def test_a_conversation_goes_on_until_it_ends(run_play: Play) -> None:
    env = GuessEnv()
    problem = env.problem(1)
    low, high = problem.meta["range"]
    wrong = low if problem.gold != low else high
    hint = "higher" if wrong == low else "lower"
    said = f"<answer>{wrong}</answer>\n.\n<answer>{problem.gold}</answer>\n.\nq\n"
    code, told, errors = run_play(said, "env=guess", "--seed=1", "--solution")
    assert (code, errors) == (0, "")
    first, second = told.split("(turn 2 of 3)")
    assert (
        "The environment says:\n"
        f"<|im_end|>\n<|im_start|>user\n{hint}<|im_end|>\n<|im_start|>assistant\n" in first
    )
    assert rewards(first)[0]["total"] == ["", "", "0"]
    assert rewards(second)[0] == {
        "correct": ["1", "1", "1"],
        "format": ["1", "0.1", "0.1"],
        "quick": ["0.5", "0", "0"],
        "total": ["", "", "1.1"],
    }
    assert "The environment says:\nright\n" in second  # no other turn: not framed
    assert "Its 2 turns earn 1.1." in second
    middle = (low + high) // 2
    assert f"A solution:\n<think>{low} to {high}</think><answer>{middle}</answer>\n" in second
    assert second.endswith("q: quit.\n")


def test_raw_text_another_problem_and_the_other_split(run_play: Play) -> None:
    env = MathEnv("eval")
    code, told, _ = run_play(
        ".\nwhat\n\n.\nq\n", "env=math", "--raw", "--seed=4", "--split=eval", "--solution"
    )
    assert code == 0
    assert "<|im_start|>" not in told
    assert "model:" not in told
    for seed in (4, 5):
        problem = env.problem(seed)
        assert f"problem {seed} of eval:\n{SYSTEM}\n\n{problem.prompt}\n" in told
        assert f"A solution:\n{problem.solution}\n" in told
    assert "'what'. Allowed: Enter, q.\n" in told
    assert [table["total"][-1] for table in rewards(told)] == ["0", "0"]  # a dot alone: ""


def test_the_end_of_the_input_ends_an_answer_and_then_the_game(run_play: Play) -> None:
    code, told, errors = run_play("<answer>5</answer>", "env=guess", "--raw")
    assert (code, errors) == (0, "")
    assert len(rewards(told)) == 1
    assert "(turn 2 of 3)" in told
    code, told, errors = run_play("", "env=guess", "--raw")
    assert (code, errors, rewards(told)) == (0, "", [])


def test_a_random_problem_is_named(run_play: Play) -> None:
    first, other = (
        re.search(r"problem (\d+) of train", run_play("", "--raw")[1]) for _ in range(2)
    )
    assert first
    assert other
    assert first[1] != other[1]
    assert MathEnv().problem(int(first[1])).prompt in first.string


def test_strange_bytes_do_nothing(run_play: Play) -> None:
    code, told, errors = run_play(b"\xff\x00\n.\n\x1b[2J\n", "env=math", "--raw")
    assert (code, errors) == (0, "")
    assert len(rewards(told)) == 1
    assert "\x1b" not in told


def test_a_mistake_is_one_line(run_play: Play) -> None:
    code, told, errors = run_play("", "env=mth")
    assert (code, told) == (2, "")
    assert re.fullmatch("grpo_envs: env=mth. Allowed: .* Did you mean 'math'[?]\n", errors), errors


# In a terminal


class Terminal:
    """A program with a terminal of its own, as a person has it."""

    START: ClassVar[str] = (
        "import fcntl, runpy, signal, sys, termios\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells may ignore it
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"  # so that Ctrl-C is a signal
        "sys.argv[0] = 'play'\n"
        "runpy.run_module('grpo_envs.play', run_name='__main__')\n"
    )

    def __init__(self, *options: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.START, *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "80"},
        )
        os.close(slave)
        self.told = ""

    def until(self, text: str) -> None:
        """Read until the program has written `text`, again for each call."""
        end = time.monotonic() + 60
        while text not in self.told and time.monotonic() < end:
            if select.select([self.master], [], [], 0.2)[0]:
                self.told += os.read(self.master, 65536).decode(errors="replace")
        assert text in self.told, self.told
        self.told = self.told.partition(text)[2]

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def end_by(self, key: str) -> int:
        """Press a key until the program ends; what it wrote last is in `told`.

        More than once, as people do: CPython may see a Ctrl-C only with the next key, where it
        comes while readline is at work on the last one.
        """
        end = time.monotonic() + 60
        pressed = 0.0
        while time.monotonic() < end:
            if time.monotonic() - pressed > 5:
                self.type(key)
                pressed = time.monotonic()
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.told += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # Linux's way to say that nobody writes any more
                    break
        return self.process.wait(10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_in_a_terminal_ctrl_d_ends_an_answer_and_ctrl_c_the_game() -> None:
    terminal = Terminal("env=guess", "--seed=1", "--raw")
    try:
        terminal.until("(turn 1 of 3)")
        terminal.until("> ")
        terminal.type("<answer>1</answer>\n")
        terminal.until("> ")
        terminal.type("\x04")
        terminal.until("The environment says:\r\nGuess a number")
        terminal.until("(turn 2 of 3)")
        terminal.until("> ")
        terminal.type("half of an ans")
        terminal.until("half of an ans")
        assert terminal.end_by("\x03") == 130
        assert "Traceback" not in terminal.told
    finally:
        terminal.close()


def test_in_a_terminal_ctrl_d_alone_leaves() -> None:
    terminal = Terminal("env=guess", "--seed=1", "--raw")
    try:
        terminal.until("> ")
        assert terminal.end_by("\x04") == 0
        assert "Traceback" not in terminal.told
    finally:
        terminal.close()


# In this process


class Fails(TextEnv):
    """A grader that cannot."""

    def problem(self, seed: int, split: str | None = None) -> Problem:
        return Problem(prompt="?", gold="7", solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        if answer == "7":
            return Reward(parts={"correct": 1.0}, error="well\x07 done")
        raise ValueError("no [red]number")


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, env: TextEnv, said: list[str], *options: str
) -> None:
    lines = iter(said)
    monkeypatch.setattr(plugins, "make", lambda name, **_: env)
    monkeypatch.setattr("builtins.input", lambda _="": next(lines))
    monkeypatch.setattr(sys, "argv", ["play", "--seed=0", *options])
    play.main()


def test_a_grader_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch, Fails(), ["8", ".", "", "7", ".", "q"], "--raw", "--solution")
    told = capsys.readouterr().out
    failed, graded = rewards(told)
    assert failed["correct"] == ["-", "1", "-"]
    assert (
        "valid: no, the grader failed, and nothing is learnt from it: ValueError: no [red]" in told
    )
    assert graded["correct"] == ["1", "1", "1"]
    assert "valid: yes\ndetail: well\\x07 done\n" in told
    assert told.count("The problem has no solution.") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["env=math", "env.levle=2"], ".*levle.* Did you mean 'level'[?]"),
        (["env.split=eval"], "env.split=eval. Here it is an option: --split eval."),
        (["--seed=-1"], "--seed=-1. Allowed: 0 or more."),
        (["model.path=no/such/model/here"], "model.path=no/such/model/here: .*"),
    ],
)
def test_other_mistakes_are_one_line_too(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["play", *options])
    with pytest.raises(SystemExit) as exit_:
        play.main()
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(f"grpo_envs: {message}\n", errors), errors


class Strange(TextEnv):
    """Says what would clear the screen."""

    max_turns = 2

    def problem(self, seed: int, split: str | None = None) -> Problem:
        return Problem(prompt="[red]3+4[/nope] \x1b[2J", gold="7", solution="\x1b]0;7")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(parts={"correct": 0.0}), observation="no\x07", done=False)


@pytest.mark.parametrize("how", ["--raw", "model=qwen"])
def test_strange_texts_do_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch, Strange(), ["7", ".", "7", ".", "\x1b", "q"], how, "--solution")
    told = capsys.readouterr().out
    assert "[red]3+4[/nope] \\x1b[2J" in told
    assert told.count("no\\x07") == 2
    assert told.count("\\x1b]0;7") == 2
    assert not {"\x1b", "\x07"} & set(told)
    assert told.count("<|im_start|>user\nno") == (how == "model=qwen")


# What of a model is needed


def test_a_chat_needs_no_weights(tmp_path: Path, tiny: Policy) -> None:
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    chat = load_chat(str(tmp_path))
    assert chat.eos_ids == tiny.eos_ids
    assert chat.context_length == tiny.context_length < NO_LIMIT
    assert chat.decode((*tiny.eos_ids, 65)) == tiny.decode((*tiny.eos_ids, 65))
    assert chat.render("3+4?", "Think.") == tiny.render("3+4?", "Think.")
    assert chat.follow_up("no", ended=True) == tiny.follow_up("no", ended=True)


def test_end_tokens_are_those_of_the_model(tmp_path: Path) -> None:
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    own = load_chat(str(tmp_path)).eos_ids[0]
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [17, own]}))
    assert load_chat(str(tmp_path)).eos_ids == (own, 17)
    generation.unlink()  # then the config's: as when the model is loaded
    config = AutoConfig.from_pretrained(tmp_path)
    config.eos_token_id = 23
    config.save_pretrained(tmp_path)
    assert load_chat(str(tmp_path)).eos_ids == (own, 23)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.*Give model\.path=FOLDER"):
        load_chat(str(tmp_path))


def test_a_prompt_that_a_run_would_leave_out_is_said_to_be_one(
    run_play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(prompt="7" * 2100, gold="1", solution="1")
    monkeypatch.setattr(MathEnv, "problem", lambda *_: problem)
    code, out, err = run_play("1\n.\nq\n", "env=math", "--seed", "3")
    assert (code, err) == (0, "")
    assert re.search(
        r"This prompt has 2,1\d\d tokens and leaves no room for an answer in the model's context "
        r"of 2,048: a run leaves it out \(env.too_long\)\.",
        out,
    )

"""Every command ends with one line after a mistake, and quietly after Ctrl-C."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.runtime.terminal import exit_on_error

MISTAKES = {
    "check": ["env=maths"],
    "compare": ["nowhere"],
    "doctor": ["nowhere"],
    "evaluate": ["env=maths"],
    "explain": ["nowhere"],
    "export": ["nowhere", "--out", "there"],
    "new_env": ["Bad Name"],
    "engine": ["--model", "nowhere", "--port", "70000"],
    "export_data": ["verl", "env=maths", "--out", "data"],
    "plan": ["env=maths"],
    "play": ["env=maths"],
    "plot": ["nowhere"],
    "report.__main__": ["nowhere"],
    "serve": ["env=maths"],
    "sweep_report": ["nowhere"],
}
"""Each command but `run` and `sft`, which is one, with what it refuses."""
STOPPED = {
    "engine": "grpo_envs: ended.",
    "evaluate": "grpo_envs: stopped; the same command continues from here.",
    "serve": "grpo_envs: Ctrl-C: ended.",
}
"""What commands say after Ctrl-C; the others end the line."""
EVERY_COMMAND = pytest.mark.parametrize("name", MISTAKES)


def end_of(main: Callable[[], None]) -> object:
    """The exit code."""
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


@EVERY_COMMAND
def test_a_mistake_is_one_line_and_exit_code_2(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *MISTAKES[name]])
    assert end_of(import_module(f"grpo_envs.{name}").main) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("grpo_envs: ")


@EVERY_COMMAND
def test_ctrl_c_is_exit_code_130_without_a_traceback(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for method in ("parse_args", "parse_intermixed_args"):  # the first thing that each calls
        monkeypatch.setattr(argparse.ArgumentParser, method, interrupted)
    assert end_of(import_module(f"grpo_envs.{name}").main) == 130
    assert capsys.readouterr().err == f"{STOPPED.get(name, '')}\n"


def test_the_commands_are_all_there() -> None:
    files = Path(import_module("grpo_envs").__file__ or "").parent.glob("*.py")
    commands = {path.stem for path in files if 'if __name__ == "__main__"' in path.read_text()}
    assert commands - {"run", "sft"} == {name for name in MISTAKES if "." not in name}


def test_an_error_that_is_not_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error():
        raise ZeroDivisionError


def test_a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, exit_on_error():
        (tmp_path / "nowhere" / "page.html").write_text("")
    assert stopped.value.code == 2
    line = f"grpo_envs: {tmp_path}/nowhere/page.html: No such file or directory.\n"
    assert capsys.readouterr().err == line
    with pytest.raises(ConnectionResetError), exit_on_error():
        raise ConnectionResetError


def test_what_ends_well_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with exit_on_error("stopped."):
        pass
    with pytest.raises(SystemExit), exit_on_error("stopped."):
        raise ConfigError("seed=-1. Allowed: 0 or more.")
    assert capsys.readouterr().err == "grpo_envs: seed=-1. Allowed: 0 or more.\n"

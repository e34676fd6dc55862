"""What takes long shows itself, after a while and where somebody looks."""

import io
import sys
import threading
import time
from collections.abc import Callable

import pytest
import rich
from rich.console import Console

from grpo_envs.runtime import progress
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.progress import phase
from grpo_envs.runtime.terminal import named_lines


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases show themselves at once, and no earlier than that."""
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    monkeypatch.delenv(progress.SWITCH)


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def timers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_without_a_terminal_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(progress, "PATIENCE", 0.5)
    with phase("reading rows", 9) as reading:
        reading.advance(4)
        until(lambda: said.getvalue() != "")
        reading.advance(5)
    assert said.getvalue() == "reading rows (4 of 9) ...\n"


def test_what_is_quick_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    with phase("loading"):
        assert timers()
    until(lambda: not timers())
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_how_far_it_is_and_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with phase("answering [b]problems", 3) as answering:
        until(lambda: "answering [b]problems" in shown.getvalue())
        with phase("starting the sandbox"):  # one within the other
            until(lambda: "starting the sandbox" in shown.getvalue())
        answering.advance(2)
        until(lambda: "2 of 3" in shown.getvalue())
        answering.advance(2)  # of a conversation
        until(lambda: "4 of 4" in shown.getvalue())
    assert shown.getvalue().endswith("\x1b[2K")  # the line is erased


def test_several_threads_that_do_the_same_say_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    with phase("starting the sandbox"), phase("starting the sandbox"):
        until(lambda: said.getvalue() != "")
        time.sleep(0.1)
    assert said.getvalue() == "starting the sandbox ...\n"


@pytest.mark.parametrize(("name", "value"), [(progress.SWITCH, "0"), ("LOCAL_RANK", "1")])
def test_others_are_silent(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with phase("loading"):
        assert not timers()
        time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


def test_lines_have_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with named_lines("env=math seed=0"):
        print("step 1", end=" ", flush=True)
        print("of 2\nstep 2 of 2")
        sys.stderr.write("careful\n")
        assert not sys.stdout.isatty()
        assert not rich.get_console().is_terminal
        rich.get_console().print("a table\nof two lines")
        print("the end", end="")
    print("no name")
    said = capsys.readouterr()
    name = "[env=math seed=0]"
    lines = ["step 1 of 2", "step 2 of 2", "a table", "of two lines", "the end"]
    assert said.out.splitlines() == [*(f"{name} {line}" for line in lines), "no name"]
    assert said.err == f"{name} careful\n"


def test_loading_a_model_counts_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_policy.models import TINY, load_policy

    seen: list[tuple[str, int, int]] = []
    end = progress.Phase.end

    def ended(self: progress.Phase) -> None:
        seen.append((self.what, self.done, self.total))
        end(self)

    monkeypatch.setattr(progress.Phase, "end", ended)
    load_policy(str(TINY))
    ((what, done, total),) = seen
    assert what == f"loading {shown(TINY)}"
    assert done == total > 5

"""`python -m grpo_envs.serve`: its mistakes, its end, and OpenEnv's own validation of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from grpo_envs import serve

SERVES = pytest.mark.skipif(
    find_spec("openenv") is None, reason='needs pip install -e ".[openenv]"'
)
Server = subprocess.Popen[str]
Start = Callable[..., tuple[Server, int]]
HANGS = "```python\nwhile True:\n    pass\n```"


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    """Give a command that is a mistake; return its one line."""
    monkeypatch.setattr(sys, "argv", ["serve", *options])
    with pytest.raises(SystemExit) as stopped:
        serve.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--port", "70000"], "--port=70000. Allowed: 0 to 65535."),
        (["--sessions", "0"], "--sessions=0. Allowed: 1 or more."),
        (["--timeout", "nan"], "--timeout=nan. Allowed: above 0, up to 86400."),
        (["env=maths"], "Did you mean 'math'?"),
        (["env=math", "env.levl=2"], "Did you mean 'level'?"),
        pytest.param(["--host", "no.such.host.invalid"], "--host no.such.host", marks=SERVES),
    ],
)
def test_a_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    line: str,
) -> None:
    assert line in refused(monkeypatch, capsys, *options)


def test_without_the_extra_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openenv", None)
    line = refused(monkeypatch, capsys, "env=math")
    assert line == 'grpo_envs: serving needs openenv: pip install -e ".[openenv]"'


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server at a free port and wait until it is ready; kill it at the end."""
    made: list[Server] = []

    def started(*options: str) -> tuple[Server, int]:
        # No fork of a prepared process: the place of OpenEnv has the light core alone.
        process = subprocess.Popen(
            [sys.executable, "-m", "grpo_envs.serve", *options, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        made.append(process)
        assert process.stdout
        line = process.stdout.readline()
        ready = re.fullmatch(
            r"env=\w+ at http://127\.0\.0\.1:(\d+), \d+ sessions; Ctrl-C ends it\.\n", line
        )
        assert ready, [line, *process.communicate()]
        return process, int(ready[1])

    yield started
    for process in made:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def below(pid: int) -> list[int]:
    """The processes that a process has started, and what these have."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    return children + [found for child in children for found in below(child)]


def is_running_a_program(pid: int) -> bool:
    """Whether a zygote of the sandbox has forked."""
    commands = {each: Path(f"/proc/{each}/cmdline").read_text() for each in below(pid)}
    python = [each for each, command in commands.items() if command.startswith(sys.executable)]
    return any(below(each) for each in python if "zygote.py" in commands[each])


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds: the server's own limits are shorter."""
    until = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@SERVES
def test_sigterm_ends_it_cleanly_in_the_midst_of_a_grading(start: Start) -> None:
    from websockets.sync.client import connect

    process, port = start("env=code", "env.wall_s=600")
    with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=60) as player:
        player.send(json.dumps({"type": "reset", "data": {"seed": 0}}))
        player.recv(60)
        player.send(json.dumps({"type": "step", "data": {"message": HANGS}}))
        wait_for(lambda: is_running_a_program(process.pid))
        sandbox = below(process.pid)
        process.send_signal(signal.SIGTERM)
        assert json.loads(player.recv(60))["data"]["message"] == "the server ends."
        out, err = process.communicate(timeout=300)  # sooner than the program
    assert (process.returncode, out, err) == (0, "", "")
    wait_for(lambda: not any(map(is_alive, sandbox)))


@SERVES
def test_it_is_valid_by_openenvs_own_check_and_keeps_its_port_until_ctrl_c(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from openenv.cli._validation import validate_running_environment

    process, port = start("env=math", "env.level=2", "--sessions", "2")
    report = validate_running_environment(f"http://127.0.0.1:{port}")
    assert report["passed"]
    assert [each["id"] for each in report["criteria"] if each["passed"]] == [
        *("openapi_version_available", "health_endpoint", "metadata_endpoint"),
        *("schema_endpoint", "mcp_endpoint", "mode_endpoint_consistency"),
    ]
    line = refused(monkeypatch, capsys, "env=math", "--port", str(port))
    assert line == (
        f"grpo_envs: --host 127.0.0.1 --port {port}: Address already in use. Choose another."
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "grpo_envs: Ctrl-C: ended.\n")

"""MCP servers as tools: one session an episode, servers that end or hang, one that is shared."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_envs import Problem, Reply, ToolEnv, Turn, write_call
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, ToolFailed
from tests.env.test_tool_env import Shop

BASKET = str(Path(__file__).parents[1] / "support" / "mcp_basket.py")
ADD = write_call("add", {"item": "apple"})
PROCESS = write_call("process", {})


class Basket(Shop):
    """Apples cost 3."""

    def __init__(self, *arguments: str, shared: bool = False, **keywords: Any) -> None:
        self.tools = [grpo_envs.mcp("python", BASKET, *arguments, shared=shared)]
        super().__init__(**keywords)

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        return ADD if len(turns) < 2 else problem.solution


def play(env: ToolEnv, *actions: str) -> list[Reply]:
    problem = env.problem(0)
    turns: list[Turn] = []
    replies = []
    for action in actions:
        (reply,) = env.reply_batch([problem], [[*turns, Turn(action=action)]])
        turns.append(Turn(action=action, observation=reply.observation))
        replies.append(reply)
    return replies


def said(env: ToolEnv, *actions: str) -> list[str]:
    return [reply.reward.error or reply.observation for reply in play(env, *actions)]


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def ends(process: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


def test_every_episode_has_a_session_of_its_own(tmp_path: Path) -> None:
    env = Basket(str(tmp_path / "notes"))
    assert [tool.name for tool in env.problem(0).tools] == ["add", "process", "wait", "end"]
    car = write_call("add", {"item": "car"}) + write_call("add", {"item": 3})
    assert said(env, ADD, ADD + ADD, car) == [
        "3",
        "6\n9",
        "error: no such item: car\nerror: add: item: 3 is not of type 'string'",
    ]
    assert said(env, ADD, "<answer>1</answer>") == ["3", ""]
    env.close()
    notes = Counter(line.split()[0] for line in (tmp_path / "notes").read_text().splitlines())
    assert notes == {"begins": 3, "ends": 3}  # one of them was asked for its tools


def test_members_of_a_group_share_no_basket() -> None:
    groups = GroupVectorEnv(Basket(turns=3), num_envs=2, group_size=2)
    groups.reset(seed=[1])
    assert groups.step([ADD, ADD])[0] == ("3", "3")
    assert groups.step([ADD, PROCESS])[0][0] == "6"
    groups.close()


def test_a_stateful_server_keeps_every_promise(tmp_path: Path) -> None:
    env = Basket(str(tmp_path / "notes"), "calm", turns=3)
    grpo_envs.check_env(env, problems=2)
    env.close()


def test_a_server_that_ends_in_a_call_makes_the_reward_invalid_and_the_next_episode_goes() -> None:
    env = Basket()
    (first, broken) = said(env, ADD, write_call("end", {}))
    assert first == "3"
    assert broken == (
        f"ToolFailed: MCP server python {BASKET} failed in end: Connection closed (the basket "
        "broke)"
    )
    assert said(env, ADD) == ["3"]
    env.close()


def test_a_server_that_is_killed_between_turns() -> None:
    env = Basket()
    (first,) = play(env, PROCESS)
    os.kill(int(first.observation), signal.SIGKILL)
    turns = [Turn(action=PROCESS, observation=first.observation), Turn(action=ADD)]
    (reply,) = env.reply_batch([env.problem(0)], [turns])
    assert reply.done
    assert "Connection closed" in reply.reward.error
    assert said(env, ADD) == ["3"]
    env.close()


def test_a_call_that_hangs_ends_its_session() -> None:
    env = Basket(tool_limits={"call_s": 0.3})
    (reply,) = play(env, write_call("wait", {"seconds": 30}))
    assert reply.reward.error.endswith("tool wait took longer than 0.3 s: its session is lost")
    assert said(env, ADD) == ["3"]
    begin = time.monotonic()
    env.close()
    assert time.monotonic() - begin < 9


def test_a_shared_server_serves_all_episodes_and_is_started_again() -> None:
    env = Basket(shared=True)
    assert said(env, ADD, ADD) == ["3", "6"]
    assert said(env, ADD) == ["9"]
    (process,) = said(env, PROCESS)
    assert "Connection closed" in said(env, write_call("end", {}))[0]
    (other,) = said(env, PROCESS)
    assert other != process
    assert said(env, ADD) == ["3"]
    env.close()
    assert ends(int(other))


RUN = """
import os, sys, time
from tests.env.test_mcp import Basket, PROCESS, said

print(*said(Basket(), PROCESS), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them, Linux's alone")
def test_a_server_ends_with_a_run_that_is_killed() -> None:
    pytest.importorskip("mcp")
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=root, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        process = int(run.stdout.readline())
        os.kill(process, signal.SIGSTOP)  # it cannot see that its input ends
        assert alive(process)
        run.kill()
    assert ends(process)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["no-such-program"], "no-such-program: No such file or directory"),
        (["python", "-c", "import sys; sys.exit('out of apples')"], "(out of apples)."),
        (["http://127.0.0.1:9/mcp"], "All connection attempts failed"),
        (["python", "-c", "import time; time.sleep(60)"], "did not answer within 0.5 s."),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_server_that_cannot_be_used_is_one_line(command: list[str], says: str) -> None:
    start_s = 0.5 if "0.5 s" in says else 30.0
    made = type("Made", (Shop,), {"tools": [grpo_envs.mcp(*command, start_s=start_s)]})
    with pytest.raises(ConfigError, match=r"^MCP server ") as caught:
        made()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_without_tools_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^MCP server python .* bare has no tools\.$"):
        Basket(str(tmp_path / "notes"), "bare")


def test_a_bare_server_is_no_list_of_tools() -> None:
    made = type("Made", (Shop,), {"tools": grpo_envs.mcp("python", "server.py")})
    with pytest.raises(ConfigError, match=r"^Made\.tools=MCP server python server\.py\. Allowed"):
        made()


def test_a_program_that_prints_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    hello = grpo_envs.mcp("python", "-c", "print('hello')")
    made = type("Made", (Shop,), {"tools": [hello]})
    with pytest.raises(ConfigError, match="cannot be used: Connection closed"):
        made()
    (record,) = [record for record in caplog.records if record.name.startswith("mcp")]
    assert "wrote a line to stdout that is no MCP message" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(
    ("command", "keywords", "message"),
    [
        ((), {}, "mcp=(). Allowed: a program and its arguments, or a URL."),
        ((3,), {}, "mcp=(3,). Allowed: a program and its arguments, or a URL."),
        (("python", ""), {}, "mcp=('python', ''). Allowed: a program and its arguments"),
        (
            ("python server.py",),
            {},
            "mcp=('python server.py',). Allowed: one argument per word, as in mcp('python', 'serv",
        ),
        (("x",), {"env": "A=1"}, "mcp: env=A=1. Allowed: {NAME: text}."),
        (("x",), {"env": {"A": 1}}, "mcp: env={'A': 1}. Allowed: {NAME: text}."),
        (("x",), {"start_s": 0}, "mcp: start_s=0. Allowed: seconds above 0."),
        (("x",), {"start_s": "2"}, "mcp: start_s=2. Allowed: seconds above 0."),
        (("x",), {"shared": "no"}, "mcp: shared=no. Allowed: True or False."),
    ],
    ids=str,
)
def test_what_is_no_server_is_one_line(
    command: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.mcp(*command, **keywords)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'grpo_envs.mcp needs mcp: pip install -e "\.\['):
        grpo_envs.mcp("python", "server.py")


SDK = '''
import sys
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("basket", log_level="ERROR")
basket = []

@server.tool()
def add(item: str) -> int:
    """Put it in, and count."""
    if item == "car":
        raise ToolError("no car")
    basket.append(item)
    return len(basket)

if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[1]))
else:
    server.run("stdio")
'''


@pytest.mark.slow
def test_a_server_of_the_official_sdk_over_stdio_and_http(tmp_path: Path) -> None:
    """Over HTTP there is one process: its state is shared, whoever asks."""
    (tmp_path / "server.py").write_text(SDK)
    program = [sys.executable, str(tmp_path / "server.py")]
    car = write_call("add", {"item": "car"})
    stdio = type("Stdio", (Shop,), {"tools": [grpo_envs.mcp(*program)]})()
    assert said(stdio, ADD + ADD, car) == ["1\n2", "error: Error executing tool add: no car"]
    assert said(stdio, ADD) == ["1"]
    stdio.close()
    port = "8379"
    with subprocess.Popen([*program, port]) as served:
        try:
            http = None
            for _ in range(60):
                try:
                    server = grpo_envs.mcp(f"http://127.0.0.1:{port}/mcp", start_s=5)
                    http = type("Http", (Shop,), {"tools": [server]})()
                    break
                except ConfigError:
                    time.sleep(0.5)
            assert http is not None
            assert said(http, ADD + ADD, car) == ["1\n2", "error: Error executing tool add: no car"]
            assert said(http, ADD) == ["3"]
            served.kill()
            served.wait()
            (reply,) = play(http, ADD)
            assert reply.reward.error.startswith(ToolFailed.__name__)
            http.close()
        finally:
            served.kill()

"""An environment over the wire: OpenEnv's server, spoken to as any client would."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from socket import SHUT_RDWR
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import grpo_envs
from grpo_envs import Problem, Reply, Reward, TextEnv, Turn
from grpo_envs.env.function import Function
from grpo_envs.errors import ConfigError
from grpo_envs.interop.served import Served
from grpo_envs.interop.session import Session

pytest.importorskip("openenv", reason='needs pip install -e ".[openenv]"')
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from grpo_envs.env.conformance import check_promises
from grpo_envs.interop import openenv
from tests.support import openenv_stand_in as stand_in
from tests.support.door_answers import ENVIRONMENTS, cases

SECRET = "the gold nobody sees"


class EchoEnv(TextEnv):
    """Answers say what happens to them."""

    parts: ClassVar[dict[str, float]] = {"correct": 1.0, "short": -0.1}
    max_turns = 3

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.go_on = threading.Event()
        self.inside, self.most_inside = 0, 0

    def draw(self, rng: random.Random, split: str) -> Problem:
        prompt = f"{split} {rng.random()} \udc80"
        return Problem(prompt=prompt, gold=SECRET, solution="right", meta={"level": 1})

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        said = turns[-1].action
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        if said == "wait":
            assert self.go_on.wait(10)
        if said == "doze":
            time.sleep(0.05)
        self.inside -= 1
        if said == "raise":
            raise ValueError(f"{problem.gold} \ud800 broke")
        if said == "exit":
            raise SystemExit(problem.gold)
        parts = {"correct": 1 / 3, "short": 1 / len(said or "x")}
        done = said == "right" or len(turns) == 3
        return Reply(reward=Reward(parts=parts), observation=f"so {said}", done=done)


class UndrawnEnv(EchoEnv):
    """Its problems cannot be drawn."""

    def draw(self, rng: random.Random, split: str) -> Problem:
        raise KeyError(SECRET)


@contextmanager
def serving(env: TextEnv, *, sessions: int = 8, seconds: float = 20.0) -> Iterator[str]:
    """Serve in a thread; yield host:port."""
    ready = threading.Event()
    server = openenv.Server(Served("echo", env, seconds), sessions, ready.set)
    with closing(openenv.listen("127.0.0.1", 0)) as at:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            assert ready.wait(20)
            yield "{}:{}".format(*at.getsockname())
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def env() -> EchoEnv:
    return EchoEnv()


@pytest.fixture(scope="module")
def at(env: EchoEnv) -> Iterator[str]:
    with serving(env) as address:
        yield address


def session(at: str) -> ClientConnection:
    return connect(f"ws://{at}/ws", open_timeout=20)


def ask(socket: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    """Send a message; return the answer's data, the observation's fields among them."""
    socket.send(json.dumps({"type": kind} if kind == "state" else {"type": kind, "data": data}))
    answer = json.loads(socket.recv(20))["data"]
    return {**answer.pop("observation", {}), **answer}


def at_once(at: str, answers: Sequence[str]) -> list[dict[str, Any]]:
    """Answer problem 0 in as many sessions; send all answers before any reply is read."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(session(at)) for _ in answers]
        for socket in sockets:
            ask(socket, "reset", seed=0)
        for socket, answer in zip(sockets, answers, strict=True):
            socket.send(json.dumps({"type": "step", "data": {"message": answer}}))
        return [json.loads(socket.recv(30))["data"] for socket in sockets]


def test_an_episode_is_as_in_process(at: str) -> None:
    here = EchoEnv(split="eval")
    prompt, about = here.reset(seed=3)
    with session(at) as socket:
        began = ask(socket, "reset", seed=3, split="eval", episode_id="mine")
        assert began["prompt"] == prompt.replace("\udc80", "\\udc80")
        assert began["meta"] == about["meta"]
        assert (began["reward"], began["done"], began["answers_left"]) == (None, False, 3)
        for answer in ("", "a \ud800 b", "c" * 7):
            observation, total, terminated, truncated, info = here.step(answer)
            got = ask(socket, "step", message=answer)
            assert got["prompt"] == observation.replace("\ud800", "\\ud800")
            assert got["reward"].hex() == total.hex()
            assert got["done"] == (terminated or truncated)
            assert {f"reward/{k}": x.hex() for k, x in got["parts"].items()} == {
                k: x.hex() for k, x in info.items() if k.startswith("reward/")
            }
        assert got["metadata"] == {"valid": True, "error": "", "terminated": True}
        state = ask(socket, "state")
    assert state == {
        **{"episode_id": "mine", "step_count": 3, "env": "echo", "split": "eval", "seed": 3}
    }


def test_it_is_ready_once_connections_are_answered() -> None:
    """Before, a client waits in the handshake: on a busy machine longer than it may."""
    answered: list[bool] = []

    def ready() -> None:
        answered.append(server.started)
        server.should_exit = True

    server = openenv.Server(Served("echo", EchoEnv(), 20.0), 8, ready)
    with closing(openenv.listen("127.0.0.1", 0)) as at:
        server.run(sockets=[at])
    assert answered == [True]


def test_a_failed_grading_has_no_reward(at: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its cause is in the server's log and not sent: it may quote the gold."""
    told = "grading an answer to train problem 0 failed; the server's log says why"
    for answer, cause in (
        ("raise", rf"{SECRET} \ud800 broke"),
        ("exit", f"SystemExit('{SECRET}')"),
    ):
        with session(at) as socket:
            ask(socket, "reset", seed=0)
            got = ask(socket, "step", message=answer)
        assert (got["reward"], got["parts"], got["done"]) == (None, {}, True)
        assert got["metadata"] == {"valid": False, "error": told, "terminated": True}
        assert cause in caplog.messages[-1]


def test_a_problem_that_cannot_be_drawn_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving(UndrawnEnv()) as at, session(at) as socket:
        told = ask(socket, "reset", seed=4)["message"]
    assert told == "env=echo: drawing train problem 4 failed; the server's log says why."
    assert SECRET in caplog.messages[-1]


def test_whole_numbers_are_their_digits(at: str) -> None:
    with session(at) as socket:
        ask(socket, "reset", seed=0)
        assert ask(socket, "step", message=42)["prompt"] == "so 42"


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        pytest.param("reset", {"seed": -1}, "seed=-1. Allowed: a whole number", id="seed"),
        pytest.param("reset", {"seed": True}, "seed=True. Allowed: a whole number", id="bool"),
        pytest.param("reset", {"seed": "a\ud800"}, "seed='a\\ud800'. Allowed", id="surrogates"),
        pytest.param("reset", {"sed": 1}, "Did you mean 'seed'?", id="keyword"),
        pytest.param("reset", {"split": "tain"}, "Did you mean 'train'?", id="split"),
        pytest.param("step", {"message": "a"}, "no episode in this session", id="step"),
    ],
)
def test_a_mistake_is_one_line_and_the_session_goes_on(
    at: str, kind: str, data: dict[str, Any], line: str
) -> None:
    with session(at) as socket:
        refused = ask(socket, kind, **data)
        assert line in refused["message"]
        assert "\n" not in refused["message"]
        assert ask(socket, "reset", seed=1)["answers_left"] == 3


@pytest.mark.parametrize("message", [None, 1.5, True, ["a"], {"b": "\ud800"}])
def test_what_is_no_text_is_refused(at: str, message: Any) -> None:
    with session(at) as socket:
        ask(socket, "reset", seed=1)
        refused = ask(socket, "step", message=message)["message"]
        assert refused == f"message={type(message).__name__}. Allowed: a text."
        assert ask(socket, "step", message="a")["prompt"] == "so a"


def test_an_episode_that_is_over_takes_no_step(at: str) -> None:
    with session(at) as socket:
        ask(socket, "reset", seed=1)
        assert ask(socket, "step", message="right")["answers_left"] == 0
        assert "the episode is over: reset first" in ask(socket, "step", message="a")["message"]


def test_without_a_session_there_are_resets_only(at: str) -> None:
    def post(path: str, data: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(data).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"http://{at}{path}", body, headers)) as answer:
            return dict(json.load(answer))

    assert post("/reset", {"seed": 3})["observation"]["answers_left"] == 3
    with pytest.raises(HTTPError) as caught:
        post("/step", {"action": {"message": "a"}})
    assert caught.value.code == 400
    assert "reset first" in json.load(caught.value)["detail"]


def test_nothing_that_is_sent_holds_the_gold(at: str) -> None:
    with connect(f"ws://{at}/ws") as socket:
        said = []
        for message in (
            {"type": "reset", "data": {"seed": 1}},
            {"type": "state"},
            {"type": "step", "data": {"message": "raise"}},
            {"type": "state"},
        ):
            socket.send(json.dumps(message))
            said.append(socket.recv(20))
    for path in ("/state", "/metadata", "/schema", "/openapi.json"):
        with urlopen(f"http://{at}{path}") as answer:
            said.append(answer.read().decode())
    assert not [text for text in said if SECRET in text]


def test_a_session_that_ends_gives_its_place_back() -> None:
    with serving(EchoEnv(), sessions=2) as at, session(at) as one, session(at) as other:
        ask(one, "reset", seed=0)
        ask(other, "reset", seed=0)
        with session(at) as refused:
            told = json.loads(refused.recv(20))["data"]
        assert "at capacity: 2/2 sessions" in told["message"]
        assert "\n" not in told["message"]
        one.socket.shutdown(SHUT_RDWR)  # without a word
        wait_for(lambda: "answers_left" in first_answer(at))


def first_answer(at: str) -> dict[str, Any]:
    with session(at) as socket:
        return ask(socket, "reset", seed=0)


def wait_for(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_slow_grading_blocks_no_other_session(env: EchoEnv, at: str) -> None:
    env.go_on.clear()
    with session(at) as slow, session(at) as quick:
        ask(slow, "reset", seed=0)
        ask(quick, "reset", seed=0)
        slow.send(json.dumps({"type": "step", "data": {"message": "wait"}}))
        wait_for(lambda: env.inside == 1)
        assert ask(quick, "step", message="a")["prompt"] == "so a"
        assert env.inside == 1
        env.go_on.set()
        assert json.loads(slow.recv(20))["data"]["observation"]["prompt"] == "so wait"


def test_a_grading_that_does_not_end_is_invalid_and_the_server_ends_all_the_same() -> None:
    env = EchoEnv()
    with serving(env, seconds=0.3) as at, session(at) as socket:
        ask(socket, "reset", seed=0)
        got = ask(socket, "step", message="wait")
    assert (got["reward"], got["done"]) == (None, True)
    assert got["metadata"]["error"] == "the grading took longer than 0.3 s"
    assert env.inside == 1
    env.go_on.set()


def test_a_server_that_ends_tells_the_sessions_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a busy machine needs for the message."""
    step = Session.step

    async def slow(session: Session, message: Any) -> Any:
        try:
            return await step(session, message)
        finally:
            await asyncio.sleep(1.0)

    monkeypatch.setattr(Session, "step", slow)
    env = EchoEnv()
    with ExitStack() as later:
        with serving(env) as at:
            socket = later.enter_context(session(at))
            idle = later.enter_context(session(at))
            ask(socket, "reset", seed=0)
            ask(idle, "reset", seed=0)
            socket.send(json.dumps({"type": "step", "data": {"message": "wait"}}))
            wait_for(lambda: env.inside == 1)
        assert json.loads(socket.recv(20))["data"]["message"] == "the server ends."
        for each in (socket, idle):
            with pytest.raises(ConnectionClosed) as ended:
                each.recv(20)
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1012  # the service restarts
    env.go_on.set()


@pytest.mark.parametrize(("concurrency", "most"), [("auto", 4), ("none", 1)])
def test_an_environment_that_grades_in_turn_is_asked_by_one_at_a_time(
    concurrency: str, most: int
) -> None:
    env = EchoEnv()
    env.concurrency = concurrency
    with serving(env) as at:
        at_once(at, ["doze"] * 4)
    assert 1 <= env.most_inside <= most
    assert env.most_inside == 1 or concurrency != "none"


@grpo_envs.batched
def ranked(answers: Sequence[str], **_: Any) -> list[float]:
    return [0.0 for _ in answers]


def test_what_cannot_be_served_exactly_is_refused() -> None:
    together = EchoEnv()
    together._functions = {"ranked": Function("ranked", ranked, whole=True)}
    with pytest.raises(ConfigError, match="takes all answers of a step at once"):
        Served("echo", together, 1.0)
    levels = grpo_envs.make("mixture", of={"math": {"env": "math", "levels": [1, 2]}})
    with pytest.raises(ConfigError, match="follow success"):
        Served("mixture", levels, 1.0)
    fixed = grpo_envs.make("mixture", of={"math": 1, "countdown": 1})
    assert Served("mixture", fixed, 1.0).env is fixed


def test_hostile_programs_are_graded_in_the_sandbox_side_by_side() -> None:
    code = grpo_envs.make("code", wall_s=2.0)
    problem = code.problem(0)
    hostile = "```python\nimport os\nos.kill(os.getppid(), 9)\nwhile True: pass\n```"
    episode = [[Turn(action=hostile)]]
    (alone,) = code.reply_batch([problem], episode)
    with closing(code), serving(code) as at:
        got = at_once(at, [hostile, problem.solution, hostile])
    top = code.range_of(problem)[1]
    assert [each["reward"] for each in got] == [alone.reward.total, top, alone.reward.total]


class EndlessEnv(EchoEnv):
    """Never ends an episode itself."""

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(parts={"correct": 0.5}), done=False)


def test_turns_end_an_episode_and_a_part_that_is_left_out_is_0() -> None:
    with serving(EndlessEnv()) as at, session(at) as socket:
        ask(socket, "reset", seed=0)
        got = [ask(socket, "step", message="a") for _ in range(3)]
    assert [each["done"] for each in got] == [False, False, True]
    assert [each["answers_left"] for each in got] == [2, 1, 0]
    assert got[0]["parts"] == {"correct": 0.5, "short": 0.0}


def test_openenvs_own_client_plays(at: str) -> None:
    from openenv import GenericEnvClient

    here = EchoEnv()
    here.reset(seed=5)
    with GenericEnvClient(base_url=f"http://{at}").sync() as client:
        client.reset(seed=5)
        result = client.step({"message": "abc"})
    assert result.reward == here.step("abc")[1]
    assert result.observation["parts"] == {"correct": 1 / 3, "short": 1 / 3}
    assert not result.done


SCRIPT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("step", {"message": "a"}),
    ("reset", {"seed": 3, "split": "eval"}),
    ("step", {"message": "a \ud800"}),
    ("step", {"message": "raise"}),
    ("step", {"message": "a"}),
    ("reset", {"sed": 3}),
    ("reset", {"seed": 4, "split": "train"}),
    ("step", {"massage": "a"}),
    ("step", {"message": "right"}),
)
"""Messages of a session; some of them are mistakes."""


def told(url: str) -> list[Any]:
    """What a server answers to the script, without what pydantic writes of a mistake."""
    said = []
    with connect(f"{url}/ws", open_timeout=20) as socket:
        for kind, data in SCRIPT:
            socket.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(socket.recv(20))
            answer["data"].pop("errors", None)
            said.append(answer)
    return said


@pytest.mark.slow
def test_the_stand_in_of_other_tests_answers_as_openenvs_server(at: str) -> None:
    with stand_in.serving(stand_in.ours(EchoEnv(), room=1)) as url:
        assert told(url) == told(f"ws://{at}")
        fields = []
        for base in (url.replace("ws", "http", 1), f"http://{at}"):
            with urlopen(f"{base}/schema") as answer:
                schema = json.load(answer)
            fields.append({*schema["observation"]["properties"]})
            assert {*schema["action"]["properties"]} == {"message", "metadata"}
            assert schema["action"]["required"] == ["message"]
        assert fields[0] == fields[1]
        with connect(f"{url}/ws") as one, connect(f"{url}/ws") as other:
            ask(one, "reset", seed=0)
            refused = json.loads(other.recv(20))
        with serving(EchoEnv(), sessions=1) as real, session(real) as one, session(real) as other:
            ask(one, "reset", seed=0)
            full = json.loads(other.recv(20))
        assert refused["data"]["code"] == full["data"]["code"] == "CAPACITY_REACHED"


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_on_the_real_server_earns_what_it_earns_in_process(name: str) -> None:
    """`env=openenv` on OpenEnv's own server: rewards and parts to the bit, conversations, too."""
    here = grpo_envs.make(name)
    with closing(here), closing(grpo_envs.make(name)) as env, serving(env) as at:
        there = grpo_envs.make("openenv", url=f"http://{at}", sessions=2)
        for case in cases(name, 20):
            assert there.reset(seed=case.seed) == here.reset(seed=case.seed)
            for answer in case.answers:
                own, theirs = here.step(answer), there.step(answer)
                assert repr(theirs[:4]) == repr(own[:4])
                assert {**theirs[4], "detail": ""} == {**own[4], "detail": ""}
        there.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math", "guess"])
def test_check_finds_nothing_on_our_own_server(name: str) -> None:
    with closing(grpo_envs.make(name)) as env, serving(env) as at:
        there = grpo_envs.make("openenv", url=f"ws://{at}")
        checks = check_promises(there, 3)
        there.close()
    assert {check.promise: check.evidence for check in checks if check.evidence} == {}

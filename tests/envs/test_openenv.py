"""env=openenv: problems and rewards of a server, and what finds one that is unsound."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_openenv import OpenEnvEnv
from grpo_env_openenv.wire import base_of
from grpo_envs import GroupVectorEnv, Problem, Turn
from grpo_envs.env.calls import write_call
from grpo_envs.env.conformance import PromiseCheck, check_promises
from grpo_envs.env.grading import place
from grpo_envs.errors import ConfigError
from grpo_envs.seeding import split_of
from grpo_envs.types import Reply
from tests.support import forked
from tests.support.door_answers import cases
from tests.support.openenv_games import number, tools, words
from tests.support.openenv_stand_in import StandIn, ours, serving

RANGE = [-6.0, 10.0]
IGNORED = "the server does not repeat itself after reset(seed=...): "


def made(url: str, **keywords: Any) -> OpenEnvEnv:
    env = grpo_envs.make("openenv", url=url, **keywords)
    assert isinstance(env, OpenEnvEnv)
    return env


@contextmanager
def playing(stand_in: StandIn, **keywords: Any) -> Iterator[OpenEnvEnv]:
    with serving(stand_in) as url:
        env = made(url, **{"timeout": 5.0, **keywords})
        try:
            yield env
        finally:
            env.close()


def reply(env: OpenEnvEnv, problem: Problem, *said: str) -> Reply:
    """The reply to the last of these answers, after those before."""
    turns: list[Turn] = []
    for text in said:
        (answered,) = env.reply_batch([problem], [[*turns, Turn(action=text)]])
        turns.append(Turn(action=text, observation=answered.observation))
    return answered


def broken(env: OpenEnvEnv, problems: int = 4) -> dict[str, PromiseCheck]:
    return {check.promise: check for check in check_promises(env, problems) if check.evidence}


# A server of ours


@pytest.mark.parametrize("name", ["math", "guess"])
def test_rewards_over_the_wire_are_those_in_process_to_the_bit(name: str) -> None:
    here = grpo_envs.make(name)
    with playing(ours(grpo_envs.make(name))) as there:
        assert there.weights == here.weights
        for case in cases(name, 60):
            opened = [env.reset(seed=case.seed) for env in (here, there)]
            assert opened[0] == opened[1]
            for answer in case.answers:
                steps = [env.step(answer) for env in (here, there)]
                assert repr(steps[0]) == repr(steps[1])


def test_what_a_server_of_ours_says_is_taken_over() -> None:
    rewards = {"format": {"weight": 0.5, "scale": 0.5}, "length": -0.01}
    served = grpo_envs.make("guess", level=2, rewards=rewards)
    with playing(ours(served)) as env:
        assert (env.max_turns, env.weights) == (4, served.weights)
        problem, own = env.problem(5, "eval"), served.problem(5, "eval")
        assert (problem.prompt, problem.meta, problem.gold) == (own.prompt, own.meta, None)
        assert env.range_of(problem) == served.range_of(own)
        assert {name: part.range for name, part in env.own_parts.items()} == {
            name: part.range for name, part in served.own_parts.items()
        }
        assert env.turns_of(problem) == 4
        (of_two,) = [made(env.base, turns=2)]
        assert (of_two.turns_of(problem), of_two.max_turns) == (2, 2)
        heavier = made(env.base, rewards={"correct": 2.0})
        assert heavier.reward_range[1] == pytest.approx(2.5)
        assert heavier.reset(seed=5)[0] == env.reset(seed=5)[0]


def test_a_turn_limit_cuts_and_an_end_terminates_as_in_process() -> None:
    with playing(ours(grpo_envs.make("guess"))) as env:
        env.reset(seed=1)
        assert [env.step("?")[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]


class Broken(grpo_envs.TextEnv):
    def draw(self, rng: Any, split: str) -> Problem:
        return Problem(prompt=f"{split} {rng.random()}", gold=1, solution="")

    def score(self, problem: Problem, answer: str) -> grpo_envs.Reward:
        raise ValueError("the grader broke")


def test_a_failed_grading_is_invalid_here_too() -> None:
    with playing(ours(Broken())) as env:
        reward = reply(env, env.problem(0), "x").reward
        assert not reward.valid
        assert reward.error.endswith("failed; the server's log says why")  # it may hold the gold


@pytest.mark.parametrize(
    "keywords", [{"action": "message"}, {"answer": "tag"}, {"return_range": [0, 2]}]
)
def test_what_a_server_of_ours_says_itself_is_refused(keywords: dict[str, Any]) -> None:
    with serving(ours(grpo_envs.make("math"))) as url, pytest.raises(ConfigError) as caught:
        made(url, **keywords)
    assert str(caught.value).startswith(f"env.{next(iter(keywords))}=")
    assert str(caught.value).endswith("Allowed: null: a server of ours sends it itself.")


def test_calls_and_results_go_over_the_wire() -> None:
    """A conversation with tools is text: the calls in an answer, and the results of a reply."""

    class Till(grpo_envs.TextEnv):
        max_turns = 3

        def draw(self, rng: Any, split: str) -> Problem:
            prices = grpo_envs.types.Tool(
                name="price", description="A price.", parameters={"type": "object"}
            )
            return Problem(prompt=f"{split} {rng.random()}", gold=1, solution="", tools=(prices,))

        def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
            said = turns[-1].action
            return Reply(
                reward=grpo_envs.Reward(parts={"correct": 0.0}),
                observation=f"{said}!",
                results=(f"{said}!",),
                done=False,
            )

    with playing(ours(Till())) as env:
        problem = env.problem(0)
        assert problem.tools == Till().problem(0).tools
        assert env.uses_tools
        call = write_call("price", {"item": "tea"})
        answered = reply(env, problem, call)
        assert answered.results == (f"{call}!",)
        assert reply(env, problem, call, "b").results == ("b!",)


# Anybody's server


def test_a_single_answer_is_paid_by_the_server() -> None:
    with playing(words(), turns=1) as env:
        problem = env.problem(3)
        right = problem.prompt.removeprefix("Reverse ").removesuffix(".")[::-1]
        assert (problem.gold, problem.solution, env.hidden) == (None, "", False)
        done = reply(env, problem, f"<think>so</think> {right}\n")
        assert (done.reward.total, done.done, done.observation) == (1.0, True, "")
        assert reply(env, problem, "x").reward.total == 0.0


def test_splits_share_no_opening() -> None:
    with playing(words(), reset={"length": 2}) as env:
        train, held_out = (
            {env.problem(seed, split).prompt for seed in range(60)} for split in ("train", "eval")
        )
        assert {split_of(prompt) for prompt in train} == {"train"}
        assert {split_of(prompt) for prompt in held_out} == {"eval"}


def test_where_all_open_alike_problems_are_hidden_and_splits_share_no_seed() -> None:
    with playing(number(), return_range=RANGE) as env:
        assert env.hidden
        seeds = [{env.problem(n, s).columns["seed"] for n in range(40)} for s in ("train", "eval")]
        assert [len(each) for each in seeds] == [40, 40]
        assert [{split_of(str(seed)) for seed in each} for each in seeds] == [{"train"}, {"eval"}]


def test_a_conversation_is_paid_its_scaled_return_at_its_end() -> None:
    with playing(number(), return_range=RANGE, turns=7) as env:
        said, low, high = list[str](), 1, 100
        problem = env.problem(5)
        while True:
            said.append(str((low + high) // 2))
            answered = reply(env, problem, *said)
            if answered.done:
                break
            assert answered.reward.total == 0.0
            if answered.observation == "Higher.":
                low = int(said[-1]) + 1
            else:
                high = int(said[-1]) - 1
        assert answered.reward.total == pytest.approx((10 - (len(said) - 1) + 6) / 16)


def test_turns_that_are_used_up_pay_what_was_earned() -> None:
    with playing(number(), return_range=[-6, 10], turns=2, answer="tag") as env:
        env.reset(seed=5)
        wrong = "100" if env.step("<answer>100</answer>")[0] == "Lower." else "1"
        _, reward, *ending, _ = env.step(f"<think>1</think><answer>{wrong}</answer>")
        assert (reward, ending) == (4 / 16, [False, True])


@pytest.mark.parametrize(
    "answer",
    ["", "12.5", "0", "101", "up", "9" * 5000, "NaN", "{" * 9999, '"7"', "\ud83d"],
    ids=ascii,
)
def test_an_answer_that_the_schema_does_not_allow_is_not_sent(answer: str) -> None:
    stand_in = number()
    with playing(stand_in, return_range=RANGE) as env:
        done = reply(env, env.problem(0), answer)
        assert (done.reward.total, done.done, done.reward.valid) == (0.0, True, True)
        assert done.reward.note == "the answer is not an action of the server's schema"
        assert stand_in.steps == 0


def test_an_action_that_the_server_refuses_is_an_answers_fault() -> None:
    stand_in = words()
    with playing(stand_in) as env:
        stand_in.validator = number().validator  # stricter than what /schema says
        done = reply(env, env.problem(0), "abc")
        assert (done.reward.total, done.done, done.reward.valid) == (0.0, True, True)
        assert done.reward.note == (
            "the server refused a step (VALIDATION_ERROR): Invalid message not allowed"
        )


@pytest.mark.parametrize(
    ("quirk", "error"),
    [
        ("null", "the server gave no reward: null with the last answer"),
        ("nan", "the server gave no reward: nan"),
        ("text", "the server gave no reward: '1'"),
        ("raises", "the server refused a step (EXECUTION_ERROR): broken inside"),
    ],
)
def test_what_cannot_be_paid_is_invalid(quirk: str, error: str) -> None:
    with playing(words(quirk)) as env:
        answered = reply(env, env.problem(0), "abc")
        assert (answered.reward.valid, answered.reward.error) == (False, error)


def test_rewards_may_be_yes_and_no_and_nothing_before_the_end() -> None:
    with playing(words("true")) as env:
        assert reply(env, env.problem(0), "abc").reward.total == 1.0
    with playing(number("pays at the end"), return_range=[0, 10], turns=300) as env:
        env.reset(seed=0)
        for guess in range(1, 101):
            _, reward, terminated, *_ = env.step(str(guess))
            if terminated:
                break
        assert reward == 1.0
    with playing(number("pays at the end"), turns=1) as env:
        env.reset(seed=0)
        assert env.step("1")[4]["reward_valid"] == 0


# Tool actions


def test_each_call_of_an_answer_is_an_action() -> None:
    with playing(tools(), observation="metadata.task") as env:
        assert env.uses_tools
        problem = env.problem(0)
        assert [tool.name for tool in problem.tools] == ["add"]
        calls = write_call("add", {"a": 2, "b": 3}) + write_call("sub", {}) + "<tool_call>{"
        answered = reply(env, problem, calls)
        assert answered.results[:2] == ("5", "error: no tool 'sub'")
        assert answered.results[2].startswith("error: the call is not JSON")
        assert (answered.done, answered.observation) == (False, "\n".join(answered.results))
        goal = int(problem.prompt.split()[1].removesuffix("."))
        right = write_call("submit", {"value": goal})
        answered = reply(env, problem, calls, right + calls)
        assert (answered.reward.total, answered.done, answered.results) == (
            *(1.0, True),
            ("done", answered.results[1]),
        )
        assert reply(env, problem, calls, "I am done.").reward.total == 0.0
        assert reply(env, problem, calls, "I am done.").done


# A server that is not sound


def test_a_server_that_ignores_seeds_is_found_at_every_reset_and_not_paid() -> None:
    with playing(words("ignores seeds"), turns=1) as env:
        groups = GroupVectorEnv(env, num_envs=8, group_size=4)
        prompts, _ = groups.reset(seed=[1, 2])
        right = [prompt.removeprefix("Reverse ").removesuffix(".")[::-1] for prompt in prompts]
        _, rewards, *_, info = groups.step(right)
        assert (rewards.reshape(2, 4) > 0).sum(axis=1).max() <= 1  # the session that was drawn in
        assert info["reward_valid"].sum() <= 2
        assert {text.startswith(f"{IGNORED}it opened with") for text in info["detail"]} >= {True}
        groups.close()


def test_check_finds_a_server_that_ignores_seeds() -> None:
    with playing(words("ignores seeds"), turns=1) as env:
        assert "the same key draws the same problem" in broken(env)


def test_a_hidden_server_that_ignores_seeds_is_found_by_its_replies() -> None:
    with playing(number("ignores seeds"), return_range=RANGE, turns=7, sessions=4) as env:
        problem = env.problem(0)
        replies = [reply(env, problem, "50", "25", "75") for _ in range(8)]
        errors = [each.reward.error for each in replies if not each.reward.valid]
        assert errors
        assert all(IGNORED in error for error in errors)
        promise = "a conversation can be played again, its rewards add up within the range"
        assert promise in broken(env)


def test_a_replay_is_compared_with_what_was_said_before() -> None:
    with playing(number("random replies"), return_range=RANGE, sessions=1) as env:
        problem = env.problem(0)
        first = reply(env, problem, "50")
        env.problem(1)  # takes the only session
        turns = [Turn(action="50", observation=first.observation), Turn(action="60")]
        error = env.reply_batch([problem], [turns])[0].reward.error
        assert error.startswith(f"{IGNORED}step 1 was answered with")


def test_a_reward_that_is_another_for_the_same_answer_is_invalid() -> None:
    with playing(words("random rewards"), turns=1) as env:
        problem = env.problem(0)
        first, again = (reply(env, problem, "abc").reward for _ in range(2))
        assert first.valid
        assert not again.valid


@pytest.mark.parametrize(
    ("stand_in", "keywords", "line"),
    [
        (words("refuses resets"), {}, r"refused a reset \(EXECUTION_ERROR\): no data\.$"),
        (words("says nothing"), {}, r"^env\.observation=question: it is empty after a reset"),
        (words(), {"action": "anser"}, r"^env\.action=anser\. Allowed: answer\. Did you mean 'ans"),
        (words(), {"observation": "qestion"}, "Allowed: question, score, metadata. Did you mean"),
        (words(), {"observation": []}, r"^env\.observation=\[\]\. Allowed: a field, or a list"),
        (
            tools(),
            {},
            r"^env\.observation=None\. Allowed: a field or a list of them: tool_name, res",
        ),
        (tools(), {"action": "tool_name"}, None),
    ],
)
def test_a_server_that_cannot_be_played_is_one_line(
    stand_in: StandIn, keywords: dict[str, Any], line: str | None
) -> None:
    with serving(stand_in) as url:
        if line is None:
            keywords["observation"] = "metadata.task"
            assert not made(url, **keywords).problem(0).tools
            return
        with pytest.raises(ConfigError, match=line) as caught:
            made(url, timeout=2.0, **keywords).problem(0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({}, "env.url=None. Allowed: the address of an OpenEnv server, as in ws://"),
        ({"url": "ftp://a"}, "env.url=ftp://a. Allowed: the address"),
        ({"url": "ws://a", "answer": "text"}, "no OpenEnv server answers"),
        ({"url": "ws://a", "answer": "boxed"}, "env.answer=boxed. Allowed: text, tag."),
        ({"url": "ws://a", "sessions": 0}, "env.sessions=0. Allowed: a whole number above 0"),
        ({"url": "ws://a", "turns": 0}, "env.turns=0. Allowed: a whole number above 0, or null."),
        ({"url": "ws://a", "timeout": 0}, "env.timeout=0. Allowed: seconds above 0"),
        ({"url": "ws://a", "reset": {"seed": 1}}, "env.reset={'seed': 1}. Allowed: {name: value"),
        ({"url": "ws://a", "return_range": [1, 0]}, "env.return_range=[1, 0]. Allowed: [least"),
    ],
)
def test_a_mistake_is_one_line(keywords: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("openenv", **keywords)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_websockets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.errors.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^env=openenv needs websockets: pip install -e \"\.\[op"
    ):
        made("ws://127.0.0.1:1")


def test_a_server_of_something_else_is_refused() -> None:
    stand_in = words()
    stand_in.about = {}
    with serving(stand_in) as url, pytest.raises(ConfigError, match="/schema answers 404"):
        made(url)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("ws://a:1", "ws://a:1"),
        ("http://a:1/", "http://a:1"),
        ("ws://a:1/ws", "ws://a:1"),
        ("http://a:1/ws/", "http://a:1"),
        ("wss://a/env//", "wss://a/env"),
        ("https://a/env/ws", "https://a/env"),
        ("ws://[::1]:8000/", "ws://[::1]:8000"),
    ],
)
def test_an_address_keeps_its_scheme_and_path(url: str, base: str) -> None:
    assert base_of(url) == base


@pytest.mark.parametrize("form", ["ws{}", "ws{}/", "ws{}/ws", "ws{}/ws/", "http{}", "http{}//"])
def test_an_address_may_have_any_form(form: str) -> None:
    with serving(words()) as url:
        env = made(form.format(url.removeprefix("ws")))
        assert env.problem(0).prompt
        env.close()


def test_a_path_belongs_to_the_address() -> None:
    stand_in = words()
    stand_in.under = "/games/words"
    with serving(stand_in) as url:
        env = made(f"{url}/games/words/")
        assert env.problem(0).prompt
        env.close()
        line = rf"^env\.url={url}/games: /schema answers 404: it is no OpenEnv server\.$"
        with pytest.raises(ConfigError, match=line):
            made(f"{url}/games")


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8000", "localhost:8000", "ws:/a", "ws://", "ws://a:99999", "ws://a:x"),
        *("ws://a:0", "ws://[::1", "ws://a/?token=1", "ws://me:secret@a", 8000),
    ],
)
def test_what_is_no_address_is_one_line(url: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        made(url)
    assert str(caught.value).startswith(f"env.url={url}. Allowed: the address of an OpenEnv server")
    assert "\n" not in str(caught.value)


def test_another_server_is_one_line_that_quotes_the_address() -> None:
    """A server of files, one that hangs up, one that speaks another protocol, and none."""
    wrong = {
        b"HTTP/1.0 200 OK\r\n\r\n<html></html>": "/schema is not JSON: it is no OpenEnv server.",
        b"HTTP/1.0 200 OK\r\n\r\n[]": "Allowed: an OpenEnv server, whose /schema has action and",
        b"HTTP/1.0 404 Not found\r\n\r\n": "/schema answers 404: it is no OpenEnv server.",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{": "no OpenEnv server answers: Incomplete",
        b"SSH-2.0-OpenSSH\r\n": "no OpenEnv server answers: SSH-2.0-OpenSSH.",
        b"": "no OpenEnv server answers: Remote end closed connection without response.",
    }
    for answer, line in wrong.items():
        with answering(answer) as url, pytest.raises(ConfigError) as caught:
            made(url)
        assert str(caught.value).startswith(f"env.url={url}")
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
    with answering(b"HTTP/1.0 200 OK\r\n\r\n") as url:
        secure = url.replace("ws:", "wss:")
        with pytest.raises(
            ConfigError, match=rf"^env\.url={secure}: no OpenEnv server answers: \["
        ):
            made(secure)
    with pytest.raises(
        ConfigError, match=rf"^env\.url={url}: no OpenEnv server answers: .*refused"
    ):
        made(url)  # nothing listens there any more


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives every connection the same answer, and hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# Sessions


def test_an_episode_goes_on_in_its_session() -> None:
    stand_in = number()
    with playing(stand_in, return_range=RANGE, turns=9) as env:
        problem = env.problem(0)
        before = stand_in.resets
        reply(env, problem, "1", "2", "3", "4")
        assert (stand_in.resets - before, stand_in.steps) == (0, 4)


def test_interleaved_episodes_are_right_with_fewer_sessions_than_members() -> None:
    """Each is played again where its session was taken: the rewards are the same."""
    played = []
    for sessions in (1, 16):
        stand_in = number()
        with playing(stand_in, return_range=RANGE, turns=4, sessions=sessions) as env:
            groups = GroupVectorEnv(env, num_envs=8, group_size=4)
            groups.reset(seed=[1, 2])
            told = [
                groups.step([str(1 + (7 * i + 13 * turn) % 100) for i in range(8)])
                for turn in range(4)
            ]
            played.append([(step[0], list(step[1])) for step in told])
            assert all(step[4]["reward_valid"].all() for step in told)
            groups.close()
    assert played[0] == played[1]


def test_a_lost_connection_costs_a_replay_and_no_reward() -> None:
    stand_in = number()
    with playing(stand_in, return_range=RANGE, turns=9) as env:
        problem = env.problem(0)
        expected = reply(env, problem, "1", "2", "3")
        stand_in.hang_up = 1
        assert reply(env, problem, "1", "2", "3") == expected


def test_an_answer_that_ends_every_connection_is_invalid() -> None:
    stand_in = number()
    with playing(stand_in, return_range=RANGE) as env:
        problem = env.problem(0)
        stand_in.hang_up = 100
        answered = reply(env, problem, "1")
        assert answered.reward.error.startswith("the connection ended during a step: ")
        assert 100 - stand_in.hang_up < 10
        stand_in.hang_up = 0
        assert reply(env, problem, "1").reward.valid


def test_a_server_that_is_started_anew_is_found_again() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(number(), port) as url:
        env = made(url, return_range=RANGE, timeout=20.0, turns=9)
        problem = env.problem(0)
        first = reply(env, problem, "1")
    answers: list[Reply] = []
    turns = [Turn(action="1", observation=first.observation), Turn(action="2")]
    asking = threading.Thread(
        target=lambda: answers.extend(env.reply_batch([problem], [turns])), daemon=True
    )
    asking.start()  # while there is no server
    with serving(number(), port):
        asking.join(20)
        assert answers[0].reward.valid
        assert answers[0].observation in ("Higher.", "Lower.", "Right.")
    env.close()


def test_a_server_that_is_gone_is_one_line_after_the_timeout() -> None:
    with serving(number()) as url:
        env = made(url, return_range=RANGE, timeout=0.3)
        problem = env.problem(0)
    answered = reply(env, problem, "1")
    assert not answered.reward.valid
    assert "no connection: [Errno 111] Connection refused" in answered.reward.error
    with pytest.raises(ConfigError, match=r"^env\.url=ws://127.*: no connection: .*\.$"):
        env.problem(1)


def test_a_server_that_does_not_answer_is_invalid() -> None:
    stand_in = number()
    stand_in.before = lambda _kind: threading.Event().wait(2)
    with (
        serving(stand_in) as url,
        pytest.raises(ConfigError, match=r"longer than env\.timeout=0\.2"),
    ):
        made(url, timeout=0.2)


def test_a_servers_limit_of_sessions_is_told_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stand_in = words(room=2)
    with playing(stand_in, sessions=16, turns=1) as env, playing_again(env) as held_out:
        groups = GroupVectorEnv(env, num_envs=16, group_size=8)
        groups.reset(seed=[1, 2])
        *_, info = groups.step(["abc"] * 16)
        assert info["reward_valid"].all()
        assert held_out.problem(0).prompt  # both environments share the two sessions
        assert stand_in.opened == 2
        groups.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "env.sessions=16: the server refused a reset (CAPACITY_REACHED): Server at capacity: 2/2 "
        "sessions active. It goes on with the sessions that there are."
    )


@contextmanager
def playing_again(env: OpenEnvEnv) -> Iterator[OpenEnvEnv]:
    other = made(env.base, split="eval", sessions=16, timeout=5.0, turns=1)
    yield other
    other.close()


def test_a_server_whose_sessions_are_others_is_one_line() -> None:
    stand_in = words(room=1)
    with serving(stand_in) as url:
        first = made(url, timeout=5.0)
        with pytest.raises(ConfigError, match=r"CAPACITY_REACHED\): Server at capacity: 1/1 sess"):
            made(url, timeout=0.2)  # of another run
        first.close()
        made(url, timeout=5.0).close()  # which gave its place back


def test_as_many_answers_are_graded_at_once_as_there_are_sessions() -> None:
    barrier = threading.Barrier(12, timeout=20)
    stand_in = words()
    with playing(stand_in, sessions=12, turns=1, timeout=30.0) as env:
        stand_in.before = lambda kind: kind == "step" and barrier.wait()
        groups = GroupVectorEnv(env, num_envs=24, group_size=8)
        groups.reset(seed=[1, 2, 3])
        *_, info = groups.step(["abc"] * 24)
        assert info["reward_valid"].all()
        groups.close()


def test_it_is_graded_in_threads_and_sent_nowhere() -> None:
    with playing(words()) as env:
        assert place(env, "auto", "cuda") == ("threads", "")
        with pytest.raises(ConfigError, match=r"OpenEnvEnv cannot be sent to a process"):
            place(env, "processes", "cpu")


# The contract


@pytest.mark.parametrize("hidden", [False, True])
def test_a_sound_server_keeps_every_promise_that_can_be_tried(hidden: bool) -> None:
    stand_in, keywords = (number(), {"turns": 3}) if hidden else (words(), {"turns": 1})
    with playing(stand_in, return_range=RANGE if hidden else None, **keywords) as env:
        checks = check_promises(env, 3)
    assert {check.promise: check.evidence for check in checks if check.evidence} == {}
    untried = {check.promise: check.note for check in checks if not check.tried}
    unknown = "not tried: the problems are hidden, and their golds are not known here"
    no_solution = "not tried: no problem has a solution"
    assert untried == {
        **(
            {
                "different keys draw different problems": unknown,
                "train and eval share no problem": unknown,
            }
            if hidden
            else {}
        ),
        "the solution earns the maximum": "6 of 6 problems have no solution",
        "the solution counts as right in accuracy": no_solution,
        "the prompt does not leak the solution": no_solution,
        "another problem's solution does not earn the maximum": no_solution,
    }


def test_fields_may_be_several_and_messages() -> None:
    with playing(number(), observation=["text", "hints"], return_range=RANGE) as env:
        assert env.problem(0).prompt == "text: Find my number.\nhints: It is\nwhole."
    with playing(number(), observation="hints", return_range=RANGE) as env:
        assert env.problem(0).prompt == "It is\nwhole."


def test_reset_is_given_what_env_reset_says() -> None:
    with playing(words(), reset={"length": 9}) as env:
        assert len(env.problem(0).prompt) == len("Reverse .") + 9


# A run


@pytest.mark.slow
def test_a_run_over_the_wire_learns_what_a_run_in_process_learns(tmp_path: Path) -> None:
    short = ["trainer.steps=2", "trainer.prompts_per_step=2", "trainer.eval_problems=4"]
    short += ["agent.group_size=4", "logger.names=[jsonl]"]
    with serving(ours(grpo_envs.make("guess"))) as url:
        for name, env in (("here", ["env=guess"]), ("there", ["env=openenv", f"env.url={url}"])):
            done = forked.run(tmp_path, "grpo_envs.run", *env, *short, f"hydra.run.dir={name}")
            assert done.returncode == 0, done.stderr
    own, theirs = (
        list(map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines()))
        for name in ("here", "there")
    )
    apart = ("time/", "memory/", "score/", "tokens")
    for one, other in zip(own, theirs, strict=True):
        assert one.keys() == other.keys()
        same = [key for key in one if not key.startswith(apart)]
        assert {key: one[key] for key in same} == {key: other[key] for key in same}

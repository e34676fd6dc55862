"""ToolEnv: calls and their results, sessions and their end, limits, and what is refused."""

import asyncio
import dataclasses
import datetime
import math
import pickle
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

import grpo_envs
from grpo_envs import Call, Problem, Reply, Reward, ToolEnv, Turn, write_call
from grpo_envs.env.conformance import check_promises
from grpo_envs.env.tool_session import Episode
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.seeding import split_of

PRICES = {"apple": 3, "pear": 4, "plum": 7}


def price(item: str, times: int = 1) -> int:
    """Tell the price of an item.

    Args:
        item: What is sold.
        times: How many of it.
    """
    if item not in PRICES:
        raise ValueError(f"no such item: {item}")
    return PRICES[item] * times


class Shop(ToolEnv):
    """What do 3 apples cost?"""

    tools: Sequence[Any] = [price]

    def draw(self, rng: random.Random, split: str) -> Problem:
        while True:
            number, item = rng.randrange(2, 999), rng.choice(list(PRICES))
            prompt = f"What do {number} {item}s cost?"
            if split_of(prompt) == split:
                gold = str(number * PRICES[item])
                meta = {"item": item, "number": number}
                solution = f"<answer>{gold}</answer>"
                return Problem(prompt=prompt, gold=gold, solution=solution, meta=meta)

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.solution)})

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        meta = problem.meta
        call = write_call("price", {"item": meta["item"], "times": meta["number"]})
        return f"<answer>{turns[-1].observation}</answer>" if turns else call


def call(name: str, **arguments: Any) -> str:
    return write_call(name, arguments)


def play(env: ToolEnv, *actions: str, problem: Problem | None = None) -> list[Reply]:
    """The replies to these turns of one episode."""
    given = problem or env.problem(0)
    turns: list[Turn] = []
    replies = []
    for action in actions:
        (reply,) = env.reply_batch([given], [[*turns, Turn(action=action)]])
        turns.append(Turn(action=action, observation=reply.observation))
        replies.append(reply)
    return replies


# Calls


def test_a_demonstrated_episode_through_gymnasium() -> None:
    env = Shop()
    prompt, about = env.reset(seed=1)
    assert [tool["function"]["name"] for tool in about["tools"]] == ["price"]
    problem = env.problem(1)
    assert prompt == problem.prompt
    first = env.step(env.demonstrate(problem, []))
    assert first[:4] == (problem.gold, 0.0, False, False)
    assert first[4]["reward/tool_calls"] == 1
    last = env.step(f"<answer>{first[0]}</answer>")
    assert last[:4] == ("", 1.0, True, False)
    assert {k: v for k, v in last[4].items() if k.startswith("reward/")} == {
        "reward/correct": 1.0,
        "reward/tool_calls": 0.0,
        "reward/tool_errors": 0.0,
        "reward/tool_repeats": 0.0,
        "reward/answered": 1.0,
    }


def test_an_environment_of_twenty_lines_keeps_every_promise() -> None:
    grpo_envs.check_env(Shop(), problems=10)


@pytest.mark.parametrize(
    ("action", "result"),
    [
        (call("price", item="apple"), "3"),
        (call("price", item="car"), "error: no such item: car"),
        (call("pric", item="apple"), "error: no tool 'pric'. Tools: price. Did you mean 'price'?"),
        (call("zzz"), "error: no tool 'zzz'. Tools: price."),
        (
            call("price", itm="apple"),
            "error: price has no parameter 'itm'. Parameters: item, times. Did you mean 'item'?",
        ),
        (call("price"), "error: price: 'item' is a required property"),
        (call("price", item=3), "error: price: item: 3 is not of type 'string'"),
        (
            call("price", item="plum", times="2"),
            "error: price: times: '2' is not of type 'integer'",
        ),
        (call("price", item="plum", times=True), "error: price: times: True is not of type"),
        (call("price", item="plum", times=2.0), "error: price: times: 2.0 is not of type 'integer"),
        ("<tool_call>price(apple)</tool_call>", "error: the call is not JSON"),
        ("<tool_call>[]</tool_call>", 'error: a call is {"name": ..., "arguments": {...}}'),
        ('<tool_call>{"name": "price", "arguments": "x"}', "error: arguments is not an object"),
        (call("price", item="\ud83d"), "error: no such item: ?"),
        (call("price", item="x" * 9000), "error: no such item: xxx"),
        (call("x" * 9000), "error: no tool 'xxx"),
    ],
    ids=lambda text: ascii(text[:60]),
)
def test_what_a_call_is_answered_with(action: str, result: str) -> None:
    (reply,) = play(Shop(), action)
    assert reply.observation.startswith(result)
    assert len(reply.observation) < 2100
    assert (reply.results, reply.done, reply.reward.valid) == ((reply.observation,), False, True)
    assert reply.reward.total == 0
    wanted = {"tool_calls": 1.0, "tool_errors": float(result.startswith("error"))}
    assert {name: reply.reward.parts[name] for name in wanted} == wanted
    reply.observation.encode()


def weigh(grams: float) -> float:
    """Return the weight.

    Args:
        grams: The weight.
    """
    return float(grams)


@pytest.mark.parametrize(
    ("grams", "result"),
    [
        ("2", "2.0"),
        ("NaN", "error: the call is not JSON (NaN is not JSON)"),
        ("-Infinity", "error: the call is not JSON (-Infinity is not JSON)"),
        ("1e999", "error: weigh: grams: inf is not of type 'number'"),
    ],
)
def test_a_number_is_finite(grams: str, result: str) -> None:
    action = f'<tool_call>{{"name": "weigh", "arguments": {{"grams": {grams}}}}}</tool_call>'
    (reply,) = play(type("Made", (Shop,), {"tools": [weigh]})(), action)
    assert reply.results == (result,)


def test_deep_arguments_are_an_error() -> None:
    def anything(x: dict[str, Any]) -> str:
        """Take anything.

        Args:
            x: It.
        """
        return "taken"

    class Deep(Shop):
        tools = (
            (
                {
                    "name": "deep",
                    "parameters": {
                        "type": "object",
                        "properties": {"x": {"$ref": "#/$defs/x"}},
                        "$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/x"}}},
                        "required": ["x"],
                    },
                },
                anything,
            ),
        )

    body = "[" * 400 + "]" * 400
    action = f'<tool_call>{{"name": "deep", "arguments": {{"x": {body}}}}}</tool_call>'
    (reply,) = play(Deep(), action)
    assert reply.observation == "error: deep: the arguments are nested too deeply."


def test_calls_of_a_turn_are_made_side_by_side_and_answered_in_order() -> None:
    meet = threading.Barrier(3, timeout=20)

    def wait(seconds: float) -> float:
        """Wait for two others.

        Args:
            seconds: And so long.
        """
        meet.wait()
        time.sleep(seconds)
        return seconds

    class Waits(Shop):
        tools = (wait,)

    text = "".join(call("wait", seconds=x) for x in (0.03, 0.02, 0.01))
    (reply,) = play(Waits(), text)
    assert reply.results == ("0.03", "0.02", "0.01")
    assert reply.observation == "0.03\n0.02\n0.01"


def test_an_async_function_is_awaited() -> None:
    async def later(x: int) -> int:
        """Return it later.

        Args:
            x: It.
        """
        await asyncio.sleep(0)
        return x

    class Later(Shop):
        tools = (later,)

    assert play(Later(), call("later", x=3))[0].results == ("3",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é", "é"),
        (3, "3"),
        (None, "null"),
        ({"a": [1.5]}, '{"a": [1.5]}'),
        ({"c", "a", "b"}, '["a", "b", "c"]'),
        ({"day": datetime.date(2020, 1, 31)}, '{"day": "2020-01-31"}'),
        (datetime.date(2020, 1, 31), "2020-01-31"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ("\ud800", "?"),
        (ValueError(), "error: ValueError"),
        (10**5000, "error: Exceeds the limit (4300 digits) for integer string conversion; use "),
    ],
    ids=lambda value: value[:9] if isinstance(value, str) else type(value).__name__,
)
def test_a_result_is_text_or_json(value: object, text: str) -> None:
    class Returns(Shop):
        tools = (({"name": "f", "description": "It."}, lambda: value),)

    (result,) = play(Returns(), call("f"))[0].results
    assert result.startswith(text)
    assert result == text or type(value) is int


def test_a_result_with_an_address_is_a_fault_of_the_tool() -> None:
    tool = ({"name": "f", "description": "It."}, lambda: [object()])
    (reply,) = play(type("Made", (Shop,), {"tools": [tool]})(), call("f"))
    assert reply.reward.error.startswith("ToolFailed: tool f returned <object object at 0x")
    assert reply.reward.error.endswith(">. Allowed: text, or a value for JSON")


def test_the_counts_are_of_each_turn() -> None:
    replies = play(
        Shop(),
        call("price", item="apple") + call("price", item="apple") + call("nope"),
        call("price", item="apple"),
        "<answer>3</answer>",
    )
    counts = [
        {name: reply.reward.parts.get(name, 0.0) for name in grpo_envs.env.calls.TOOL_PARTS}
        for reply in replies
    ]
    assert [list(each.values()) for each in counts] == [[3, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_a_tool_that_raises_makes_the_reward_invalid() -> None:
    def buggy(item: str) -> int:
        """Tell the price of an item.

        Args:
            item: What is sold.
        """
        return PRICES[item]

    class Buggy(Shop):
        tools = (buggy,)

    env = Buggy()
    (reply,) = play(env, call("buggy", item="car"))
    assert reply.done
    assert reply.reward.error == (
        "ToolFailed: tool buggy raised KeyError: 'car' (a tool raises ValueError for a mistake of "
        "its caller)"
    )
    found = {
        check.promise.partition(" never")[0]: check.evidence for check in check_promises(env, 5)
    }
    assert "raised KeyError: ''" in found["hostile answers"]


# Sessions


class Counter(Shop):
    """Its session counts, and notes when it is opened and closed."""

    notes: list[str]

    def __init__(self, **keywords: Any) -> None:
        self.notes = []
        self.tools = [count]
        super().__init__(**keywords)

    def session(self, problem: Problem) -> Iterator[Any]:
        self.notes.append("open")
        yield {"n": problem.meta["number"] * 0}
        self.notes.append("close")

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        return problem.solution if len(turns) > 1 else call("count", by=len(turns) + 1)


def count(state: dict[str, int], by: int) -> int:
    """Count.

    Args:
        by: A step.
    """
    state["n"] += by
    return state["n"]


def test_a_session_lasts_an_episode_and_is_closed_with_it() -> None:
    env = Counter()
    replies = play(env, call("count", by=1) + call("count", by=2), call("count", by=3), "done")
    assert [reply.observation for reply in replies] == ["1\n3", "6", ""]
    assert env.notes == ["open", "close"]


def test_an_episode_without_calls_opens_nothing() -> None:
    env = Counter()
    play(env, "<answer>1</answer>")
    play(env, call("no tool"), "<answer>1</answer>")
    assert env.notes == []


def test_a_session_of_the_last_turn_is_closed() -> None:
    env = Counter(turns=2)
    play(env, call("count", by=1), call("count", by=1))
    assert env.notes == ["open", "close"]


def test_close_closes_what_is_open() -> None:
    env = Counter()
    play(env, call("count", by=1))
    assert env.notes == ["open"]
    env.close()
    assert env.notes == ["open", "close"]


def test_members_of_a_group_have_sessions_of_their_own() -> None:
    env = Counter()
    groups = GroupVectorEnv(env, num_envs=4, group_size=2)
    groups.reset(seed=[1, 2])
    once = call("count", by=1)
    assert groups.step([once, once, once, call("count", by=5)])[0] == ("1", "1", "1", "5")
    assert groups.step([once, call("count", by=3), once, once])[0] == ("2", "4", "2", "6")
    groups.step(["x"] * 4)
    assert sorted(env.notes) == ["close"] * 4 + ["open"] * 4
    groups.close()


def test_a_session_that_is_gone_is_played_again() -> None:
    """In another process, after others took its place, or in another order of calls."""
    env, problem = Counter(), Counter().problem(0)
    turns = [Turn(action=call("count", by=2), observation="2"), Turn(action=call("count", by=1))]
    (reply,) = env.reply_batch([problem], [turns])
    assert reply.observation == "3"
    few = Counter(tool_limits={"sessions": 1})
    assert play(few, call("count", by=2))[0].observation == "2"
    play(few, call("count", by=9))
    assert few.notes == ["open", "open", "close"]
    (reply,) = few.reply_batch([problem], [turns])
    assert reply.observation == "3"


def test_a_session_that_does_not_repeat_itself_is_found() -> None:
    problem = Counter().problem(0)
    turns = [Turn(action=call("count", by=2), observation="7"), Turn(action=call("count", by=1))]
    (reply,) = Counter().reply_batch([problem], [turns])
    assert reply.reward.error == (
        "ToolFailed: the calls of turn 1 were repeated in a new session and returned '2' instead "
        "of '7'"
    )


def test_a_stateful_environment_keeps_every_promise_and_leaves_nothing_open() -> None:
    env = Counter()
    grpo_envs.check_env(env, problems=5)
    env.close()
    assert env.notes.count("open") == env.notes.count("close") > 10


def test_sessions_that_leak_between_episodes_break_a_promise() -> None:
    class Leaks(Counter):
        def session(self, problem: Problem) -> Iterator[Any]:
            yield self.__dict__.setdefault("shared", {"n": 0})

    env = Leaks()
    broken = [check.promise for check in check_promises(env, 5) if check.evidence]
    assert broken == ["a conversation can be played again, its rewards add up within the range"]


def test_a_context_manager_is_a_session_too_and_its_failure_is_told() -> None:
    class Managed(Counter):
        @contextmanager
        def session(self, problem: Problem) -> Iterator[Any]:  # type: ignore[override]
            yield {"n": 40}

    assert play(Managed(), call("count", by=2))[0].observation == "42"

    class Broken(Counter):
        def session(self, problem: Problem) -> Iterator[Any]:
            raise OSError("no database")
            yield

    (reply,) = play(Broken(), call("count", by=2))
    told = "ToolFailed: session(problem) could not be opened: OSError: no database"
    assert (reply.done, reply.reward.error) == (True, told)


def test_a_session_that_cannot_be_closed_is_a_warning() -> None:
    class Sticks(Counter):
        def session(self, problem: Problem) -> Iterator[Any]:
            yield {"n": 0}
            raise OSError("it sticks")

    env = Sticks()
    play(env, call("count", by=1))
    with pytest.warns(UserWarning, match=r"^session\(problem\) could not be closed: OSError: it"):
        env.close()


def test_the_answer_may_be_graded_by_the_state_and_the_calls() -> None:
    class Outcome(Counter):
        def score_episode(self, problem: Problem, answer: str, episode: Episode) -> Reward:
            counted = episode.state["n"] == 3
            return Reward(parts={"correct": float(counted and len(episode.calls) == 2)})

    *_, reply = play(Outcome(), call("count", by=1), call("count", by=2), "done")
    assert reply.reward.parts["correct"] == 1
    *_, reply = play(Outcome(), call("count", by=3), "done")
    assert reply.reward.parts["correct"] == 0


def test_calls_may_be_paid_in_their_turn() -> None:
    class Pays(Shop):
        parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "asked": 0.5}

        def step_reward(self, problem: Problem, call: Call, result: str) -> Mapping[str, float]:
            return {"asked": float(result == "3") / 2}

    text = call("price", item="apple") + call("price", item="plum") + call("price", item="apple")
    first, last = play(Pays(), text, "<answer>1</answer>")
    assert (first.reward.parts["asked"], first.reward.total) == (1.0, 0.5)
    assert last.reward.total == 0


# Limits


def test_limits_of_calls_and_results() -> None:
    env = Shop(turns=3, tool_limits={"calls": 3, "calls_per_turn": 2})
    asks = call("price", item="apple")
    first, second, third = play(env, asks * 5, asks * 2, asks)
    assert first.results == ("3", "3", "error: 3 calls not made: 2 in one turn.")
    assert first.reward.parts["tool_calls"] == 3
    none = "error: no call is left of 3. Answer without one."
    assert second.results == (none, none)
    assert third.results == (none,)
    short = Shop(tool_limits={"result_chars": 10})
    assert play(short, call("price", item="x" * 50))[0].results == (
        "error: no ... (61 characters more)",
    )


def test_a_call_has_so_many_seconds() -> None:
    leave = threading.Event()

    def sleep(x: int) -> str:
        """Sleep.

        Args:
            x: It.
        """
        leave.wait(20)
        return "awake"

    def doze(state: Any, x: int) -> str:
        """Sleep.

        Args:
            x: It.
        """
        leave.wait(20)
        return "awake"

    class Sleeps(Shop):
        tools = (
            sleep,
            doze,
            price,
        )

        def session(self, problem: Problem) -> Iterator[Any]:
            yield 1

    env = Sleeps(tool_limits={"call_s": 0.2})
    replies = play(env, call("sleep", x=1) + call("price", item="plum"))
    assert replies[0].results == ("error: took longer than 0.2 s", "7")
    (reply,) = play(env, call("doze", x=1))
    assert reply.reward.error == "ToolFailed: tool doze took longer than 0.2 s: its session is lost"
    leave.set()


def test_a_problem_may_have_fewer_tools() -> None:
    class Two(Shop):
        tools = (
            price,
            ({"name": "f", "description": "It."}, lambda: 1),
        )

    env = Two()
    problem = env.problem(0)
    assert [tool.name for tool in problem.tools] == ["price", "f"]
    less = dataclasses.replace(problem, tools=problem.tools[:1])
    (reply,) = play(env, call("f"), problem=less)
    assert reply.observation == "error: no tool 'f'. Tools: price."


def test_counts_that_cost_stay_in_range() -> None:
    env = Shop(turns=2, rewards={"tool_errors": -0.1}, tool_limits={"calls_per_turn": 2})
    assert env.reward_range == pytest.approx((-0.6, 1.0))
    assert play(env, call("nope") * 9)[0].reward.total == pytest.approx(-0.3)
    grpo_envs.check_env(env, problems=5)
    assert env.own_parts.keys() == {"correct"}


def test_an_environment_travels_to_another_process() -> None:
    env = Counter()
    play(env, call("count", by=1))
    other = pickle.loads(pickle.dumps(env))
    turns = [Turn(action=call("count", by=2), observation="2"), Turn(action=call("count", by=1))]
    assert other.reply_batch([other.problem(0)], [turns])[0].observation == "3"
    env.close()
    other.close()


# What is refused


def needs_state(state: int, x: int) -> int:
    """Need it.

    Args:
        x: It.
    """
    return state + x


def state_of(city: str, state: str) -> str:
    """Tell the weather.

    Args:
        city: A city.
        state: The state that it lies in.
    """
    return f"{city}, {state}: rain"


def counts(x: int) -> Iterator[int]:
    """Count.

    Args:
        x: Up to here.
    """
    yield from range(x)


def by_position(x: int, /) -> int:
    """Take it by its position.

    Args:
        x: It.
    """
    return x


SCHEMA = {
    "name": "look_up",
    "description": "Look a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
}


def test_a_schema_and_its_function_are_a_tool() -> None:
    tools = [(SCHEMA, lambda word="none": word.upper()), (SCHEMA | {"name": "kept"}, dict)]
    env = type("Made", (Shop,), {"tools": tools})()
    (reply,) = play(env, call("look_up", word="tea") + call("look_up") + call("kept", word="x"))
    assert reply.results == ("TEA", "NONE", '{"word": "x"}')


def test_a_parameter_named_state_that_is_not_the_first_is_the_policys() -> None:
    env = type("Made", (Shop,), {"tools": [state_of]})()
    assert [*env.problem(0).tools[0].parameters["properties"]] == ["city", "state"]
    (reply,) = play(env, call("state_of", city="Salem", state="Oregon"))
    assert reply.results == ("Salem, Oregon: rain",)


@pytest.mark.parametrize("opened", [5, None])
def test_a_session_that_is_no_generator_is_told(opened: Any) -> None:
    made = type("Made", (Shop,), {"tools": [needs_state], "session": lambda *_: opened})
    (reply,) = play(made(), call("needs_state", x=1))
    assert reply.reward.error == (
        f"ToolFailed: session(problem) returned {opened}. Allowed: a generator that yields it "
        "once, or a context manager."
    )


def test_an_async_session_is_refused() -> None:
    async def session(_env: ToolEnv, _problem: Problem) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(ConfigError, match=r"^Made\.session is async\. Allowed: a generator that "):
        type("Made", (Shop,), {"session": session})()


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("price", "Made.tools='price'. Allowed: a list of functions, (schema, function) or grpo_"),
        ({"price": price}, "Made.tools={'price': <function"),
        (price, "Made.tools=<bound method price of"),
        ([dict], "tools: <class 'dict'> is not a tool. Allowed: functions, (schema, function) or"),
        (
            [by_position],
            "tool by_position: its function cannot be called with the schema's parameters (x): 'x' "
            "parameter is positional only",
        ),
        (
            [(SCHEMA, lambda text: text)],
            "tool look_up: its function cannot be called with the schema's parameters (word): "
            "missing a required argument: 'text'.",
        ),
        (
            [(SCHEMA, lambda word: word)],
            "tool look_up: its function cannot be called with the schema's required parameters "
            "alone (none): missing a required argument: 'word'.",
        ),
        ([(SCHEMA | {"description": 3}, print)], "tool look_up: description=3. Allowed: text."),
        ([], "Made.tools is empty. Allowed: functions, (schema, function) or grpo_envs.mcp(...)."),
        ([3], "tools: 3 is not a tool. Allowed: functions, (schema, function) or"),
        ([counts], "tool counts is a generator. Allowed: a function that returns."),
        ([price, price], "Made.tools: two of them have the name price."),
        ([needs_state], "tool needs_state takes a state, and Made has no session(problem)."),
    ],
)
def test_tools_that_cannot_be_used_are_one_line(tools: list[Any], message: str) -> None:
    made = type("Made", (Shop,), {"tools": tools})
    with pytest.raises(ConfigError) as caught:
        made()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"turns": 0}, "env.turns=0. Allowed: 1 to 100."),
        ({"turns": "2"}, "env.turns=2. Allowed: 1 to 100."),
        ({"tool_limits": 3}, "env.tool_limits=3. Allowed: limits by name."),
        (
            {"tool_limits": {"call": 3}},
            "env.tool_limits=call. Allowed: calls, calls_per_turn, result_chars, call_s, "
            "sessions. Did you mean 'calls'?",
        ),
        (
            {"tool_limits": {"calls_per_turn": None}},
            "env.tool_limits.calls_per_turn=None. Allowed: a whole number above 0.",
        ),
        ({"tool_limits": {"call_s": 0}}, "env.tool_limits.call_s=0. Allowed: seconds above 0, up"),
        ({"tool_limits": {"call_s": math.inf}}, "env.tool_limits.call_s=inf. Allowed: seconds abo"),
        ({"tool_limits": {"calls": 1.5}}, "env.tool_limits.calls=1.5. Allowed: a whole number"),
    ],
    ids=str,
)
def test_a_wrong_keyword_is_one_line(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Shop(**keywords)
    assert str(caught.value).startswith(message)

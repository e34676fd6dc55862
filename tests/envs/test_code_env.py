"""The code environment: exercises that tell right from wrong, parts that are earned, turns."""

import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

import grpo_envs
from grpo_env_code import CodeEnv
from grpo_env_code.feedback import feedback
from grpo_env_code.generate import HIDDEN, LEVELS, VISIBLE, generate
from grpo_envs.env.calls import write_call
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, SandboxError
from grpo_envs.graders.code import Case, CodeTests, program_of
from grpo_envs.sandbox import Calls, Limits, Returned, RunResult, Verdict
from grpo_envs.seeding import rng_for, split_of
from grpo_envs.types import Problem, Turn

DRAWS = 60
EVERY_LEVEL = pytest.mark.parametrize("level", LEVELS)


def block(program: str) -> str:
    return f"```python\n{program}\n```"


def drawn(env: CodeEnv, count: int = DRAWS) -> list[Problem]:
    return [env.problem(seed) for seed in range(count)]


def passed(env: CodeEnv, problems: Sequence[Problem], answers: Sequence[str]) -> list[float]:
    rewards = env.score_batch(problems, answers)
    assert all(reward.valid for reward in rewards)
    return [reward.parts["passed"] for reward in rewards]


# Exercises


@pytest.mark.parametrize("split", ["train", "eval"])
@EVERY_LEVEL
def test_the_solution_computes_what_is_expected(level: int, split: str) -> None:
    env = CodeEnv(split, level=level)
    problems = drawn(env)
    rewards = env.score_batch(problems, [problem.solution for problem in problems])
    assert {tuple(reward.parts.values()) for reward in rewards} == {(1.0, 1.0, 1.0)}


@EVERY_LEVEL
def test_values_in_the_text_are_the_visible_calls(level: int) -> None:
    with_values = 0
    for problem in drawn(CodeEnv(level=level)):
        values = re.findall(r"f\(([\d,]+)\)=(\d+)", problem.prompt)
        shown = [
            (",".join(map(str, case.given)), str(case.expected))
            for case in problem.gold.cases[:VISIBLE]
        ]
        assert values in ([], shown), problem.prompt
        with_values += bool(values)
    assert (with_values > DRAWS / 3) == (level <= 2)


@EVERY_LEVEL
def test_the_thoughts_are_true_and_end_in_the_last_constant(level: int) -> None:
    for problem in drawn(CodeEnv(level=level)):
        think = re.match(r"<think>(.+)</think>", problem.solution, re.DOTALL)
        assert bool(think) == (" with f(" in problem.prompt)
        for step in think[1].split("\n") if think else ():
            parts = re.fullmatch(r"(\d+)([-*/])(\d+)=(\d+)", step)
            assert parts, step
            a, b, c = int(parts[1]), int(parts[3]), int(parts[4])
            assert {"-": a - b, "*": a * b, "/": a / b}[parts[2]] == c
        if think:
            assert re.search(rf"\b{step.split('=')[1]}\b", str(program_of(problem.solution)))


@EVERY_LEVEL
def test_exercises_fit_a_small_model(level: int) -> None:
    for problem in drawn(CodeEnv(level=level), 500):
        assert len(problem.prompt) <= 60
        assert len(problem.solution) <= 90


@pytest.mark.parametrize(("level", "least"), [(1, 2000), (2, 1500), (3, 1000), (4, 200), (5, 200)])
def test_the_space_is_wide_and_the_splits_share_nothing(level: int, least: int) -> None:
    train = {problem.prompt for problem in drawn(CodeEnv(level=level), 3000)}
    held_out = {problem.prompt for problem in drawn(CodeEnv("eval", level=level), 300)}
    assert len(train) >= least
    assert not train & held_out
    assert {split_of(prompt) for prompt in held_out} == {"eval"}


@EVERY_LEVEL
def test_hidden_calls_differ_from_the_visible_and_among_themselves(level: int) -> None:
    for problem in drawn(CodeEnv(level=level)):
        cases = problem.gold.cases
        assert len(cases) == VISIBLE + HIDDEN
        assert len({repr(case.given) for case in cases}) == len(cases)


@EVERY_LEVEL
def test_no_value_is_common_among_the_hidden_calls(level: int) -> None:
    for seed in range(2000):
        calls = generate(rng_for("common", level, seed), level).calls
        values = Counter(repr(value) for _, value in calls[VISIBLE:])
        assert max(values.values()) <= HIDDEN // 3


@EVERY_LEVEL
def test_a_constant_earns_little(level: int) -> None:
    env = CodeEnv(level=level)
    problems = drawn(env)
    best = []
    for problem in problems:
        values = Counter(repr(case.expected) for case in problem.gold.cases)
        best.append(values.most_common(1)[0][0])
    rows = [f"def f(*args):\n    return {value}" for value in best]
    earned = passed(env, problems, [block(row) for row in rows])
    assert max(earned) <= 0.5
    assert sum(earned) / len(earned) <= 0.3


@EVERY_LEVEL
def test_a_wrong_constant_or_operator_fails_most_calls(level: int) -> None:
    """Mutants that happen to mean the same, such as another bound between two items, are rare."""
    env = CodeEnv(level=level)
    problems, answers = [], []
    for problem in drawn(env):
        head, _, expression = str(program_of(problem.solution)).partition("return ")
        for mutant in mutants(expression):
            problems.append(problem)
            answers.append(block(f"{head}return {mutant}"))
    earned = passed(env, problems, answers)
    assert len(earned) > DRAWS
    assert sum(earned) / len(earned) < (0.15 if level <= 2 else 0.4)
    assert sum(share == 1 for share in earned) / len(earned) < 0.05


def mutants(expression: str) -> list[str]:
    made = []
    for found in re.finditer(r"\d+", expression):
        other = str(int(found[0]) + 1)
        made.append(expression[: found.start()] + other + expression[found.end() :])
    swaps = {"+": "-", "-": "+", ">": "<", "<": ">", "max": "min", "min": "max", "*": "+"}
    for old, new in swaps.items():
        if old in expression and f'"{old}' not in expression and f"[{old}" not in expression:
            made.append(expression.replace(old, new, 1))
    return made


def test_a_seed_names_its_problem() -> None:
    for level in LEVELS:
        one, other = CodeEnv(level=level), CodeEnv("eval", level=level)
        for seed in range(20):
            assert one.problem(seed, "eval") == other.problem(seed)
            assert generate(rng_for(seed), level) == generate(rng_for(seed), level)


# Rewards


SQUARE = Problem(
    prompt="Square x.",
    gold=CodeTests(
        kind="call",
        entry_point="f",
        cases=tuple(Case(given=(x,), expected=x * x) for x in (2, 3, 44, 55)),
        visible=2,
    ),
    solution=block("def f(x):\n    return x * x"),
)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        pytest.param(SQUARE.solution, (1, 1, 1), id="the solution"),
        pytest.param(SQUARE.solution + "\nDone.", (1, 1, 0), id="words after it"),
        pytest.param(f"<think>x*x</think>{SQUARE.solution}", (1, 1, 1), id="thoughts before it"),
        pytest.param(f"<think>{SQUARE.solution}", (0, 0, 0), id="thoughts only"),
        pytest.param(block("def f(x):\n    return x * 2"), (0.25, 1, 1), id="right once"),
        pytest.param(block("def f(x):\n    return 0"), (0, 1, 1), id="wrong"),
        pytest.param(block("def f(x):\n    return 6 // (x - 3) + 10"), (0.25, 0, 1), id="raises"),
        pytest.param(block("def f(x)\n    return x"), (0, 0, 1), id="no Python"),
        pytest.param("def f(x):\n    return x * x", (0, 0, 0), id="no block"),
        pytest.param("```python\ndef f(x):\n    return x * x", (0, 0, 0), id="a block without end"),
        pytest.param("", (0, 0, 0), id="nothing"),
    ],
)
def test_each_part_is_earned_on_its_own(answer: str, parts: tuple[float, float, float]) -> None:
    reward = CodeEnv().score(SQUARE, answer)
    assert tuple(reward.parts[name] for name in ("passed", "runs", "format")) == parts


def test_all_or_nothing() -> None:
    env = CodeEnv(passed="all")
    answers = [block("def f(x):\n    return x * 2"), SQUARE.solution]
    assert passed(env, [SQUARE] * 2, answers) == [0, 1]


def test_a_batch_is_scored_in_order() -> None:
    env = CodeEnv(workers=2)
    programs = [f"def f(x):\n    return x * x if x > {n} else 0" for n in (0, 2, 3, 44, 55)]
    assert passed(env, [SQUARE] * 5, list(map(block, programs))) == [1, 0.75, 0.5, 0.25, 0]


def test_the_detail_is_for_people() -> None:
    env = CodeEnv()
    env.reset(seed=0)
    *_, info = env.step(block("def f(x):\n    return 0"))
    assert re.fullmatch(r"call: f\(-?\d+\): 0 instead of -?\d+\.", info["detail"])
    assert info["reward/runs"] == info["reward/format"] == info["reward_valid"] == 1.0
    env.reset(seed=0)
    assert env.step(env.problem(0).solution)[-1]["detail"] == ""


# Sandboxes


class Fake:
    """A backend of this process: `answers` gives each program's values, or fails."""

    def __init__(self, level: str = "fake", barrier: threading.Barrier | None = None) -> None:
        self.level = level
        self.barrier = barrier
        self.programs: list[str] = []

    def run(
        self,
        program: str,
        *,
        stdin: str | None = None,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> RunResult:
        self.programs.append(program)
        if self.barrier is not None:
            self.barrier.wait(timeout=20)
        if "unlucky" in program:
            raise SandboxError("a worker died twice.")
        values = [Returned(value=args[0] ** 2) for args in calls.args] if calls else []
        return RunResult(status="ok", values=tuple(values))

    def judge(
        self, program: str, *, tests: str, entry_point: str, limits: Limits | None = None
    ) -> Verdict:
        return Verdict(passed=True)

    def close(self) -> None:
        pass


def test_a_sandbox_that_fails_costs_one_answer_which_is_not_wrong() -> None:
    env = CodeEnv(workers=2)
    env.backend = fake = Fake()
    answers = [SQUARE.solution, block("unlucky"), SQUARE.solution]
    replies = env.reply_batch([SQUARE] * 3, [[Turn(action=answer)] for answer in answers])
    assert [reply.reward.valid for reply in replies] == [True, False, True]
    assert [reply.reward.total for reply in replies] == [pytest.approx(1.2), 0, pytest.approx(1.2)]
    assert replies[1].reward.error == "SandboxError: a worker died twice."
    assert len(fake.programs) == 3  # the others are not graded again


def test_broken_test_code_is_no_wrong_answer() -> None:
    broken = CodeTests(kind="asserts", entry_point="f", code="def check(f):\n    assert f(")
    problem = Problem(prompt="", gold=broken, solution="")
    rewards = CodeEnv().score_batch([problem, SQUARE], [SQUARE.solution] * 2)
    assert [reward.valid for reward in rewards] == [False, True]
    assert rewards[0].error.startswith("DatasetError: tests of f: ")


def test_a_sandbox_that_fails_in_a_conversation_is_invalid_too() -> None:
    env = CodeEnv(turns=3)
    env.backend = Fake()
    (reply,) = env.reply_batch([SQUARE], [[Turn(action=block("unlucky"))]])
    assert not reply.reward.valid


def test_programs_run_side_by_side() -> None:
    env = CodeEnv(workers=4)
    env.backend = Fake(barrier=threading.Barrier(4))  # opens when four have come
    assert passed(env, [SQUARE] * 8, [SQUARE.solution] * 8) == [1] * 8


@pytest.mark.parametrize("level", ["unsafe", "degraded"])
def test_no_isolation_is_said_in_every_detail(level: str) -> None:
    env = CodeEnv()
    env.backend = Fake(level)
    assert env.score(SQUARE, SQUARE.solution).note == f"call: The sandbox is {level}."


def test_weak_tests_are_said_in_every_detail() -> None:
    weak = CodeTests(kind="weak", entry_point="f", code="def check(f):\n    assert f(2) == 4")
    problem = Problem(prompt="", gold=weak, solution="")
    env = CodeEnv()
    weakness = "weak: the tests ran in the program's own process."
    assert env.score(problem, SQUARE.solution).note == f"weak: {weakness}"
    wrong = env.score(problem, block("def f(x):\n    return 5")).note
    assert wrong == f"weak: The program fails: AssertionError. {weakness}"


# Turns


def test_the_failing_visible_test_comes_back() -> None:
    env = CodeEnv(turns=3)
    prompt, _ = env.reset(seed=3)
    problem = env.problem(3)
    assert prompt == problem.prompt
    first = problem.gold.cases[0]
    name = problem.gold.entry_point

    observation, reward, done, cut, _ = env.step(block("def f(x):\n    return None"))
    assert observation == f"{name}({first.given[0]}): None instead of {first.expected}."
    assert (reward, done, cut) == (0, False, False)

    observation, reward, done, cut, _ = env.step("I give up.")
    assert observation == "There is no program: end with one ```python block."
    assert (reward, done, cut) == (0, False, False)

    observation, reward, done, cut, info = env.step(problem.solution)
    assert reward == pytest.approx(1.2)
    assert (observation, done, cut) == ("", True, False)
    assert info["reward/passed"] == 1


def test_an_episode_ends_when_the_visible_tests_pass_whatever_is_hidden() -> None:
    env = CodeEnv(turns=3)
    reply = env.respond(SQUARE, [Turn(action=block("def f(x):\n    return x * x if x < 9 else 0"))])
    assert (reply.done, reply.observation) == (True, "")
    assert reply.reward.parts == {"passed": 0.5, "runs": 1.0, "format": 1.0}


def test_the_last_turn_is_paid_though_it_fails() -> None:
    env = CodeEnv(turns=2)
    env.reset(seed=3)
    wrong = block("def f(x):\n    return None")
    assert env.step(wrong)[1:4] == (0, False, False)
    _, reward, done, cut, info = env.step(wrong)
    assert reward == pytest.approx(0.2)
    assert (done, cut) == (False, True)
    assert info["reward/runs"] == 1


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(x):\n    return x + 2", "f(3): 5 instead of 9."),
        ("def f(x):\n    return 1 // 0", "ZeroDivisionError"),
        ("raise ValueError('early')", "The program fails: ValueError: early."),
        ("x = [", "The program fails: SyntaxError"),
        ("def g(x):\n    return 4", "The program fails: "),
    ],
)
def test_the_feedback_on_a_program(program: str, expected: str) -> None:
    env = CodeEnv(turns=2)
    assert expected in feedback(SQUARE.gold, program, env.backend, env.limits)


SPIES = {
    "writes what it is asked": "import sys\ndef f(x):\n    sys.stderr.write(f'{x}!')\n    return 0",
    "raises what it is asked": """
seen = []
def f(x):
    seen.append(x)
    raise ValueError(seen)
""",
    "returns what it was asked": "seen = []\ndef f(x):\n    seen.append(x)\n    return seen",
    "tells at exit": """
import atexit, os, sys
seen = []
atexit.register(lambda: sys.stderr.write(str(seen)))
def f(x):
    seen.append(x)
    return 0
""",
    "fails when it is asked more": "def f(x):\n    assert x < 9, x\n    return 0",
}


@pytest.mark.parametrize("spy", SPIES)
def test_hidden_tests_stay_hidden(spy: str) -> None:
    env = CodeEnv(turns=2)
    reply = env.respond(SQUARE, [Turn(action=block(SPIES[spy]))])
    assert not reply.done
    assert reply.observation
    for hidden in ("44", "55", "1936", "3025"):
        assert hidden not in reply.observation


def test_without_visible_tests_only_what_ends_the_program_is_told() -> None:
    env = CodeEnv(turns=2)
    tests = CodeTests(kind="asserts", entry_point="f", code="def check(f):\n    assert f(7) == 8")
    assert feedback(tests, "def f(x):\n    return 0", env.backend) == ""
    assert feedback(tests, "import nothing_at_all", env.backend).startswith(
        "The program fails: Mod"
    )
    assert feedback(tests, None, env.backend).startswith("There is no program")


def test_turns_with_standard_input() -> None:
    cases = (Case(given="3 4", expected="7"), Case(given="9 9", expected="18"))
    tests = CodeTests(kind="stdio", cases=cases, visible=1)
    problem = Problem(
        prompt="Add.", gold=tests, solution=block("print(sum(map(int, input().split())))")
    )
    env = CodeEnv(turns=2)
    reply = env.respond(problem, [Turn(action=block("print(8)"))])
    assert reply.observation == "On the input '3 4': '8\\n' instead of '7'."
    reply = env.respond(problem, [Turn(action=problem.solution)])
    assert (reply.done, reply.reward.parts["passed"]) == (True, 1)


def test_members_of_a_group_take_their_own_number_of_turns() -> None:
    groups = GroupVectorEnv(CodeEnv(turns=2), num_envs=4, group_size=2)
    groups.reset(seed=[0, 1])
    solutions = [groups.env.problem(seed).solution for seed in (0, 0, 1, 1)]
    observations, rewards, done, cut, _ = groups.step([solutions[0], "?", "?", solutions[3]])
    assert list(rewards) == [pytest.approx(1.2), 0, 0, pytest.approx(1.2)]
    assert list(done) == [True, False, False, True]
    assert [bool(text) for text in observations] == [False, True, True, False]
    _, rewards, done, cut, _ = groups.step(["", solutions[1], "?", ""])
    assert list(rewards) == [0, pytest.approx(1.2), 0, 0]
    assert list(done) == [True, True, False, True]
    assert list(cut) == [False, False, True, False]


# Promises and arguments


@pytest.mark.parametrize(
    "level", [2, 4, *(pytest.param(level, marks=pytest.mark.slow) for level in (3, 5))]
)
def test_every_level_keeps_every_promise(level: int) -> None:
    grpo_envs.check_env(CodeEnv(level=level), problems=10)


def test_conversations_keep_every_promise() -> None:
    grpo_envs.check_env(CodeEnv(turns=3, passed="all"), problems=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 6}, "env.level=6. Allowed: 1, 2, 3, 4, 5."),
        ({"passed": "al"}, "env.passed=al. Allowed: fraction, all. Did you mean 'all'?"),
        ({"trust": "week"}, "env.trust=week. Allowed: sandbox, weak. Did you mean 'weak'?"),
        ({"turns": 0}, "env.turns=0. Allowed: 1 to 20."),
        ({"turns": 1.5}, "env.turns=1.5. Allowed: 1 to 20."),
        ({"turns": True}, "env.turns=True. Allowed: 1 to 20."),
        ({"wall_s": 0}, "env.wall_s=0. Allowed: seconds, at most 600."),
        ({"wall_s": "6"}, "env.wall_s=6. Allowed: seconds, at most 600."),
        ({"workers": 0}, "env.workers=0. Allowed: a whole number above 0, or null."),
        ({"workers": 1.5}, "env.workers=1.5. Allowed: a whole number above 0, or null."),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("code", **arguments)
    assert str(caught.value) == message


def test_a_reward_part_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^no reward component 'pased'\. .* mean 'passed'\?$"):
        CodeEnv(rewards={"pased": 1.0})


def test_a_level_of_isolation_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^env\.sandbox=saef\. Allowed: auto, .*'unsafe'\?$"):
        CodeEnv(sandbox="saef")


def test_environments_share_one_pool() -> None:
    assert CodeEnv().backend is CodeEnv("eval", level=3).backend
    assert CodeEnv().backend is not CodeEnv(workers=1).backend


# A tool before the answer


def test_programs_are_tried_out_before_the_answer() -> None:
    env = CodeEnv(tools="python", turns=3)
    problem = env.problem(0)
    (tool,) = env.reset(seed=0)[1]["tools"]
    assert tool["function"]["name"] == "python"
    call = write_call("python", {"code": "print(6 * 7)"})
    fails = write_call("python", {"code": "1/0"})
    turns = [Turn(action=call + fails)]
    (reply,) = env.reply_batch([problem], [turns])
    error = "error: ZeroDivisionError: division by zero"
    assert (reply.results, reply.done, reply.reward.total) == (("42", error), False, 0)
    turns = [Turn(action=call + fails, observation=reply.observation)]
    (reply,) = env.reply_batch([problem], [[*turns, Turn(action=problem.solution)]])
    assert reply.done
    assert reply.reward.total == pytest.approx(env.reward_range[1])
    (reply,) = env.reply_batch([problem], [[*turns, Turn(action="```python\nf = 1\n```")]])
    assert (reply.done, reply.observation, reply.reward.parts["passed"]) == (True, "", 0)


def test_with_a_tool_it_keeps_every_promise() -> None:
    grpo_envs.check_env(CodeEnv(tools="python", turns=2), problems=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": "pyton"}, "env.tools=pyton. Allowed: None, python. Did you mean 'python'?"),
        ({"tools": "python"}, "env.turns=1. Allowed: 2 to 20 with env.tools=python."),
    ],
)
def test_a_tool_that_cannot_be_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CodeEnv(**arguments)
    assert str(caught.value) == message

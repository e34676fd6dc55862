"""env=reasoning_gym: other people's generators and graders, none of them trusted."""

import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_reasoning_gym import ReasoningGymEnv, inside, library
from grpo_env_reasoning_gym.inside import EVALUATING, PARSING, readable
from grpo_env_reasoning_gym.library import Item, Library
from grpo_env_reasoning_gym.refused import REFUSED
from grpo_env_reasoning_gym.shape import answer_of, well_formed
from grpo_envs import GroupVectorEnv, Problem, check_env
from grpo_envs.errors import ConfigError
from grpo_envs.sandbox import Calls, Limits, LocalPool, Raised, Returned, RunResult, Verdict
from tests.benchmarks.reasoning_gym_tasks import look

SPEC = find_spec("reasoning_gym")
if SPEC is None:
    pytest.skip("needs reasoning-gym", allow_module_level=True)
PACKAGE = Path(str(SPEC.origin)).parent


def made(**keywords: Any) -> ReasoningGymEnv:
    env = grpo_envs.make("reasoning_gym", **keywords)
    assert isinstance(env, ReasoningGymEnv)
    return env


def paid(env: ReasoningGymEnv, problem: Problem, answer: str) -> float:
    (reward,) = env.score_batch([problem], [f"<answer>{answer}</answer>"])
    assert reward.valid, reward.error
    return reward.parts["correct"]


# Problems


@pytest.mark.slow
def test_a_task_keeps_every_promise() -> None:
    check_env(made(task="ab"), problems=2)


@pytest.mark.parametrize(
    "task",
    [
        *("boxnet", "codeio", "complex_arithmetic", "countdown", "game_of_life"),
        *("n_queens", "power_function", "rush_hour", "spell_backward", "zebra_puzzles"),
    ],
)
def test_a_task_has_questions_for_both_splits_and_pays_for_their_answers(task: str) -> None:
    env = made(task=task)
    problems = [env.problem(seed, split) for split in ("train", "eval") for seed in (0, 1)]
    assert len({problem.prompt for problem in problems}) == 4
    solved = env.score_batch(problems, [problem.solution for problem in problems])
    known = float(task not in ("boxnet", "rush_hour"))  # whose items have no answer beside them
    assert [reward.parts for reward in solved] == [{"correct": known, "format": known}] * 4
    junk = ["", *(f"<answer>{text}</answer>" for text in ("", "?", "nan", problems[0].prompt))]
    wrong = env.score_batch(problems[:1] * len(junk), junk)
    assert [(reward.valid, reward.parts["correct"]) for reward in wrong] == [(True, 0.0)] * 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask the library for its tasks in a sandbox only where the test of all of them may run."""
    if "any_task" in metafunc.fixturenames:
        left_out = metafunc.config.getoption("markexpr") == "not slow"
        metafunc.parametrize("any_task", [] if left_out else library.tasks())


@pytest.mark.slow
def test_every_task_keeps_every_promise_or_is_refused(any_task: str) -> None:
    row = look(any_task, problems=3)
    assert bool(row.broken) == (any_task in REFUSED), row


def test_neighbouring_keys_share_nothing_and_another_process_draws_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In reasoning-gym itself item i is made from seed + i: seeds 1 and 2 share all but one."""
    env = made(task="leg_counting")
    drawn = [env.problem(key) for key in range(12)]
    assert len({problem.prompt for problem in drawn}) == 12
    pool = LocalPool(workers=1, preload=("reasoning_gym",))
    again = made(task="leg_counting")
    monkeypatch.setattr(again, "_item", Library("leg_counting", {}, pool).draw)
    assert [again.problem(key) for key in (3, 11)] == [drawn[3], drawn[11]]
    pool.close()


def test_options_and_task_are_part_of_the_key() -> None:
    plain, wide = made(), made(options={"max_terms": 7})
    assert plain.problem(0) != wide.problem(0)
    assert plain.problem(0) == made(options={}).problem(0)


def test_a_group_shares_its_question_and_each_answer_its_grade() -> None:
    env = made(task="countdown")
    groups = GroupVectorEnv(env, num_envs=4, group_size=2)
    groups.reset(seed=[1, 2])
    solutions = [env.problem(seed).solution for seed in (1, 2)]
    _, rewards, terminated, _, info = groups.step([solutions[0], "", solutions[0], solutions[1]])
    assert list(rewards) == [1.1, 0.0, 0.1, 1.1]
    assert terminated.all()
    assert info["reward_valid"].all()


# Mistakes


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"task": "countdwn"}, "env.task=countdwn. Allowed: ab, acre, * Did you mean 'countdown'?"),
        ({"task": "composite"}, "env.task=composite. Allowed: ab, acre, *"),
        ({"credit": "some"}, "env.credit=some. Allowed: all, partial."),
        ({"options": "x"}, "env.options='x'. Allowed: {name: value, ...} of the task."),
        ({"options": [1]}, "env.options=[1]. Allowed: {name: value, ...} of the task."),
        ({"options": 0}, "env.options=0. Allowed: {name: value, ...} of the task."),
        ({"wall_s": 0}, "env.wall_s=0. Allowed: seconds, at most 600."),
        ({"sandbox": "none"}, "env.sandbox=none. Allowed: *"),
        (
            {"options": {"min_term": 3}},
            "no option of env.task=chain_sum 'min_term'. Allowed: * Did you mean 'min_terms'?",
        ),
        ({"options": {"seed": 3}}, "no option of env.task=chain_sum 'seed'. Allowed: *"),
        (
            {"options": {"min_terms": 0}},
            "env.task=chain_sum env.options={'min_terms': 0}. Allowed: min_terms must be positive.",
        ),
        (
            {"options": {"min_terms": "two"}},
            "env.task=chain_sum env.options={'min_terms': 'two'}. Allowed: min_terms is a value "
            "like 2.",
        ),
        (
            {"task": "word_sorting", "options": {"transformation": "upper"}},
            "env.task=word_sorting env.options={'transformation': 'upper'}. Allowed: "
            "transformation is one of lowercase, uppercase, original, randomcase.",
        ),
        (
            {"task": "time_intervals", "options": {"min_date": "today"}},
            "env.task=time_intervals *. Allowed: min_date is a value like 1900-01-01.",
        ),
        (
            {"task": "count_bits", "options": {"min_n": 5, "max_n": 5}},
            "env.task=count_bits env.options={'min_n': 5, 'max_n': 5}: 1 questions in 200 draws, "
            "none of *: too few for two splits.",
        ),
    ],
)
def test_a_mistake_is_one_line(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**keywords)
    pattern = re.escape(said).replace(r"\*", ".*")
    assert re.fullmatch(pattern, str(caught.value)), caught.value


@pytest.mark.parametrize("task", REFUSED)
def test_a_refused_task_says_why(task: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(task=task)
    assert str(caught.value) == f"env.task={task} is refused: {REFUSED[task]}."


@pytest.mark.parametrize(
    ("task", "options", "shown"),
    [
        pytest.param("word_sorting", {"transformation": "uppercase"}, r"[A-Z]{3}, ", id="enum"),
        pytest.param(
            "time_intervals",
            {"min_date": "2001-01-01", "max_date": "2001-12-31", "task_types": ["date"]},
            "2001",
            id="dates",
        ),
        pytest.param(
            "manipulate_matrix",
            {"w_rotate": 0, "min_rows": 2, "max_rows": 2, "min_cols": 3, "max_cols": 3},
            r"\n\d \d \d\n\d \d \d\n",
            id="numbers",
        ),
    ],
)
def test_options_are_read_in_the_types_of_their_defaults(
    task: str, options: dict[str, Any], shown: str
) -> None:
    env = made(task=task, options=options)
    prompts = [env.problem(seed).prompt for seed in range(4)]
    assert all(re.search(shown, prompt) for prompt in prompts), prompts


def test_without_reasoning_gym_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[reasoning-gym\]"'):
        made()


# Graders


class Told:
    """A sandbox in which grading an 8 ends in one way; any other answer earns nothing."""

    level = "scripted"

    def __init__(self, result: RunResult) -> None:
        self.result = result

    def run(
        self,
        program: str,
        *,
        stdin: str | None = None,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> RunResult:
        assert calls is not None
        nothing = RunResult(status="ok", values=(Returned(value=0.0),))
        return self.result if calls.args[0][-1] == "8" else nothing

    def judge(
        self, program: str, *, tests: str, entry_point: str, limits: Limits | None = None
    ) -> Verdict:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("result", "best", "expected"),
    [
        pytest.param(RunResult(status="ok", values=(Returned(value=0.5),)), 1.0, 0.5, id="a score"),
        pytest.param(RunResult(status="ok", values=(Returned(value=1),)), 1.0, 1.0, id="the best"),
        pytest.param(RunResult(status="ok", values=(Returned(value=7),)), 1.0, 0.99, id="a sum"),
        pytest.param(RunResult(status="ok", values=(Returned(value=-1),)), 1.0, 0.0, id="below 0"),
        pytest.param(RunResult(status="ok", values=(Raised(error="E"),)), 1.0, 0.0, id="it raises"),
        pytest.param(RunResult(status="ok", values=(Raised(error="E"),)), None, None, id="always"),
        pytest.param(RunResult(status="cpu", cpu_s=3), 1.0, 0.0, id="it computes for ever"),
        pytest.param(RunResult(status="wall", cpu_s=2.9), 1.0, 0.0, id="it nearly does"),
        pytest.param(RunResult(status="wall", cpu_s=0.1), 1.0, None, id="the machine is busy"),
        pytest.param(RunResult(status="memory"), 1.0, 0.0, id="it takes all memory"),
        pytest.param(RunResult(status="killed"), 1.0, 0.0, id="it crashes"),
        pytest.param(RunResult(status="cpu", cpu_s=3), None, None, id="and so for its own answer"),
    ],
)
def test_what_a_grader_does_is_a_score_or_invalid(
    result: RunResult, best: float | None, expected: float | None
) -> None:
    """None: invalid, because it is not the answer's fault."""
    env = made(credit="partial")
    item = Item(question="?", answer="7", best=best, number=0, entry=b"")
    env.library.backend = Told(result)
    problem = Problem(prompt="?", gold=item, solution="")
    (reward,) = env.score_batch([problem], ["<answer>8</answer>"])
    assert reward.valid == (expected is not None)
    assert reward.parts.get("correct") == expected
    assert bool(reward.detail) == (not result.values or isinstance(result.values[0], Raised))


EVALUATED = (
    *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "number_sorting"),
    *("polynomial_multiplication", "simple_integration", "spiral_matrix", "string_insertion"),
)
"""Tasks whose graders evaluate the answer."""
OTHERS = ("arc_1d", "codeio", "complex_arithmetic", "decimal_arithmetic", "family_relationships")


@pytest.mark.parametrize("task", [*EVALUATED, *OTHERS])
def test_code_in_an_answer_runs_nowhere_and_decides_nothing(task: str, tmp_path: Path) -> None:
    """Where it ran in the sandbox, one would end the grader, and one turn its verdict into 1."""
    mark = tmp_path / "mark"
    env = made(task=task, credit="partial")
    problem = env.problem(0)
    always = "type('F', (float,), {'__new__': lambda *_: 1.0})"
    codes = (
        f"__import__('os').system('touch {mark}')",
        f"[open('{mark}', 'w')]",
        "__import__('os')._exit(3)",
        f"setattr(__import__('builtins'), 'float', {always})",
    )
    for reward in env.score_batch([problem] * 4, [f"<answer>{code}</answer>" for code in codes]):
        assert reward.valid
        assert reward.parts["correct"] < 0.1
        assert "the grader ended" not in reward.note
    assert not mark.exists()


def test_code_may_not_read_the_right_answer_from_the_graders_variables() -> None:
    env = made(task="spiral_matrix", credit="partial")
    problem = env.problem(0)
    right = problem.gold.answer
    assert paid(env, problem, right) == 1
    assert paid(env, problem, str(right.split())) == pytest.approx(0.1)  # a list, as it allows
    assert paid(env, problem, "oracle_answer.split()") == 0


def test_all_that_evaluates_answers_is_known() -> None:
    """A new version may have more: then `inside` guards it, too, and this test says so."""
    sources = {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path.read_text("utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    found = {
        word: {name for name, text in sources.items() if re.search(rf"(?<![.\w]){word}\(", text)}
        for word in ("eval", "parse_expr", "exec", "sympify", "parse_latex")
    }
    generators = {
        *("arithmetic.basic_arithmetic", "arithmetic.bitwise_arithmetic"),
        *("arithmetic.gsm_symbolic.generators_00_49", "arithmetic.gsm_symbolic.generators_50_99"),
    }  # what they evaluate is their own
    assert found["eval"] - generators == set(EVALUATING)
    assert found["parse_expr"] - {"logic.propositional_logic"} == set(PARSING)
    assert found["exec"] == {"code.codeio"}
    assert not found["sympify"] | found["parse_latex"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3*x**2 + sin(x)/2", True),
        ("-1.5 + .5*exp(x) + C", True),
        ("2*(3 + 4)", True),
        ("__import__('os')", False),
        ("x.args", False),
        ("x._y", False),
        ("lambda: 1", False),
        ("open(x)", False),
        ("Integral(x)", False),
        ("nan", False),
        ("x[0]", False),
        ("\u0661+1", False),
        ("1+" * 600 + "1", False),
        ("", True),
    ],
)
def test_what_counts_as_arithmetic(text: str, expected: bool) -> None:
    assert readable(text) is expected


def test_an_answer_that_never_ends_costs_its_own_reward() -> None:
    env = made(task="countdown", wall_s=2)
    assert env.limits == Limits(wall_s=2.0, cpu_s=1)
    env.limits = Limits(wall_s=60.0, cpu_s=1)  # a busy machine takes longer for a second of the CPU
    problem = env.problem(0)
    answers = ["<answer>9**9**9**9</answer>", problem.solution]
    endless, right = env.score_batch([problem] * 2, answers)
    assert endless.valid
    assert endless.parts["correct"] == 0
    assert "the grader ended by" in endless.note
    assert right.parts["correct"] == 1


def test_credit() -> None:
    """What the grader gives to any answer is worth nothing; what it gives beyond, its share."""
    part = made(task="countdown", credit="partial")  # 0.01 for anything, 0.05 for a sum
    whole = made(task="countdown")
    problem = part.problem(0)
    total = sum(map(int, re.findall(r"\d+", problem.gold.answer)))
    assert paid(part, problem, f"{total} + 1") == pytest.approx(0.04 / 0.99)
    assert paid(whole, problem, f"{total} + 1") == 0
    assert paid(part, problem, "no idea") == 0
    assert (
        paid(part, problem, problem.gold.answer) == paid(whole, problem, problem.gold.answer) == 1
    )


# Generators


def test_a_generator_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    env = made(task="chain_sum")
    monkeypatch.setattr(library, "_DRAW", Limits(cpu_s=1, wall_s=20))
    backend = env.library.backend
    assert isinstance(backend, LocalPool)

    class Slow(Told):
        def run(self, program: str, **given: Any) -> RunResult:
            return backend.run(f"{program}\n\ndef _item(*_):\n    while True: pass\n", **given)

    env.library.backend = Slow(RunResult(status="ok"))
    with pytest.raises(ConfigError, match=r"a question takes more than \d+ s to draw"):
        env.library.draw("train", 1)


def test_an_item_that_takes_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def __getitem__(self, index: int) -> dict[str, Any]:
            while index == 0:
                pass
            return {"question": str(index)}

    monkeypatch.setattr(inside, "_ITEM_S", 0.05)
    kept = signal.getsignal(signal.SIGVTALRM)
    assert [inside._item(Stuck(), 0, index) for index in (0, 1)] == [{}, {"question": "1"}]
    signal.signal(signal.SIGVTALRM, kept)


# Shape


@pytest.mark.parametrize(
    ("completion", "answer", "form"),
    [
        ("<answer>7</answer>", "7", True),
        ("<think>6</think> So: <answer> 7 </answer>\n", "7", True),
        ("<answer>6</answer><answer>7</answer>", "7", False),
        ("<answer>7</answer> or so", "7", False),
        ("<think><answer>7</answer></think>", None, False),
        ("<think>a</think><think>b</think><answer>7</answer>", "7", False),
        ("<think><answer>7</answer>", None, False),
        ("<answer></answer>", "", False),
        ("<answer>7", None, False),
        ("7", None, False),
    ],
)
def test_the_answer_and_its_shape(completion: str, answer: str | None, form: bool) -> None:
    assert (answer_of(completion), well_formed(completion)) == (answer, form)

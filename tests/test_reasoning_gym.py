"""env=reasoning_gym: other people's generators and graders, none of them trusted."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_reasoning_gym import ReasoningGymEnv, library
from grpo_env_reasoning_gym.inside import EVALUATING, PARSING
from grpo_env_reasoning_gym.library import Item, Library
from grpo_env_reasoning_gym.refused import REFUSED
from grpo_env_reasoning_gym.shape import answer_of, well_formed
from grpo_envs import GroupVectorEnv, Problem, check_env
from grpo_envs.errors import ConfigError
from grpo_envs.sandbox import Calls, Limits, LocalPool, Raised, Returned, RunResult, Verdict
from tests.benchmarks.reasoning_gym_tasks import look

PACKAGE = Path(str(library.find_spec("reasoning_gym").origin)).parent  # type: ignore[union-attr]


def made(**keywords: Any) -> ReasoningGymEnv:
    env = grpo_envs.make("reasoning_gym", **keywords)
    assert isinstance(env, ReasoningGymEnv)
    return env


def paid(env: ReasoningGymEnv, problem: Problem, answer: str) -> float:
    (reward,) = env.score_batch([problem], [f"<answer>{answer}</answer>"])
    assert reward.valid, reward.error
    return reward.parts["correct"]


# Problems


@pytest.mark.parametrize(
    "task", ["countdown", "spiral_matrix", "simple_integration", "propositional_logic", "sudoku"]
)
def test_a_task_keeps_every_promise(task: str) -> None:
    check_env(made(task=task), problems=2)


@pytest.mark.slow
@pytest.mark.parametrize("task", library.tasks())
def test_every_task_keeps_every_promise_or_is_refused(task: str) -> None:
    row = look(task, problems=3)
    assert bool(row.broken) == (task in REFUSED), row


def test_neighbouring_keys_share_nothing_and_another_process_draws_the_same() -> None:
    """In reasoning-gym itself item i is made from seed + i: seeds 1 and 2 share all but one."""
    env = made(task="leg_counting")
    drawn = [env.problem(key) for key in range(30)]
    assert len({problem.prompt for problem in drawn}) == 30
    other = Library("leg_counting", {}, LocalPool(workers=1, preload=("reasoning_gym",)))
    again = made(task="leg_counting")
    again.library = other
    again._item = other.draw  # type: ignore[assignment]  not remembered
    assert [again.problem(key) for key in (3, 29)] == [drawn[3], drawn[29]]


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


def test_options_are_read_in_the_types_of_their_defaults() -> None:
    dates = {"min_date": "2001-01-01", "max_date": "2001-12-31", "task_types": ["date"]}
    library = Library("time_intervals", dates, made().library.backend) if 0 else None
    del library
    env = made(task="word_sorting", options={"transformation": "uppercase"})
    assert env.problem(0).gold.answer.isupper()


def test_without_reasoning_gym_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "grpo-envs\[reasoning-gym\]"'):
        made()


# Graders


class Told:
    """A sandbox in which everything ends the same way."""

    level = "told"

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
        return self.result

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
        pytest.param(RunResult(status="ok", values=(Returned(value=7),)), 1.0, 1.0, id="above 1"),
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
    if expected == 0.5:
        env._junk = lambda item: 0.0  # type: ignore[attr-defined]
    problem = Problem(prompt="?", gold=item, solution="")
    (reward,) = env.score_batch([problem], ["<answer>8</answer>"])
    assert reward.valid == (expected is not None)
    if expected not in (None, 0.5):
        assert reward.parts["correct"] == expected
        assert bool(reward.error) == (not result.values or isinstance(result.values[0], Raised))

"""Where the problems of mathematics come from: files in the forms of GSM8K, MATH and AIME, and
reasoning-gym's templates."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_math import MathEnv
from grpo_env_math.gsm_symbolic import GsmSymbolicEnv, templates
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.seeding import split_of
from grpo_envs.types import Problem
from tests.conftest import Write

ROOT = Path(__file__).parents[2]


def by_prompt(env: MathEnv) -> dict[str, Problem]:
    assert env.rows is not None
    drawn = [env.problem(i, split) for split in ("train", "eval") for i in range(len(env.rows))]
    return {problem.prompt: problem for problem in drawn}


def parts(env: MathEnv, problem: Problem, answer: str) -> dict[str, float]:
    return dict(env.score(problem, answer).parts)


# Files

GSM8K = [
    {
        "question": "Natalia sold 48 clips in April, and half as many in May. How many in all?",
        "answer": "She sold 48/2 = <<48/2=24>>24 in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72",
    },
    {
        "question": "A house of $80,000 gains 150% after repairs. What is it worth?",
        "answer": "It gains 80000*1.5=$<<80000*1.5=120000>>120,000.\n#### 200,000",
    },
    {"question": "How much warmer is it now?", "answer": "It fell by 5.\n#### -5"},
    {"question": "What does one cost?", "answer": "8 / 16 = .5\n#### 0.50"},
]


def test_gsm8k_is_known_by_name(write: Write) -> None:
    more = [{"question": f"Half of {2 * i}?", "answer": f"\n#### {i}"} for i in range(400, 440)]
    path = write("gsm8k.jsonl", [*GSM8K, *more])
    keywords = compose_run(["env=gsm8k", f"env.dataset={path}"]).env_keywords
    env = grpo_envs.make("math", **keywords)
    assert isinstance(env, MathEnv)
    problems = by_prompt(env)
    golds = [problems[row["question"]].gold for row in GSM8K]
    assert golds == ["72", "200,000", "-5", "0.50"]
    house = problems[GSM8K[1]["question"]]
    assert parts(env, house, "<answer>200000</answer>")["correct"] == 1
    assert parts(env, house, "<answer>$200,000</answer>")["correct"] == 1
    assert parts(env, house, "<answer>120000</answer>")["correct"] == 0
    assert parts(env, house, house.solution) == {"correct": 1, "format": 1}
    grpo_envs.check_env(env, problems=10)


def test_gsm8k_names_its_columns() -> None:
    cfg = compose_run(["env=gsm8k"])
    assert cfg.env["columns"] == {"prompt": "question", "gold": "answer"}
    assert cfg.env["dataset"].startswith("openai/gsm8k")


def test_a_file_of_other_columns_under_the_name_gsm8k_is_one_line(write: Write) -> None:
    path = write("mine.jsonl", [{"prompt": "1+1?", "gold": "2"}, {"prompt": "1+2?", "gold": "3"}])
    keywords = compose_run(["env=gsm8k", f"env.dataset={path}"]).env_keywords
    with pytest.raises(DatasetError) as caught:
        grpo_envs.make("math", **keywords)
    assert str(caught.value) == (
        f"{path}: no column 'question'. Set env.columns={{prompt: ...}} to one of: prompt, gold."
    )


def test_a_file_in_the_form_of_math(write: Write) -> None:
    # The gold is the last box of a worked solution; other boxes and braces may stand before it.
    rows = [
        {
            "problem": r"What is $\frac{1}{2} + \frac{1}{4}$?",
            "solution": r"We have $\boxed{\frac{2}{4}}$ first, so $\boxed{\frac{3}{4}}$.",
            "level": "Level 1",
        },
        {
            "problem": "How many?",
            "solution": r"There are $\binom{6}{3}=20$, that is $\boxed{20}$ ways, for $n=6$.",
            "level": "Level 3",
        },
        {"problem": "Grains?", "solution": r"So $\boxed{10,\!000}$.", "level": "Level 2"},
        {"problem": "Below?", "solution": r"It is $\boxed{-\dfrac{5}{3}}$.", "level": "Level 2"},
        {
            "problem": "Roots?",
            "solution": r"They are $\boxed{1 \pm \sqrt{2}}$.",
            "level": "Level 4",
        },
        {"problem": "Where?", "solution": r"In $\boxed{[-2, 5) \cup (7, \infty)}$.", "level": "5"},
        {"problem": "Who?", "solution": r"$\boxed{\text{Evelyn}}$ it is.", "level": "Level 1"},
        {"problem": "In all?", "solution": r"It is $\boxed{\sum_{k=1}^n k}$.", "level": "Level 5"},
    ]
    path = write("math.jsonl", rows)
    env = MathEnv(dataset=path, columns={"prompt": "problem", "gold": "solution"}, answer="boxed")
    golds = {prompt: problem.gold for prompt, problem in by_prompt(env).items()}
    assert golds[rows[0]["problem"]] == r"\frac{3}{4}"
    assert golds["How many?"] == "20"
    for problem in by_prompt(env).values():
        assert parts(env, problem, problem.solution) == {"correct": 1, "format": 1}
    assert parts(env, by_prompt(env)["Grains?"], r"\boxed{10000}")["correct"] == 1
    assert parts(env, by_prompt(env)["Below?"], r"\boxed{-5/3}")["correct"] == 1
    assert parts(env, by_prompt(env)[rows[0]["problem"]], r"\boxed{\frac{2}{4}}")["correct"] == 0
    for prompt, answer, correct in (
        ("Roots?", r"1+\sqrt2, 1-\sqrt2", 1),
        ("Roots?", r"1+\sqrt2", 0),
        ("Where?", r"-2 \le x < 5 \text{ or } x > 7", 1),
        ("Where?", r"[-2, 5] \cup (7, \infty)", 0),
        ("Who?", "Evelyn", 1),
        ("Who?", "Angela", 0),
        ("In all?", r"\frac{n(n+1)}{2}", 1),
        ("In all?", r"\frac{n(n-1)}{2}", 0),
    ):
        found = parts(env, by_prompt(env)[prompt], rf"\boxed{{{answer}}}")
        assert found == {"correct": correct, "format": 1}, (prompt, answer)


def test_many_answers_are_graded_as_one_by_one(write: Write) -> None:
    rows = [{"prompt": f"P{n}", "gold": rf"\sum_{{k=1}}^{{{n}}} k"} for n in range(3, 9)]
    env = MathEnv(dataset=write("sums.jsonl", rows))
    problems = list(by_prompt(env).values()) * 2
    totals = [n * (n + 1) // 2 for n in map(int, (p.prompt[1:] for p in problems))]
    answers = [f"<answer>{total + i % 2}</answer>" for i, total in enumerate(totals)]
    together = env.score_batch(problems, answers)
    assert together == [env.score(*pair) for pair in zip(problems, answers, strict=True)]
    assert [reward.parts["correct"] for reward in together] == [1.0, 0.0] * len(rows)


def test_numbers_alone_start_no_sympy(write: Write, tmp_path: Path) -> None:
    code = (
        "import sys; from grpo_env_math import MathEnv\n"
        "from grpo_envs.graders.math import workers\n"
        "for name in sys.argv[1:]:\n"
        "    MathEnv(dataset=name); print(workers._POOLS['sympy_equal']._zygote is not None)"
    )
    files = [
        write(name, [{"prompt": f"P{i}", "gold": gold} for i in range(3)])
        for name, gold in (("numbers.jsonl", "1/2"), ("expressions.jsonl", "x^2"))
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *files],
        cwd=ROOT,
        env={"PYTHONPATH": ".:envs:agents", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]


def test_a_file_in_the_form_of_aime(write: Write) -> None:
    # Integers below 1000, as numbers or with the zeros of the answer sheet.
    rows = [{"id": f"2024-I-{i}", "problem": f"P{i}", "answer": a} for i, a in enumerate("0256")]
    rows += [{"id": "2024-II-4", "problem": "P4", "answer": "033"}]
    path = write("aime.jsonl", rows)
    env = MathEnv(dataset=path, columns={"prompt": "problem", "gold": "answer"}, answer="boxed")
    problem = by_prompt(env)["P4"]
    assert parts(env, problem, r"\boxed{33}")["correct"] == 1
    assert parts(env, problem, r"\boxed{033}")["correct"] == 1
    assert parts(env, problem, r"\boxed{330}")["correct"] == 0
    numbers = [{"problem": f"P{i}", "answer": 100 + i} for i in range(4)]
    env = MathEnv(
        dataset=write("numbers.jsonl", numbers), columns={"prompt": "problem", "gold": "answer"}
    )
    assert {problem.gold for problem in by_prompt(env).values()} == {"100", "101", "102", "103"}


@pytest.mark.parametrize(
    "solution",
    [
        pytest.param(r"So $\boxed{\frac{1}{$.", id="a box that is not closed"),
        pytest.param("It follows from the lemma.", id="no answer at all"),
        pytest.param(r"\boxed{see below}", id="prose in a box"),
        pytest.param("#### ", id="nothing after ####"),
        pytest.param(r"\boxed{}", id="an empty box"),
    ],
)
def test_a_gold_that_cannot_be_read_is_named_before_training(solution: str, write: Write) -> None:
    rows = [{"problem": f"P{i}", "solution": rf"\boxed{{{i}}}"} for i in range(9)]
    rows.insert(6, {"problem": "broken", "solution": solution})
    path = write("math.jsonl", rows)
    with pytest.raises(DatasetError) as caught:
        MathEnv(dataset=path, columns={"prompt": "problem", "gold": "solution"})
    assert str(caught.value).startswith(f"{path}: row 7: gold ")
    assert "\n" not in str(caught.value)


# Templates


@pytest.fixture(scope="module")
def env() -> GsmSymbolicEnv:
    pytest.importorskip("reasoning_gym")
    return GsmSymbolicEnv()


def test_it_keeps_every_promise(env: GsmSymbolicEnv) -> None:
    grpo_envs.check_env(env, problems=30)


def test_every_usable_template_comes_up(env: GsmSymbolicEnv) -> None:
    assert len(templates()) == len(dict(templates())) == 85
    used = Counter(env.problem(seed).meta["template"] for seed in range(2000))
    assert used.keys() == dict(templates()).keys()
    assert max(used.values()) < 4 * min(used.values()) + 20  # none is rare, the filtered ones too


@pytest.mark.parametrize("number", [24, 27])
def test_negative_ages_and_parts_of_a_coin_are_filtered(
    number: int, env: GsmSymbolicEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = dict(templates())[number]
    made: list[str] = []

    def spy(rng: Any, difficulty: float) -> Mapping[str, Any]:
        problem = template(rng, difficulty)
        made.append(problem["answer"])
        return problem

    monkeypatch.setattr(env, "templates", ((number, spy),))
    golds = [env.problem(seed).gold for seed in range(300)]
    assert all(gold.isdecimal() for gold in golds)
    assert [gold for gold in made if not gold.isdecimal()]  # there was something to filter


def test_the_worked_solution_ends_in_the_gold(env: GsmSymbolicEnv) -> None:
    for seed in range(200):
        problem = env.problem(seed)
        work, closed, answer = problem.solution.partition("</think>")
        assert work.startswith("<think>")
        assert len(work) > 20
        assert "####" not in work
        assert (closed, answer) == ("</think>", f"<answer>{problem.gold}</answer>")
        assert parts(env, problem, problem.solution) == {"correct": 1, "format": 1}
        assert parts(env, problem, f"<answer>{int(problem.gold) + 1}</answer>")["correct"] == 0


@pytest.mark.parametrize("answer", ["tag", "boxed", "number"])
def test_the_question_is_the_same_however_the_answer_is_asked(
    answer: str, env: GsmSymbolicEnv
) -> None:
    other = GsmSymbolicEnv(answer=answer, rewards={"format": 0.5})
    for seed in range(20):
        problem = other.problem(seed)
        assert problem.prompt == env.problem(seed).prompt
        assert parts(other, problem, problem.solution) == {"correct": 1, "format": 1}


def test_a_question_belongs_to_one_split(env: GsmSymbolicEnv) -> None:
    train = {env.problem(seed, "train").prompt for seed in range(3000)}
    evaluation = {env.problem(seed, "eval").prompt for seed in range(1000)}
    assert not train & evaluation
    assert {split_of(question) for question in train} == {"train"}
    assert len(train) > 2500
    assert len(evaluation) > 500


DIGEST = """
import hashlib
seen = [(p.prompt, p.gold, p.solution) for p in map(env.problem, range(300))]
digest = hashlib.sha256(repr(seen).encode()).hexdigest()
"""


def test_a_seed_names_its_problem_in_every_process(env: GsmSymbolicEnv) -> None:
    here: dict[str, Any] = {"env": env}
    exec(DIGEST, here)  # noqa: S102  the very same lines
    head = "from grpo_env_math.gsm_symbolic import GsmSymbolicEnv\nenv = GsmSymbolicEnv()\n"
    other = subprocess.run(
        [sys.executable, "-c", f"{head}{DIGEST}print(digest)"],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ".:envs:agents", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == here["digest"]


def test_without_reasoning_gym_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    templates.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.arithmetic.gsm_symbolic", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError) as caught:
        GsmSymbolicEnv()
    assert str(caught.value) == (
        'env=gsm_symbolic needs reasoning-gym: pip install -e ".[reasoning-gym]"'
    )


def test_wrong_arguments_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^env\.answer=tags\. Allowed: tag, boxed, number"):
        GsmSymbolicEnv(answer="tags")
    with pytest.raises(ConfigError, match="no reward component 'corect'"):
        GsmSymbolicEnv(rewards={"corect": 1.0})


def test_importing_the_environment_imports_no_reasoning_gym() -> None:
    code = "import sys, grpo_env_math.gsm_symbolic; print('reasoning_gym' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": ".:envs:agents"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"

"""Limits and packages that a user sets, and inputs that are not tried."""

from typing import Any

import pytest

from grpo_env_code import CodeEnv
from grpo_envs.errors import ConfigError
from grpo_envs.graders.code import Case, CodeTests, grade_code
from grpo_envs.sandbox import Limits, RunResult
from tests.conftest import Write
from tests.graders.code.test_grade import Scripted


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"limits": {"stdout_kb": 1}}, "env.limits=stdout_kb. Allowed: cpu_s, memory_mib,"),
        ({"limits": {"wall_s": 1}}, "env.limits=wall_s. Allowed: cpu_s,"),
        ({"limits": {"cpu_s": 0}}, "env.limits.cpu_s=0. Allowed: 1 to 1048576."),
        ({"limits": {"cpu_s": 1.5}}, "env.limits.cpu_s=1.5. Allowed: 1 to 1048576."),
        ({"limits": {"threads": True}}, "env.limits.threads=True. Allowed: 1 to 1048576."),
        ({"limits": 3}, "env.limits=3. Allowed: limits by name."),
        ({"packages": "pandas"}, "env.packages=pandas. Allowed: a list of names"),
        ({"packages": ["no_such_package"]}, "env.packages=no_such_package. Allowed: packages that"),
        ({"packages": ["os.path"]}, "env.packages=os.path. Allowed: packages that"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_one_line(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CodeEnv(**keywords)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_limits_reach_the_sandbox() -> None:
    env = CodeEnv(limits={"memory_mib": 64, "total_s": 2.5}, wall_s=3.0)
    assert env.limits == Limits(wall_s=3.0, cpu_s=2, memory_mib=64, total_s=2.5)
    assert env.backend.run("x = bytearray(1 << 28)", limits=env.limits).status == "memory"


def test_a_package_is_there_for_programs_and_tests(write: Write) -> None:
    pytest.importorskip("yaml")
    rows = [
        {
            "prompt": f"Write f(text): the number {i} of YAML.",
            "entry_point": "f",
            "tests": f"import yaml\nassert f(yaml.dump({i})) == {i}",
            "solution": "import yaml\ndef f(text): return yaml.safe_load(text)",
        }
        for i in range(9)
    ]
    env = CodeEnv(dataset=write("rows.jsonl", rows), packages=["yaml"], workers=1)
    assert env.rows is not None
    problem = env.from_row(next(iter(env.rows.all())))
    assert env.score(problem, problem.solution).parts["passed"] == 1
    assert env.score(problem, "```python\ndef f(text): return text\n```").parts["passed"] == 0
    with pytest.raises(Exception, match=r"row 1: tests import yaml. Allowed: what env.packages"):
        CodeEnv(dataset=write("again.jsonl", rows))


class Slow(Scripted):
    """Answers every input with 1, after 10 seconds."""

    def __init__(self) -> None:
        super().__init__(RunResult(status="ok", stdout="1", wall_s=10.0))
        self.runs = 0

    def run(self, program: str, **keywords: Any) -> RunResult:
        self.runs += 1
        return super().run(program, **keywords)


def inputs(*outputs: str) -> CodeTests:
    return CodeTests(kind="stdio", cases=tuple(Case(given="", expected=out) for out in outputs))


def test_inputs_have_a_total_time() -> None:
    backend = Slow()
    verdict = grade_code(inputs(*"1" * 9), "", backend, Limits(total_s=25.0))
    assert backend.runs == 3
    assert verdict.passed == pytest.approx(3 / 9)
    assert not verdict.ran
    assert verdict.failures[3] == "not run, after 25 s for those before"


def test_no_input_is_tried_after_a_failure_where_all_must_pass() -> None:
    backend = Slow()
    verdict = grade_code(inputs(*"1211"), "", backend, until_failure=True)
    assert backend.runs == 2
    assert verdict.failures[2] == "not run, after one that failed"
    assert grade_code(inputs(*"1211"), "", Slow()).passed == pytest.approx(3 / 4)

"""Feedback: to the policy between turns, and to people after an episode.

The policy never sees hidden tests: between turns only the visible tests run, in a separate process,
so that even the output of the program cannot show hidden ones.
"""

from grpo_envs.graders.code import CodeTests, CodeVerdict, grade_code, load_error, visible_part
from grpo_envs.graders.code.compare import short
from grpo_envs.sandbox.types import Backend, Limits


def feedback(
    tests: CodeTests, program: str | None, backend: Backend, limits: Limits | None = None
) -> str:
    """Return what is wrong with the program on the visible tests; '' if they all pass.

    Raises:
        SandboxError: the sandbox failed.
    """
    if program is None:
        return "There is no program: end with one ```python block."
    if not tests.visible:
        error = load_error(tests, program, backend, limits) if tests.kind != "stdio" else ""
        return f"The program fails: {error}." if error else ""
    shown = visible_part(tests)
    return _first_failure(shown, grade_code(shown, program, backend, limits))


def detail(tests: CodeTests, verdict: CodeVerdict, level: str) -> str:
    """Return a line for people: the first failure, and whether the program could have cheated."""
    notes = [_first_failure(tests, verdict)]
    if verdict.weak:
        notes.append("weak: the tests ran in the program's own process.")
    if level in ("unsafe", "degraded"):
        notes.append(f"The sandbox is {level}.")
    line = " ".join(text for text in notes if text)
    return f"{verdict.kind}: {line}" if line else ""


def _first_failure(tests: CodeTests, verdict: CodeVerdict) -> str:
    if verdict.error:
        return f"The program fails: {verdict.error}."
    if not verdict.failures:
        return ""
    number, failure = min(verdict.failures.items())
    given = tests.cases[number].given
    if tests.kind == "stdio":
        return f"On the input {short(given, 300)}: {failure}."
    arguments = ", ".join(short(argument, 300) for argument in given)
    return f"{tests.entry_point}({arguments}): {failure}."

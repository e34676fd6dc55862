"""Run a program on its tests and judge its claims; values are always compared in this process."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from grpo_envs.graders.code.checkers import decisions
from grpo_envs.graders.code.compare import Rule, compare, same_output, short
from grpo_envs.graders.code.preamble import program_behind
from grpo_envs.graders.code.words import Case, CodeTests, CodeVerdict
from grpo_envs.sandbox.types import Backend, Calls, Limits, Raised, Returned, RunResult

_ASSERTION = "AssertionError"
"""Prefix of the error of a program that ran, but answered wrongly."""
_MOST_SLOW = 2
"""Cases of standard input that may reach a time limit before the rest is skipped."""
_ENDINGS = {
    "wall": "it took too long",
    "cpu": "it took too much processor time",
    "memory": "it took too much memory",
    "output": "it wrote too much",
    "killed": "it was killed",
    "refused": "it is too large",
}


def grade_code(
    tests: CodeTests,
    program: str,
    backend: Backend,
    limits: Limits | None = None,
    *,
    until_failure: bool = False,
) -> CodeVerdict:
    """Run `program` in `backend`; return which tests it passes.

    Args:
        tests: The tests.
        program: The program's text.
        backend: The sandbox.
        limits: The resources that it may use; None: the defaults.
        until_failure: Whether to stop after the first failed input, because all must pass.

    Raises:
        SandboxError: the sandbox failed, so nothing is known about the program.
    """
    program = program_behind(tests.preamble, program, tests.entry_point)
    if tests.checker is not None:
        return _checked(tests, program, backend, limits or Limits())
    if tests.kind == "stdio":
        return _stdio(tests, program, backend, limits or Limits(), until_failure=until_failure)
    return _KINDS[tests.kind](tests, program, backend, limits)


def visible_part(tests: CodeTests) -> CodeTests:
    """Return the tests that the policy may see, with their results."""
    return dataclasses.replace(tests, cases=tests.cases[: tests.visible])


def load_error(
    tests: CodeTests, program: str, backend: Backend, limits: Limits | None = None
) -> str:
    """Run `program` without tests; return the error that ended it, '' if there was none.

    Raises:
        SandboxError: the sandbox failed.
    """
    source = program_behind(tests.preamble, program, tests.entry_point)
    return _ending(backend.run(source, limits=limits))


def _call(tests: CodeTests, program: str, backend: Backend, limits: Limits | None) -> CodeVerdict:
    calls = Calls(entry_point=tests.entry_point, args=[case.given for case in tests.cases])
    result = backend.run(program, calls=calls, limits=limits)
    ending = _ending(result)
    failures = {}
    for number, case in enumerate(tests.cases):
        claim = result.values[number] if number < len(result.values) else Raised(error=ending)
        if isinstance(claim, Raised):
            failures[number] = claim.error or "no value"
        elif wrong := compare(claim.value, case.expected, case.through, _rule(tests, case)):
            failures[number] = wrong
    raised = any(isinstance(value, Raised) for value in result.values)
    complete = len(result.values) >= len(tests.cases) and not raised
    error = "" if result.values else ending
    return _verdict(tests, failures, ran=result.status == "ok" and complete, error=error)


def _stdio(
    tests: CodeTests, program: str, backend: Backend, limits: Limits, *, until_failure: bool
) -> CodeVerdict:
    failures: dict[int, str] = {}
    well, slow, used = True, 0, 0.0
    for number, case in enumerate(tests.cases):
        if why := _not_run(slow, used, limits, failed=until_failure and bool(failures)):
            failures[number] = f"not run, {why}"
            continue
        result = backend.run(program, stdin=case.given, limits=limits)
        ending = _ending(result)
        well = well and not ending
        slow += result.status in ("wall", "cpu")
        used += result.wall_s
        if ending:
            failures[number] = ending
        elif not same_output(result.stdout, case.expected, _rule(tests, case)):
            failures[number] = f"{short(result.stdout)} instead of {short(case.expected)}"
    return _verdict(tests, failures, ran=well and used <= limits.total_s)


def _not_run(slow: int, used: float, limits: Limits, *, failed: bool) -> str:
    """Return why the remaining inputs are skipped; '' if they are not."""
    if failed:
        return "after one that failed"
    if slow >= _MOST_SLOW:
        return "after others that took too long"
    return f"after {limits.total_s:g} s for those before" if used > limits.total_s else ""


def _asserts(
    tests: CodeTests, program: str, backend: Backend, limits: Limits | None
) -> CodeVerdict:
    code = program_behind(tests.preamble, tests.code, tests.entry_point)
    verdict = backend.judge(program, tests=code, entry_point=tests.entry_point, limits=limits)
    if verdict.passed:
        return CodeVerdict(kind=tests.kind, passed=1.0, ran=True)
    error = verdict.error or "it failed its tests"
    return CodeVerdict(kind=tests.kind, ran=error.startswith(_ASSERTION), error=error)


def _weak(tests: CodeTests, program: str, backend: Backend, limits: Limits | None) -> CodeVerdict:
    """Run test code in the program's own process, where a program can fake a pass."""
    word = secrets.token_hex(8)  # only detects programs that exit before the tests begin
    tail = f"{tests.code}\ncheck({tests.entry_point})\nprint({word!r})\n"
    result = backend.run(f"{program}\n{tail}", limits=limits)
    if result.status == "ok" and result.stdout.rstrip().endswith(word):
        return CodeVerdict(kind=tests.kind, passed=1.0, ran=True)
    error = _ending(result) or "it ended before its tests did"
    return CodeVerdict(kind=tests.kind, ran=error.startswith(_ASSERTION), error=error)


def _checked(tests: CodeTests, program: str, backend: Backend, limits: Limits) -> CodeVerdict:
    """Run the program on every case; the tests' checker decides about the outputs."""
    assert tests.checker is not None
    answers = _values if tests.kind == "call" else _outputs
    given, failures, error = answers(tests, program, backend, limits)
    ran = not failures
    triples = [(tests.cases[n].given, value, tests.cases[n].expected) for n, value in given.items()]
    if tests.kind == "call":
        triples = [(list(given), value, expected) for given, value, expected in triples]
    # The row's own limit applies to the program only.
    within = Limits(wall_s=limits.wall_s, cpu_s=max(1, round(limits.wall_s) - 1))
    asked = decisions(tests.checker, triples, backend, within)
    failures |= {n: why for n, why in zip(given, asked, strict=True) if why}
    return _verdict(tests, dict(sorted(failures.items())), ran=ran, error=error)


def _outputs(
    tests: CodeTests, program: str, backend: Backend, limits: Limits
) -> tuple[dict[int, Any], dict[int, str], str]:
    """Return the outputs of the runs without an error, and the errors of the others."""
    outputs: dict[int, Any] = {}
    failures: dict[int, str] = {}
    slow, used = 0, 0.0
    for number, case in enumerate(tests.cases):
        if why := _not_run(slow, used, limits, failed=False):
            failures[number] = f"not run, {why}"
            continue
        result = backend.run(program, stdin=case.given, limits=limits)
        slow += result.status in ("wall", "cpu")
        used += result.wall_s
        if ending := _ending(result):
            failures[number] = ending
        else:
            outputs[number] = result.stdout
    return outputs, failures, ""


def _values(
    tests: CodeTests, program: str, backend: Backend, limits: Limits | None
) -> tuple[dict[int, Any], dict[int, str], str]:
    """Return the values of calls that returned, and the errors of the others."""
    calls = Calls(entry_point=tests.entry_point, args=[case.given for case in tests.cases])
    result = backend.run(program, calls=calls, limits=limits)
    ending = _ending(result)
    claims = dict(enumerate(result.values))
    failures = {
        number: claim.error or "no value"
        for number in range(len(tests.cases))
        if isinstance(claim := claims.get(number, Raised(error=ending)), Raised)
    }
    values = {n: claim.value for n, claim in claims.items() if isinstance(claim, Returned)}
    return values, failures, "" if result.values else ending


def _rule(tests: CodeTests, case: Case) -> Rule:
    return Rule(strict=tests.strict, rel_tol=case.rel_tol, abs_tol=case.abs_tol)


def _verdict(
    tests: CodeTests, failures: dict[int, str], *, ran: bool, error: str = ""
) -> CodeVerdict:
    passed = 1 - len(failures) / len(tests.cases)
    return CodeVerdict(kind=tests.kind, passed=passed, ran=ran, failures=failures, error=error)


def _ending(result: RunResult) -> str:
    """Return the error that ended the program (the last line of its traceback); '' if none."""
    if result.status == "ok":
        return ""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    if result.status == "error" and lines:
        return short_line(lines[-1])
    return _ENDINGS.get(result.status, "it ended with an error")


def short_line(text: str, most: int = 200) -> str:
    """Return at most `most` characters of `text`."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


_KINDS: dict[str, Callable[[CodeTests, str, Backend, Limits | None], CodeVerdict]] = {
    "call": _call,
    "asserts": _asserts,
    "weak": _weak,
}

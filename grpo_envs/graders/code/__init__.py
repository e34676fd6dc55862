"""Judging programs by running them: `grade_code(tests, program, backend)` -> `CodeVerdict`.

Take the program out of the completion (`extract`); run it in a sandbox (grpo_envs/sandbox); compare
what it claims with what was expected in this process (`compare`), or let a judge process run test
code (`grade`). Tests come out of datasets by `read`, literal assertions become calls by `asserts`.
"""

from grpo_envs.graders.code.extract import program_of, well_formed
from grpo_envs.graders.code.grade import grade_code, load_error, visible_part
from grpo_envs.graders.code.read import read_tests
from grpo_envs.graders.code.words import Case, CodeTests, CodeVerdict

__all__ = [
    "Case",
    "CodeTests",
    "CodeVerdict",
    "grade_code",
    "load_error",
    "program_of",
    "read_tests",
    "visible_part",
    "well_formed",
]

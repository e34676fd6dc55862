"""Judging programs by running them: `grade_code(tests, program, backend)` -> `CodeVerdict`.

`extract` takes the program out of the completion; a sandbox (grpo_envs/sandbox) runs it. `compare`
compares its claimed values with the expected ones in this process, or a judge process runs test
code (`grade`). `read` reads the tests of a dataset; `asserts` turns literal assertions into calls.
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

"""A Python interpreter as a tool of an environment: `tools = [python_tool(backend)]`."""

from collections.abc import Callable

from grpo_envs.sandbox.types import Backend, Limits

LONGEST_ERROR = 200
"""Characters of an error, which goes into the policy's context."""
_LIMITS = Limits(cpu_s=2)  # wall time is longer, for busy machines
_ENDINGS = {
    "wall": "it took too long",
    "cpu": "it took too long",
    "memory": "it took too much memory",
    "output": "it wrote too much",
    "killed": "it was killed",
    "refused": "it is too large",
}


def python_tool(backend: Backend, limits: Limits = _LIMITS) -> Callable[[str], str]:
    """Return a function `python(code)` that runs a program in the sandbox.

    It returns what the program prints. It raises ValueError if nothing is printed or the program
    fails, and SandboxError if the sandbox fails.

    Args:
        backend: The sandbox.
        limits: Limits of each program.
    """

    def python(code: str) -> str:
        """Run Python and return what it prints.

        Args:
            code: The program.
        """
        result = backend.run(code, limits=limits)
        if result.status == "error":
            last = (result.stderr.strip().splitlines() or ["it failed"])[-1]
            raise ValueError(last[:LONGEST_ERROR])
        if result.status != "ok":
            raise ValueError(_ENDINGS.get(result.status, result.status))
        if not result.stdout.strip():
            raise ValueError("nothing was printed")
        return result.stdout.strip()

    return python

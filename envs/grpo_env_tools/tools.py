"""What a policy may call: a function from text to text for each tool, by name in `TOOLS`."""

from collections.abc import Callable
from dataclasses import dataclass

from grpo_envs.graders.arithmetic import Unreadable, work_out
from grpo_envs.sandbox import Backend, Limits
from grpo_envs.sandbox.shared import shared_pool

LONGEST, LONGEST_PRINTED = 60, 200
"""Characters of the calculator's results and of Python's: they go into the policy's context."""
_LIMITS = Limits(cpu_s=2)  # the clock leaves room for a machine that is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that answers the text between `<tool>` and `</tool>`."""

    about: str
    """A sentence on the tool for the system prompt."""
    call: Callable[[str], str]
    """Returns the result, or a line that begins with "error"."""
    ask: Callable[[str], str]
    """Turns an expression into the call that works it out: what a demonstration says."""
    slow: bool = False
    """Whether calls are worth threads of their own."""


def calculate(text: str) -> str:
    """Work out an expression; what is no whole number is given as a fraction.

    >>> calculate("347*286"), calculate("1/3-1"), calculate("1/0")
    ('99242', '-2/3', 'error: division by zero')
    """
    try:
        return _short(str(work_out(text).value), LONGEST)
    except Unreadable as error:
        return f"error: {error}"


def run_python(text: str, backend: Backend) -> str:
    """Run a program in the sandbox and return what it prints.

    Raises:
        SandboxError: the sandbox failed, which makes the reward invalid.
    """
    result = backend.run(text, limits=_LIMITS)
    if result.status == "error":
        last = (result.stderr.strip().splitlines() or ["it failed"])[-1]
        return f"error: {last}"[:LONGEST_PRINTED]
    if result.status != "ok":
        return f"error: {_ENDINGS.get(result.status, result.status)}"
    return _short(result.stdout.strip() or "error: nothing was printed", LONGEST_PRINTED)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else "error: the result is too long"


_ENDINGS = {
    "wall": "it took too long",
    "cpu": "it took too long",
    "memory": "it took too much memory",
    "output": "it wrote too much",
    "killed": "it was killed",
    "refused": "it is too large",
}


def _calculator(sandbox: str) -> Tool:
    return Tool(
        about="A calculator works out what you write in <tool></tool>.",
        call=calculate,
        ask=lambda expression: expression,
    )


def _python(sandbox: str) -> Tool:
    backend = shared_pool(sandbox, None)
    return Tool(
        about="Python runs what you write in <tool></tool> and shows what it prints.",
        call=lambda text: run_python(text, backend),
        ask=lambda expression: f"print({expression.replace('/', '//')})",  # quotients are exact
        slow=True,
    )


TOOLS: dict[str, Callable[[str], Tool]] = {"calculator": _calculator, "python": _python}
"""Each makes its tool; it is given the level of isolation that is asked for (`env.sandbox`)."""

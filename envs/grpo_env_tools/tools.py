"""What a policy may call: one function from text to text for each tool."""

from collections.abc import Callable
from dataclasses import dataclass

from grpo_envs.graders.arithmetic import Unreadable, work_out

LONGEST = 60
"""Characters of a result; the context has to hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A name, what the policy is told about it, and what it does."""

    name: str
    about: str
    call: Callable[[str], str]
    """Returns the result, or a line that begins with "error"; it never raises for any text."""
    ask: Callable[[str], str]
    """The call that works out an expression: what a demonstration says."""


def calculate(text: str) -> str:
    """Work out an expression; what is no whole number is given as a fraction.

    >>> calculate("347*286"), calculate("1/3-1"), calculate("1/0")
    ('99242', '-2/3', 'error: division by zero')
    """
    try:
        result = str(work_out(text).value)
    except Unreadable as error:
        return f"error: {error}"
    return result if len(result) <= LONGEST else "error: the result is too long"


TOOLS = {
    "calculator": Tool(
        name="calculator",
        about="A calculator works out what you write in <tool></tool>.",
        call=calculate,
        ask=lambda expression: expression,
    ),
}

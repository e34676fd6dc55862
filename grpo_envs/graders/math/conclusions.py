r"""Solved chains: `3x+5=17 \Rightarrow x=4` is the answer x=4, where each step before agrees."""

import re

from grpo_envs.graders.math.identity import identical
from grpo_envs.graders.math.nodes import Node, substitute, variables
from grpo_envs.graders.math.parse import parse
from grpo_envs.graders.math.signs import signs_of

_ARROW = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|implies|therefore|iff|Leftrightarrow)(?![A-Za-z])|=>"
)


def concluded(text: str) -> str:
    r"""Return the solution that a chain of equations ends in, `text` itself where it is none.

    Raises:
        Unreadable: a step is no mathematics that we read.

    >>> concluded(r"3x+5=17 \Rightarrow x=4"), concluded(r"3x+5=20 \Rightarrow x=4")
    (' x=4', '3x+5=20 \\Rightarrow x=4')
    """
    if "\\" not in text and "=>" not in text:
        return text
    *steps, end = _ARROW.split(text)
    if not steps:
        return text
    solution = parse(end.strip())
    items = solution[1:] if solution[0] == "list" else (solution,)
    agrees = all(map(_is_solution, items)) and len({item[1] for item in items}) == 1
    return end if agrees and all(_holds(parse(step.strip()), items) for step in steps) else text


def _is_solution(node: Node) -> bool:
    named = node[0] == "rel" and len(node) == 4 and node[1][0] == "var" and node[2] == "="
    return named and not variables(node[3])


def _holds(step: Node, solutions: tuple[Node, ...]) -> bool:
    """Return whether the solutions satisfy a step: an equation of their one name."""
    name = solutions[0][1]
    if step[0] != "rel" or set(step[2::2]) != {"="} or variables(step) != [name[1]]:
        return False
    values = [value for solution in solutions for value in signs_of(solution[3])]
    for value in values:
        sides = [substitute(side, name, value) for side in step[1::2]]
        if not all(identical(sides[0], side).equal for side in sides[1:]):
            return False
    return True

r"""Solved chains: `3x+5=17 \Rightarrow x=4` is the answer x=4, if all earlier steps agree."""

import re

from grpo_envs.graders.math.compare import compare
from grpo_envs.graders.math.evaluated import is_solved
from grpo_envs.graders.math.grading import DEFAULT
from grpo_envs.graders.math.identity import identical
from grpo_envs.graders.math.nodes import Node, substitute, variables
from grpo_envs.graders.math.parse import Unreadable, parse
from grpo_envs.graders.math.signs import signs_of

_ARROW = re.compile(
    r"\\(?:Rightarrow|Longrightarrow|implies|therefore|iff|Leftrightarrow)(?![A-Za-z])|=>"
)
# Limits and maps have these arrows, too.
_THIN_ARROW = re.compile(r"\\(?:to|rightarrow|longrightarrow)(?![A-Za-z])|->|\u2192")
_INEQUALITIES = frozenset({"<", "<=", ">", ">="})


def concluded(text: str) -> str:
    r"""Return the solution at the end of a chain of steps; `text` itself if it is not a chain.

    An earlier step is an equation that the solutions satisfy, or an inequality with the same
    solutions.

    Raises:
        Unreadable: a step is not mathematics that we can read.

    >>> concluded(r"3x+5=17 \Rightarrow x=4"), concluded(r"3x+5=20 \Rightarrow x=4")
    (' x=4', '3x+5=20 \\Rightarrow x=4')
    >>> concluded(r"2x>4 \to x>2"), concluded(r"x \to 4")
    (' x>2', 'x \\to 4')
    """
    if "\\" not in text and ">" not in text and "\u2192" not in text:
        return text
    thick, thin = _ARROW.search(text), _THIN_ARROW.search(text)
    if not (thick or thin):
        return text
    try:
        return _end(_THIN_ARROW.sub("=>", text) if thin else text, text)
    except Unreadable:
        if thick:
            raise
        return text


def _end(chain: str, text: str) -> str:
    *steps, end = _ARROW.split(chain)
    solution = parse(end.strip())
    items = solution[1:] if solution[0] == "list" else (solution,)
    if _is_inequality(solution) and is_solved(solution):
        agrees = all(_same_inequality(parse(step.strip()), solution) for step in steps)
        return end if agrees else text
    agrees = all(map(_is_solution, items)) and len({item[1] for item in items}) == 1
    return end if agrees and all(_holds(parse(step.strip()), items) for step in steps) else text


def _is_inequality(node: Node) -> bool:
    return node[0] == "rel" and _INEQUALITIES.issuperset(node[2::2])


def _same_inequality(step: Node, solution: Node) -> bool:
    """Return whether a step is an inequality of the same name with the same solutions."""
    same = _is_inequality(step) and variables(step) == variables(solution)
    return same and compare(solution, step, DEFAULT).equal is True


def _is_solution(node: Node) -> bool:
    named = node[0] == "rel" and len(node) == 4 and node[1][0] == "var" and node[2] == "="
    return named and not variables(node[3])


def _holds(step: Node, solutions: tuple[Node, ...]) -> bool:
    """Return whether the solutions satisfy a step, which is an equation of their only name."""
    name = solutions[0][1]
    if step[0] != "rel" or set(step[2::2]) != {"="} or variables(step) != [name[1]]:
        return False
    values = [value for solution in solutions for value in signs_of(solution[3])]
    for value in values:
        sides = [substitute(side, name, value) for side in step[1::2]]
        if not all(identical(sides[0], side).equal for side in sides[1:]):
            return False
    return True

"""The format of an answer, independent of its value, for the reward component `format`."""

from grpo_envs.graders.math import extract, parse_number
from grpo_envs.graders.math.extract import balanced
from grpo_envs.graders.text import after_think


def bare_number(text: str) -> bool:
    """Return whether `text` is a number and nothing else, after at most one think block.

    >>> bare_number("7"), bare_number("<think>3+4=7</think>7.")
    (True, True)
    >>> bare_number("It is 7."), bare_number("7 8")
    (False, False)
    """
    around = _around_think(text)
    return around is not None and not around[0].strip() and parse_number(around[1]) is not None


def well_formed(text: str) -> bool:
    r"""Return whether `text` has exactly one answer, at its end, and at most one think block.

    >>> well_formed("<think>3+4=7</think><answer>7</answer>"), well_formed(r"so \boxed{7}.")
    (True, True)
    >>> well_formed("<answer>7</answer> or <answer>8</answer>"), well_formed("<answer>7")
    (False, False)
    """
    around = _around_think(text)
    if around is None:
        return False
    before, rest = around
    if "<answer>" in before or "\\boxed{" in before:
        return False
    rest = rest.rstrip(" \n.$")
    tags, closed, boxes = rest.count("<answer>"), rest.count("</answer>"), rest.count("\\boxed{")
    if (tags, closed) == (1, 1) and boxes <= 1:
        if boxes and rest.index("\\boxed{") < rest.index("<answer>"):
            return False
        return rest.endswith("</answer>") and bool(extract(rest))
    if (tags, closed, boxes) != (0, 0, 1):
        return False
    brace = rest.index("\\boxed{") + len("\\boxed")
    return balanced(rest, brace) == len(rest) - 1 and bool(extract(rest))


def _around_think(text: str) -> tuple[str, str] | None:
    """Return the text before and after the think block; None if there is more than one."""
    rest = after_think(text)
    if rest is None or text.count("<think>") > 1 or text.count("</think>") > 1:
        return None
    return text.partition("<think>")[0] if "<think>" in text else "", rest

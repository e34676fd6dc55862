"""math-verify's verdict on two texts, in a worker, if it is enabled and no other stage decided.

math-verify is only an extra, because its verdicts depend on the installed ANTLR.
"""

from math_verify import parse, verify


def equal(gold: str, answer: str, seconds: float) -> bool | None:
    """Return whether `answer` is `gold` for math-verify; None if it cannot read one of them.

    Its own timeouts are off: the worker is killed when its time is over.
    """
    sides = [parse(f"${text}$", parsing_timeout=None) for text in (gold, answer)]
    if not all(sides):
        return None
    return bool(verify(*sides, timeout_seconds=None))


def warm() -> None:
    """Parse and compare once, so that a worker is forked with the grammar loaded."""
    equal(r"\frac{1}{2} + x", r"x + 0.5", 10.0)

"""Rules for equality of answers, chosen per dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from grpo_envs.errors import ConfigError, require, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class MathGrading:
    """How strictly an answer is compared with the gold. The default is mathematical equality."""

    evaluated: bool = False
    """If the gold is a number, the answer must be one, too: neither 3+4 nor 14/2 is right for 7. If
    the gold is a solution, `x = 4`, the answer must not be an equation to solve, `2x = 8`. A sum,
    integral, limit or function of a number must occur in the gold: sin 60 degrees is not accepted
    for sqrt(3)/2. A numeral must be in the gold's base."""
    lenient: bool = False
    """Take the last number if nothing marks an answer (`extract`)."""
    percent_sign: bool = True
    """50% is only 1/2, never 50. False: 50 is also right for the gold 50%."""
    degree_sign: bool = False
    """Require the degree sign: 90 is wrong for 90 degrees, because it means radians; pi/2 is
    right."""
    units: bool = False
    """Require the gold's unit. A wrong unit is always wrong."""
    rounded_digits: int | None = None
    """Decimals with at least this many significant digits equal all values that round to them."""
    decimal_comma: bool = False
    """Read 2,5 as two and a half, never as two numbers."""
    ordered: bool = False
    """Compare the items of a list in order; sets have no order."""
    unwrap: bool = True
    """`x = 5` and 5 are the same answer."""
    math_verify: bool = False
    """Ask math-verify (an extra, in a worker) about answers that none of our stages can read or
    decide. Its verdicts depend on the installed ANTLR, and some are wrong."""


DEFAULT = MathGrading()


def grading_from(given: Mapping[str, Any] | None, usual: MathGrading = DEFAULT) -> MathGrading:
    """Return `usual` with the given fields in place of its own: `env.grading` of a configuration.

    Raises:
        ConfigError: a field is unknown, or its value is not allowed.

    >>> grading_from({"units": True}).units
    True
    """
    names = [field.name for field in fields(MathGrading)]
    for name, value in (given or {}).items():
        if name not in names:
            raise unknown("field of env.grading", name, names)
        if name == "rounded_digits":
            whole = type(value) is int and value > 0
            require(
                value is None or whole, f"env.grading.{name}", value, "a number above 0, or null"
            )
        elif type(value) is not bool:
            raise ConfigError(f"env.grading.{name}={value}. Allowed: true, false.")
    return replace(usual, **(given or {}))

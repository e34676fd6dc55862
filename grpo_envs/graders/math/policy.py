"""What counts as the same answer, chosen per dataset."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MathPolicy:
    """How strictly an answer is compared with the gold. What is not set here is mathematics."""

    lenient: bool = False
    """Take the last number where nothing marks an answer (`extract`)."""
    percent_sign: bool = True
    """50% is 1/2 and never 50; False: 50 is right for the gold 50%, too."""
    degree_sign: bool = False
    """Require the sign: 90 is wrong for 90 degrees, as radians; pi/2 is always right."""
    units: bool = False
    """Require the gold's unit. A wrong unit is always wrong."""
    rounded_digits: int | None = None
    """Decimals with at least so many significant digits stand for all that rounds to them."""
    decimal_comma: bool = False
    """Read 2,5 as two and a half, and never as two numbers."""
    ordered: bool = False
    """Compare answers in a list one by one, in order; sets never have one."""
    unwrap: bool = True
    """`x = 5` and 5 are the same answer."""


DEFAULT = MathPolicy()

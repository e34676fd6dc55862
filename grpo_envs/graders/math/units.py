"""Names of units, brought to one spelling."""

import re
from functools import lru_cache

_SAME = {
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("kilometer", "kilometre"), "km"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("inche", "inch", "in"), "in"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **dict.fromkeys(("hour", "hr"), "h"),
    **dict.fromkeys(("minute", "min"), "min"),
    **dict.fromkeys(("second", "sec"), "s"),
    **dict.fromkeys(("gram",), "g"),
    **dict.fromkeys(("kilogram",), "kg"),
    **dict.fromkeys(("pound", "lb"), "lb"),
    **dict.fromkeys(("liter", "litre"), "l"),
    **dict.fromkeys(("mile per hour",), "mph"),
}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_EXPONENT = re.compile(r"\^\d$")


@lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """Return the one spelling of a unit.

    >>> canonical("square centimeters"), canonical("cm^2"), canonical("feet")
    ('cm^2', 'cm^2', 'ft')
    """
    words = name.replace(".", "").split()
    power = _POWERS.get(words[0], "") if len(words) > 1 else ""
    text = " ".join(words[1:] if power else words)
    found = _EXPONENT.search(text)
    if found:
        text, power = text[: found.start()], found[0]
    for candidate in (text, text.removesuffix("s")):
        if candidate in _SAME:
            return _SAME[candidate] + power
    return (text.removesuffix("s") if len(text) > 2 else text) + power

r"""Translation of JSON Schema's patterns (ECMA-262) to RE2.

RE2 has the same syntax except for a few escapes, which are rewritten: long names of categories
(`\p{Letter}`, `\p{gc=Lu}`), scripts (`\p{Script=Greek}`), `\u0041`, `\u{1F432}` and `\cA`.
"""

import re

_ESCAPE = re.compile(
    r"\\(?:([pP])\{([^{}]*)\}|u([dD][89abAB]\w\w)\\u([dD][c-fC-F]\w\w)|u([0-9a-fA-F]{4})"
    r"|u\{([0-9a-fA-F]{1,6})\}|c([A-Za-z])|.)",
    re.DOTALL,
)
_CATEGORIES = (
    *("L Letter", "Lu Uppercase_Letter", "Ll Lowercase_Letter", "Lt Titlecase_Letter"),
    *("Lm Modifier_Letter", "Lo Other_Letter", "M Mark Combining_Mark", "Mn Nonspacing_Mark"),
    *("Mc Spacing_Mark", "Me Enclosing_Mark", "N Number", "Nd Decimal_Number digit"),
    *("Nl Letter_Number", "No Other_Number", "P Punctuation punct", "Pc Connector_Punctuation"),
    *("Pd Dash_Punctuation", "Ps Open_Punctuation", "Pe Close_Punctuation"),
    *("Pi Initial_Punctuation", "Pf Final_Punctuation", "Po Other_Punctuation", "S Symbol"),
    *("Sm Math_Symbol", "Sc Currency_Symbol", "Sk Modifier_Symbol", "So Other_Symbol"),
    *("Z Separator", "Zs Space_Separator", "Zl Line_Separator", "Zp Paragraph_Separator"),
    *("C Other", "Cc Control cntrl", "Cf Format", "Co Private_Use"),
)
_SHORT = {name: names.split()[0] for names in _CATEGORIES for name in names.split()}
_SCRIPT = ("Script=", "sc=")
_CATEGORY = ("General_Category=", "gc=")


def for_re2(pattern: str) -> str:
    r"""Return a pattern of ECMA-262 for RE2; syntax that RE2 does not have is unchanged.

    >>> print(for_re2(r"^\p{Letter}+\u0041\p{Script=Greek}$"))
    ^\p{L}+\x{0041}\p{Greek}$
    """
    return _ESCAPE.sub(_rewritten, pattern)


def _rewritten(found: re.Match[str]) -> str:
    sign, name, high, low, short, long, control = found.groups()
    if high:
        code = int(high, 16) - 0xD800 << 10 | int(low, 16) - 0xDC00
        return f"\\x{{{code + 0x10000:x}}}"
    if short or long:
        return f"\\x{{{short or long}}}"
    if control:
        return f"\\x{{{ord(control) % 32:02x}}}"
    if not sign:
        return found[0]
    for start in _SCRIPT:
        name = name.removeprefix(start)
    for start in _CATEGORY:
        name = name.removeprefix(start)
    return f"\\{sign}{{{_SHORT.get(name, name)}}}"

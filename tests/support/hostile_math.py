r"""Answers that hang, crash or fool graders of mathematics, each beside a gold it does not equal.

One tuple a case: a name, the gold, the answer as it stands in the box.
"""

from collections.abc import Iterator

Case = tuple[str, str, str]
_SMALL = "7"


def cases() -> list[Case]:
    """Return every case; names are unique."""
    families = (
        _towers,
        _factorials,
        _digits,
        _nesting,
        _size,
        _patterns,
        _matrices,
        _sets,
        _symbolic,
        _injections,
        _unicode,
        _malformed,
        _hedges,
        _near_misses,
    )
    return [case for family in families for case in family()]


def _towers() -> Iterator[Case]:
    for name, text in {
        "python tower": "97**98**99",
        "latex tower": "97^{98^{99}}",
        "tower of nines": "9^{9^{9^{9^{9}}}}",
        "flat tower": "9^9^9^9^9^9",
        "negative tower": "-2^{2^{2^{2^{2^{2}}}}}",
        "tower below a bar": r"\frac{1}{10^{10^{10}}}",
        "tower in a root": r"\sqrt{10^{10^{10}}}",
        "tower minus itself": "10^{10^{10}}-10^{10^{10}}+8",
        "one to a tower, plus one": "1^{10^{10^{10}}}+8",
        "zero times a tower": "0\\cdot 10^{10^{10}}+8",
        "e to a tower": "e^{e^{e^{e^{e}}}}",
        "exponent of a million digits": "2^{" + "9" * 100_000 + "}",
        "fraction to a power": r"\left(\frac{123456789}{987654321}\right)^{99999999}",
        "power of a power": "((((10^{99})^{99})^{99})^{99})^{99}",
        "scientific": "1e100000",
        "scientific, braces": r"1\times 10^{999999999}",
        "tiny scientific": "1e-999999999",
        "logarithm of a tower": r"\log(10^{10^{10^{10}}})",
        "sine of a tower": r"\sin(10^{10^{10}})",
        "modulo of a tower": r"7^{7^{7^{7}}} \bmod 10",
        "complex tower": "i^{i^{i^{i^{i}}}}+8",
        "root of a root": r"\sqrt[10^{9}]{\sqrt[10^{9}]{2}}",
    }.items():
        yield name, _SMALL, text


def _factorials() -> Iterator[Case]:
    for name, text in {
        "large factorial": "100000000!",
        "factorial tower": "9!!!!!!!!!",
        "hundred factorial signs": "3" + "!" * 100,
        "factorial of a factorial": "((10!)!)!",
        "factorial over factorial": r"\frac{1000000!}{999999!}",
        "factorial of a half": r"\left(\frac{1}{2}\right)!",
        "factorial of a negative": "(-3)!",
        "large binomial": r"\binom{1000000000}{500000000}",
        "binomial of a tower": r"\binom{10^{10^{10}}}{2}",
        "gamma": r"\Gamma(10^{9})",
        "factorial of a variable": "x!!!!!!",
    }.items():
        yield name, _SMALL, text
    yield "two tiny numbers", r"\frac{1}{2004!}", r"\frac{1}{2006!}"


def _digits() -> Iterator[Case]:
    yield "megabyte of digits", _SMALL, "1" * 1_000_000
    yield "ten thousand digits", _SMALL, "7" * 10_000
    yield "four thousand three hundred and one digits", _SMALL, "7" * 4301
    yield "long decimal", _SMALL, "7." + "0" * 100_000 + "1"
    yield "long fraction", _SMALL, "1" * 5000 + "/" + "3" * 5000
    yield "thousands for ever", _SMALL, "1" + ",000" * 50_000
    yield "spaced digits", "12", "1 2"
    yield "underscored digits", "12", "1_2"
    yield "many points", _SMALL, "7." * 10_000
    yield "many signs", _SMALL, "-" * 10_001 + "7"
    yield "signs without end", _SMALL, "+-" * 50_000
    yield "percent signs", _SMALL, "7" + "%" * 10_000
    yield "hexadecimal", "16", "0x10"
    yield "binary", "5", "0b101"
    yield "infinity by float", _SMALL, "1e309"
    yield "nan by float", _SMALL, "nan"
    yield "infinity by name", _SMALL, "inf"
    yield "minus infinity", r"\infty", r"-\infty"


def _nesting() -> Iterator[Case]:
    for name, left, right in (
        ("parentheses", "(", ")"),
        ("brackets", "[", "]"),
        ("braces", "{", "}"),
        ("sets", r"\{", r"\}"),
        ("fractions", r"\frac{1}{", "}"),
        ("roots", r"\sqrt{", "}"),
        ("bars", "|", "|"),
        ("lefts", r"\left(", r"\right)"),
        ("powers", "2^{", "}"),
        ("sines", r"\sin(", ")"),
        ("texts", r"\text{", "}"),
        ("boxes", r"\boxed{", "}"),
        ("indices", "x_{", "}"),
        ("floors", r"\lfloor ", r" \rfloor"),
    ):
        yield f"10,000 {name}", _SMALL, left * 10_000 + "8" + right * 10_000
        yield f"300 {name}", _SMALL, left * 300 + "8" + right * 300
    yield "only opening", _SMALL, "(" * 100_000
    yield "only closing", _SMALL, ")" * 100_000
    yield "minus signs in parentheses", _SMALL, "-(" * 5000 + "7" + ")" * 5000


def _size() -> Iterator[Case]:
    yield "megabyte of letters", _SMALL, "a" * 1_000_000
    yield "megabyte of spaces", _SMALL, " " * 1_000_000 + "8"
    yield "megabyte of backslashes", _SMALL, "\\" * 1_000_000
    yield "megabyte of dollars", _SMALL, "$" * 1_000_000
    yield "megabyte of commas", _SMALL, "," * 1_000_000
    yield "long sum", _SMALL, "+".join(["1"] * 100_000)
    yield "long product", _SMALL, "*".join(["x"] * 20_000)
    yield "long polynomial", _SMALL, "+".join(f"x^{{{i}}}" for i in range(2000))
    yield "many variables", _SMALL, "+".join(f"x_{{{i}}}" for i in range(500))
    yield "long list", _SMALL, ",".join(map(str, range(100_000)))
    yield "long chain", _SMALL, "=".join(["7"] * 5000) + "=8"
    yield "long words", _SMALL, "answer " * 20_000


def _patterns() -> Iterator[Case]:
    r"""Texts that make a backtracking expression take exponential time."""
    yield "nested quantifier", _SMALL, "a" * 5000 + "!"
    yield "open text commands", _SMALL, r"\text{" * 5000
    yield "open fractions", _SMALL, r"\frac" * 20_000
    yield "half a fraction", _SMALL, r"\frac{1" * 5000
    yield "spaces before a unit", _SMALL, "8" + " " * 50_000 + "cm x"
    yield "final answer, again and again", _SMALL, "final answer is " * 5000 + "8"
    yield "hashes", _SMALL, "#### " * 20_000 + "8"
    yield "and or and or", _SMALL, "8 and or " * 5000
    yield "commas and digits", _SMALL, "1,1" * 20_000
    yield "dollar pairs", _SMALL, "$8$ " * 20_000 + "$9$"
    yield "alternating brackets", _SMALL, "([" * 10_000 + "8" + ")]" * 10_000
    yield "slashes", _SMALL, "1/" * 10_000 + "1.5"


def _matrices() -> Iterator[Case]:
    row = "&".join(["1"] * 1000)
    wide = r"\\".join([row] * 1000)
    yield "a thousand by a thousand", _SMALL, rf"\begin{{pmatrix}}{wide}\end{{pmatrix}}"
    small = r"\\".join(["&".join(["x"] * 12)] * 12)
    yield "determinant of twelve", _SMALL, rf"\begin{{vmatrix}}{small}\end{{vmatrix}}"
    yield "matrix to a tower", _SMALL, r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{10^{10}}"
    yield "matrices in matrices", _SMALL, r"\begin{pmatrix}" * 500 + "1" + r"\end{pmatrix}" * 500
    yield "open matrix", _SMALL, r"\begin{pmatrix}1&2\\3&4"
    yield (
        "ragged matrix",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{pmatrix}1&2\\3\end{pmatrix}",
    )
    yield (
        "transposed",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{pmatrix}1&3\\2&4\end{pmatrix}",
    )


def _sets() -> Iterator[Case]:
    intervals = r" \cup ".join(f"({2 * i},{2 * i + 1})" for i in range(200))
    yield "union of 200 intervals", "(0,1)", intervals
    yield "long set", r"\{1,2\}", r"\{" + ",".join(map(str, range(50_000))) + r"\}"
    yield "set of sets", r"\{1,2\}", r"\{" * 200 + "1" + r"\}" * 200
    yield "pair for a set", r"\{1,2\}", "(1,2)"
    yield "pair in the other order", "(1,2)", "(2,1)"
    yield "open for closed", "[0,1]", "(0,1)"
    yield "subset", r"\{1,2,3\}", r"\{1,2\}"
    yield "superset", r"\{1,2\}", r"\{1,2,3\}"
    yield "repeated member", r"\{1,2,3\}", r"\{1,1,2\}"
    yield "hundred plus-minus", _SMALL, r"\pm 1" * 100
    yield "plus-minus in powers", _SMALL, r"2^{\pm 2^{\pm 2^{\pm 2}}}" + r"\pm 1" * 30


def _symbolic() -> Iterator[Case]:
    for name, text in {
        "endless sum": r"\sum_{n=1}^{\infty} \frac{1}{n^{3}+n^{\pi}+1}",
        "sum of a tower": r"\sum_{n=1}^{10^{10^{10}}} n!",
        "product of factorials": r"\prod_{n=1}^{10^{9}} n!",
        "integral without a form": r"\int_0^1 \frac{\sin(x^x)}{\ln(1+x^{x^x})} dx",
        "integral of integrals": r"\int_0^1 \int_0^1 \int_0^1 e^{xyz\sin(xyz)} dx dy dz",
        "limit that wanders": r"\lim_{x \to \infty} \frac{\tan(x^2)}{\sin(x)+\cos(x^3)}",
        "limit of a tower": r"\lim_{n \to \infty} n^{n^{n^{n}}}",
        "high derivative": r"\frac{d^{1000}}{dx^{1000}} \sin(x)^{1000}",
        "large expansion": "(a+b+c+d+e+f)^{200}",
        "deep trigonometry": r"\sin(" * 40 + "x" + ")" * 40,
        "identity that is none": r"\sin(x)^{2}+\cos(x)^{2}+10^{-30}",
        "many square roots": "+".join(rf"\sqrt{{{i}}}" for i in range(2, 60)),
        "nested square roots": r"\sqrt{2+" * 50 + "2" + "}" * 50,
        "equation of high degree": "x^{97}-x^{89}+3x^{5}-1=0",
        "zeta": r"\zeta(3)",
        "sum over primes": r"\sum_{p} \frac{1}{p^2}",
        "continued fraction": r"1+\cfrac{1}{" * 60 + "1" + "}" * 60,
    }.items():
        yield name, _SMALL, text


def _injections() -> Iterator[Case]:
    for name, text in {
        "import": "__import__('os').system('touch /tmp/grpo_envs_hacked')",
        "import in latex": r"\text{__import__('os').system('touch /tmp/grpo_envs_hacked')}",
        "exec": "exec(\"open('/tmp/grpo_envs_hacked','w')\")",
        "eval": "eval('7')",
        "lambda": "(lambda: 7)()",
        "attribute": "(7).__class__",
        "sympy name": "Integer(7)",
        "sympify": "S(7)",
        "sympy solve": "solve(x-7,x)[0]",
        "format string": "%s%n%x7",
        "brace format": "{7.__class__}",
        "template": "{{7}}{{config}}",
        "shell": "$(echo 7)",
        "back ticks": "`echo 7`",
        "input": r"\input{/etc/passwd}",
        "write": r"\write18{touch /tmp/grpo_envs_hacked}",
        "def": r"\def\x{7}\x",
        "gold by name": "gold",
        "equal to everything": "*",
        "any": "any number",
        "none": "None",
        "true": "True",
        "comment": "8 % 7",
        "newline and another answer": "8\n7",
        "equation that is false": "43=7",
        "chain that is false": "7=8=7",
    }.items():
        yield name, _SMALL, text


def _unicode() -> Iterator[Case]:
    for name, text in {
        "null byte": "8\x00",
        "null byte between": "7\x008",
        "lone surrogate": "8\ud800",
        "only a surrogate": "\udfff",
        "right to left": "\u202e8",
        "zero width between digits": "7\u200b1",
        "combining marks": "8" + "\u0301" * 10_000,
        "arabic eight": "\u0668",
        "devanagari eight": "\u096e",
        "full width eight": "\uff18",
        "circled eight": "\u2467",
        "roman eight": "\u2167",
        "superscript": "7\u00b2",
        "subscript": "7\u2082",
        "vulgar fraction": "7\u00bd",
        "mathematical bold eight": "\U0001d7d6",
        "byte order mark": "\ufeff8",
        "line separator": "8\u20287",
        "emoji": "\U0001f600",
        "non characters": "\uffff\ufffe",
    }.items():
        yield name, _SMALL, text


def _malformed() -> Iterator[Case]:
    for name, text in {
        "empty": "",
        "blank": " \t\n",
        "only a sign": "-",
        "only a point": ".",
        "only a slash": "/",
        "division by zero": "7/0",
        "zero over zero": "0/0",
        "zero to zero": "0^0+8",
        "open brace": "{8",
        "closing first": "}8{",
        "unknown command": r"\foo{7}",
        "command at the end": "8\\",
        "double operator": "7+*1",
        "empty fraction": r"\frac{}{}",
        "empty root": r"\sqrt{}",
        "index without a base": "_7",
        "power without a base": "^7",
        "base of one": "7_{1}",
        "base of forty": "7_{40}",
        "digit outside of its base": "9_{8}",
    }.items():
        yield name, _SMALL, text


def _hedges() -> Iterator[Case]:
    for name, text in {
        "two values": "7 or 8",
        "x is two values": "x = 7 or x = 8",
        "all digits": "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "set of guesses": r"\{6,7,8\}",
        "interval around it": "(6,8)",
        "inequality": r"x \ge 7",
        "approximately": r"\approx 6.9",
        "range": "7-8",
        "plus-minus": r"7 \pm 1",
        "not it": r"\neq 7",
        "between": "6 < x < 8",
    }.items():
        yield name, _SMALL, text


def _near_misses() -> Iterator[Case]:
    yield from (
        ("tiny numbers", "1e-7", "2e-7"),
        ("sign in an exponent", r"1-\frac{1}{\mathrm e}", r"1+\frac{1}{\mathrm e}"),
        ("root dropped", r"4\sqrt{2}", "4"),
        ("root in parentheses", r"4\sqrt(2)", "4"),
        ("false equation", "42", "43=42"),
        ("two solutions", "7", "x = 5 or 7"),
        ("tuple and set", "(1,2)", r"\{1,2\}"),
        ("another base", "11_2", "11_3"),
        ("base dropped", "101_2", "101"),
        ("another unit", r"5\text{ m}", r"5\text{ cm}"),
        ("bare equation", "1", "y = 2x + 1"),
        ("another variable", "x+1", "y+1"),
        ("conjugate", r"1+\sqrt{2}", r"1-\sqrt{2}"),
        ("real part", "3+4i", "3-4i"),
        ("off by a factor", r"\frac{\pi}{3}", r"\frac{\pi}{6}"),
        ("digit swapped", "123456789012345678", "123456789012345679"),
        ("absolute value dropped", "|x|", "x"),
        ("square root of a square", r"\sqrt{x^{2}}", "x"),
        ("strict and not", r"x \le 3", "x < 3"),
        ("scaled expression", "x+1", "2x+2"),
    )

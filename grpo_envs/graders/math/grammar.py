r"""Operator precedence: a Pratt parser over the tokens.

Tables define what can begin an expression (`leaves`, `commands`) and what can follow one (`infix`).
A unit of `MOST_DEPTH` takes two or three Python frames, so this limit is reached long before
Python's own. No tree is deeper than twice the limit.
"""

from collections.abc import Callable, Mapping
from typing import NoReturn

from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.tokens import Token, Unreadable

MOST_DEPTH = 100

# How strongly an operator binds. A unit applies to the whole expression before it: 2 + 3 cm.
CHOOSE, GROUPS, LIST, MODULO, RELATION, UNIT = range(1, 7)
SETS, RATIO, SUM, PRODUCT, SIGN, POWER, POSTFIX = range(7, 14)

_OPENING = frozenset({"(", "[", "{", "\\{", "|", "lbar", "lfloor", "lceil", "norm"})

_BEFORE_POWER = frozenset(
    {"var", "const", "call", "fn", "pow", "root", "fact", "fact2", "binom", "add"}
)

UNIT_NAME: Token = ("text", "")  # key of any text in the infix table
NOTHING: Token = ("", "")  # key of a factor without a sign

Start = Callable[["Parser", str], Node]
Infix = Callable[["Parser", Node], Node]


class Parser:
    """One pass over the tokens of one text."""

    def __init__(
        self,
        tokens: list[Token],
        starts: Mapping[Token, Start],
        infixes: Mapping[Token, tuple[int, Infix]],
    ) -> None:
        self.tokens = tokens
        self.starts = starts
        self.infixes = infixes
        self.at = 0
        self.depth = 0
        self.closing: tuple[str, ...] = ()  # open bars: the next bar closes one

    def answer(self) -> Node:
        """Read all the tokens as one expression."""
        node = self.expression()
        kind, value = self.tokens[self.at]
        return node if kind == "end" else self.fail(value)

    def expression(self, power: int = 0) -> Node:
        """Read an expression whose operators all bind more strongly than `power`."""
        self.deeper()
        left = self.start()
        wraps = 0  # 1/2/3/4 nests to the left
        while True:
            bound, read = self._infix(left)
            if bound <= power or wraps > MOST_DEPTH:
                break
            node = read(self, left)
            if node is not left:  # a comma with nothing after it
                wraps += node[1] is left or node[-1] is left or node[-2] is left
            left = node
        self.depth -= 1
        return left

    def deeper(self) -> None:
        """Count one more level; the caller undoes it at the end of the level."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Unreadable("too deep")

    def start(self) -> Node:
        """Read the start of an expression."""
        kind, value = token = self.take()
        read = self.starts.get(token) or self.starts.get((kind, ""))
        if read is None:
            self.fail(value)
        self.deeper()
        node = read(self, value)
        self.depth -= 1
        return node

    def take(self) -> Token:
        """Return the next token and advance, but never beyond the end."""
        token = self.tokens[self.at]
        if token[0] != "end":
            self.at += 1
        return token

    def ahead(self, *values: str) -> bool:
        """Return whether the next token is one of these operators."""
        kind, value = self.tokens[self.at]
        return kind == "op" and value in values

    def skip(self, *values: str) -> bool:
        """Step over the next token if it is one of these operators."""
        found = self.ahead(*values)
        self.at += found
        return found

    def expect(self, *values: str) -> str:
        """Return the next token, which must be one of these operators, and advance."""
        value = self.tokens[self.at][1]
        return value if self.skip(*values) else self.fail(value)

    def fail(self, value: str) -> NoReturn:
        """Raise Unreadable: `value` is not allowed here."""
        raise Unreadable(f"unexpected {value[:20]!r}" if value else "it ends too early")

    def enclosed(self, *closing: str) -> Node:
        """Read the inside of brackets; bars that are open outside do not close inside."""
        outer, self.closing = self.closing, closing
        node = self.expression()
        self.closing = outer
        return node

    def argument(self) -> Node:
        r"""Read an argument of a command: a group, one digit (`\frac12`), or one name."""
        kind, value = self.tokens[self.at]
        if kind == "num" and len(value) > 1:
            if "." in value:
                self.fail(value)
            self.tokens[self.at] = ("num", value[1:])
            return ("num", value[0])
        if kind == "num":
            self.at += 1
            return ("num", value)
        return self.start() if kind != "op" or value in _OPENING else self.fail(value)

    def factor_ahead(self) -> bool:
        """Return whether a factor follows that needs no sign before it.

        Not a number: two adjacent numbers are one number with a space, or two answers.
        """
        kind, value = self.tokens[self.at]
        if kind == "op":
            return value in _OPENING and value not in self.closing
        return kind in ("name", "const", "fn", "begin", "cmd")

    def _infix(self, left: Node) -> tuple[int, Infix]:
        kind, value = token = self.tokens[self.at]
        if token in self.infixes and value not in self.closing:
            return self.infixes[token]
        if kind in ("text", "unit"):
            return self.infixes[UNIT_NAME]
        if token == ("name", "U") and left[0] in ("tuple", "set", "union"):
            return self.infixes["op", "cup"]
        bound, read = self.infixes[NOTHING]
        if kind == "num":
            return (bound if self._power_ahead(left) else 0), read
        return (bound if self.factor_ahead() else 0), read

    def _power_ahead(self, left: Node) -> bool:
        """Return whether a power of a number follows a factor that ends without a number: x 2^n."""
        if self.tokens[self.at + 1] != ("op", "^"):
            return False
        last = left
        while last[0] in ("mul", "neg"):
            last = last[-1]
        if last[0] == "div":  # \frac{1}{2} 3^n, and never 1/2 3^n
            return self.tokens[self.at - 1] == ("op", "}")
        return last[0] in _BEFORE_POWER

"""From assertions to cases: `assert f(1, 2) == 3` is a call and its value.

The code is read by AST and never evaluated. Assertions of other forms stay test code, which a
process runs.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_envs.graders.code.compare import THROUGH
from grpo_envs.graders.code.entry import asserted_function
from grpo_envs.graders.code.words import Case

__all__ = ["NotLiteral", "asserted_function", "cases_of"]
_MOST = 10_000
"""Items of a range or a repetition, and bits of a power."""

Env = Mapping[str, Any]


class NotLiteral(Exception):
    """An expression is not made of constants, or a statement is not a literal assertion."""


def cases_of(code: str, entry_point: str) -> tuple[Case, ...] | None:
    """Return the cases that `code` asserts about `candidate` or `entry_point`.

    Args:
        code: Assertions, or a function `check(candidate)` that makes them.
        entry_point: The function that is tested.

    Returns:
        The cases; None if `code` has anything else than literal assertions, or no assertion.
    """
    try:
        body, env = _body(ast.parse(code), {})
        cases = [case for node in body if (case := _statement(node, entry_point, env)) is not None]
    except (NotLiteral, SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # ValueError: a null byte; the last two: nested too deeply for Python
    return tuple(cases) or None


def _callee(node: ast.AST | None) -> str:
    """Return the name that `node` calls; '' if it is not a call of a name."""
    called = node.func if isinstance(node, ast.Call) else None
    return called.id if isinstance(called, ast.Name) else ""


def _body(tree: ast.Module, env: dict[str, Any]) -> tuple[Sequence[ast.stmt], dict[str, Any]]:
    """Return the statements of `check`, or of the module if there is no such function."""
    check = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    if not check:
        return tree.body, env
    for node in tree.body:
        harmless = isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node)
        if not harmless and node is not check[0] and not _is_metadata(node):
            raise NotLiteral
    return check[0].body, env


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_metadata(node: ast.stmt) -> bool:
    names = node.targets if isinstance(node, ast.Assign) else []
    return [ast.unparse(name) for name in names] == ["METADATA"]


def _statement(node: ast.stmt, entry_point: str, env: dict[str, Any]) -> Case | None:
    if isinstance(node, ast.Assert):
        return _assertion(node.test, entry_point, env)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id not in ("candidate", entry_point):
            env[target.id] = _value(node.value, env)
            return None
    if isinstance(node, ast.Import | ast.Pass) or _is_text(node):
        return None
    raise NotLiteral


def _assertion(test: ast.expr, entry_point: str, env: Env) -> Case | None:
    """Read one assertion; None for `assert True`, which asserts nothing."""
    if isinstance(test, ast.Constant) and test.value is True:
        return None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        given = _arguments(test.operand, entry_point, env)
        return Case(given=given, expected=False, through="bool")
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("math.isclose", "isclose"):
        return _isclose(test, entry_point, env)
    if not isinstance(test, ast.Compare):
        return Case(given=_arguments(test, entry_point, env), expected=True, through="bool")
    if len(test.ops) != 1:
        raise NotLiteral
    return _comparison(test, entry_point, env)


def _comparison(test: ast.Compare, entry_point: str, env: Env) -> Case:
    left, op, right = test.left, test.ops[0], test.comparators[0]
    if isinstance(op, ast.Lt | ast.LtE):
        return _near(left, _value(right, env), entry_point, env)
    is_constant = isinstance(right, ast.Constant) and right.value in (None, True, False)
    if not isinstance(op, ast.Eq) and not (isinstance(op, ast.Is) and is_constant):
        raise NotLiteral
    through = _callee(left)
    if through in THROUGH and through not in ("", "candidate", entry_point):
        left = _only_argument(left)
    else:
        through = ""
    given = _arguments(left, entry_point, env)
    return Case(given=given, expected=_value(right, env), through=through)


def _near(left: ast.expr, most: Any, entry_point: str, env: Env) -> Case:
    """Read the left side of `abs(f(x) - 1.5) < 1e-6`."""
    inner = _only_argument(left) if _callee(left) == "abs" else None
    if not (isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub)):
        raise NotLiteral
    if type(most) not in (int, float) or not 0 < most < 1:
        raise NotLiteral
    given, expected = _either_way(inner.left, inner.right, entry_point, env)
    return Case(given=given, expected=expected, abs_tol=float(most))


def _isclose(test: ast.Call, entry_point: str, env: Env) -> Case:
    if len(test.args) != 2:
        raise NotLiteral
    options = {key.arg: _value(key.value, env) for key in test.keywords}
    if not set(options) <= {"rel_tol", "abs_tol"}:
        raise NotLiteral
    given, expected = _either_way(test.args[0], test.args[1], entry_point, env)
    relative, absolute = options.get("rel_tol", 1e-9), options.get("abs_tol", 0.0)
    if not all(type(tol) in (int, float) and 0 <= tol < 1 for tol in (relative, absolute)):
        raise NotLiteral
    return Case(given=given, expected=expected, rel_tol=float(relative), abs_tol=float(absolute))


def _either_way(
    one: ast.expr, other: ast.expr, entry_point: str, env: Env
) -> tuple[tuple[Any, ...], float]:
    """Return arguments and number of `f(x), 1.5` or `1.5, f(x)`."""
    try:
        given, number = _arguments(one, entry_point, env), _value(other, env)
    except NotLiteral:
        given, number = _arguments(other, entry_point, env), _value(one, env)
    if type(number) not in (int, float) or not math.isfinite(number):
        raise NotLiteral
    return given, number


def _arguments(call: ast.expr, entry_point: str, env: Env) -> tuple[Any, ...]:
    if not isinstance(call, ast.Call) or call.keywords:
        raise NotLiteral
    if _callee(call) not in ("candidate", entry_point):
        raise NotLiteral
    return tuple(_value(argument, env) for argument in call.args)


def _only_argument(call: ast.expr) -> ast.expr:
    if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords:
        raise NotLiteral
    return call.args[0]


# Constants


def _value(node: ast.expr, env: Env) -> Any:
    read = _READ.get(type(node))
    if read is None:
        raise NotLiteral
    try:
        return read(node, env)
    except (ArithmeticError, TypeError, ValueError) as error:  # 1 / 0, {[]: 1}, float("x")
        raise NotLiteral from error


def _constant(node: Any, env: Env) -> Any:
    if node.value is ...:
        raise NotLiteral
    return node.value


def _name(node: Any, env: Env) -> Any:
    if node.id not in env:
        raise NotLiteral
    return env[node.id]


def _items(node: Any, env: Env) -> list[Any]:
    return [_value(item, env) for item in node.elts]


def _dict(node: Any, env: Env) -> Any:
    if None in node.keys:
        raise NotLiteral
    pairs = zip(node.keys, node.values, strict=True)
    return {_value(key, env): _value(value, env) for key, value in pairs}


def _unary(node: Any, env: Env) -> Any:
    act = _UNARY.get(type(node.op))
    if act is None:
        raise NotLiteral
    return act(_value(node.operand, env))


def _binary(node: Any, env: Env) -> Any:
    act = _BINARY.get(type(node.op))
    left, right = _value(node.left, env), _value(node.right, env)
    if act is None or (isinstance(node.op, ast.Mod) and isinstance(left, str | bytes)):
        raise NotLiteral  # such as "%99999999d" % 1
    if isinstance(node.op, ast.Pow) and not _small_power(left, right):
        raise NotLiteral
    if isinstance(node.op, ast.Mult) and not _small_product(left, right):
        raise NotLiteral
    return act(left, right)


def _small_power(base: Any, exponent: Any) -> bool:
    whole = type(base) in (int, float) and type(exponent) is int
    return whole and abs(exponent) * max(1, int(abs(base)).bit_length()) <= _MOST


def _small_product(left: Any, right: Any) -> bool:
    for times, what in ((left, right), (right, left)):
        if isinstance(what, str | bytes | list | tuple):
            return type(times) is int and len(what) * max(times, 0) <= _MOST
    return True


def _call(node: Any, env: Env) -> Any:
    """Read the few calls that count as literals: set([1, 2]), list(range(9)), float("inf")."""
    name, args = ast.unparse(node.func), [_value(argument, env) for argument in node.args]
    if name not in _CALLS or node.keywords:
        raise NotLiteral
    if name == "range":
        sized = [type(arg) for arg in args] == [int] * len(args)
        if not sized or len(range(*args)) > _MOST:
            raise NotLiteral
        return list(range(*args)) if args else None
    return _CALLS[name](*args)


_CALLS: dict[str, Callable[..., Any]] = {
    "float": float,
    "frozenset": frozenset,
    "list": list,
    "range": range,
    "set": set,
    "sorted": sorted,
    "tuple": tuple,
}
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_READ: dict[type, Callable[[Any, Env], Any]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.List: _items,
    ast.Tuple: lambda node, env: tuple(_items(node, env)),
    ast.Set: lambda node, env: set(_items(node, env)),
    ast.Dict: _dict,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Call: _call,
}

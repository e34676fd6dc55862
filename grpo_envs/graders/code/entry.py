"""The function that tests test: the one that their first assertion with a call calls."""

import ast
import builtins
from collections.abc import Iterator

from grpo_envs.graders.code.reach import last_name
from grpo_envs.sandbox.testing import exists, is_check

_OF_MODULES = ("isclose", "allclose", "array_equal", "approx", "raises", "deepcopy")
_OF_LIBRARY = frozenset(
    ("Counter", "OrderedDict", "defaultdict", "deque", "Decimal", "Fraction", "date", "datetime")
)
Call = tuple[str, bool]
"""A name that an assertion calls or passes, and whether it is called."""


def asserted_function(code: str) -> str | None:
    """Return the function that the assertions of `code` call; None if they call none.

    Functions that the tests define or import do not count, nor builtins and classes of the standard
    library, unless nothing else is called:
    `assert int(f(5)) == 35` tests `f`, `assert sum(2, 3) == 5` a `sum` that the program defines.
    A class `Solution` whose method is called is named as `Solution`.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if imported := _imported_from_program(tree):
        return imported
    own = set(_own_names(tree))
    found = [call for node in ast.walk(tree) for call in _calls(node) if call[0] not in own]
    called = [name for name, is_called in found if is_called]
    passed = [name for name, is_called in found if not is_called]
    before = _called_before(tree, own)  # result = f(1), and an assertion of `result`
    foreign = [name for name in [*called, *passed, *before] if not _is_known(name)]
    return next(iter([*foreign, *called]), None)


def _is_known(name: str) -> bool:
    return hasattr(builtins, name) or name in _OF_LIBRARY


def _called_before(tree: ast.AST, own: set[str]) -> list[str]:
    """Return the functions that tests with assertions call outside of assertions."""
    if not any(isinstance(node, ast.Assert) or is_check(node) for node in ast.walk(tree)):
        return []
    names = [last_name(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call) if _is_plain(n)]
    return [name for name in names if name not in own]


def _is_plain(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and not is_check(call)


def _imported_from_program(tree: ast.Module) -> str:
    """Return the first name imported from a module that does not exist, if the tests call it."""
    called = {last_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or not exists(node.module or "")):
            for alias in node.names:
                if alias.name != "*" and {alias.name, alias.asname} & called:
                    return alias.name
    return ""


def _own_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that the tests define: functions, parameters, variables, imports."""
    yield from ("candidate", "self")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _calls(node: ast.AST) -> Iterator[Call]:
    """Yield the functions that an assertion calls or passes to a call, the outermost first."""
    if not (isinstance(node, ast.Assert) or is_check(node)):
        return
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Call):
            continue
        named = isinstance(inner.func, ast.Name) and not is_check(inner)
        if named and last_name(inner.func) not in _OF_MODULES:
            yield last_name(inner.func), True
        yield from ((n.id, False) for n in inner.args if isinstance(n, ast.Name))

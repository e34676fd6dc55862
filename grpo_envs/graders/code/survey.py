"""Can test code fail a program, and can the judge run it?

The code is checked by AST when it is loaded. Refused tests would reward every program, or none.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from grpo_envs.graders.code.reach import Reached, last_name
from grpo_envs.sandbox.testing import exists, imported, is_check

_PYTEST = (
    *("approx", "fail", "fixture", "importorskip", "main", "mark", "param", "raises", "skip"),
    "warns",
)
_GIVEN = ("candidate", "capfd", "capsys", "monkeypatch", "request", "self")
_REPLACEABLE = ("builtins.input", "sys.stdin", "sys.stdout")
_PROGRAMS = ("answer", "candidate", "main", "program", "solution", "submission", "your_module")


def refusal(
    tree: ast.Module, entry_point: str, packages: Sequence[str], *, collected: bool = True
) -> str:
    """Return why the tests `tree` cannot judge a program; '' if they can.

    Args:
        tree: The tests.
        entry_point: The function or class that is tested.
        packages: Packages that programs and tests may import, besides numpy.
        collected: Whether test functions and classes run.
    """
    root, _, method = entry_point.partition("().")
    reached = Reached(tree, root, collected=collected)
    if not any(_can_fail(node, root) for node in ast.walk(tree)):
        return f"tests assert nothing: {_short(tree)}."
    if not any(_can_fail(node, root) for node in reached.uncaught):
        return f"tests assert nothing that is run, or catch it: {_short(tree)}."
    if reached.mentioned.isdisjoint({root, method, "candidate", *_aliases(tree, root)}):
        return f"tests never call {entry_point}: {_short(tree)}."
    reasons: tuple[Callable[[], str], ...] = (
        lambda: _imports(tree, root, packages),
        lambda: _pytest(tree),
        lambda: _fixtures(tree, root, reached),
        lambda: _replaced(tree),
        lambda: _coroutines(tree),
    )
    return next((reason for find in reasons if (reason := find())), "")


def _aliases(tree: ast.Module, root: str) -> Iterator[str]:
    """Yield the names under which the tests import the tested function or class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname and alias.name == root)


def _can_fail(node: ast.AST, root: str) -> bool:
    if isinstance(node, ast.Assert):
        return not _is_always_true(node.test, root)
    if isinstance(node, ast.Call) and last_name(node.func) == "assertTrue" and node.args:
        return not _is_always_true(node.args[0], root)
    return isinstance(node, ast.Raise) or is_check(node)


def _is_always_true(test: ast.expr, root: str) -> bool:
    """Return whether an assertion of `test` holds for every program."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple | ast.List | ast.Set):
        return bool(test.elts)  # assert (f(1) == 2, "a message")
    if isinstance(test, ast.Lambda | ast.JoinedStr):
        return True
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(_is_always_true(value, root) for value in test.values)
    if isinstance(test, ast.Call) and last_name(test.func) == "callable":
        return True
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name):
        return test.left.id in (root, "candidate")  # assert f is not None
    return isinstance(test, ast.Name) and test.id in (root, "candidate")


def _imports(tree: ast.Module, root: str, packages: Sequence[str]) -> str:
    """Return what is wrong with the modules that the tests import."""
    from_program = {
        node.module.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if root in [alias.name for alias in node.names]
    }
    used = {owner for owner, name in _members(tree) if name == root}
    there = {*sys.stdlib_module_names, *packages, *_PROGRAMS, "numpy", "pytest"}
    for name in sorted(imported(tree) - there - from_program - used):
        if exists(name):
            return f"tests import {name}. Allowed: what env.packages names, as {name} is installed."
        starred = any(
            isinstance(n, ast.ImportFrom) and n.module and n.module.partition(".")[0] == name
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"
        )
        if not starred:
            return f"tests import {name}, which is not installed and does not define {root}."
    if "numpy" in imported(tree) and find_spec("numpy") is None:
        return "tests import numpy, which is not installed."
    return ""


def _members(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the two names of every `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr


def _pytest(tree: ast.Module) -> str:
    """Return what the stand-in for pytest lacks."""
    names = [name for owner, name in _members(tree) if owner == "pytest"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pytest":
            names += [alias.name for alias in node.names if alias.name != "*"]
    missing = [name for name in names if name not in _PYTEST]
    return f"tests use pytest.{missing[0]}. Allowed: {', '.join(_PYTEST)}." if missing else ""


def _fixtures(tree: ast.Module, root: str, reached: Reached) -> str:
    """Return a parameter of a test function that no fixture makes."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    made = {node.name for node in functions if _is_fixture(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "name" and _text(node.value):
            made.add(_text(node.value))
    for function, owner in reached.tests:
        decorators = [*function.decorator_list, *(owner.decorator_list if owner else ())]
        if any("patch" in ast.unparse(decorator) for decorator in decorators):
            continue  # its arguments are passed by position
        varied = {name for decorator in decorators for name in _varied(decorator)}
        every = [*function.args.posonlyargs, *function.args.args]
        count = len(every) - len(function.args.defaults)
        for name in [argument.arg for argument in every[:count]]:
            if name not in {*made, *varied, *_GIVEN, root}:
                allowed = ", ".join(sorted({*made, *_GIVEN} - {"self"}))
                return f"test {function.name} takes the fixture {name}. Allowed: {allowed}."
    return ""


def _is_fixture(node: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


def _varied(decorator: ast.expr) -> Iterator[str]:
    """Yield the names of the arguments that `parametrize` gives."""
    if isinstance(decorator, ast.Call) and last_name(decorator.func) == "parametrize":
        given = decorator.args[:1] or [k.value for k in decorator.keywords if k.arg == "argnames"]
        for names in given:
            for item in names.elts if isinstance(names, ast.Tuple | ast.List) else [names]:
                yield from (name.strip() for name in _text(item).split(","))


def _replaced(tree: ast.Module) -> str:
    """Return an object that the tests replace, without effect on the program's process."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        whole = ast.unparse(node.func)
        last = whole.rpartition("patch")[2] if "patch" in whole else None
        if last not in ("", ".object", ".dict", ".setattr", ".setenv", ".delenv", ".chdir"):
            continue
        target = _text(node.args[0]) if node.args else ""
        if last in (".object", ".setattr") and len(node.args) > 1 and not target:
            target = f"{ast.unparse(node.args[0])}.{_text(node.args[1])}"
        if target not in _REPLACEABLE:
            allowed = ", ".join(_REPLACEABLE)
            return f"tests replace {target or ast.unparse(node)[:40]}. Allowed: {allowed}."
    return ""


def _coroutines(tree: ast.Module) -> str:
    kinds = ast.Await, ast.AsyncFunctionDef
    found = any(isinstance(node, kinds) for node in ast.walk(tree))
    runs = any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.run"
        for node in ast.walk(tree)
    )
    return "tests use coroutines, which do not pass by value." if found or runs else ""


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _short(tree: ast.Module) -> str:
    return repr(ast.unparse(tree)[:60])

"""Preparation of test code for the judge: compilation, with counting of assertions.

The judge's process imports nothing for the tests: a stand-in for pytest and a runner of test
functions are sent as compiled code, only with tests that need them.
"""

import ast
import builtins
import marshal
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FILE = "<tests>"
_SUPPORT = Path(__file__).parent / "support"
CHECKING = ("fail", "raises", "warns", "exit", "_exit", "quit", "deprecated_call")
"""Functions besides `assert...` by which test code reports a failure."""


@lru_cache(maxsize=4096)
def prepared(tests: str, entry_point: str) -> dict[str, Any]:
    """Return the data that the judge needs about test code.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: the tests are not Python.
    """
    tree = ast.parse(tests, FILE)
    root = entry_point.partition("().")[0]
    tree.body = [node for node in tree.body if getattr(node, "name", "") != root] or [ast.Pass()]
    modules, wanted = program_modules(tree, root), _wanted(tree)
    modules_of = imported(tree)
    collected = _is_collected(tree, root)
    names = [*(["pytest"] * ("pytest" in modules_of)), *(["collecting"] * collected)]
    tree = ast.fix_missing_locations(_Counting().visit(tree))
    return {
        "code": marshal.dumps(compile(tree, FILE, "exec", dont_inherit=True)),
        "support": {name: _support(name) for name in names},
        "modules": [part for name in modules for part in _parts(name)],
        "wanted": sorted({*wanted, root}),
        "check": calls_check(tree),
        "imports": sorted(modules_of),
        "arrays": "numpy" in modules_of,
    }


def imported(tree: ast.AST) -> set[str]:
    """Return the top names of the modules that `tree` imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def program_modules(tree: ast.AST, root: str) -> list[str]:
    """Return the modules by which `tree` imports the program: modules that do not exist.

    Relative imports (`from . import f`) become imports from `solution`.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if not exists(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                node.level, node.module = 0, node.module or "solution"
                found.append(node.module)
            elif node.module and not (exists(node.module) and root not in _named(node)):
                found.append(node.module)
    return found


def _named(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


@cache
def exists(module: str) -> bool:
    """Return whether a module is in the standard library, installed, or has a stand-in."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "pytest":
        return True
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def calls_check(tree: ast.Module) -> bool:
    """Return whether the judge must call a `check` that the tests define but do not call."""
    check = next(
        (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None
    )
    if check is None:
        return False
    needed = len(check.args.posonlyargs + check.args.args) - len(check.args.defaults)
    inside = set(map(id, ast.walk(check)))
    called = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and id(n) not in inside)
    return needed <= 1 and not any(_last(node.func) == "check" for node in called)


def _is_collected(tree: ast.Module, root: str) -> bool:
    """Return whether there are test functions or classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_test(node.name):
            return True
        if isinstance(node, ast.ClassDef) and (node.bases or node.name.startswith("Test")):
            return True
    return "unittest" in imported(tree)


def is_test(name: str) -> bool:
    """Return whether a function of this name is a test."""
    return name.startswith("test")


def _wanted(tree: ast.Module) -> set[str]:
    """Return the names that the tests use but do not define: the program's, if it has them."""
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = set(_defined(tree))
    return {name for name in used - own if not hasattr(builtins, name) and name[:2] != "__"}


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that the module of the tests defines at top level."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _parts(module: str) -> Iterator[str]:
    """Yield `a`, `a.b` and `a.b.c` for `a.b.c`."""
    parts = module.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


@cache
def _support(name: str) -> bytes:
    path = _SUPPORT / f"{name}.py"
    return marshal.dumps(compile(path.read_text(encoding="utf-8"), f"<{name}>", "exec"))


class _Counting(ast.NodeTransformer):
    """Adds counting to every assertion."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        node.test = _counted(node.test)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return _counted(node) if is_check(node) else node

    def visit_If(self, node: ast.If) -> ast.AST:
        raises = any(_complains(part) for part in [*node.body, *node.orelse])
        is_main = any(getattr(n, "id", "") == "__name__" for n in ast.walk(node.test))
        self.generic_visit(node)
        if raises and not is_main:
            node.test = _counted(node.test)
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        raises = any(_complains(part) for part in [*node.body, *node.orelse])
        self.generic_visit(node)
        if raises:
            empty = ast.copy_location(ast.Constant(None), node)
            node.body.insert(0, ast.copy_location(ast.Expr(_counted(empty)), node))
        return node


def is_check(node: ast.AST) -> bool:
    """Return whether `node` is a call that can fail a test."""
    name = _last(node.func) if isinstance(node, ast.Call) else ""
    return name.lower().startswith("assert") or name in CHECKING


def _complains(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise | ast.Assert) or (
        isinstance(node, ast.Expr) and is_check(node.value)
    )


def _counted(node: ast.expr) -> ast.expr:
    name = ast.copy_location(ast.Name("__checked__", ast.Load()), node)
    return ast.copy_location(ast.Call(name, [node], []), node)


def _last(node: ast.AST) -> str:
    """Return the last name of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")

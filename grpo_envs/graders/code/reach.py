"""The parts of test code that run, found by following names from the module."""

import ast
from collections.abc import Iterable, Iterator

from grpo_envs.sandbox.testing import calls_check, is_check, is_test

Function = ast.FunctionDef | ast.AsyncFunctionDef
_LEAVING = ast.Return | ast.Break | ast.Continue
_BROAD = ("AssertionError", "BaseException", "Exception")
_AROUND = ("setUp", "tearDown", "setUpClass", "setup_method", "setup_class", "runTest")


class Reached:
    """The nodes that run, the names that they mention, and the tests among them."""

    def __init__(self, tree: ast.Module, root: str, *, collected: bool) -> None:
        """Follow `tree`; the program's `root` replaces a definition in the tests.

        Args:
            tree: The tests.
            root: The name of the tested function or class.
            collected: Whether test functions and classes run.
        """
        self.mentioned: set[str] = set()
        self.uncaught: list[ast.AST] = []
        """Nodes that run outside of any `try` that swallows a failed assertion."""
        self.tests: list[tuple[Function, ast.ClassDef | None]] = []
        self._named: dict[str, list[Function | ast.ClassDef]] = {}
        for node in ast.walk(tree):
            if isinstance(node, Function | ast.ClassDef) and node.name != root:
                self._named.setdefault(node.name, []).append(node)
        self._seen: set[int] = set()
        self._follow(tree.body)
        for node in tree.body:
            if isinstance(node, Function):
                if node.name == "check" and calls_check(tree):
                    self._mention(["candidate"] * bool(node.args.posonlyargs + node.args.args))
                    self._enter(node)
                elif collected and is_test(node.name) and not _is_declared(node):
                    self.tests.append((node, None))
                    self._enter(node)
            elif collected and isinstance(node, ast.ClassDef) and _is_test_class(node):
                self._enter_tests(node)

    def _enter_tests(self, node: ast.ClassDef) -> None:
        self._enter(node)
        for inner in node.body:
            if isinstance(inner, Function) and (is_test(inner.name) or inner.name in _AROUND):
                if inner.name not in _AROUND:
                    self.tests.append((inner, node))
                self._enter(inner)

    def _enter(self, node: Function | ast.ClassDef) -> None:
        """Follow a function, or the body of a class with the methods that Python calls itself."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function) and inner.name.startswith("__"):
                    self._enter(inner)
        else:
            arguments = ast.walk(node.args)
            self._mention(argument.arg for argument in arguments if isinstance(argument, ast.arg))
        self._follow(node.body)

    def _follow(self, body: list[ast.stmt]) -> None:
        names = []
        for node, caught in _live(body, caught=False):
            if not caught:
                self.uncaught.append(node)
            if isinstance(node, ast.Name):
                names.append(node.id)
            elif isinstance(node, ast.Attribute):
                names.append(node.attr)
        self._mention(names)

    def _mention(self, names: Iterable[str]) -> None:
        for name in names:
            self.mentioned.add(name)
            for node in self._named.get(name, ()):
                self._enter(node)


def last_name(node: ast.AST) -> str:
    """Return the last name of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_declared(node: Function) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_test_class(node: ast.ClassDef) -> bool:
    bases = [last_name(base) for base in node.bases]
    return node.name.startswith("Test") or any("Test" in base for base in bases)


def _live(body: Iterable[ast.stmt], *, caught: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the nodes of statements, up to a statement that ends the block."""
    for statement in body:
        yield from _node(statement, caught=caught)
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return


def _node(node: ast.AST, *, caught: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield a node and its descendants, without the bodies of functions and classes."""
    yield node, caught
    if isinstance(node, ast.If | ast.While) and (known := _known(node.test)) is not None:
        yield from _live(node.body if known else node.orelse, caught=caught)
        return
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, Function | ast.ClassDef):
            continue
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield from _live(value, caught=caught or (name == "body" and _catches(node)))
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _node(item, caught=caught)


def _catches(node: ast.AST) -> bool:
    """Return whether a failed assertion in the body of `node` has no effect."""
    if isinstance(node, ast.Try):
        leaves = any(isinstance(last, _LEAVING) for last in node.finalbody)
        return leaves or any(map(_swallows, node.handlers))
    return isinstance(node, ast.With) and any(map(_suppresses, node.items))


def _known(test: ast.expr) -> bool | None:
    """Return the value of a condition that is the same in every run, else None."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    return False if last_name(test) == "TYPE_CHECKING" else None


def _swallows(handler: ast.ExceptHandler) -> bool:
    """Return whether `handler` swallows a failed assertion."""
    kind = handler.type
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind] if kind else []
    broad = kind is None or any(last_name(one) in _BROAD for one in kinds)
    return broad and all(map(_is_idle, handler.body))


def _is_idle(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        value = statement.value
        return isinstance(value, ast.Constant) or (
            isinstance(value, ast.Call) and not is_check(value) and _only_tells(value)
        )
    return isinstance(statement, ast.Pass | ast.Continue)


def _only_tells(call: ast.Call) -> bool:
    names = "print", "debug", "info", "warning", "error", "exception", "print_exc", "write"
    return last_name(call.func) in names


def _suppresses(item: ast.withitem) -> bool:
    call = item.context_expr
    if not isinstance(call, ast.Call) or last_name(call.func) != "suppress":
        return False
    return any(last_name(kind) in _BROAD for kind in call.args)

"""Runs the test functions and test classes of a module, as pytest and unittest do."""

import builtins
import io
import itertools
import sys
from types import FunctionType, GeneratorType
from typing import Any


def prepare(wanted: Any) -> Any:
    """Make `unittest.main()` at the end of a module do nothing: its tests run anyway."""
    if wanted:
        import unittest

        unittest.__dict__["main"] = lambda *_arguments, **_keywords: None


def run(names: Any, given: Any) -> Any:
    """Run all tests among `names`; the first failure raises.

    Args:
        names: The module's names.
        given: Values for parameters of tests, by name, besides fixtures.
    """
    unittest = sys.modules.get("unittest")
    own = [v for v in [*names.values()] if getattr(v, "__module__", "") == "__main__"]
    fixtures = {
        v.__fixture__["name"] or v.__name__: v
        for v in own
        if isinstance(v, FunctionType) and hasattr(v, "__fixture__")
    }
    _hook(names, "setUpModule", "setup_module")
    for name, value in [*names.items()]:
        if isinstance(value, FunctionType) and value.__module__ == "__main__":
            if name.startswith("test") and not hasattr(value, "__fixture__"):
                _run_function(value, [value], {**given}, fixtures)
        elif isinstance(value, type) and value.__module__ == "__main__":
            if unittest is not None and issubclass(value, unittest.TestCase):
                _run_case(unittest, value)
            elif name.startswith("Test"):
                _run_class(value, given, fixtures)
    _hook(names, "tearDownModule", "teardown_module")


def _hook(names: Any, *hooks: Any) -> Any:
    for hook in hooks:
        if isinstance(names.get(hook), FunctionType):
            names[hook](*[None] * names[hook].__code__.co_argcount)


def _run_case(unittest: Any, case: Any) -> Any:
    result = unittest.TestResult()
    result.failfast = True
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    for _, text in [*result.errors, *result.failures]:
        raise AssertionError(text.strip().rpartition("\n")[2])
    if result.unexpectedSuccesses:
        raise AssertionError("a test that must fail did not")


def _run_class(kind: Any, given: Any, fixtures: Any) -> Any:
    members = {k: v for base in reversed(kind.__mro__) for k, v in vars(base).items()}
    own = {k: v for k, v in members.items() if isinstance(v, FunctionType)}
    inner = {v.__fixture__["name"] or k: v for k, v in own.items() if hasattr(v, "__fixture__")}
    if hasattr(kind, "setup_class"):
        kind.setup_class()
    for name, function in own.items():
        if not name.startswith("test"):
            continue
        made = kind()
        bound = {n: f.__get__(made) for n, f in inner.items()}
        for hook in ("setup_method", "setup"):
            if hook in own:
                getattr(made, hook)(*[function] * (own[hook].__code__.co_argcount - 1))
        _run_function(function.__get__(made), [kind, function], {**given}, {**fixtures, **bound})
        if "teardown_method" in own:
            made.teardown_method(*[function] * (own["teardown_method"].__code__.co_argcount - 1))
    if hasattr(kind, "teardown_class"):
        kind.teardown_class()


def _run_function(function: Any, marked: Any, given: Any, fixtures: Any) -> Any:
    """Run a test once for each set of its arguments."""
    marks = [mark for owner in marked for mark in getattr(owner, "pytestmark", ())]
    wanted = _parameters(function)
    axes = [_sets(mark) for mark in marks if mark[0] == "parametrize"]
    varied = _closure(wanted, fixtures, marks)
    for name in varied:
        values = fixtures[name].__fixture__["params"]
        if values is not None:
            axes.append([({f"param of {name}": value}, []) for value in values])
    for chosen in itertools.product(*axes):
        arguments = {k: v for one, _ in chosen for k, v in one.items()}
        if _is_run([*marks, *[m for _, more in chosen for m in more]]):
            _run_once(function, varied, {**given, **arguments}, fixtures)


def _is_run(marks: Any) -> Any:
    for name, args, keywords in marks:
        condition = (
            all(bool(argument) for argument in args) if args else keywords.get("condition", True)
        )
        if name in ("skip", "xfail") or (name == "skipif" and condition):
            return False
    return True


def _sets(mark: Any) -> Any:
    """Return the sets of arguments of a `parametrize`, each with its marks."""
    _, args, keywords = mark
    names = args[0] if args else keywords["argnames"]
    values = args[1] if len(args) > 1 else keywords["argvalues"]
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    sets = []
    for value in values:
        declared = hasattr(value, "values") and hasattr(value, "marks")  # by `param`
        whole = value.values if declared else (value,) if len(names) == 1 else value
        marks = value.marks if declared else []
        sets.append((dict(zip(names, whole, strict=True)), marks))
    return sets


def _parameters(function: Any) -> Any:
    """Return the names of the parameters that have no default."""
    plain = getattr(function, "__func__", function)
    code, by_name = plain.__code__, plain.__kwdefaults__ or {}
    positional = code.co_argcount - len(plain.__defaults__ or ())
    names = code.co_varnames[plain is not function : positional]
    more = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    return [*names, *(name for name in more if name not in by_name)]


def _closure(wanted: Any, fixtures: Any, marks: Any) -> Any:
    """Return the fixtures that a test needs, in order of their dependencies."""
    used = [name for mark, args, _ in marks if mark == "usefixtures" for name in args]
    auto = [name for name, f in fixtures.items() if f.__fixture__["autouse"]]
    found = []

    def add(name: Any, above: Any = ()) -> Any:
        if name in fixtures and name not in found and name not in above:
            for inner in _parameters(fixtures[name]):
                add(inner, (*above, name))
            found.append(name)

    for name in [*auto, *used, *wanted]:
        add(name)
    return found


def _run_once(function: Any, needed: Any, given: Any, fixtures: Any) -> Any:
    undo: list[Any] = []
    try:
        for name in needed:
            if name in given:
                continue
            own = {p: _given(p, given, undo) for p in _parameters(fixtures[name]) if p != "request"}
            if "request" in _parameters(fixtures[name]):
                own["request"] = _Request(given.get(f"param of {name}"))
            made = fixtures[name](**own)
            if isinstance(made, GeneratorType):
                undo.append(lambda made=made: next(made, None))
                made = next(made)
            given[name] = made
        function(**{name: _given(name, given, undo) for name in _parameters(function)})
    except _skips():  # by identity: the program may raise one of that name
        pass
    finally:
        for step in reversed(undo):
            step()


def _skips() -> Any:
    ours = sys.modules.get("pytest"), sys.modules.get("unittest")
    kinds = [getattr(ours[0], "Skipped", None), getattr(ours[1], "SkipTest", None)]
    return tuple(kind for kind in kinds if kind is not None)


class _Request:
    def __init__(self, param: Any) -> None:
        self.param = param


def _given(name: Any, given: Any, undo: Any) -> Any:
    """Return the value for a parameter of a test or a fixture."""
    if name not in given:
        if name not in _BUILTIN:
            raise NameError(f"the tests define no fixture {name}")
        given[name] = _BUILTIN[name](undo)
    return given[name]


class _Capture:
    """The fixture `capsys`."""

    def __init__(self, undo: Any) -> None:
        usual = sys.stdout, sys.stderr
        self.out, self.err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        undo.append(lambda: self._restore(usual))

    def readouterr(self) -> Any:
        """Return what was printed since the last call."""
        captured = _Captured((self.out.getvalue(), self.err.getvalue()))
        self.out, self.err = sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        return captured

    def _restore(self, usual: Any) -> Any:
        sys.stdout, sys.stderr = usual


class _Captured(tuple[str, str]):
    out = property(lambda self: self[0])
    err = property(lambda self: self[1])


class _Patch:
    """The fixture `monkeypatch`, for objects in the tests' own process."""

    def __init__(self, undo: Any) -> None:
        self.steps = undo

    def setattr(self, target: Any, name: Any, value: Any = None, raising: Any = True) -> Any:
        """Replace an attribute until the test ends."""
        if isinstance(target, str):
            value = name
            target, _, name = target.rpartition(".")
            target = builtins if target == "builtins" else sys.modules[target]
        before = getattr(target, name)
        setattr(target, name, value)
        self.steps.append(lambda: setattr(target, name, before))

    def setitem(self, target: Any, key: Any, value: Any) -> Any:
        """Replace an item until the test ends."""
        missing = object()
        before = target.get(key, missing)
        target[key] = value
        self.steps.append(
            lambda: target.pop(key) if before is missing else target.__setitem__(key, before)
        )


_BUILTIN = {"capsys": _Capture, "capfd": _Capture, "monkeypatch": _Patch}

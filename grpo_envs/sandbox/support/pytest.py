"""A stand-in for the part of pytest that tests of programs use; pytest is not needed.

`raises`, `warns`, `approx`, `fail`, `skip`, `importorskip`, `fixture`, `param`, and the marks
`parametrize`, `skip`, `skipif`, `xfail` and `usefixtures`; other marks change nothing.
"""

import re
import warnings as _warnings
from typing import Any


class Skipped(Exception):
    """The test is skipped."""


class Failed(AssertionError):
    """The test called `fail`, or an expectation failed."""


def main(*_arguments: Any, **_keywords: Any) -> Any:
    """Do nothing: the tests of the module run anyway."""
    return 0


def fail(reason: Any = "", pytrace: Any = True, *, msg: Any = None) -> Any:
    """Fail the test."""
    raise Failed(msg or reason)


def skip(reason: Any = "", **_keywords: Any) -> Any:
    """Leave the test out."""
    raise Skipped(reason)


def importorskip(name: Any, **_keywords: Any) -> Any:
    """Import a module."""
    import importlib

    return importlib.import_module(name)


class ExceptionInfo:
    """The exception of a `raises` block."""

    type = value = tb = traceback = None

    def match(self, pattern: Any) -> Any:
        """Fail unless the message matches."""
        if not re.search(pattern, str(self.value)):
            raise Failed(f"{pattern!r} does not match {str(self.value)!r}")
        return True

    def errisinstance(self, kind: Any) -> Any:
        """Return whether the exception is an instance of `kind`."""
        return isinstance(self.value, kind)


class _Raises:
    def __init__(self, kinds: Any, match: Any) -> None:
        self.kinds, self.wanted, self.info = kinds, match, ExceptionInfo()

    def __enter__(self) -> Any:
        return self.info

    def __exit__(self, kind: Any, value: Any, trace: Any) -> Any:
        if kind is None:
            raise Failed(f"DID NOT RAISE {self.kinds}")
        if not issubclass(kind, self.kinds):
            return False
        self.info.type, self.info.value, self.info.tb = kind, value, trace
        if self.wanted is not None:
            self.info.match(self.wanted)
        return True


def raises(
    expected_exception: Any = Exception,
    *arguments: Any,
    match: Any = None,
    check: Any = None,
    **keywords: Any,
) -> Any:
    """Expect an exception of a block, or of a call."""
    context = _Raises(expected_exception, match)
    if not arguments:
        return context
    function, *rest = arguments
    with context as info:
        function(*rest, **keywords)
    return info


class _Warns:
    def __init__(self, kinds: Any, match: Any) -> None:
        self.kinds, self.wanted = kinds, match
        self.catch = _warnings.catch_warnings(record=True)

    def __enter__(self) -> Any:
        self.caught = self.catch.__enter__()
        _warnings.simplefilter("always")
        return self.caught

    def __exit__(self, kind: Any, value: Any, trace: Any) -> Any:
        self.catch.__exit__(kind, value, trace)
        if kind is None:
            fitting = [w for w in self.caught if issubclass(w.category, self.kinds)]
            if not any(re.search(self.wanted or "", str(w.message)) for w in fitting):
                raise Failed(f"DID NOT WARN {self.kinds}")


def warns(expected_warning: Any = Warning, *, match: Any = None) -> Any:
    """Expect a warning of the tests' own process."""
    return _Warns(expected_warning, match)


class approx:
    """Equal up to a tolerance: a number, or numbers in a list, tuple, dictionary or array."""

    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(
        self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: Any = False
    ) -> None:
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __repr__(self) -> Any:
        return f"approx({self.expected!r})"

    def __eq__(self, actual: Any) -> Any:
        return self._near(actual, _plain(self.expected))

    def __ne__(self, actual: Any) -> Any:
        return not self == actual

    def _near(self, actual: Any, expected: Any) -> Any:
        actual = _plain(actual)
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict)
                and actual.keys() == expected.keys()
                and all(self._near(actual[key], item) for key, item in expected.items())
            )
        if isinstance(expected, (list, tuple)):
            return (
                isinstance(actual, (list, tuple))
                and len(actual) == len(expected)
                and all(map(self._near, actual, expected))
            )
        numbers = (int, float, complex)
        if isinstance(expected, bool) or isinstance(actual, bool) or expected is None:
            return type(actual) is type(expected) and actual == expected
        if not hasattr(expected, "__abs__") or not hasattr(actual, "__abs__"):
            return bool(actual == expected)
        if expected != expected:
            return self.nan_ok and actual != actual
        if actual == expected:
            return True
        if abs(expected) == float("inf") or not isinstance(actual, numbers):
            return False
        return bool(abs(actual - expected) <= self._tolerance(expected))

    def _tolerance(self, expected: Any) -> Any:
        absolute = 1e-12 if self.abs is None else self.abs
        if self.rel is None and self.abs is not None:
            return absolute
        return max((1e-6 if self.rel is None else self.rel) * abs(expected), absolute)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value


class _Parameters:
    """One set of arguments of `param`, with its marks."""

    def __init__(self, values: Any, marks: Any) -> None:
        self.values, self.marks = values, marks


def param(*values: Any, marks: Any = (), id: Any = None) -> Any:
    """Return one set of arguments for `parametrize`."""
    listed = marks if isinstance(marks, (list, tuple)) else [marks]
    return _Parameters(values, [_marked(mark) for mark in listed])


def _marked(mark: Any) -> Any:
    return (mark.name, mark.args, mark.keywords)


class _Mark:
    def __init__(self, name: Any, args: Any = (), keywords: Any = None) -> None:
        self.name, self.args, self.keywords = name, args, keywords or {}

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if len(args) == 1 and not keywords and self.name != "parametrize":
            (target,) = args
            if isinstance(target, type) or type(target).__name__ == "function":
                target.pytestmark = [*getattr(target, "pytestmark", ()), _marked(self)]
                return target
        if self.name == "parametrize" and self.args:
            (target,) = args
            target.pytestmark = [*getattr(target, "pytestmark", ()), _marked(self)]
            return target
        return _Mark(self.name, args, keywords)


class _Marks:
    def __getattr__(self, name: Any) -> Any:
        return _Mark(name)


mark = _Marks()


def fixture(
    function: Any = None,
    *,
    scope: Any = "function",
    params: Any = None,
    autouse: Any = False,
    ids: Any = None,
    name: Any = None,
) -> Any:
    """Mark a function as a fixture: it makes the value of test parameters with its name."""

    def declared(function: Any) -> Any:
        function.__fixture__ = {"params": params, "autouse": autouse, "name": name}
        return function

    return declared if function is None else declared(function)

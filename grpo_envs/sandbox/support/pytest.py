"""A stand-in for the part of pytest that tests of programs use, where pytest is not installed.

`raises`, `warns`, `approx`, `fail`, `skip`, `importorskip`, `fixture`, `param`, and the marks
`parametrize`, `skip`, `skipif`, `xfail` and `usefixtures`; other marks change nothing.
"""

import re
import warnings as _warnings


class Skipped(Exception):
    """A test is not to be run."""


class Failed(AssertionError):
    """A test failed by its own word."""


def main(*_arguments, **_keywords):
    """Do nothing: the tests of the module run anyway."""
    return 0


def fail(reason="", pytrace=True, *, msg=None):
    """Fail the test."""
    raise Failed(msg or reason)


def skip(reason="", **_keywords):
    """Leave the test out."""
    raise Skipped(reason)


def importorskip(name, **_keywords):
    """Import a module."""
    __import__(name)
    import sys

    return sys.modules[name]


class ExceptionInfo:
    """What was raised."""

    type = value = tb = traceback = None

    def match(self, pattern):
        """Fail unless the message matches."""
        if not re.search(pattern, str(self.value)):
            raise Failed(f"{pattern!r} does not match {str(self.value)!r}")
        return True

    def errisinstance(self, kind):
        """Return whether it is of a kind."""
        return isinstance(self.value, kind)


class _Raises:
    def __init__(self, kinds, match):
        self.kinds, self.wanted, self.info = kinds, match, ExceptionInfo()

    def __enter__(self):
        return self.info

    def __exit__(self, kind, value, trace):
        if kind is None:
            raise Failed(f"DID NOT RAISE {self.kinds}")
        if not issubclass(kind, self.kinds):
            return False
        self.info.type, self.info.value, self.info.tb = kind, value, trace
        if self.wanted is not None:
            self.info.match(self.wanted)
        return True


def raises(expected_exception=Exception, *arguments, match=None, check=None, **keywords):
    """Expect an exception of a block, or of a call."""
    context = _Raises(expected_exception, match)
    if not arguments:
        return context
    function, *rest = arguments
    with context as info:
        function(*rest, **keywords)
    return info


class _Warns:
    def __init__(self, kinds, match):
        self.kinds, self.wanted = kinds, match
        self.catch = _warnings.catch_warnings(record=True)

    def __enter__(self):
        self.caught = self.catch.__enter__()
        _warnings.simplefilter("always")
        return self.caught

    def __exit__(self, kind, value, trace):
        self.catch.__exit__(kind, value, trace)
        if kind is None:
            fitting = [w for w in self.caught if issubclass(w.category, self.kinds)]
            if not any(re.search(self.wanted or "", str(w.message)) for w in fitting):
                raise Failed(f"DID NOT WARN {self.kinds}")


def warns(expected_warning=Warning, *, match=None):
    """Expect a warning of the tests' own process."""
    return _Warns(expected_warning, match)


class approx:  # noqa: N801  pytest's name
    """Equal up to a tolerance: a number, or numbers in a list, tuple, dictionary or array."""

    __hash__ = None
    __array_ufunc__ = None
    __array_priority__ = 100

    def __init__(self, expected, rel=None, abs=None, nan_ok=False):  # noqa: A002  pytest's name
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __repr__(self):
        return f"approx({self.expected!r})"

    def __eq__(self, actual):
        return self._near(actual, _plain(self.expected))

    def __ne__(self, actual):
        return not self == actual

    def _near(self, actual, expected):
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

    def _tolerance(self, expected):
        absolute = 1e-12 if self.abs is None else self.abs
        if self.rel is None and self.abs is not None:
            return absolute
        return max((1e-6 if self.rel is None else self.rel) * abs(expected), absolute)


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value


class _Parameters:
    """One set of arguments, with what else `param` says of it."""

    def __init__(self, values, marks):
        self.values, self.marks = values, marks


def param(*values, marks=(), id=None):  # noqa: A002  pytest's name
    """Return one set of arguments for `parametrize`."""
    listed = marks if isinstance(marks, (list, tuple)) else [marks]
    return _Parameters(values, [_marked(mark) for mark in listed])


def _marked(mark):
    return (mark.name, mark.args, mark.keywords)


class _Mark:
    def __init__(self, name, args=(), keywords=None):
        self.name, self.args, self.keywords = name, args, keywords or {}

    def __call__(self, *args, **keywords):
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
    def __getattr__(self, name):
        return _Mark(name)


mark = _Marks()


def fixture(function=None, *, scope="function", params=None, autouse=False, ids=None, name=None):
    """Mark a function as one that makes what tests are given by its name."""

    def declared(function):
        function.__fixture__ = {"params": params, "autouse": autouse, "name": name}
        return function

    return declared if function is None else declared(function)

"""The judge's end of the channel: the tested program, as the tests see it."""

import builtins
import sys
import threading
from types import ModuleType
from typing import Any

from grpo_envs.sandbox.forms import Node
from grpo_envs.sandbox.passing import Unpacker, Unreturnable
from grpo_envs.sandbox.peer import Gone, Peer, constructed
from grpo_envs.sandbox.runner import CHANNEL
from grpo_envs.sandbox.stubs import Remote, Stub

_HIDDEN = ("StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt")
"""Exceptions that `map`, `for` and others swallow; from the program they become RuntimeError."""


class ProgramExit(SystemExit):
    """The program called `sys.exit` in a call of the tests."""


class Tested(Peer):
    """The judge's end of the channel to the tested program."""

    strict = True

    def __init__(self, task: dict[str, Any]) -> None:
        """Begin before anything has been read."""
        super().__init__(CHANNEL, task["longest"])
        self.arrays = task["arrays"]
        self.calls = self.checks = 0
        self.lost: BaseException | None = None
        self.contents: dict[str, list[str]] = {}
        self.stubs: dict[str, Any] = {}
        self.classes: dict[str, Any] = {}
        self.errors: dict[str, type[Exception]] = {}
        self.shared: set[str] = set()
        """Classes of the program whose objects the tests may have."""
        self.making = ""
        self.stdout, self.stdin, self.input = sys.stdout, sys.stdin, builtins.input
        threading.excepthook = lambda lost: self.lose(lost.exc_value)
        sys.unraisablehook = lambda lost: self.lose(lost.exc_value)

    def load(self) -> None:
        """Wait until the program is loaded; read the names that it defines."""
        line = next(self.lines, "")
        if line[:1] != "=":
            raise self.error(line)
        found = self._read(Unpacker(self.stand_in, arrays=False), line[1:])
        try:
            self.contents = {str(name): [*map(str, kind)] for name, *kind in found}
        except (ValueError, TypeError):
            self.gone = True
            raise Gone from None

    def checked(self, value: Any = None) -> Any:
        """Count an assertion."""
        self.checks += 1
        return value

    def lose(self, error: BaseException | None) -> None:
        """Record an exception that Python itself would swallow."""
        self.lost = self.lost or error

    def stub(self, path: str) -> Any:
        """Return the stand-in for something that the program defines."""
        if path not in self.stubs:
            self.stubs[path] = self._stub(path)
        return self.stubs[path]

    def stand_ins(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the stubs among `names`, which tests may have as parameters."""
        return {name: value for name, value in names.items() if isinstance(value, Stub)}

    def _stub(self, path: str) -> Any:
        kind, *bases = self.contents.get(path, ["function"])
        if kind == "exception":
            return self._error_class(path, bases)
        if kind == "value":
            return self.member(path, None)
        return Stub(self, path)

    def do(
        self, what: str, base: Any, name: str | None, /, *given: Any, **keywords: Any
    ) -> tuple[str, Any]:
        """Send a request to the program; return the kind and the value of the answer."""
        printing = sys.stdout is not self.stdout
        entered = None
        if sys.stdin is not self.stdin and hasattr(sys.stdin, "read"):
            entered = str(sys.stdin.read())
        asked = None if builtins.input is self.input else builtins.input
        around = printing, entered, asked
        answer = self.ask(what, base, name, given, tuple(keywords.items()), *around)
        if not (isinstance(answer, tuple) and len(answer) == 3):
            self.gone = True
            raise Gone
        kind, value, printed = answer
        if printing and isinstance(printed, str):
            sys.stdout.write(printed)
        return kind, value

    def call(self, base: Any, name: str | None, arguments: Any, keywords: Any) -> Any:
        """Call a function or a class of the program."""
        is_class = name is None and self.contents.get(base, [""])[0] == "class"
        before, self.making = self.making, base if is_class else ""
        if is_class and base != "Solution":
            self.shared.add(base)
        self.calls += 1
        try:
            return self.do("call", base, name, *arguments, **keywords)[1]
        finally:
            self.making = before

    def member(self, base: Any, name: str | None) -> Any:
        """Return an attribute of an object of the program."""
        kind, value = self.do("get", base, name)
        return Stub(self, base, name) if kind == "m" else value

    def serve(self, text: str) -> None:
        """Call back a function of the tests."""
        making, self.making = self.making, ""
        super().serve(text)
        self.making = making

    def described(self, error: BaseException) -> str:
        """Return an exception of a function of the tests as text; record failed assertions."""
        if isinstance(error, AssertionError):
            self.lose(error)
        return super().described(error)

    def export(self, value: Any) -> Node | None:
        """Return the node of something that does not pass by value."""
        if isinstance(value, Remote):
            return ["m", value.__place__]
        if isinstance(value, Stub):
            return ["P", value.__base__] if value.__member__ is None else None
        return super().export(value)

    def stand_in(self, node: Node) -> Any:
        """Return the stand-in for an object or an iterator of the program."""
        if node[0] != "o":
            if node[0] == "f":
                raise Unreturnable("a function does not pass by value")
            return super().stand_in(node)
        _, place, name, _ = node
        kind = self.classes.get(name)
        if isinstance(kind, type) and not issubclass(kind, BaseException):
            return object.__new__(kind)
        if name in (self.making, *self.shared) and type(place) is int:
            known = self.proxies.get(place)
            if known is None:
                known = self.proxies[place] = Remote(self, place, name), place
            return known[0]
        raise Unreturnable(f"a {name[:80]} does not pass by value")

    def raised(self, name: str, message: str, bases: list[str]) -> BaseException:
        """Return an exception of the program as the tests see it."""
        if not {*bases}.isdisjoint(_HIDDEN):
            return RuntimeError(f"{name}: {message}")
        if "SystemExit" in bases:
            return ProgramExit(int(message) if message.isdecimal() else message or None)
        if bases and bases[0] == name:
            return constructed(bases, message)
        return self._error_class(name, bases)(message)

    def _error_class(self, name: str, bases: list[str]) -> type[Exception]:
        if name not in self.errors:
            base = RuntimeError if {*bases} & {*_HIDDEN} else type(constructed(bases, ""))
            self.errors[name] = type(name, (base,), {"__module__": "solution"})
        return self.errors[name]


class Imported(ModuleType):
    """The program as a module, under the name by which the tests import it."""

    def __init__(self, name: str, program: Tested) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__program__ = program
        self.__all__ = [name for name in program.contents if not name.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        if name not in self.__program__.contents:
            raise AttributeError(f"the program defines no {name}")
        return self.__program__.stub(name)

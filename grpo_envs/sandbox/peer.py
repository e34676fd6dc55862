"""One end of the channel between test code and a program: requests, replies, and calls back.

A line is `>` and a request, `=` and a reply, or `!` and an error. An end that waits for a reply
serves incoming requests: a function that the tests pass is called back in their process, with
arguments by value. An end can only ask for entries of the other's table.
"""

import builtins
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from grpo_envs.sandbox.forms import Node, attributes, is_iterator
from grpo_envs.sandbox.passing import Packer, Unpacker
from grpo_envs.sandbox.runner import Lines, send
from grpo_envs.sandbox.values import VIEWS, Unreadable, dump, load

_LONGEST_ERROR = 300


class Gone(BaseException):
    """The other end does not answer, or breaks the protocol."""


class Peer:
    """An end of the channel."""

    strict = False
    """Whether something that does not pass raises when it is written, not when it is read."""

    def __init__(self, fd: int, longest: int) -> None:
        """Talk over `fd`, in lines of at most `longest` characters."""
        self.fd = fd
        self.lines = iter(Lines(fd, longest))
        self.exports: list[tuple[str, Any]] = []
        self.places: dict[int, int] = {}
        self.proxies: dict[int, tuple[Any, int]] = {}
        self.arrays = True
        self.gone = False

    def ask(self, *request: Any) -> Any:
        """Send a request, which begins with its kind; return the root of the reply.

        Raises:
            Gone: there is no reply.
            Opaque: something does not pass by value.
            Exception: the exception that the other end reports.
        """
        packer = Packer(self.export, [], strict=self.strict)
        self._send(f">{packer.pack(request)}")
        while True:
            line = next(self.lines, "")
            if line[:1] == ">":
                self.serve(line[1:])
            elif line[:1] == "=":
                unpacker = Unpacker(self.stand_in, packer.objects, packer.nodes, arrays=self.arrays)
                return self._read(unpacker, line[1:])
            else:
                raise self.error(line)

    def serve(self, text: str) -> None:
        """Answer a request."""
        unpacker = Unpacker(self.stand_in, arrays=True)
        request = self._read(unpacker, text)
        values, nodes = unpacker.table()
        try:
            root = self.handle(*request)
            packer = Packer(self.export, values, strict=False)
            answer = f"={packer.pack(root, nodes)}"
        except Exception as error:  # noqa: BLE001  reported to the other end
            answer = f"!{self.described(error)}"
        self._send(answer)

    def handle(self, what: str, place: Any, *more: Any) -> Any:
        """Carry out a request about a function or an iterator that was passed to the other end."""
        kind, value = self.exports[place]
        if (what, kind) == ("call", "f"):
            arguments, keywords = more
            return value(*arguments, **dict(keywords))
        if (what, kind) == ("next", "g"):
            for item in value:
                return True, item
            return False, None
        raise Unreadable("no such request")

    def export(self, value: Any) -> Node | None:
        """Return the node of something that does not pass by value; None if it cannot pass."""
        if id(value) in self.proxies:
            return ["m", self.proxies[id(value)][1]]
        if is_iterator(value) and not callable(value):
            return ["g", self.place(value, "g")]
        if isinstance(value, VIEWS):
            return ["g", self.place(iter(value), "g")]
        return self.export_more(value)

    def export_more(self, value: Any) -> Node | None:
        """Return the node of a function or an object."""
        name = getattr(value, "__name__", "")
        if callable(value) and type(name) is str and getattr(builtins, name, None) is value:
            return ["b", name]  # the other end has it, and `eval` is not called for it here
        if callable(value):
            return ["f", self.place(value, "f"), str(getattr(value, "__name__", "function"))]
        if hasattr(value, "__dict__") or hasattr(type(value), "__slots__"):
            return ["o", None, type(value).__name__, attributes(value)]
        return None

    def place(self, value: Any, kind: str) -> int:
        """Return the number of a value in the table."""
        number = self.places.get(id(value))
        if number is None:
            number = self.places[id(value)] = len(self.exports)
            self.exports.append((kind, value))
        return number

    def stand_in(self, node: Node) -> Any:
        """Return the stand-in for something of the other end."""
        kind = node[0]
        if kind == "m":
            return self.exports[node[1]][1]
        if kind not in ("f", "g"):
            raise Unreadable("no such node")
        known = next((proxy for proxy, place in self.proxies.values() if place == node[1]), None)
        if known is not None:
            return known
        proxy = self._function(node) if kind == "f" else self._items(node[1])
        self.proxies[id(proxy)] = proxy, node[1]
        return proxy

    def error(self, line: str) -> BaseException:
        """Return the exception for a line that is not a successful reply."""
        if line[:1] != "!":
            self.gone = True
            return Gone()
        try:
            name, message, bases = load(line[1:])
            return self.raised(str(name), str(message), [str(base) for base in bases])
        except (Unreadable, ValueError, TypeError):
            self.gone = True
            return Gone()

    def raised(self, name: str, message: str, bases: list[str]) -> BaseException:
        """Return the exception `name` of the other end; `bases` are its builtin base classes."""
        return constructed(bases, message)

    def described(self, error: BaseException) -> str:
        """Return an exception as text: its name, its message and its builtin base classes."""
        try:
            message = (
                str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            )
        except Exception:  # noqa: BLE001  its own __str__
            message = ""
        return dump([type(error).__name__[:100], message[:_LONGEST_ERROR], bases_of(type(error))])

    def _read(self, unpacker: Unpacker, text: str) -> Any:
        try:
            return unpacker.unpack(text)
        except Unreadable:
            self.gone = True
            raise Gone from None

    def _send(self, line: str) -> None:
        try:
            send(self.fd, line)
        except OSError:
            self.gone = True
            raise Gone from None

    def _function(self, node: Node) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.ask("call", node[1], arguments, tuple(keywords.items()))

        call.__name__ = call.__qualname__ = str(node[2])
        return call

    def _items(self, place: int) -> Iterator[Any]:
        while True:
            there, item = self.ask("next", place)
            if not there:
                return
            yield item


def contents(names: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Return the names of a program with their kinds, and the base classes of exceptions."""
    return tuple(
        (name, *_kind(value))
        for name, value in names.items()
        if not name.startswith("__") and not isinstance(value, ModuleType)
    )


def _kind(value: Any) -> tuple[str, ...]:
    if not isinstance(value, type):
        return ("function" if callable(value) else "value",)
    if not issubclass(value, BaseException):
        return ("class",)
    return ("exception", *bases_of(value))


def bases_of(kind: type) -> list[str]:
    """Return the builtin base classes of an exception class, the nearest first."""
    builtin = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
    return [name for name in builtin if name != "object"]


def constructed(bases: list[str], message: str) -> Exception:
    """Return an instance of the nearest builtin exception in `bases` that takes a message."""
    for name in bases:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(message)
            except TypeError:  # UnicodeDecodeError needs five arguments
                continue
    return Exception(message)

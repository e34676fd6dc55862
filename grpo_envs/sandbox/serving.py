"""The program's child while test code calls it: calls come in, values go out.

Nothing here is trusted: the program shares this process.
"""

import builtins
import io
import os
import sys
from contextlib import suppress
from typing import Any

from grpo_envs.sandbox.forms import Node, attributes
from grpo_envs.sandbox.passing import Packer
from grpo_envs.sandbox.peer import Peer, contents
from grpo_envs.sandbox.runner import (
    CHANNEL,
    MODULE,
    Lines,
    execute,
    main_module,
    payload,
    resolved,
    send,
)

_LONGEST = 1 << 16
"""Bytes of a line in rehearsals."""


def serve(_: int) -> None:
    """Run a program, then answer calls until the channel closes; does not return."""
    task = payload()
    _PRINTED.most = task["printed"]
    for name in ("stdout", "__stdout__"):
        setattr(sys, name, _PRINTED.stream)
    program = _Program(task["longest"], main_module(MODULE))
    try:
        answer = program.load(task["program"], task["entry_point"])
    except BaseException as error:  # noqa: BLE001  the program's, whatever it is
        send(CHANNEL, f"!{program.described(error)}")
        os._exit(1)
    send(CHANNEL, answer)
    for line in program.lines:
        program.serve(line[1:])
    os._exit(0)


class Rehearsed:
    """The program's end of a channel of pipes, for rehearsals in the zygote, see `runner`."""

    def __init__(self) -> None:
        """Open the pipes and load a program that defines `f`."""
        self.pipes = os.pipe(), os.pipe()
        self.program = _Program(_LONGEST, main_module(MODULE))
        self.program.lines = iter(Lines(self.pipes[0][0], _LONGEST))
        self.program.fd = self.pipes[1][1]
        self.lines = iter(Lines(self.pipes[1][0], _LONGEST))
        """The program's answers, for the judge's end."""
        send(self.program.fd, self.program.load("def f(x): return [*x]", "f"))

    def send(self, line: str) -> None:
        """Send a request to the program, which answers it."""
        send(self.pipes[0][1], line)
        self.program.serve(next(self.program.lines)[1:])

    def close(self) -> None:
        """Close the pipes and forget the program."""
        del sys.modules[MODULE]
        for pipe in self.pipes:
            for end in pipe:
                os.close(end)


class _Printed(io.RawIOBase):
    """Keeps printed text, up to a limit."""

    most = 0

    def __init__(self) -> None:
        self.data = bytearray()
        self.stream = io.TextIOWrapper(io.BufferedWriter(self), "utf-8", "replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = len(data)
        self.data += bytes(data[: max(0, self.most - len(self.data))])
        return size

    def take(self) -> str:
        """Return the kept text, and clear it."""
        with suppress(ValueError):  # the program closed or detached it
            self.stream.flush()
        text = self.data.decode(errors="replace")
        self.data.clear()
        return text


_PRINTED = _Printed()
"""Made in the zygote, so that each child has a copy without any work."""


class _Program(Peer):
    """The program's end of the channel."""

    def __init__(self, longest: int, names: dict[str, Any]) -> None:
        super().__init__(CHANNEL, longest)
        self.names = names
        self.kinds: dict[str, type] = {}

    def load(self, text: str, entry_point: str) -> str:
        """Run a program; return the line with the names that it defines."""
        execute(text, self.names)
        resolved(self.names, entry_point)
        return f"={Packer(self.export, [], strict=False).pack(contents(self.names))}"

    def handle(self, what: str, place: Any, *more: Any) -> Any:
        """Carry out a request of the tests; return the kind, the value and the printed text."""
        if what == "next":
            return super().handle(what, place)
        name, arguments, keywords, listening, stdin, asked = more
        if listening:
            _PRINTED.take()
        usual = builtins.input
        if stdin is not None:
            sys.stdin = io.StringIO(stdin)
        if asked is not None:
            builtins.input = asked
        try:
            kind, value = self._done((what, place, name), arguments, dict(keywords))
        finally:
            builtins.input = usual
        return kind, value, _PRINTED.take() if listening else None

    def _done(
        self, target: tuple[Any, ...], arguments: Any, keywords: dict[str, Any]
    ) -> tuple[str, Any]:
        what, base, name = target
        owner = resolved(self.names, base) if type(base) is str else self.exports[base][1]
        if what == "set":
            setattr(owner, name, arguments[0])
            return "v", None
        if what == "truth":
            return "v", bool(owner)
        value = owner if name is None else getattr(owner, name)
        if what == "call":
            return "v", value(*arguments, **keywords)
        return ("m", None) if callable(value) else ("v", value)

    def serve(self, text: str) -> None:
        """Answer a request; an exception of the program is an answer, including `sys.exit`."""
        try:
            super().serve(text)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            self._send(f"!{self.described(error)}")

    def export_more(self, value: Any) -> Node | None:
        """Return the node of an object: its number and its attributes. Functions do not pass."""
        if isinstance(value, type) or type(value).__module__ != MODULE:
            return None
        return ["o", self.place(value, "o"), type(value).__name__, attributes(value)]

    def stand_in(self, node: Node) -> Any:
        """Return the stand-in for a function or an object of the tests."""
        if node[0] == "P":
            return resolved(self.names, node[1])
        if node[0] == "b":
            return getattr(builtins, node[1])
        if node[0] != "o":
            return super().stand_in(node)
        kind = self.names.get(node[2])
        if not isinstance(kind, type):
            kind = self.kinds.setdefault(node[2], type(node[2], (), {"__module__": MODULE}))
        return object.__new__(kind)

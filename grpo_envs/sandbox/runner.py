"""Running a program in a child. Nothing here is trusted: the program shares this process.

Descriptors: 0 to 2 as usual, PAYLOAD (the program and its calls), CHANNEL (values out, or calls in
and values out). The output is one line a call: `=` and a value, or `!` and an error.
"""

import _thread
import atexit
import builtins
import io
import linecache
import marshal
import os
import sys
import threading
import traceback
from _sitebuiltins import Quitter
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

from grpo_envs.sandbox.values import dump, dump_result, load
from grpo_envs.sandbox.wire import OUT_OF_MEMORY

PAYLOAD, CHANNEL = 3, 4
FILE = "solution.py"
MODULE = "solution"
"""The module name of a program that is imported, because only its functions are called."""
_LONGEST_ERROR = 300
_REHEARSALS = 20  # Python 3.11 specialises after 8 calls, 3.13 after 17


def script(_: int) -> None:
    """Run a program as `python solution.py` does, or import it and make its calls."""
    task = payload()
    names = main_module("__main__" if task["calls"] is None else MODULE)
    code = 0
    try:
        execute(task["program"], names)
        if task["calls"] is not None:
            _make_calls(names, task["entry_point"], task["calls"])
    except SystemExit as ending:
        code = _exit_code(ending)
    except BaseException as error:  # noqa: BLE001  the program's, whatever it is
        code = _report(error)
    _leave(code)


def payload() -> dict[str, Any]:
    """Return the data that the keeper wrote for this child."""
    size = os.lseek(PAYLOAD, 0, os.SEEK_END)
    data = b""
    while len(data) < size:
        data += os.pread(PAYLOAD, size, len(data))
    os.close(PAYLOAD)
    task: dict[str, Any] = marshal.loads(data)
    return task


class Lines:
    """Lines from another process; a line that is too long ends the iteration."""

    def __init__(self, fd: int, longest: int) -> None:
        """Read from `fd`."""
        self.fd = fd
        self.longest = longest
        self.rest = bytearray()

    def __iter__(self) -> Iterator[str]:
        while True:
            end = self.rest.find(b"\n")
            while end < 0:
                try:
                    data = os.read(self.fd, 1 << 16)
                except ConnectionError:  # killed with an unread request
                    return
                if not data or len(self.rest) > self.longest:
                    return
                seen = len(self.rest)
                self.rest += data
                end = self.rest.find(b"\n", seen)
            line = self.rest[:end].decode(errors="replace")
            del self.rest[: end + 1]
            yield line


def send(fd: int, line: str) -> None:
    """Write a line."""
    data = line.encode(errors="backslashreplace") + b"\n"
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def open_streams() -> None:
    """Make the streams of a fresh Python, in the zygote, for its children's descriptors 0, 1, 2."""
    reader = io.BufferedReader(io.FileIO(0, "r"))
    writers = io.BufferedWriter(io.FileIO(1, "w")), io.BufferedWriter(io.FileIO(2, "w"))
    sys.stdin = io.TextIOWrapper(reader, "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(writers[0], "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(writers[1], "utf-8", "backslashreplace", line_buffering=True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        stream.mode = mode  # as in Python's own streams
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, f"__{name}__", stream)
    sys.argv = [FILE]
    for name in ("exit", "quit"):  # from `site`, which is not loaded
        setattr(builtins, name, Quitter(name, "Ctrl-D (i.e. EOF)"))


def rehearse() -> None:
    """Run the first steps of a child in the zygote, without leaving a trace.

    Python's setup and specialisation at first calls is then done once, not in every child, and the
    memory that it writes to is not copied for each child.
    """
    for _ in range(_REHEARSALS):
        names = main_module()
        execute("def f(x): return x\nprint(end='')", names)
        _make_calls(names, "f", ["[[1]]"])  # CHANNEL is /dev/null
        marshal.loads(marshal.dumps({"program": "", "calls": None}))
    sys.stdout.flush()
    del linecache.cache[FILE]


def main_module(name: str = "__main__") -> dict[str, Any]:
    """Return the names of a fresh main module, also importable as `name`."""
    module = ModuleType(name)
    sys.modules["__main__"] = sys.modules[name] = module
    names = vars(module)
    names["__builtins__"] = builtins
    names["__file__"] = FILE
    return names


def execute(program: str, names: dict[str, Any]) -> None:
    """Run a program as the main module."""
    lines = program.splitlines(keepends=True)
    linecache.cache[FILE] = (len(program), None, lines, FILE)
    exec(compile(program, FILE, "exec", dont_inherit=True), names)  # noqa: S102  the sandbox


def resolved(names: dict[str, Any], path: str) -> Any:
    """Return the program's object for `path`: a name, or `Solution().name` for a method.

    Raises:
        NameError: the program does not define it.
    """
    owner, _, method = path.partition("().")
    if owner not in names:
        raise NameError(f"the program defines no {owner}")
    if not method:
        return names[owner]
    if not hasattr(names[owner], method):
        raise NameError(f"the {owner} of the program defines no {method}")
    return getattr(names[owner](), method)


def _make_calls(names: dict[str, Any], entry_point: str, calls: list[str]) -> None:
    function = resolved(names, entry_point)
    for number, arguments in enumerate(calls):
        passed = load(arguments)
        try:
            if number and "()." in entry_point:  # each call gets a new object
                function = resolved(names, entry_point)
            line = f"={dump_result(function(*passed))}"
        except Exception as error:  # noqa: BLE001  the program's, whatever it is
            line = f"!{_error(error)}"
        send(CHANNEL, line)


def _error(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  its own __str__
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return dump(" ".join(text[:_LONGEST_ERROR].split()))


def _exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return int(ending.code or 0) & 255
    with suppress(Exception):
        print(ending.code, file=sys.stderr)  # noqa: T201  as Python does
    return 1


def _report(error: BaseException) -> int:
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    with suppress(BaseException):
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != FILE:
            trace = trace.tb_next  # skip our own frames
        traceback.print_exception(type(error), error, trace, limit=-20)
    return 1


def _leave(code: int) -> None:
    """End as Python does: threads, exit handlers, streams, then variables."""
    first = sys.__stdout__, sys.__stderr__
    try:
        if _thread._count() or threading._threading_atexits:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None)):
            if stream is not None and not _is_closed(stream):
                stream.flush()
    except BaseException:  # noqa: BLE001  of a thread, a handler or a broken stream
        code = code or 1
    with suppress(BaseException):
        sys.modules["__main__"].__dict__.clear()  # dropped files flush their buffers
    for stream in first:
        with suppress(BaseException):  # Python ignores such errors, too
            stream.flush()  # type: ignore[union-attr]
    os._exit(code)


def _is_closed(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except Exception:  # noqa: BLE001  the program's own stream
        return False

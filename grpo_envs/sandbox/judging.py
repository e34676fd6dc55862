"""The judge's child: it runs a dataset's test code against a program in another process.

The program is behind CHANNEL and answers calls by value, so its answers are only values to the test
code. The verdict is written to VERDICT, a descriptor that the program's process never had. A pass
requires calls of the program and assertions that held; both are counted here.
"""

import linecache
import marshal
import os
import sys
import threading
from types import ModuleType
from typing import Any

from grpo_envs.sandbox.runner import main_module, payload, send
from grpo_envs.sandbox.serving import Rehearsed
from grpo_envs.sandbox.tested import Imported, Tested
from grpo_envs.sandbox.values import Opaque
from grpo_envs.sandbox.wire import BROKEN, GONE, MISSED, PASSED

VERDICT = 5
FILE = "<tests>"
_REHEARSALS = 20


def judge(_: int) -> None:
    """Run the tests and write the verdict; does not return."""
    task = payload()
    program = Tested(task)
    try:
        _run(task, program)
    except Opaque as error:
        _tell(BROKEN, str(error))
    except BaseException as error:  # noqa: BLE001  whatever the tests raise
        if program.gone:  # even if the tests caught the exception
            _tell(GONE, "the program ended, or did not answer by the rules")
        _tell(MISSED, _described(error, task["tests"]))
    if program.gone:
        _tell(GONE, "the program ended, or did not answer by the rules")
    if program.lost is not None:
        _tell(MISSED, _described(program.lost, task["tests"]))
    if not program.calls:
        _tell(MISSED, f"the tests never called {task['entry_point']}")
    if not program.checks:
        _tell(MISSED, "the tests ended without an assertion")
    _tell(PASSED, "")


def rehearse() -> None:
    """Run a judge's and its program's first steps in the zygote, over real pipes; see `runner`."""
    hooks = threading.excepthook, sys.unraisablehook
    task = _rehearsal()
    for _ in range(_REHEARSALS):
        there = Rehearsed()
        program = Tested(task)
        program._send, program.lines = there.send, there.lines  # type: ignore[method-assign]
        _run(marshal.loads(marshal.dumps(task)), program)
        there.close()
    threading.excepthook, sys.unraisablehook = hooks
    del linecache.cache["solution.py"]


def _rehearsal() -> dict[str, Any]:
    """Return the task of a judge that calls `f` twice."""
    tests = "def check(f):\n    for n in 1, 2:\n        __checked__(f([n, (2.5, 'x')]) == [n])"
    return {
        "longest": 1,
        "arrays": False,
        "entry_point": "f",
        "code": marshal.dumps(compile(tests, FILE, "exec")),
        "check": True,
        "wanted": ["f"],
        "modules": [],
        "imports": [],
        "support": {},
    }


def _run(task: dict[str, Any], program: "Tested") -> None:
    """Run the module of the tests, then its `check`, test functions and test classes."""
    names = main_module()
    del names["__file__"]
    support = {}
    for name, code in task["support"].items():
        support[name] = sys.modules[name] = ModuleType(name)
        exec(marshal.loads(code), vars(support[name]))  # noqa: S102  our own
    program.load()
    candidate = program.stub(task["entry_point"])
    given = {name: program.stub(name) for name in task["wanted"] if name in program.contents}
    given |= {
        "candidate": candidate,
        task["entry_point"]: candidate,
        "__checked__": program.checked,
    }
    names |= given
    program.classes = names
    for name in task["modules"]:
        sys.modules[name] = Imported(name, program)
    collecting = support.get("collecting")
    if collecting is not None:
        collecting.prepare("unittest" in task["imports"])
    exec(marshal.loads(task["code"]), names)  # noqa: S102  the sandbox
    names[task["entry_point"]] = candidate
    if task["check"]:
        check = names["check"]
        wanted = check.__code__.co_argcount - len(check.__defaults__ or ())
        check(*[candidate] * wanted)
    if collecting is not None:
        collecting.run(names, {"candidate": candidate, **program.stand_ins(names)})
    elif not task["check"] and not program.calls and not program.gone:
        _tell(BROKEN, "the tests define no check(candidate)")


def _described(error: BaseException, tests: str) -> str:
    """Return the error and the line of the tests where it came up."""
    text = f"{type(error).__name__}: {error}"[:300]
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    where = f" in line {number}: {lines[number - 1].strip()[:200]}" if number else ""
    return text + where


def _tell(verdict: str, error: str) -> None:
    send(VERDICT, f"{verdict}\n{error}")
    os._exit(0)

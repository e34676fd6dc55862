"""Commands as a user gives them, in forked children of this process: torch is imported already.

A fresh interpreter takes six seconds for that. One run of each kind has one all the same, see
test_run.py, test_packaging.py and test_third_party.py.
"""

import atexit
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path

HEAVY = ("datasets", "torch.utils.tensorboard", "plotly.graph_objects", "grpo_envs.training.build")
"""What commands import when they need it."""


class Forked:
    """`python -m module *args` in a folder, as subprocess.Popen would start it with pipes."""

    def __init__(self, cwd: Path, module: str, *args: str, said: str = "") -> None:
        for name in HEAVY:
            import_module(name)
        self.args = [sys.executable, "-m", module, *args]
        self.returncode: int | None = None
        files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        files[0].write(said.encode())
        files[0].seek(0)
        _, self._out, self._err = files
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():  # of threads: those of pytest-xdist hold nothing of ours
            warnings.filterwarnings("ignore", "This process .* is multi-threaded")
            self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.setsid()  # killed with all that it started
                os.chdir(cwd)
                for number, file in enumerate(files):
                    os.dup2(file.fileno(), number)
                code = _as_main(module, args)
            finally:
                os._exit(code)  # no clean-up of pytest's in here
        files[0].close()

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait for the end; return all that was written, unless that is known already."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return texts[0], texts[1]


def run(cwd: Path, module: str, *args: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Let a command end, as subprocess.run would; `said` is its input."""
    process = Forked(cwd, module, *args, said=said)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _as_main(module: str, args: tuple[str, ...]) -> int:
    """Run a module as Python does with -m: its streams, filters and handlers, none of pytest's."""
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    atexit._clear()
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = lambda *shown: print(warnings.formatwarning(*shown[:4]), file=sys.stderr)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    sys.modules.pop(module, None)
    sys.argv = [module, *args]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does at the end
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code

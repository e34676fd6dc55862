"""Programs that end with the process that starts them, even if that process is killed.

`command("server", "--port", "0")` is a command line that runs the program. On Linux the kernel
kills the program when the thread that started it has ended. On other systems the program runs
unchanged.
"""

import os
import sys

if __name__ == "__main__":
    import ctypes
    import signal

    PR_SET_PDEATHSIG = 1
    parent, *program = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the process that started this program is gone")
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


def command(*program: str) -> list[str]:
    """Return the command line of a program that ends with this process."""
    if sys.platform != "linux":
        return [*program]
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]

"""The files that a program may read: the standard library, preloaded packages, shared libraries.

The folder of installed packages as a whole is not readable: it contains datasets with answers.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

_SYSTEM = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/usr/lib/locale",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
)
_NOT_LIBRARY = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip")
WRITABLE = ("/dev/null",)


def library() -> str:
    """Return the folder of the standard library."""
    return os.path.dirname(os.path.realpath(os.__file__))  # noqa: PTH120  pathlib costs a start


def readable(preloaded: list[str]) -> list[str]:
    """Return files and folders; some of them may not exist.

    Args:
        preloaded: Modules outside the standard library that are loaded already.
    """
    home = library()
    parts = [entry.path for entry in os.scandir(home) if entry.name not in _NOT_LIBRARY]
    return [*parts, *packages(preloaded), *_libraries(), *_SYSTEM]


def packages(names: list[str]) -> list[str]:
    """Return the paths of loaded packages, with the libraries of their wheels."""
    found = []
    for name in names:
        module = sys.modules[name]
        for folder in getattr(module, "__path__", ()):
            found += [str(folder), f"{folder}.libs"]
        if not hasattr(module, "__path__") and (file := getattr(module, "__file__", None)):
            found.append(str(file))
    return found


def _libraries() -> Iterator[str]:
    """Yield the shared libraries in the loader's folders, file by file."""
    multiarch = getattr(sys.implementation, "_multiarch", "")
    known = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", f"{sys.base_prefix}/lib")
    several = f"/lib/{multiarch}", f"/usr/lib/{multiarch}"
    own = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for folder in {os.path.realpath(folder) for folder in (*known, *several, *own) if folder}:
        with suppress(OSError):
            for entry in os.scandir(folder):
                if ".so" in entry.name and not entry.is_dir():
                    yield entry.path


def open_to_all(paths: list[str]) -> bool:
    """Return whether a user that owns nothing can read these files and folders."""
    for path in paths:
        here = os.path.realpath(path)
        needed = 0o5 if os.path.isdir(here) else 0o4  # noqa: PTH112
        while os.stat(here).st_mode & needed == needed and here != "/":  # noqa: PTH116
            here, needed = os.path.dirname(here), 0o1  # noqa: PTH120
        if here != "/":
            return False
    return True

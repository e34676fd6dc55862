"""Modules that are imported before the fork, so that programs import them in no time.

Each module makes the fork itself slower, numpy by a third of a short run. So there are two zygotes:
a light one for most programs, and a full one for programs that name modules of the full one only. A
wrong guess costs time but changes no result: the light one imports missing modules of the standard
library on demand, and a program that needs a package there runs again in the full one.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from grpo_envs.sandbox.wire import ABSENT

COMMON = (
    *("abc", "array", "bisect", "collections", "contextlib", "copy", "datetime", "enum"),
    *("functools", "heapq", "io", "itertools", "linecache", "math", "operator", "re", "string"),
    *("textwrap", "threading", "time", "traceback", "types", "typing"),
)
RARE = (
    *("dataclasses", "decimal", "fractions", "hashlib", "inspect", "queue", "statistics"),
    "unicodedata",
)


def names_any(text: str, names: Iterable[str]) -> bool:
    """Return whether a program seems to import one of these modules."""
    if "import" not in text:
        return False
    wanted = set(names)
    lines = (line for line in text.splitlines() if "import" in line)
    return any(not wanted.isdisjoint(re.findall(r"\w+", line)) for line in lines)


def load(names: Sequence[str], folders: list[str]) -> list[str]:
    """Import modules; return the packages that came from `folders`."""
    before = set(sys.modules)
    usual = list(sys.path)
    sys.path += folders
    for name in names:
        importlib.import_module(name)
    sys.path[:] = usual  # later submodules are found by their package's path
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    return [name for name in sorted(new) if _is_foreign(sys.modules.get(name), folders)]


class Elsewhere:
    """A finder for modules that no other finder finds.

    For a package that the other zygote may have, it ends the child; the program runs again there.
    """

    def __init__(self, folders: list[str]) -> None:
        """List the packages in `folders`, which children cannot list."""
        self.names = {
            entry.name.partition(".")[0] for folder in folders for entry in os.scandir(folder)
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Find nothing, or end the child."""
        if path is None and name in self.names:
            os._exit(ABSENT)


def _is_foreign(module: Any, folders: list[str]) -> bool:
    path = getattr(module, "__file__", None) or ""
    return any(path.startswith(f"{folder}/") for folder in folders)

"""Run one of our programs in a process of its own: `python boot.py <program> <arguments>...`.

Such a program must not import grpo_envs itself (half a second, gymnasium and numpy), only modules
in the same folder. Empty modules replace the packages around it, so that no `__init__` runs.
"""

import os.path
import runpy
import sys
from types import ModuleType

_TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120  pathlib would be in every fork of such a program


def stand_ins(folder: str) -> None:
    """Make the modules in `folder` importable by full name without running any `__init__`."""
    while folder.startswith(_TOP + os.sep):
        name = folder[len(_TOP) + 1 :].replace(os.sep, ".")
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [folder]
        folder = os.path.dirname(folder)  # noqa: PTH120


if __name__ == "__main__":
    del sys.argv[0]
    stand_ins(os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120
    runpy.run_path(sys.argv[0], run_name="__main__")

"""Run one of our programs in a process of its own: `python boot.py <program> <arguments>...`.

Such a program must not import grpo_envs itself (half a second, gymnasium and numpy), only modules
beside it: the packages around it are stood in for, so that no `__init__` runs.
"""

import runpy
import sys
from pathlib import Path
from types import ModuleType

_TOP = Path(__file__).parents[1]


def stand_ins(folder: Path) -> None:
    """Make what is in `folder` importable by its full name without running any `__init__`."""
    while _TOP.parent in folder.parents:
        module = ModuleType(".".join(folder.relative_to(_TOP.parent).parts))
        module.__path__ = [str(folder)]
        sys.modules[module.__name__] = module
        folder = folder.parent


if __name__ == "__main__":
    del sys.argv[0]
    stand_ins(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")

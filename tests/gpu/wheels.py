"""Make a folder of wheels that prove.py can be installed from where there is no network.

    python tests/gpu/wheels.py wheels
    python tests/gpu/wheels.py wheels --python 3.13 --have torch transformers numpy

It has this project and what that needs, in the versions that are installed here, for Linux on
x86-64. Left out are the packages that the machine with the card has already, with all that they
need, and `datasets`: prove.py reads no data set, and Arrow is larger than all else. There:

    python -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python tests/gpu/prove.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
HAVE = ("torch", "transformers", "accelerate", "peft", "safetensors", "pytest")
WITHOUT = ("datasets",)
MOST = 64
"""MiB of all wheels."""
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 24, 17, 12, 5)]
_SOURCES = ("antlr4-python3-runtime",)
"""Packages without a wheel, of plain Python: theirs is built here."""


def closure(names: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
    """Return packages and everything that they need, as it is installed here, but for some."""
    found: set[str] = {canonicalize_name(name) for name in without}
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needs = [Requirement(text) for text in distribution(name).requires or ()]
            left += [
                canonicalize_name(need.name)
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return found - set(map(canonicalize_name, without))


def needed(have: Iterable[str]) -> list[str]:
    """Return what the project needs beside the packages that are there, with versions."""
    there = closure(have) | set(WITHOUT)
    names = closure(["grpo-envs"], without=there) - {"grpo-envs"}
    return sorted(f"{name}=={distribution(name).version}" for name in names)


def pip(*arguments: str) -> None:
    """Run pip, which says what is wrong itself."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def main() -> int:
    """Fill the folder; return 1 where it is too large."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--python", default="3.12", help="version of the other machine (%(default)s)"
    )
    parser.add_argument("--have", nargs="+", default=list(HAVE), help="what it has already")
    options = parser.parse_args()
    wanted = needed(options.have)
    built = [text for text in wanted if text.startswith(_SOURCES)]
    into = str(options.folder)
    pip("wheel", "--no-deps", "--wheel-dir", into, str(ROOT), *built)
    where = [
        f"--platform={name}" for name in (*_PLATFORMS, "manylinux2014_x86_64", "manylinux1_x86_64")
    ]
    pip(
        *("download", "--no-deps", "--only-binary=:all:", "--dest", into, *where),
        *("--implementation=cp", f"--python-version={options.python}"),
        *(text for text in wanted if text not in built),
    )
    size = sum(file.stat().st_size for file in options.folder.iterdir()) / 2**20
    print(f"{len(wanted) + 1} wheels, {size:.1f} MiB in {options.folder}")
    if size > MOST:
        print(
            f"{options.folder} has {size:.1f} MiB. Allowed: {MOST}; name in --have what is there."
        )
    return int(size > MOST)


if __name__ == "__main__":
    sys.exit(main())

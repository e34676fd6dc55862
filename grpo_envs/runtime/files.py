"""Writing files so that a kill at any moment leaves a complete file."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a kill at any moment leaves the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # such as a full disk: remove the partial file
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def fsync(path: Path) -> None:
    """Make sure that a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shown(path: Path) -> str:
    """Return a path for messages: relative if it is below the working folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

"""A cache on disk of the verdicts on large datasets, so that the next run reads no rows first.

One JSON file for each dataset in `$XDG_CACHE_HOME/grpo-envs/datasets` (`~/.cache` if it is not
set), named by a hash of the dataset's content, the settings, and the code that reads it. A file
holds row numbers, never the content of a row. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_envs.env.reading import Verdict

log = logging.getLogger(__name__)

LEAST_ROWS = 10_000
"""Datasets with fewer rows are read each time."""
_MOST_FILES = 50
_FORMAT = 1
_NOT_READERS = frozenset({"builtins", "typing", "abc", "gymnasium"})
"""Packages of base classes that do not read rows."""


def key_of(
    dataset: str, total: int, read: Callable[..., object] | None, settings: Mapping[str, Any]
) -> str | None:
    """Return the name that a dataset's verdict is cached under; None if it is not cached.

    Args:
        dataset: A file or folder; for a dataset of the hub the result is None.
        total: The number of rows.
        read: The function that reads a row; the name depends on its code.
        settings: Further JSON values that the verdict depends on; None is returned for other types.
    """
    path = Path(dataset).expanduser()
    if total < LEAST_ROWS or not path.exists():
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        asked = json.dumps([_FORMAT, dataset, settings], sort_keys=True)
        digest = hashlib.sha256(asked.encode())
        for file in files:
            if file.is_file():
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
                digest.update(os.fsencode(file.name))
        for source in _code_of(read):
            stat = source.stat()
            digest.update(f"{source}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    except (TypeError, ValueError, OSError):
        return None
    return digest.hexdigest()


def load(key: str, total: int) -> Verdict | None:
    """Return the cached verdict on a dataset of `total` rows; None if there is none."""
    file = _folder() / f"{key}.json"
    try:
        found = Verdict(**json.loads(file.read_text(encoding="utf-8")))
        numbers = [*found.train, *found.held_out]
        whole = bool(found.train and found.held_out) and 0 <= min(numbers) <= max(numbers) < total
    except (OSError, ValueError, TypeError):  # missing or incomplete: the dataset is read again
        return None
    return found if whole else None


def save(key: str, verdict: Verdict) -> None:
    """Cache a verdict; log a warning if that fails."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(verdict), file)
            Path(name).replace(folder / f"{key}.json")  # atomic, also between processes
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        kept = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-_MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: what was read is not kept for the next run (%s)", folder, error)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "grpo-envs" / "datasets"


def _code_of(read: Callable[..., object] | None) -> Iterator[Path]:
    """Yield the source files of the packages whose code reads rows: ours, and that of `read`.

    Raises:
        ValueError: a module has no file.
    """
    owner = getattr(read, "__self__", read)
    classes = type(owner).__mro__ if inspect.ismethod(read) else (owner,)
    modules = {getattr(cls, "__module__", None) or __name__ for cls in classes} | {__name__}
    for name in sorted(name for name in modules if name.partition(".")[0] not in _NOT_READERS):
        top, own = (sys.modules.get(each) for each in (name.partition(".")[0], name))
        file = getattr(top, "__file__", None) or getattr(own, "__file__", None)
        if file is None:
            raise ValueError(f"{name} has no file")
        path = Path(file)
        yield from sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]

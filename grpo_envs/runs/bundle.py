"""Plotly's JavaScript: packed into a page, or as a file that the pages of a sweep share."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path

from plotly.offline import get_plotlyjs

from grpo_envs.runtime.files import write_atomically

NAME = "plotly.min.js"
"""Plotly's own name for the file that pages share (`include_plotlyjs="directory"`)."""
_SWEEP = "multirun.yaml"
"""A file that Hydra writes into the folder of a sweep."""


def packed(text: str) -> str:
    """Return a text compressed (RFC 1952) and in base64, for `unpacked` in a page.

    Lone surrogates, which completions may have, become question marks.
    """
    small = gzip.compress(text.encode("utf-8", "replace"), mtime=0)
    return base64.b64encode(small).decode("ascii")


@cache
def packed_bundle() -> str:
    """Return plotly's JavaScript, packed: 2.0 MB instead of 4.8."""
    return packed(get_plotlyjs())


def shared_bundle(page: Path) -> str:
    """Return the path of the bundle of a page's sweep; write the bundle if it is missing.

    Args:
        page: A page in the folder of a sweep, or of one of its jobs.

    Returns:
        A path relative to the page; '' for a page that belongs to no sweep.
    """
    for folder, prefix in ((page.parent, ""), (page.parent.parent, "../")):
        if (folder / _SWEEP).is_file():
            write_bundle(folder)
            return prefix + NAME
    return ""


def write_bundle(folder: Path) -> None:
    """Write plotly's JavaScript into a folder, unless the same version is there."""
    text, file = get_plotlyjs(), folder / NAME
    if not (file.is_file() and file.read_text(encoding="utf-8") == text):
        write_atomically(file, text)

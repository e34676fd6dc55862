"""Where a run comes from: its code, packages and machine. Nothing is sent anywhere."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import grpo_envs

PACKAGES = "packages.txt"
"""What was installed in the last session of a run, a line each, as `pip freeze` has it."""
_MAIN = ("grpo-envs", "torch", "transformers", "accelerate", "gymnasium", "hydra-core")
_PATIENCE = 10.0
"""Seconds that git may take: of a very large repository nothing is noted."""


def session(device: str, threads: int) -> dict[str, Any]:
    """Return what is noted when a run starts or goes on.

    Args:
        device: Where the model is: cpu, cuda.
        threads: Of the CPU that compute.
    """
    return {
        "start": now(),
        "end": None,
        "host": socket.gethostname(),
        "threads": threads,
        "gpus": _gpus() if device == "cuda" else [],
        "code": repositories([Path.cwd(), Path(grpo_envs.__file__).parent]),
    }


def now() -> str:
    """Return this moment in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return what a run's result may depend on beside its configuration."""
    found = {name: metadata.version(name) for name in _MAIN}
    return {"python": platform.python_version(), **found, "machine": platform.platform()}


def packages() -> str:
    """Return every installed package with its version, a line each."""
    found = {str(each.metadata["Name"]): each.version for each in metadata.distributions()}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def repositories(folders: list[Path]) -> list[dict[str, Any]]:
    """Return the commit of each git repository that holds one of the folders, and its state.

    `dirty` says whether files that git tracks differ from the commit. Folders outside of a
    repository, and all of them where git is missing, are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        top = _git(folder, "rev-parse", "--show-toplevel")
        commit = _git(folder, "rev-parse", "HEAD") if top else None
        if not top or not commit or top in found:
            continue
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        if changes is not None:
            found[top] = {"repository": Path(top).name, "commit": commit, "dirty": bool(changes)}
    return list(found.values())


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says; None where it is missing, fails or takes too long."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        said = subprocess.run(
            [program, "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def _gpus() -> list[str]:
    import torch  # not at the top: who only reads a run need not wait for it

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]

"""The provenance of a run: code, packages and machine. Nothing is sent anywhere."""

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
"""The packages in the last session of a run, a line each, in the format of `pip freeze`."""
_MAIN = ("grpo-envs", "torch", "transformers", "accelerate", "gymnasium", "hydra-core")
_PATIENCE = 10.0
"""Seconds that git may take; a repository that takes longer is left out."""


def session(device: str, threads: int) -> dict[str, Any]:
    """Return the record of a session, made when a run starts or resumes.

    Args:
        device: The type of the model's device: cpu, cuda.
        threads: Number of computing threads of the CPU.
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
    """Return the present time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions that a run's result may depend on, beside its configuration."""
    found = {name: metadata.version(name) for name in _MAIN}
    return {"python": platform.python_version(), **found, "machine": platform.platform()}


def packages() -> str:
    """Return every installed package with its version, a line each."""
    found = {str(each.metadata["Name"]): each.version for each in metadata.distributions()}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def repositories(folders: list[Path]) -> list[dict[str, Any]]:
    """Return the commit of each git repository that holds one of the folders, and its state.

    `dirty` is True if tracked files differ from the commit; `untracked` counts the files and
    folders that git does not know and does not ignore, such as a module that was never added.
    Folders outside of a repository are left out; all folders, if git is missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        top = _git(folder, "rev-parse", "--show-toplevel")
        commit = _git(folder, "rev-parse", "HEAD") if top else None
        if not top or not commit or top in found:
            continue
        status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
        if status is not None:
            changes = status.splitlines()
            untracked = sum(line.startswith("??") for line in changes)
            found[top] = {
                "repository": Path(top).name,
                "commit": commit,
                "dirty": len(changes) > untracked,
                "untracked": untracked,
            }
    return list(found.values())


def _git(folder: Path, *words: str) -> str | None:
    """Return git's output; None if git is missing, fails or takes too long."""
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
    import torch  # here: reading a run does not need torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]

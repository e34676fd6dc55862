"""The connection to a Ray cluster, from a machine that is not part of it: Ray Client."""

from __future__ import annotations

import logging
import re
import socket
import warnings
from typing import Any

from grpo_envs.errors import ConfigError, install

SCHEME = "ray://"
_ADDRESS = re.compile(r"ray://([^\s:/@]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
_PORTS = 1 << 16
_NO_SERVER = (
    "Starting Ray client server failed",
    "Start the head node with GRPC_ENABLE_FORK_SUPPORT=0 in its environment.",
)
"""Error of the head node if gRPC's fork handlers ended the process for the client, and its
remedy."""
_REACH_S = 10.0
"""Seconds within which the head node must accept a connection."""


def require_address(key: str, address: str) -> tuple[str, int]:
    """Return the host and the port of an address `ray://HOST:PORT`.

    Raises:
        ConfigError: the address does not have this form.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < _PORTS:
        usual = "ray://HOST:PORT, a head node and the port of its client server, usually 10001"
        raise ConfigError(f"{key}={address}. Allowed: {usual}.")
    return found[1].strip("[]"), int(found[2])


def connect(address: str) -> Any:
    """Connect this process to the cluster; return the module `ray`.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    key = f"trainer.graders={address}"
    host, port = require_address("trainer.graders", address)
    try:
        import ray
        import ray.util.client  # needs gRPC, which Ray alone does not install
    except ImportError as error:
        raise ConfigError(f"{key} needs Ray: {install('ray')}") from error
    try:
        socket.create_connection((host, port), timeout=_REACH_S).close()
    except OSError as error:
        raise ConfigError(f"{key}: no connection: {error.strerror or error}.") from error
    # Grading consists of many small tasks, about which Ray warns.
    warnings.filterwarnings("ignore", "More than .*(remote tasks|of messages)", UserWarning)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        hint = f" {_NO_SERVER[1]}" if _NO_SERVER[0] in str(error) else ""
        raise ConfigError(f"{key}: {last_line(error)}.{hint}") from error
    return ray


def last_line(error: Exception) -> str:
    """Return the last line of an error's text, which may be a traceback."""
    details = getattr(error, "details", None)  # of gRPC's errors
    text = str(details() if callable(details) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".")

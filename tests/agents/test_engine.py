"""`sampler=vllm` against the real vLLM: exact after each update, and seen to fail where it is not.

Starts one server, which takes a minute or more. `.ci/engine` installs vLLM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from grpo_envs.runs.rows import read_jsonl
from grpo_envs.types import Completion
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerParts
from grpo_policy.samplers.torch import sample
from grpo_policy.samplers.vllm.about import about
from grpo_policy.samplers.vllm.client import Server
from grpo_policy.samplers.vllm.opening import open_sampler
from grpo_policy.samplers.vllm.own import free_port
from grpo_policy.samplers.vllm.plugin import VllmConfig
from grpo_policy.samplers.vllm.requests import ROUTE
from grpo_policy.samplers.vllm.sampler import VllmSampler
from tests.agents.test_vllm import moved
from tests.conftest import vllm_python
from tests.support.stand_in import StandIn, serving
from tests.training.test_vllm_runs import gone, same, trainer

pytestmark = pytest.mark.engine
GREEDY = Decoding(max_new_tokens=32, temperature=0.0)
SEEDS = range(100, 116)


@contextmanager
def engine(*options: str) -> Iterator[str]:
    """Start a server as users do; gives its address once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "grpo_envs.engine", "--port", str(port), *options]
    process = subprocess.Popen(
        [*command, "--python", vllm_python()], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = [line for line in iter(process.stdout.readline, "") if _is_news(line)]
        assert said, "it ended before it was ready"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _is_news(line: str) -> bool:
    return False


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with engine("--model", str(TINY), "--dtype", "fp32", "--lora-rank", "8") as found:
        yield found

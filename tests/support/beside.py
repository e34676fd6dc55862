"""Samplers for runs with a lag, in the process of the run: a test need not wait for another one.

`beside` samples from its own copy of the weights, as `torch` does in a process of its own.
`delayed` is the oracle: in a run without a lag it samples each step with the weights of `LAG` steps
before, which it keeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from grpo_envs.config.model import SamplerConfig
from grpo_policy.policy import Policy
from grpo_policy.samplers import Sampler, SamplerParts
from grpo_policy.samplers.torch import TorchSampler

LAG: list[int] = [0]
"""Of `delayed`."""


class Beside(TorchSampler):
    """Keeps a copy of the weights of `sync`."""

    def sync(self, policy: Policy) -> None:
        super().sync(policy.copied())


class Delayed(TorchSampler):
    """Keeps the weights after each step, and samples with older ones than it was given last."""

    kept: list[Policy]

    def sync(self, policy: Policy) -> None:
        kept = getattr(self, "kept", [])
        new = not kept or kept[-1].version != policy.version
        self.kept = [*kept, policy.copied()] if new else kept
        super().sync(self.kept[max(0, len(self.kept) - 1 - LAG[0])])


class BesidePlugin:
    Config: ClassVar[type[SamplerConfig]] = SamplerConfig
    ahead: ClassVar[bool] = True
    made: ClassVar[type[TorchSampler]] = Beside

    @classmethod
    def make(cls, cfg: SamplerConfig, parts: SamplerParts) -> Sampler:
        return cls.made(parts.policy)


class DelayedPlugin(BesidePlugin):
    made = Delayed


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both samplers installed for a while."""
    info = folder / "beside-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: beside\nVersion: 1.0\n")
    names = "\n".join(f"{x.lower()} = {__name__}:{x}Plugin" for x in ("Beside", "Delayed"))
    (info / "entry_points.txt").write_text(f"[grpo_envs.samplers]\n{names}\n")
    monkeypatch.syspath_prepend(folder)

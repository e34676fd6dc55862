"""Low-rank adapters (LoRA, arXiv 2106.09685), added to a model by PEFT."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError, install
from grpo_policy.kept import beside_text
from grpo_policy.merging import merge
from grpo_policy.policy import Policy
from grpo_policy.saving import name_base


def add_adapters(
    policy: Policy,
    cfg: LoraConfig,
    compute: torch.dtype,
    *,
    seed: int = 0,
    base: Path | None = None,
) -> None:
    """Add low-rank adapters to the model; from then on only they are trained.

    The weights of the model are not updated; they keep the dtype they compute in. The adapters are
    in float32.

    Args:
        policy: Changed in place.
        cfg: Rank, scale and target layers of the adapters.
        compute: Dtype of the model.
        seed: Seed of the adapters' initial weights.
        base: The folder where the model of a GGUF file is written, so that the adapters can name
            it; None: the model is not written.

    Raises:
        ConfigError: PEFT is not installed, or no layer has a name that `cfg` gives.
    """
    try:
        import peft  # the extra `peft`; loaded only here
    except ImportError as error:
        text = f"model.lora.rank={cfg.rank} needs PEFT: {install('peft')}"
        raise ConfigError(text) from error
    targets, refused = _targets(policy, cfg)
    lora = peft.LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        target_modules=targets,
        exclude_modules=_frozen(policy) or None,
        task_type="CAUSAL_LM",
    )
    policy.model.requires_grad_(False)
    policy.masters.compute_in(compute, whole=True)
    name_base(policy, base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT finds it out itself (GPT-2)
        torch.manual_seed(seed)
        try:
            policy.model.add_adapter(lora)
        except ValueError as error:  # a layer of a kind that PEFT has no adapter for
            why = str(error).strip().splitlines()[0].partition("] ")
            raise ConfigError(f"{refused} PEFT: {why[2] or why[0]}") from error
    policy.model.eval()  # the added modules, too
    for parameter in policy.trained_parameters():
        parameter.data = parameter.data.float()
    merge(policy.model)


def _frozen(policy: Policy) -> list[str]:
    """Return the names of layers that text does not pass through, such as a vision tower's."""
    beside = {id(p) for p in beside_text(policy.model)}
    names = {
        name.rpartition(".")[0]
        for name, p in policy.model.named_parameters()
        # Quantised weights never require a gradient, so the flag says nothing about them.
        if not p.requires_grad and (p.is_floating_point() or id(p) in beside)
    }
    return sorted(names)


def _targets(policy: Policy, cfg: LoraConfig) -> tuple[list[str] | str, str]:
    """Return the layers that get adapters, as PEFT takes them, and the message if PEFT refuses.

    Raises:
        ConfigError: no layer has a name that `cfg` gives.
    """
    modules = dict(policy.model.named_modules())
    linear = {n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, torch.nn.Linear)}
    given = f"model.lora.targets={cfg.targets}. Allowed: "
    if cfg.targets == ["all-linear"]:
        return "all-linear", f"{given}{', '.join(sorted(linear))}."
    refused = f"{given}{', '.join(['all-linear', *sorted(linear)])}."
    if not set(cfg.targets) <= {name.rpartition(".")[2] for name in modules}:
        raise ConfigError(refused)
    return cfg.targets, refused

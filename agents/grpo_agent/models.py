"""Which model a configuration names, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from grpo_agent.config import LoraConfig, ModelConfig
from grpo_agent.policy import Policy, require_plain_head
from grpo_envs.errors import ConfigError
from grpo_envs.hub import missing_on_hub

TINY = Path(__file__).parent / "tiny"
HINTS = "grpo_envs"
"""Key in a model's config.json: what null in our configuration stands for with this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """How a model wants to be trained, where the configuration says null."""

    lr: float = 1e-6
    max_new_tokens: int = 1024


def resolve(cfg: ModelConfig, device: torch.device) -> tuple[str, str]:
    """Return the folder or hub id that `cfg` means on `device`, and one line that says why."""
    if cfg.path is not None:
        return str(Path(cfg.path).expanduser()), f"model: {cfg.path}"
    auto = "0.6b" if device.type == "cuda" else "tiny"
    size = auto if cfg.size == "auto" else cfg.size
    why = f" (model.size=auto on {device.type.upper()})" if cfg.size == "auto" else ""
    if size == "tiny":
        return str(TINY), f"model: the bundled tiny Qwen3{why}"
    return f"Qwen/Qwen3-{size.upper()}", f"model: Qwen/Qwen3-{size.upper()}{why}"


def load_policy(path: str) -> Policy:
    """Load model and tokenizer from a folder, the hub's cache or the hub, weights in float32.

    Raises:
        ConfigError: there is no such model, or it cannot be scored.
    """
    absent = "" if Path(path).is_dir() else missing_on_hub(path, "model")
    cached = bool(absent)  # not to be had from the hub: perhaps its cache has it
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=cached)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=cached
        )
    except (OSError, ValueError) as error:  # what Transformers raises for anything unreadable
        cause = absent or str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path={path}: {cause}. Give model.path=FOLDER or a hub id that is cached or "
            "reachable, or model.size=tiny, which needs no network."
        ) from error
    require_plain_head(model)
    return Policy(model, tokenizer)


def adapt(policy: Policy, cfg: LoraConfig, compute: torch.dtype) -> None:
    """Give the model low-rank adapters, the only weights that are trained from then on.

    The model itself is never updated and is kept in the dtype it computes in; the adapters are in
    float32.

    Raises:
        ConfigError: PEFT is not installed, or no layer has a name that `cfg` gives.
    """
    try:
        import peft  # the extra `peft`; loaded only here
    except ImportError as error:
        text = f'model.lora.rank={cfg.rank} needs PEFT: pip install "grpo-envs[peft]"'
        raise ConfigError(text) from error
    policy.model.to(compute)
    targets = "all-linear" if cfg.targets == ["all-linear"] else cfg.targets
    try:
        policy.model.add_adapter(
            peft.LoraConfig(r=cfg.rank, lora_alpha=cfg.alpha, target_modules=targets)
        )
    except ValueError as error:  # what PEFT raises where no layer fits
        names = {name.rpartition(".")[2] for name, m in policy.model.named_modules() if _linear(m)}
        allowed = ", ".join(["all-linear", *sorted(names)])
        raise ConfigError(f"model.lora.targets={cfg.targets}. Allowed: {allowed}.") from error
    for parameter in policy.trained_parameters():
        parameter.data = parameter.data.float()


def restore(policy: Policy, folder: Path) -> None:
    """Put the weights of a checkpoint into the policy: its adapters where it has any."""
    if policy.has_adapters:
        import peft  # the extra `peft`; loaded only here

        weights = peft.load_peft_weights(str(folder), device="cpu")
        peft.set_peft_model_state_dict(policy.model, weights)
    else:
        policy.model.load_state_dict(load_policy(str(folder)).model.state_dict())


def hints(policy: Policy) -> Hints:
    """Return the training defaults that the model's config.json carries, else the general ones."""
    carried: dict[str, Any] = getattr(policy.model.config, HINTS, None) or {}
    return Hints(**carried)


def _linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)

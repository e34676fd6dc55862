"""Writing a policy as a Transformers folder, or as a folder of adapters (PEFT)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import GenerationConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from grpo_envs.errors import CheckpointError, ConfigError, require_extra
from grpo_envs.runtime.files import shown
from grpo_policy.masters import DTYPES, dtype_name

if TYPE_CHECKING:
    from grpo_policy.policy import Policy

ADAPTERS = "adapter_config.json"
"""The file that marks a folder of adapters (PEFT's format)."""


def save(policy: Policy, folder: Path, dtype: str = "fp32") -> None:
    """Write model and tokenizer to a folder; of a model with adapters, only the adapters.

    Args:
        policy: The policy; saving does not change it.
        folder: The folder, which is made if it does not exist.
        dtype: The dtype of the written weights.

    Raises:
        ConfigError: a weight is too large for `dtype`.
    """
    save_weights(policy, folder, dtype)
    # Not by `save_pretrained`, which refuses configs that many models have, such as a temperature
    # together with greedy decoding.
    _with_ends(policy.model.generation_config, policy).to_json_file(
        folder / "generation_config.json"
    )
    policy.tokenizer.save_pretrained(folder)


def save_weights(policy: Policy, folder: Path, dtype: str = "fp32") -> None:
    """Write weights and configuration as `save` does, without the tokenizer.

    Args:
        policy: The policy; saving does not change it.
        folder: The folder, which is made if it does not exist.
        dtype: The dtype of the written weights.

    Raises:
        ConfigError: a weight is too large for `dtype`.
    """
    model = policy.model
    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        if policy.has_adapters:
            with policy.masters.in_place(DTYPES[dtype]):
                _require_finite(policy.masters.computing(), dtype)
                model.save_pretrained(folder)
        else:
            with policy.masters.in_place(), policy.weights_in(DTYPES[dtype]):
                _require_finite(dict(model.named_parameters()), dtype)
                model.save_pretrained(folder)
    finally:
        model.generation_config = kept
    config = folder / (ADAPTERS if policy.has_adapters else "config.json")
    for weights in folder.glob("*.safetensors"):
        weights.chmod(config.stat().st_mode)  # the mode by the umask; safetensors sets 0600


def checkpoint_weights(policy: Policy, dtype: str = "fp32") -> dict[str, Tensor]:
    """Return the weights as `save_weights` writes them: the same names, shapes, dtypes and values.

    Args:
        policy: Without adapters. Weights that compute in `dtype` already are not copied: what is
            returned changes with them.
        dtype: Of the weights.

    Raises:
        ConfigError: a weight is too large for `dtype`.
    """
    model, wanted = policy.model, DTYPES[dtype]
    masters = nullcontext() if policy.dtype == wanted else policy.masters.in_place()
    with masters, policy.weights_in(wanted):
        _require_finite(dict(model.named_parameters()), dtype)
        state = dict(model.state_dict())
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    state = remove_tied_weights_from_state_dict(state, model)
    return dict(revert_weight_conversion(model, state))


def _with_ends(config: GenerationConfig, policy: Policy) -> GenerationConfig:
    """Return a generation config with the end tokens that the policy had in training."""
    config, ends = copy.deepcopy(config), list(policy.eos_ids)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = policy.pad_id
    return config


def _require_finite(weights: Mapping[str, Tensor], dtype: str) -> None:
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ConfigError(f"{name} has values too large for {dtype}. Allowed: bf16, fp32.")


def name_base(policy: Policy, written: Path | None) -> None:
    """Set the name of the model that its adapters will refer to; it must load from anywhere.

    Args:
        policy: A policy without adapters.
        written: The folder to write the model to if it has none, such as a model of a GGUF file,
            which PEFT cannot name; None: the model is not written.

    Raises:
        CheckpointError: the model cannot be written.
    """
    name = policy.model.name_or_path
    if not name and written is not None:
        if not written.is_dir():
            _write_base(policy, written)
        name = str(written)
    policy.model.name_or_path = str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _write_base(policy: Policy, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    try:
        save(policy, temporary, dtype_name(policy.model.dtype))
    except Exception as error:  # from the system or safetensors
        shutil.rmtree(temporary, ignore_errors=True)
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{shown(folder)} cannot be written: {cause}.") from error
    temporary.rename(folder)


def base_of(folder: str | Path) -> str | None:
    """Return the model that a folder of adapters names; None for any other folder or name.

    Raises:
        ConfigError: PEFT is not installed, or the folder of the model does not exist.
    """
    file = Path(folder) / ADAPTERS
    if not file.is_file():
        return None
    require_extra("peft", f"{folder}, which holds adapters (LoRA),", ["peft"])
    base = str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    if not base or (Path(base).is_absolute() and not Path(base).is_dir()):
        raise ConfigError(
            f"{folder}: its adapters (LoRA) belong to the model {base or '(none named)'}, which "
            f"does not exist. Write its path to {ADAPTERS}: base_model_name_or_path."
        )
    return base

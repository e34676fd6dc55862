"""Writing a policy as others load it: a folder of Transformers, or of adapters (PEFT)."""

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
"""The file that makes a folder one of adapters (PEFT's format)."""


def save(policy: Policy, folder: Path, dtype: str = "fp32") -> None:
    """Write model and tokenizer into a folder; of a model with adapters, the adapters alone.

    Args:
        policy: Is what it was afterwards, to the bit.
        folder: Is made where it is not there.
        dtype: Of the weights in the folder.

    Raises:
        ConfigError: a weight is too large for `dtype`.
    """
    save_weights(policy, folder, dtype)
    # Not by `save_pretrained`, which refuses what many models come with, such as a temperature
    # beside greedy decoding.
    _with_ends(policy.model.generation_config, policy).to_json_file(
        folder / "generation_config.json"
    )
    policy.tokenizer.save_pretrained(folder)


def save_weights(policy: Policy, folder: Path, dtype: str = "fp32") -> None:
    """Write weights and configuration as `save` does, without the tokenizer.

    Args:
        policy: Is what it was afterwards, to the bit.
        folder: Is made where it is not there.
        dtype: Of the weights in the folder.

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
        weights.chmod(config.stat().st_mode)  # as the umask has it; safetensors' is 0600


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
    """Return a generation config that ends answers where the policy ended them in training."""
    config, ends = copy.deepcopy(config), list(policy.eos_ids)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = policy.pad_id
    return config


def _require_finite(weights: Mapping[str, Tensor], dtype: str) -> None:
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ConfigError(f"{name} has numbers that {dtype} cannot hold. Allowed: bf16, fp32.")


def name_base(policy: Policy, written: Path | None) -> None:
    """Give a model the name that its adapters will know it by: one that loads anywhere.

    Args:
        policy: Without adapters yet.
        written: Where the model goes if it has no folder of its own, as one of a GGUF file, which
            PEFT cannot name; None writes none.

    Raises:
        CheckpointError: it cannot be written.
    """
    name = policy.model.name_or_path
    if not name and written is not None:
        if not written.is_dir():
            _write_base(policy, written)
        name = str(written)
    policy.model.name_or_path = str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _write_base(policy: Policy, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a kill in the midst of this
    try:
        save(policy, temporary, dtype_name(policy.model.dtype))
    except Exception as error:  # of the system or safetensors, each in its own words
        shutil.rmtree(temporary, ignore_errors=True)
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{shown(folder)} cannot be written: {cause}.") from error
    temporary.rename(folder)


def base_of(folder: str | Path) -> str | None:
    """Return the model that a folder of adapters names; None for any other folder or name.

    Raises:
        ConfigError: PEFT is not installed, or the model is a folder that is not there.
    """
    file = Path(folder) / ADAPTERS
    if not file.is_file():
        return None
    require_extra("peft", f"{folder}, which holds adapters (LoRA),", ["peft"])
    base = str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    if not base or (Path(base).is_absolute() and not Path(base).is_dir()):
        raise ConfigError(
            f"{folder}: its adapters (LoRA) are of the model {base or '(none named)'}, which is "
            f"not there. Write where it is into {ADAPTERS}: base_model_name_or_path."
        )
    return base

"""How the keys `model.*` change what Transformers loads, and the errors if it cannot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.initialization import guard_torch_init_functions
from transformers.utils.logging import set_tqdm_hook

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError, require_one_of
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.progress import Phase, phase
from grpo_policy.policy import Policy

_PLAIN = (OSError, ValueError, KeyError, ImportError, SafetensorError)
"""Exceptions whose text is enough without their type."""


def at_load(cfg: ModelConfig) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that the model takes and the tokenizer does not.

    Flex attention is not allowed: it is compiled anew for each length, and an answer grows.

    Raises:
        ConfigError: there is no such attention.
    """
    name = cfg.attention
    if name is None:
        return {}
    if "/" not in name:  # a name with a slash is a kernel of the hub
        known = [key for key in AttentionInterface().valid_keys() if key.startswith("flash")]
        require_one_of("model.attention", name, ["eager", "sdpa", *sorted(known)])
    return {} if _needs_gpu(name) else {"attn_implementation": name}


def attend(policy: Policy, cfg: ModelConfig) -> None:
    """Switch to an attention that the trial at load could not use; require the one asked for.

    Flash attention has kernels for half precision on a GPU only. The trial runs in float32 on the
    CPU, with the attention that Transformers chooses.

    Raises:
        ConfigError: the attention is not installed, or the model does not support it.
    """
    if cfg.attention is None:
        return
    wanted = cfg.attention
    if _needs_gpu(cfg.attention):
        wanted = "flash"
        try:
            policy.model.set_attn_implementation(cfg.attention)
        except Exception as error:  # a package for attention can raise anything
            raise ConfigError(f"model.attention={cfg.attention}: {_first_line(error)}") from error
    if wanted not in str(policy.model.config._attn_implementation):
        name = type(policy.model).__name__
        text = f"model.attention={cfg.attention}: {name} does not support it. Allowed: null."
        raise ConfigError(text)


@contextmanager
def weights_counted(path: str) -> Iterator[None]:
    """Show the progress of loading a model's weights, if it takes long.

    Args:
        path: The path of the model, or its id on the hub.
    """
    with phase(f"loading {shown(Path(path)) if Path(path).exists() else path}") as loading:

        def counted(bar: Callable[..., Any], given: tuple[Any, ...], more: dict[str, Any]) -> Any:
            if not given or not isinstance(given[0], Collection):
                return bar(*given, **more)
            loading.expect(len(given[0]))
            return bar(_each(given[0], loading), *given[1:], **more)

        before = set_tqdm_hook(counted)
        try:
            yield
        finally:
            set_tqdm_hook(before)


def _each(items: Iterable[Any], loading: Phase) -> Iterator[Any]:
    """Yield the items, and count each."""
    for item in items:
        yield item
        loading.advance()


def _needs_gpu(attention: str) -> bool:
    return "flash" in attention or "/" in attention


def unreadable(cfg: ModelConfig) -> tuple[type[Exception], ...]:
    """Return the exceptions that mean "cannot be loaded"; with the model's own code all do."""
    if cfg.trust_remote_code:
        return (Exception,)
    # KeyError: a configuration that lacks a number (Phi-3's rope without its original length);
    # RuntimeError and UnpicklingError: weights of PyTorch's own format that are cut off.
    return (*_PLAIN, RuntimeError, UnpicklingError)


def cannot_load(path: str, cfg: ModelConfig, error: Exception, absent: str) -> ConfigError:
    """Return one line on a model that cannot be loaded.

    Args:
        path: The path or hub id of the model.
        cfg: The keys `model.*`.
        error: The exception of Transformers.
        absent: Why the hub does not give the model; '' if the hub is not the reason.
    """
    cause = absent or _first_line(error)
    if "trust_remote_code=True" in str(error):
        return ConfigError(
            f"model.path={path}: the model has Python code of its own. Read that code, and set "
            "model.trust_remote_code=true (export: --trust-remote-code) to run it; or choose "
            "another model."
        )
    if not absent and cfg.attention is not None and "attention" in cause.lower():
        return ConfigError(f"model.attention={cfg.attention}: {cause}")
    return ConfigError(
        f"model.path={path}: {cause}. Give model.path=FOLDER or a hub id that is cached or "
        "reachable, or model.size=tiny, which needs no network."
    )


def require_all_loaded(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights are not in its folder.

    Args:
        name: Key, path and class of the model, for messages.
        info: The loading info of `from_pretrained(..., output_loading_info=True)`.

    Raises:
        ConfigError: weights are missing, or have other shapes; one line that names some.
    """
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"{name} lacks {len(missing)} weights ({', '.join(missing[:3])}). "
            "Give the folder of a whole causal language model."
        )
    if other := sorted(info["mismatched_keys"]):
        weight, there, wanted = other[0]
        raise ConfigError(
            f"{name}: {len(other)} weights do not have the shape that config.json asks for "
            f"({weight} is {tuple(there)}, not {tuple(wanted)}). Give a folder whose files belong "
            "together."
        )


def adapters_alone(path: str) -> ConfigError:
    """Return the error for a checkpoint of adapters where a whole model is needed."""
    return ConfigError(
        f"model.path={path}: adapters (LoRA) without a model. Continue with resume=RUN, or "
        "merge them: python -m grpo_envs.export RUN --merge --out FOLDER."
    )


def remarks(policy: Policy, cfg: ModelConfig) -> list[str]:
    """Return remarks about a loaded model, a line each."""
    found = policy.chat.remarks()
    own, name = getattr(policy.model.config, "auto_map", None), type(policy.model).__name__
    if own and not cfg.trust_remote_code:
        found.append(f"its own Python code is not run: this is {name} of Transformers.")
    if policy.caching.whole:
        found.append(
            "its configuration names a window that its attention does not have: it is sampled with "
            "all tokens, and `generate` of Transformers, whose cache is cut, gives other answers."
        )
    return found


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    if isinstance(error, UnpicklingError):  # its text is about trusting files
        return "its weights are truncated, or not a file of PyTorch"
    return line if isinstance(error, _PLAIN) and line else f"{type(error).__name__}: {line}"


def require_loaded_as_saved(model: PreTrainedModel, name: str) -> None:
    """Refuse a class that initialises weights after loading: a checkpoint would be another model.

    Transformers calls `_init_weights` on every layer after loading; this method must not change
    loaded weights.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    owners: dict[str, PreTrainedModel] = {}
    tried = set()
    for place, layer in model.named_modules():
        own = layer if isinstance(layer, PreTrainedModel) else owners[place.rpartition(".")[0]]
        owners[place] = own
        kind = type(own), type(layer), getattr(layer, "padding_idx", None) is None
        if layer._parameters and kind not in tried:
            tried.add(kind)
            if _initialised(own, layer):
                raise ConfigError(
                    f"{name} initialises weights anew whenever it is loaded ({place}), so that a "
                    "checkpoint would not be the model that was trained. Choose another model."
                )


def _initialised(model: PreTrainedModel, layer: nn.Module) -> bool:
    """Return whether `_init_weights` changes a layer whose weights are marked as loaded."""
    given = dict(layer._parameters), dict(layer._buffers)
    loaded = {
        key: nn.Parameter(torch.ones_like(value), requires_grad=False)
        for key, value in layer._parameters.items()
        if value is not None
    }
    copies = {key: value.clone() for key, value in layer._buffers.items() if value is not None}
    for tensor in (*loaded.values(), *copies.values()):
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    try:
        layer._parameters.update(loaded)
        layer._buffers.update(copies)
        with guard_torch_init_functions():
            model._init_weights(layer)
        return not all(bool((value == 1).all()) for value in loaded.values())
    finally:
        layer._parameters.update(given[0])
        layer._buffers.update(given[1])

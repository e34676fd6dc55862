"""Every number of the agent and its sampler, with its default. No torch here: `--help` reads it."""

from dataclasses import dataclass, field

from grpo_envs.errors import ConfigError, require, require_one_of

ADVANTAGES = ("standardized", "centered")
RATIOS = ("token",)
AGGREGATES = ("sequence_mean",)
SIZES = ("auto", "tiny", "0.6b", "1.7b", "4b", "8b")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model is trained."""

    name: str = "qwen"
    """qwen: a Qwen3 by `size`; hf: any causal language model by `path`."""
    size: str = "auto"
    """auto: 0.6b on a CUDA GPU, the bundled tiny on a CPU; or one of them by name."""
    path: str | None = None
    """A folder in Transformers format or a hub id; overrides `size`."""

    def __post_init__(self) -> None:
        """Check names."""
        require_one_of("model.name", self.name, ("qwen", "hf"))
        require_one_of("model.size", self.size, SIZES)
        if self.name == "hf" and self.path is None:
            raise ConfigError("missing: model.path=... (model=hf takes a folder or a hub id).")


@dataclass(kw_only=True, slots=True)
class AdvantageConfig:
    """How rewards of a group become advantages."""

    name: str = "standardized"
    """standardized (GRPO): (r - mean) / (std + eps); centered (Dr. GRPO): r - mean."""
    eps: float = 1e-4
    """Added to the standard deviation."""
    ddof: int = 1
    """The std divides by n - ddof: 1 is the unbiased estimate, 0 the population's."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_one_of("agent.advantage.name", self.name, ADVANTAGES)
        require(self.eps >= 0, "agent.advantage.eps", self.eps, "0 or more")
        require(self.ddof in (0, 1), "agent.advantage.ddof", self.ddof, "0, 1")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Knobs of `policy_loss`."""

    ratio: str = "token"
    """What is importance-weighted: each token."""
    clip_low: float = 0.2
    """The ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.2
    """The ratio is clipped above 1 + clip_high."""
    beta: float = 0.04
    """Weight of the k3 estimate of KL(policy || reference); 0 needs no reference model."""
    aggregate: str = "sequence_mean"
    """How token losses become one number: mean of each completion, then over completions."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_one_of("agent.loss.ratio", self.ratio, RATIOS)
        require_one_of("agent.loss.aggregate", self.aggregate, AGGREGATES)
        require(0 <= self.clip_low <= 1, "agent.loss.clip_low", self.clip_low, "0 to 1")
        require(self.clip_high >= 0, "agent.loss.clip_high", self.clip_high, "0 or more")
        require(self.beta >= 0, "agent.loss.beta", self.beta, "0 or more")


@dataclass(kw_only=True, slots=True)
class GrpoConfig:
    """The GRPO agent."""

    name: str = "grpo"
    """Entry point of the agent."""
    group_size: int = 8
    """Completions per problem (G)."""
    lr: float | None = None
    """AdamW's peak learning rate; null takes the model's own (1e-6, the bundled tiny's 1e-4)."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this L2 norm."""
    epochs: int = 1
    """Passes over the completions of a step (mu in the paper)."""
    micro_batch_size: int = 32
    """Completions per forward and backward; changes memory and speed, never the result."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require(self.group_size >= 1, "agent.group_size", self.group_size, "1 or more")
        if self.group_size == 1:
            raise ConfigError(
                f"agent.group_size=1 with agent.advantage.name={self.advantage.name}: a group of "
                "one has no baseline, every advantage is 0. Allowed: 2 or more (8 is usual)."
            )
        require(self.lr is None or self.lr >= 0, "agent.lr", self.lr, "0 or more, or null")
        require(self.warmup_steps >= 0, "agent.warmup_steps", self.warmup_steps, "0 or more")
        require(self.weight_decay >= 0, "agent.weight_decay", self.weight_decay, "0 or more")
        require(self.max_grad_norm > 0, "agent.max_grad_norm", self.max_grad_norm, "above 0")
        require(self.epochs >= 1, "agent.epochs", self.epochs, "1 or more")
        size = self.micro_batch_size
        require(size >= 1, "agent.micro_batch_size", size, "1 or more")


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    """How completions are sampled for training. Evaluation is greedy."""

    temperature: float = 1.0
    """Logits are divided by it, when sampling and when scoring alike."""
    max_new_tokens: int | None = None
    """Tokens per completion; null takes the model's own (1024, the bundled tiny's 64)."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.temperature > 0, "sampler.temperature", self.temperature, "above 0")
        tokens = self.max_new_tokens
        require(
            tokens is None or tokens >= 1, "sampler.max_new_tokens", tokens, "1 or more, or null"
        )

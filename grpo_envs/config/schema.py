"""The keys of a run with their defaults: `RunConfig`. Agents and samplers bring their own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import isfinite
from typing import Any

from omegaconf import MISSING

from grpo_envs.config.model import DISTORTIONS, PRECISIONS, ModelConfig, require_distortion
from grpo_envs.config.scheduled import is_schedule, shown
from grpo_envs.env.grading import require_place
from grpo_envs.env.installed import LOGGERS, available
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.runs.folder import as_typed

_ENDS = ("steps", "max_samples", "target", "patience", "max_minutes", "max_tokens")
"""Keys of the trainer that decide when a run ends: a resumed run may have others."""
SAVED = ("fp32", "bf16", "fp16")
TOO_LONG = ("drop", "error")
"""Values of `env.too_long`. A problem is too long if its prompt leaves no room for an answer in the
model's context: such problems are left out and counted, or are an error."""
_FIGURES = ("accuracy", "ci95", "reward", "length", "truncated", "invalid", "too_long")
"""Names after `eval/` that the main evaluation uses."""
_DEVICES = ("auto", "cpu", "cuda")
SHARDS = ("auto", "optimizer", "full")

_FREE = (
    *("eval_every", "save_every", "keep_checkpoints", "save_dtype", "save_optimizer"),
    *("device", "graders", "shard", "sweep_metric", "keep_best"),
)
"""Keys of the trainer that do not change the result."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """The loop around the agent."""

    steps: int = 60
    """Training steps, each of agent.epochs * agent.minibatches updates."""
    prompts_per_step: int = 16
    """Problems per step (P), with agent.group_size completions each."""
    lag: int = 0
    """k: a step is sampled with the weights of k steps earlier, while the agent learns from the
    steps between; 0: with the current weights. Above 0, `sampler=torch` samples in a process of its
    own."""
    max_samples: int = 0
    """Ends the run, before `steps`, once this many completions were sampled; 0: no limit."""
    max_tokens: int = 0
    """Ends the run once this many tokens were sampled for training; 0: no limit."""
    max_minutes: float = 0.0
    """Ends the run once steps and evaluations took this long, in all sessions together; 0: no
    limit."""
    target: float | None = None
    """Ends the run once an evaluation finds sweep_metric at this value or above; null: no
    target."""
    patience: int = 0
    """Ends the run once this many evaluations in a row found no higher sweep_metric; 0: never."""
    eval_every: int = 0
    """Steps between evaluations; 0: only before the first step and after the last."""
    eval_problems: int = 200
    """Held-out problems of an evaluation, answered greedily; 0: none."""
    evaluations: dict[str, Any] = field(default_factory=dict)
    """Further evaluations by name, each with the keys that differ from env.*: {hard: {level: 5}}
    gives eval/hard/accuracy. Keys with a `name` are those of another environment."""
    eval_samples: int = 0
    """Sampled answers to each held-out problem, for pass@k; 0: only the greedy answer."""
    eval_temperature: float = 1.0
    """Temperature of the sampled answers of an evaluation."""
    eval_sampling: dict[str, Any] = field(default_factory=dict)
    """Sampling keys of an evaluation, in place of the sampler's: {top_p: 0.95, top_k: 20}; also
    min_p and repetition_penalty."""
    eval_max_new_tokens: int | None = None
    """Tokens per answer of an evaluation at most; null: sampler.max_new_tokens."""
    save_every: int = 50
    """Steps between checkpoints; one is always written at the end and on Ctrl-C."""
    keep_checkpoints: int = 0
    """Number of newest checkpoints that are kept; 0: all."""
    keep_best: bool = False
    """Also saves a checkpoint after the evaluation with the highest sweep_metric: checkpoints/best,
    which keep_checkpoints does not remove."""
    save_dtype: str = "fp32"
    """Type of the model's weights in a checkpoint: fp32, bf16, fp16. With bf16 and fp16 the
    trainer's file keeps the exact weights, so that a resumed run loses no precision."""
    save_optimizer: bool = True
    """false leaves the trainer's file out of checkpoints: no run can resume from them."""
    sweep_metric: str = "eval/accuracy"
    """Metric, of eval.jsonl or metrics.jsonl, whose last value a run returns to a sweeper."""
    graders: str = "auto"
    """Where answers are graded while others are sampled: none (one after the other, by a thread of
    the run), threads, processes, or ray://HOST:PORT for the CPUs of a Ray cluster. auto: the
    environment's `concurrency`; if that is also auto, processes when a GPU samples, else none."""
    max_invalid_fraction: float = 0.5
    """Stops the run if a larger share of a step's rewards is invalid (the grader failed)."""
    max_skipped_steps: int = 5
    """Stops the run after this many steps in a row with gradients that are not finite."""
    device: str = "auto"
    """auto takes a CUDA GPU if there is one; or cpu, or cuda."""
    shard: str = "auto"
    """What several processes shard (FSDP 2): optimizer (master weights and moments), or full (also
    weights and gradients; the sampler has to be an engine). auto: optimizer with `accelerate launch
    --use_fsdp`, else nothing."""
    threads: Any = "auto"
    """Computing threads on a CPU: a number, or auto (1 for a small model, else all cores)."""
    precision: str = "auto"
    """auto computes in bf16 on a GPU that has it, else in fp32; fp16 is for GPUs without bf16. The
    optimiser's weights are float32 in all of them."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        least = {"steps": 1, "prompts_per_step": 1, "save_every": 1, "max_skipped_steps": 1}
        least |= {"max_samples": 0, "eval_every": 0, "eval_problems": 0, "eval_samples": 0}
        least |= {"keep_checkpoints": 0, "lag": 0, "max_tokens": 0, "max_minutes": 0, "patience": 0}
        for name, low in least.items():
            require(
                getattr(self, name) >= low, f"trainer.{name}", getattr(self, name), f"{low} or more"
            )
        tokens, heat = self.eval_max_new_tokens, self.eval_temperature
        require(heat > 0, "trainer.eval_temperature", heat, "above 0")
        for name, value in self.eval_sampling.items():
            if name == "temperature":
                raise ConfigError(
                    f"trainer.eval_sampling.temperature={value}. Its key is "
                    f"trainer.eval_temperature={value}."
                )
            require_one_of("trainer.eval_sampling", name, DISTORTIONS)
            require_distortion(f"trainer.eval_sampling.{name}", name, value)
        require(
            tokens is None or tokens >= 1,
            "trainer.eval_max_new_tokens",
            tokens,
            "1 or more, or null",
        )
        share = self.max_invalid_fraction
        require(0 <= share <= 1, "trainer.max_invalid_fraction", share, "0 to 1")
        number = type(self.threads) is int and self.threads >= 1
        require(
            number or self.threads == "auto", "trainer.threads", self.threads, "1 or more, auto"
        )
        require_one_of("trainer.device", self.device, _DEVICES)
        require_one_of("trainer.shard", self.shard, SHARDS)
        require_place(self.graders)
        require_one_of("trainer.precision", self.precision, PRECISIONS)
        require_one_of("trainer.save_dtype", self.save_dtype, SAVED)
        self._require_evaluations()

    def _require_evaluations(self) -> None:
        """Refuse keys that need evaluations if there are none, and wrong names of evaluations."""
        goal = self.target
        require(goal is None or isfinite(goal), "trainer.target", goal, "a finite number, or null")
        asked = {"target": self.target is not None, "patience": self.patience > 0}
        asked |= {"keep_best": self.keep_best}
        for name in (name for name, is_set in asked.items() if is_set):
            said = f"trainer.{name}={getattr(self, name)}"
            if not self.sweep_metric.startswith("eval/"):
                raise ConfigError(
                    f"{said} with trainer.sweep_metric={self.sweep_metric}: it is about "
                    "evaluations. Allowed: a metric of eval.jsonl, such as eval/accuracy."
                )
            if not self.eval_problems:
                raise ConfigError(
                    f"{said} with trainer.eval_problems=0: nothing is evaluated. Allowed: 1 or "
                    "more."
                )
            if not self.eval_every and name != "keep_best":
                raise ConfigError(
                    f"{said} with trainer.eval_every=0: nothing is evaluated before the last "
                    "step. Allowed: 1 or more."
                )
        if self.evaluations and not self.eval_problems:
            raise ConfigError(
                f"trainer.evaluations={as_typed(self.evaluations)} with trainer.eval_problems=0: "
                "nothing is evaluated. Allowed: 1 or more."
            )
        for name, keys in self.evaluations.items():
            key = f"trainer.evaluations.{name}"
            plain = name.isidentifier() and name not in _FIGURES
            allowed = f"a name of letters, digits and _ that is none of {', '.join(_FIGURES)}"
            require(plain, "trainer.evaluations", name, allowed)
            require(isinstance(keys, dict), key, keys, "keys of env, such as {level: 5}")


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Where metrics go."""

    names: list[str] = field(default_factory=lambda: ["console", "jsonl", "tensorboard", "report"])
    """These loggers, or those of installed packages."""

    def __post_init__(self) -> None:
        """Check names."""
        for name in self.names:
            require_one_of("logger.names", name, available(LOGGERS))


@dataclass(kw_only=True, slots=True)
class LabelConfig:
    """What people and trackers call a run; it does not change the result."""

    name: str = ""
    """Name of the run, in reports and trackers; '': the names of its folders."""
    tags: list[str] = field(default_factory=list)
    """Words to find it by."""
    notes: str = ""
    """Free text about the run."""

    def __post_init__(self) -> None:
        """Check that no tag is empty."""
        require(all(map(str.strip, self.tags)), "run.tags", self.tags, "texts that are not empty")


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: composed by Hydra and converted once; no other module sees a DictConfig."""

    env: Any = MISSING
    """`name` picks the environment; `too_long` (drop or error) decides about problems that are too
    long for the model's context; all other keys are keywords of the environment's constructor."""
    model: ModelConfig = MISSING
    agent: Any = MISSING
    """The `Config` of the agent that `name` picks: an `AgentConfig`."""
    sampler: Any = MISSING
    """The `Config` of the sampler that `name` picks: a `SamplerConfig`."""
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    run: LabelConfig = field(default_factory=LabelConfig)
    seed: int = 0
    """Seed of the problems' order and of the sampling noise."""
    resume: str | None = None
    """A run's folder, to continue it; auto: the newest interrupted run of the same command."""

    @property
    def env_keywords(self) -> dict[str, Any]:
        """The keywords for the environment's constructor."""
        own = ("name", "too_long")
        return {key: value for key, value in self.env.items() if key not in own}

    @property
    def too_long(self) -> Any:
        """What happens to problems that are too long for the model's context, see `TOO_LONG`."""
        return self.env.get("too_long", TOO_LONG[0])

    def identity(self) -> dict[str, Any]:
        """Return all keys that decide the result of a run, by dotted name."""
        tree = asdict(self)
        for key in ("resume", "logger", "run"):
            del tree[key]
        for key in _FREE:
            del tree["trainer"][key]
        for key in self.sampler.free_keys:
            del tree["sampler"][key]
        if text := self.model.template_text():
            tree["model"]["text of chat_template"] = sha256(text.encode()).hexdigest()[:12]
        return flat(tree)

    def decisive(self) -> dict[str, Any]:
        """Return the keys that a resumed run must share with the run it resumes, by dotted name."""
        ends = {f"trainer.{key}" for key in _ENDS}
        ends -= {"trainer.steps"} if self.agent.needs_steps else set()
        return {key: value for key, value in self.identity().items() if key not in ends}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name.

    >>> flat({"agent": {"loss": {"beta": 0.0}}, "seed": 1})
    {'agent.loss.beta': 0.0, 'seed': 1}

    A schedule is a leaf, written as in a command:

    >>> flat({"sampler": {"temperature": {0: 1.0, 500: 0.8}}})
    {'sampler.temperature': '{0: 1.0, 500: 0.8}'}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if is_schedule(value):
            leaves[f"{prefix}{key}"] = shown(value)
        elif isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves

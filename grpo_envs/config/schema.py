"""From YAML and command-line overrides to one validated `RunConfig`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from grpo_envs.config.model import PRECISIONS, ModelConfig, SamplerConfig
from grpo_envs.env.installed import LOGGERS, available
from grpo_envs.errors import ConfigError, nearest, require, require_one_of

_DEVICES = ("auto", "cpu", "cuda")


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """The loop around the agent."""

    steps: int = 60
    """Optimiser steps (updates of the policy)."""
    prompts_per_step: int = 16
    """Problems per step (P); P * agent.group_size completions are sampled."""
    max_samples: int = 0
    """Ends the run, before `steps`, once so many completions were sampled; 0: `steps` decide."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates before the first step and after the last only."""
    eval_problems: int = 200
    """Held-out problems of an evaluation, answered greedily; 0 evaluates never."""
    eval_samples: int = 0
    """Answers to each of them that are sampled, too, for pass@k; 0: the greedy one only."""
    eval_temperature: float = 1.0
    """Of those samples."""
    eval_max_new_tokens: int | None = None
    """Tokens per answer of an evaluation; null takes sampler.max_new_tokens."""
    save_every: int = 50
    """Steps between checkpoints; one is always written at the end and on Ctrl-C."""
    keep_checkpoints: int = 0
    """How many of the newest checkpoints are kept; 0 keeps all."""
    objective: str = "eval/accuracy"
    """The metric that a sweeper maximises or minimises: its last value, any of eval.jsonl or
    metrics.jsonl."""
    max_invalid_fraction: float = 0.5
    """Stops the run when a larger share of a step's rewards is invalid (the grader failed)."""
    max_skipped_steps: int = 5
    """Stops the run when so many steps in a row had gradients that are not finite."""
    device: str = "auto"
    """auto takes a CUDA GPU where there is one; or cpu, or cuda."""
    precision: str = "auto"
    """auto computes in bf16 on a GPU that has it, else in fp32; weights are always fp32."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        least = {"steps": 1, "prompts_per_step": 1, "save_every": 1, "max_skipped_steps": 1}
        least |= {"max_samples": 0, "eval_every": 0, "eval_problems": 0, "eval_samples": 0}
        least |= {"keep_checkpoints": 0}
        for name, low in least.items():
            require(
                getattr(self, name) >= low, f"trainer.{name}", getattr(self, name), f"{low} or more"
            )
        tokens, heat = self.eval_max_new_tokens, self.eval_temperature
        require(heat > 0, "trainer.eval_temperature", heat, "above 0")
        require(
            tokens is None or tokens >= 1,
            "trainer.eval_max_new_tokens",
            tokens,
            "1 or more, or null",
        )
        share = self.max_invalid_fraction
        require(0 <= share <= 1, "trainer.max_invalid_fraction", share, "0 to 1")
        require_one_of("trainer.device", self.device, _DEVICES)
        require_one_of("trainer.precision", self.precision, PRECISIONS)


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Where metrics go."""

    names: list[str] = field(default_factory=lambda: ["console", "jsonl", "tensorboard", "report"])
    """These, or what installed packages bring."""

    def __post_init__(self) -> None:
        """Check names."""
        for name in self.names:
            require_one_of("logger.names", name, available(LOGGERS))


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run. Composed by Hydra, converted once; no DictConfig travels further."""

    env: Any = MISSING
    """`name` picks the environment; the other keys are its constructor's keywords."""
    model: ModelConfig = MISSING
    agent: Any = MISSING
    sampler: SamplerConfig = MISSING
    trainer: TrainerConfig = MISSING
    logger: LoggerConfig = MISSING
    seed: int = 0
    """Of the problems' order and the sampling noise."""
    resume: str | None = None
    """A run's folder, to continue it; auto: the newest that was cut off of the same command."""

    @property
    def env_keywords(self) -> dict[str, Any]:
        """What the environment's constructor gets."""
        return {key: value for key, value in self.env.items() if key != "name"}

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result of a run, flat."""
        tree = asdict(self)
        for key in ("resume", "logger"):
            del tree[key]
        for key in ("eval_every", "save_every", "keep_checkpoints", "device", "objective"):
            del tree["trainer"][key]
        return flat(tree)

    def decisive(self) -> dict[str, Any]:
        """Return the keys that a resumed run must share with the run it resumes, flat."""
        more = ("trainer.steps", "trainer.max_samples")
        return {key: value for key, value in self.identity().items() if key not in more}


def convert(cfg: DictConfig) -> RunConfig:
    """Check a composed configuration and turn it into dataclasses.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError("missing: " + " ".join(f"{key}=..." for key in missing))
        run = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    except AttributeError as error:  # `+key=value`, which Hydra adds and our dataclasses lack
        raise ConfigError(f"an added (+) key is none of ours: {error}.") from error
    assert isinstance(run, RunConfig)
    _check_together(run)
    return run


def _check_together(run: RunConfig) -> None:
    """Refuse values that are fine alone and mean nothing beside each other."""
    agent, prompts = run.agent, run.trainer.prompts_per_step
    if agent.minibatches > prompts:
        raise ConfigError(
            f"agent.minibatches={agent.minibatches} with trainer.prompts_per_step={prompts}: a "
            f"minibatch has at least one group. Allowed: 1 to {prompts}."
        )
    every = f"agent.sync_reference_every={agent.sync_reference_every}"
    if agent.sync_reference_every and run.model.lora.rank:
        rank = f"model.lora.rank={run.model.lora.rank}"
        raise ConfigError(f"{every} with {rank}: the reference is the model itself. Allowed: 0.")
    if agent.sync_reference_every and agent.loss.beta == 0:
        raise ConfigError(f"{every} with agent.loss.beta=0: there is no reference. Allowed: 0.")


def explain(error: Exception) -> ConfigError:
    """Turn what Hydra and OmegaConf raise about a configuration into one line."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigError):
        return cause
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        allowed = ", ".join(error.options)
        return ConfigError(f"{group}={option}. Allowed: {allowed}.{nearest(option, error.options)}")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: not of the form key=value ({_first(error)})")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError | ValidationError):
        return _explain_key(error, cause)
    if unknown_key := re.match(r"Could not override '([^']+)'", str(error)):
        return _no_key(unknown_key[1], [f.name for f in fields(RunConfig)], "")
    return ConfigError(_first(error))


def _explain_key(error: Exception, cause: OmegaConfBaseException) -> ConfigError:
    key = str(cause.full_key)
    given = re.search(rf"{re.escape(key)}=(\S*)", str(error))
    said = f"{key}={given[1]}" if given else key
    if isinstance(cause, ValidationError):
        return ConfigError(f"{said}: {_first(cause)}.")
    node = cause.parent_node
    keys = [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) else []
    return _no_key(said, keys, key.rpartition(".")[0])


def _no_key(said: str, keys: list[str], parent: str) -> ConfigError:
    prefix = f"{parent}." if parent else ""
    name = said.removeprefix(prefix).partition("=")[0]
    allowed = ", ".join(prefix + key for key in keys)
    close = nearest(name, keys).replace("'", f"'{prefix}", 1)
    return ConfigError(f"no {said}. Allowed: {allowed}.{close}")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries by dotted name.

    >>> flat({"agent": {"loss": {"beta": 0.0}}, "seed": 1})
    {'agent.loss.beta': 0.0, 'seed': 1}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

"""From YAML and command-line overrides to one validated `RunConfig`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from inspect import signature
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from grpo_agent.config import GrpoConfig, ModelConfig, SamplerConfig
from grpo_envs.errors import ConfigError, nearest, require, require_one_of
from grpo_envs.installed import AGENTS, ENVS, available
from grpo_envs.loggers import LOGGERS
from grpo_envs.plugins import conf_dir
from grpo_envs.run_folder import job_name, sweep_name

CONF = "grpo_envs.conf"
_OLD_HYDRA = hydra.__version__.startswith("1.3")
COMPOSING = {"version_base": "1.3"} if _OLD_HYDRA else {}
"""What Hydra 1.3 wants to be told and 1.4 does not."""
_CALLED = ("grpo_envs.*", "hydra.*", "hydra_plugins.*", "logging.*", "sys.*")
RUNNING: dict[str, Any] = COMPOSING if _OLD_HYDRA else {"execution_whitelist": _CALLED}
"""The same of `@hydra.main`; from Hydra 1.4 on a configuration can call nothing else."""
_GROUPS = {"env": ENVS, "agent": AGENTS}
_DEVICES = ("auto", "cpu", "cuda")
_PRECISIONS = ("auto", "fp32", "bf16")


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
    save_every: int = 50
    """Steps between checkpoints; one is always written at the end and on Ctrl-C."""
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
        least |= {"max_samples": 0, "eval_every": 0, "eval_problems": 0}
        for name, low in least.items():
            require(
                getattr(self, name) >= low, f"trainer.{name}", getattr(self, name), f"{low} or more"
            )
        share = self.max_invalid_fraction
        require(0 <= share <= 1, "trainer.max_invalid_fraction", share, "0 to 1")
        require_one_of("trainer.device", self.device, _DEVICES)
        require_one_of("trainer.precision", self.precision, _PRECISIONS)


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Where metrics go."""

    names: list[str] = field(default_factory=lambda: list(LOGGERS))
    """Some of console, jsonl, tensorboard."""

    def __post_init__(self) -> None:
        """Check names."""
        for name in self.names:
            require_one_of("logger.names", name, LOGGERS)


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
    """A run's folder, to continue it."""

    @property
    def env_keywords(self) -> dict[str, Any]:
        """What the environment's constructor gets."""
        return {key: value for key, value in self.env.items() if key != "name"}

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result of a run, flat."""
        tree = asdict(self)
        for key in ("resume", "logger"):
            del tree[key]
        for key in ("eval_every", "save_every", "device", "objective"):
            del tree["trainer"][key]
        return flat(tree)

    def decisive(self) -> dict[str, Any]:
        """Return the keys that a resumed run must share with the run it resumes, flat."""
        more = ("trainer.steps", "trainer.max_samples")
        return {key: value for key, value in self.identity().items() if key not in more}


def register() -> None:
    """Tell Hydra our schemas, resolvers and what plugins bring. Call before `@hydra.main` runs."""
    run = OmegaConf.structured(RunConfig)
    run.env = {}
    OmegaConf.set_struct(run.env, False)  # an environment's keys are checked by its constructor
    _store("schema", "run", run, package="_global_")
    _store("schema/agent", "grpo", GrpoConfig)
    for name, node in {
        "model": ModelConfig,
        "sampler": SamplerConfig,
        "trainer": TrainerConfig,
        "logger": LoggerConfig,
    }.items():
        _store("schema", name, node)
    _register_resolver("grpo_key", lambda told: job_name(list(told)))
    # Cached, as `now` is: what the sweep resolves holds for its jobs, too.
    _register_resolver("grpo_sweep", lambda told: sweep_dir_name(list(told)), use_cache=True)
    _register_resolver("grpo_run_dir", lambda old, new: old or new)
    Plugins.instance().register(PluginConf)
    _store_environments_without_yaml()


def _store(group: str, name: str, node: Any, package: str | None = None) -> None:
    """Store once: Hydra 1.4 warns of a second time."""
    store = ConfigStore.instance()
    try:
        known = store.list(group)
    except OSError:  # no such group yet
        known = []
    if f"{name}.yaml" not in known:
        store.store(group=group, name=name, node=node, package=package)


def _register_resolver(name: str, resolver: Callable[..., str], *, use_cache: bool = False) -> None:
    old = OmegaConf.register_new_resolver  # from 2.4 on it warns, and its old name is the new one
    new: Callable[..., None] = OmegaConf.register_resolver
    register = new if "use_cache" in signature(new).parameters else old
    register(name, resolver, replace=True, use_cache=use_cache)


def sweep_dir_name(overrides: list[str]) -> str:
    """Return the name of a sweep's folder, see `sweep_name`."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = {o.get_key_element(): None for o in parsed if o.is_sweep_override()}
    fixed = {o.get_key_element(): o for o in parsed if not o.is_sweep_override()}
    return sweep_name(swept | {key: o.get_value_element_as_str() for key, o in fixed.items()})


def convert(cfg: DictConfig) -> RunConfig:
    """Check a composed configuration and turn it into dataclasses.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("missing: " + " ".join(f"{key}=..." for key in missing))
    try:
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


def compose_run(overrides: list[str]) -> RunConfig:
    """Compose a run outside of `@hydra.main`: for commands that only look.

    Raises:
        ConfigError: one line, as in `convert`.
    """
    register()
    try:
        with initialize_config_dir(str(conf_dir()), **COMPOSING):
            return convert(compose("config", overrides=overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


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


class PluginConf(SearchPathPlugin):
    """Adds the YAML of plugins: `pkg://<package>` for each entry point of `grpo_envs.conf`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append what can be found; warn of what cannot."""
        for name, ep in available(CONF).items():
            try:
                found = find_spec(ep.value) is not None
            except ImportError:
                found = False
            if found:
                search_path.append(provider=name, path=f"pkg://{ep.value}")
            else:
                text = f"plugin {name!r}: no package {ep.value!r}; its options are left out"
                warnings.warn(text, stacklevel=2)


def _store_environments_without_yaml() -> None:
    """Give `env=<name>` to a package that has an entry point and no YAML of its own."""
    shipped = set(available(CONF))
    for group, entry_points in _GROUPS.items():
        for name in available(entry_points):
            if name not in shipped and not (conf_dir() / group / f"{name}.yaml").is_file():
                _store(group, name, {"name": name})


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
            leaves[prefix + key] = value
    return leaves


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

"""From a composed configuration to one validated `RunConfig`, or one line that says why not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    OmegaConf,
    StringNode,
    ValueNode,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    OmegaConfBaseException,
    ValidationError,
)

from grpo_envs.config.owners import ENTRY_POINTS, OWNERS, config_of
from grpo_envs.config.schema import TOO_LONG, RunConfig
from grpo_envs.env.grading import require_place
from grpo_envs.env.installed import available
from grpo_envs.env.ray_client import SCHEME
from grpo_envs.errors import ConfigError, install, nearest, require_one_of
from grpo_envs.runs.earlier import RENAMED

_BROUGHT_BY = {
    "hydra/launcher=joblib": "sweep",
    "hydra/launcher=submitit_local": "sweep",
    "hydra/launcher=submitit_slurm": "sweep",
    "hydra/sweeper=optuna": "optuna",
}
"""Options of Hydra that need a package, and the extra that installs it."""
_FORMS: Mapping[object, str] = {list: "[a, list]", dict: "{name: value, ...}"}
"""Forms of values, by the type of a key's value."""
_LEAVES: Mapping[type[ValueNode], str] = {
    FloatNode: "a number",
    IntegerNode: "a whole number",
    BooleanNode: "true or false",
    StringNode: "text",
}
"""The same of single values, by the type of OmegaConf's node."""


def convert(
    cfg: DictConfig, choices: Mapping[str, str], overrides: Sequence[str] = ()
) -> RunConfig:
    """Check a composed configuration and turn it into dataclasses.

    Args:
        cfg: Without the node `hydra`.
        choices: The chosen option of each group (`hydra.runtime.choices`).
        overrides: Overrides of the command; `agent.name=...` among them chooses the agent.

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
        raise ConfigError(f"an added (+) key does not exist: {error}.") from error
    assert isinstance(run, RunConfig)
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    for group in OWNERS:
        option = "" if f"{group}.name" in given else str(choices.get(group, ""))
        _require_owner(group, getattr(run, group), option)
    _take_cluster(run)
    require_one_of("env.too_long", run.too_long, TOO_LONG)
    run.agent.check(run)
    return run


def _take_cluster(run: RunConfig) -> None:
    """Treat `env.workers=ray://HOST:PORT` as `trainer.graders`: the cluster's CPUs are workers."""
    workers = run.env.get("workers")
    if not str(workers).startswith(SCHEME):
        return
    require_place(workers)
    if run.trainer.graders not in ("auto", workers):
        raise ConfigError(
            f"env.workers={workers} with trainer.graders={run.trainer.graders}: both choose where "
            "answers are graded. Allowed: one of them."
        )
    del run.env["workers"]
    run.trainer.graders = workers


def _require_owner(group: str, keys: Any, option: str) -> None:
    """Refuse keys that do not belong to the agent or sampler that they name.

    An option file that extends another one inherits the other's `name`. Without a `name` of its own
    it would silently train the other agent.
    """
    own = config_of(group, keys.name)
    if option != keys.name and option in available(ENTRY_POINTS[group]):
        raise ConfigError(
            f"{group}={option} has {group}.name={keys.name}, and {option!r} is installed itself. "
            f"Write `name: {option}` into {group}/{option}.yaml, or give {group}={keys.name}."
        )
    if not isinstance(keys, own):
        raise ConfigError(
            f"{group}.name={keys.name} with the keys of {type(keys).__name__}. Allowed: those of "
            f"{own.__name__}: give {group}={keys.name}, or begin the option file's defaults with "
            f"`/schema/{group}/{keys.name}@_here_`."
        )


def explain(error: Exception) -> ConfigError:
    """Turn an error of Hydra or OmegaConf about a configuration into one line."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigError):
        return cause
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if extra := _BROUGHT_BY.get(f"{group}={option}"):
            return ConfigError(f"{group}={option} needs a package: {install(extra)}")
        allowed = ", ".join(error.options)
        return ConfigError(f"{group}={option}. Allowed: {allowed}.{nearest(option, error.options)}")
    if ambiguous := re.match(r"Ambiguous value for argument '([^']+)'", str(error)):
        key, _, values = ambiguous[1].partition("=")
        said = f"{key}={values}: one run takes one value. Allowed: -m first, for a run of each"
        return ConfigError(f"{said}; or '{key}=[{values}]' for a list.")
    if isinstance(error, OverrideParseException):
        return _explain_word(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError | ValidationError):
        return _explain_key(error, cause)
    if unknown_key := re.match(r"Could not override '([^']+)'", str(error)):
        return _no_key(unknown_key[1], [f.name for f in fields(RunConfig)], "")
    if merged := re.match(r"Error merging override (.*)", str(error)):
        form = _FORMS.get(cause.object_type) if isinstance(cause, ConfigTypeError) else None
        return ConfigError(f"{merged[1]}{f'. Allowed: {form}' if form else f': {_first(cause)}'}.")
    return ConfigError(_first(error))


def _explain_word(error: OverrideParseException) -> ConfigError:
    key, is_value, _ = error.override.partition("=")
    if not is_value:
        return ConfigError(f"{error.override}: not of the form key=value ({_first(error)})")
    allowed = "a number, a text, [a, list] or {a: mapping}; a text with characters such as ( < & ä"
    quoted = f"in quotes, as in '{key}=\"...\"'"
    return ConfigError(f"{error.override}: its value cannot be read. Allowed: {allowed} {quoted}.")


def _explain_key(error: Exception, cause: OmegaConfBaseException) -> ConfigError:
    key = str(cause.full_key)
    given = re.search(rf"{re.escape(key)}=(.*)", str(error))
    said = f"{key}={given[1]}" if given else key
    if isinstance(cause, ValidationError) and "is not a ListConfig" in str(cause):
        return ConfigError(f"{said}. Allowed: {_FORMS[list]}.")
    node = cause.parent_node
    if isinstance(cause, ValidationError):
        leaf = node._get_node(cause.key) if isinstance(node, DictConfig) else None
        if not isinstance(leaf, ValueNode) or type(leaf) not in _LEAVES:
            return ConfigError(f"{said}: {_first(cause)}.")
        null = ", or null" if leaf._is_optional() else ""
        return ConfigError(f"{said}. Allowed: {_LEAVES[type(leaf)]}{null}.")
    keys = [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) else []
    return _no_key(said, keys, key.rpartition(".")[0])


def _no_key(said: str, keys: list[str], parent: str) -> ConfigError:
    old = said.partition("=")[0]
    if old in RENAMED:
        return ConfigError(f"{old} is now {RENAMED[old]}. Write {said.replace(old, RENAMED[old])}.")
    prefix = f"{parent}." if parent else ""
    name = said.removeprefix(prefix).partition("=")[0]
    allowed = ", ".join(prefix + key for key in keys)
    close = nearest(name, keys).replace("'", f"'{prefix}", 1)
    return ConfigError(f"no {said}. Allowed: {allowed}.{close}")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

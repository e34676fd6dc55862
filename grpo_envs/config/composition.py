"""Hydra with our schemas, our names for folders and the options of installed packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from grpo_envs.config.convert import convert, explain
from grpo_envs.config.model import ModelConfig
from grpo_envs.config.owners import EntryPointSource, open_mappings
from grpo_envs.config.schema import LoggerConfig, RunConfig, TrainerConfig
from grpo_envs.env.installed import CONF, available
from grpo_envs.env.plugins import conf_dir
from grpo_envs.runs.folder import job_name, sweep_name
from grpo_envs.runs.newest import newest_cut_off, newest_run

_OLD_HYDRA = hydra.__version__.startswith("1.3")
COMPOSING = {"version_base": "1.3"} if _OLD_HYDRA else {}
"""An argument that Hydra 1.3 needs and 1.4 does not have."""
_SCHEMAS = {"model": ModelConfig, "trainer": TrainerConfig, "logger": LoggerConfig}
_CALLED = ("grpo_envs.*", "hydra.*", "hydra_plugins.*", "logging.*", "sys.*")
RUNNING: dict[str, Any] = COMPOSING if _OLD_HYDRA else {"execution_whitelist": _CALLED}
"""Arguments of `@hydra.main`; from Hydra 1.4 on, a configuration can call nothing else."""


def register() -> None:
    """Register our schemas, resolvers and plugins with Hydra. Call before `@hydra.main` runs."""
    run = OmegaConf.structured(RunConfig)
    run.env = {}
    OmegaConf.set_struct(run.env, False)  # an environment's keys are checked by its constructor
    _store("schema", "run", run, package="_global_")
    for group, owner in _SCHEMAS.items():
        node = OmegaConf.structured(owner)
        open_mappings(node)
        _store("schema", group, node)
    _register_resolver("grpo_key", lambda given, but: job_name(list(given), list(but)))
    # Cached, as `now` is: the jobs of a sweep get the value that the sweep resolved.
    _register_resolver("grpo_sweep", lambda given: sweep_dir_name(list(given)), use_cache=True)
    _register_resolver("grpo_run_dir", run_dir)
    Plugins.instance().register(EntryPointSource)
    Plugins.instance().register(PluginConf)


def _store(group: str, name: str, node: Any, package: str | None = None) -> None:
    """Store once: Hydra 1.4 warns if a name is stored twice."""
    store = ConfigStore.instance()
    try:
        known = store.list(group)
    except OSError:  # no such group yet
        known = []
    if f"{name}.yaml" not in known:
        store.store(group=group, name=name, node=node, package=package)


def _register_resolver(name: str, resolver: Callable[..., str], *, use_cache: bool = False) -> None:
    old = OmegaConf.register_new_resolver  # deprecated from OmegaConf 2.4 on, in favour of the next
    new: Callable[..., None] = OmegaConf.register_resolver
    register = new if "use_cache" in signature(new).parameters else old
    register(name, resolver, replace=True, use_cache=use_cache)


def sweep_dir_name(overrides: list[str]) -> str:
    """Return the name of a sweep's folder, see `sweep_name`."""
    return sweep_name(sweep_keys(overrides))


def sweep_keys(overrides: list[str]) -> dict[str, str | None]:
    """Return the keys of a sweep's command with their value, or None where they have several."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = {o.get_key_element(): None for o in parsed if o.is_sweep_override()}
    fixed = {o.get_key_element(): o for o in parsed if not o.is_sweep_override()}
    return swept | {key: o.get_value_element_as_str() for key, o in fixed.items()}


def run_dir(resume: str | None, new: str, overrides: list[str]) -> str:
    """Return the folder of a run: a new one, or the one that `resume` names.

    If `resume` is a folder of runs, the newest of them; if it is `auto`, the newest interrupted run
    of the same command.
    """
    if resume == "auto":
        return str(newest_cut_off(Path(new).parent, list(overrides)) or new)
    return str(newest_run(Path(resume)) or resume) if resume else new


def composed(overrides: list[str]) -> DictConfig:
    """Compose a configuration outside of `@hydra.main`, for commands that do not train.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    return _composed(overrides)[0]


def _composed(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return a composed configuration and the chosen option of each group."""
    register()
    try:
        with initialize_config_dir(str(conf_dir()), **COMPOSING):
            cfg = compose("config", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, choices


def compose_run(overrides: list[str]) -> RunConfig:
    """Compose a run and convert it.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    return convert(*_composed(overrides), overrides)


class PluginConf(SearchPathPlugin):
    """Adds the YAML of plugins: `pkg://<package>` for each entry point of `grpo_envs.conf`.

    The options and schemas without YAML come last, see `EntryPointSource`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that are found; warn about the others."""
        for name, ep in available(CONF).items():
            folder = _folder_of(ep.value)
            if isinstance(folder, Path):
                search_path.append(provider=name, path=f"pkg://{ep.value}")
            else:
                text = f"{CONF}: {name!r} ({ep.value}) is left out: {folder}"
                warnings.warn(text, stacklevel=2)
        search_path.append(provider="entry points", path=f"{EntryPointSource.scheme()}://")


def _folder_of(package: str) -> Path | str:
    """Return the folder of a package with YAML, or why there is none. Imports its parents."""
    try:
        spec = find_spec(package)
    except Exception as error:  # noqa: BLE001 - anything can go wrong in somebody else's import
        return f"{type(error).__name__}: {error}"
    if spec is None or not spec.submodule_search_locations:
        return "there is no such package"
    return Path(next(iter(spec.submodule_search_locations)))


def yaml_folders() -> list[Path]:
    """Return the folders with options: ours, then those of installed packages."""
    found = [_folder_of(ep.value) for ep in available(CONF).values()]
    return [conf_dir(), *(folder for folder in found if isinstance(folder, Path))]

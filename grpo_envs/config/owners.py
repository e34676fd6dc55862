"""Options and schemas of installed packages without YAML: found by entry point, loaded on use.

The keys of an agent or a sampler are the dataclass `Config` of its entry point. Hydra asks this
source for `agent/<entry point>` and `schema/agent/<entry point>` (the same for `sampler`), so only
the package that a command names is imported.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from grpo_envs.config.agent import AgentConfig
from grpo_envs.config.model import SamplerConfig
from grpo_envs.env.installed import AGENTS, ENVS, SAMPLERS, available, claims, load
from grpo_envs.errors import PluginError

ENTRY_POINTS = {"env": ENVS, "agent": AGENTS, "sampler": SAMPLERS}
"""The entry-point group behind each group of options."""
OWNERS: dict[str, type] = {"agent": AgentConfig, "sampler": SamplerConfig}
"""Groups whose keys belong to an entry point, and the class that its `Config` extends."""
_SCHEMA = "schema"
_Names = list[str]  # `list` means the method in the class below


def config_of(group: str, name: str) -> type[Any]:
    """Return the class of the keys `<group>.*` that an installed agent or sampler has.

    Args:
        group: `agent` or `sampler`.
        name: Name of the entry point.

    Raises:
        UnknownName: no installed package has that name.
        PluginError: the package cannot be loaded, or its entry point has no fitting `Config`.
    """
    entry_points, base = ENTRY_POINTS[group], OWNERS[group]
    config = getattr(load(entry_points, name), "Config", None)
    if not (isinstance(config, type) and is_dataclass(config) and issubclass(config, base)):
        (value,) = claims(entry_points)[name]
        raise PluginError(
            f"{entry_points}: {name!r} ({value}) has no Config. Allowed: a dataclass that extends "
            f"{base.__module__}.{base.__name__}."
        )
    return config


class EntryPointSource(ConfigSource):
    """The options and schemas of entry points, as a config source of Hydra."""

    @staticmethod
    def scheme() -> str:
        """Return the prefix of this source in the search path."""
        return "entry-points"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the keys of an entry point with their defaults; this imports its package."""
        *_, group, name = _split(config_path)
        node = OmegaConf.structured(config_of(group, name)) if group in OWNERS else DictConfig({})
        node.name = name
        open_mappings(node)
        return ConfigResult(
            provider=self.provider, path=self.full_path(), config=node, header={"package": None}
        )

    def available(self) -> bool:
        """Return True: metadata can always be read."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return whether there are options or schemas below this path."""
        parts = _split(config_path)
        return parts == [_SCHEMA] or self._known(parts) is not None

    def is_config(self, config_path: str) -> bool:
        """Return whether an entry point has this path."""
        *folder, name = _split(config_path)
        return name in (self._known(folder) or ())

    def list(self, config_path: str, results_filter: ObjectType | None) -> _Names:
        """Return the names below a path, sorted."""
        parts = _split(config_path)
        if parts == [_SCHEMA]:
            return [] if results_filter is ObjectType.CONFIG else sorted(OWNERS)
        return [] if results_filter is ObjectType.GROUP else sorted(self._known(parts) or ())

    def _known(self, folder: _Names) -> _Names | None:
        """Return the names in a folder of options or schemas; None for any other path."""
        schema = folder[:1] == [_SCHEMA]
        groups, rest = (OWNERS, folder[1:]) if schema else (ENTRY_POINTS, folder)
        if len(rest) != 1 or rest[0] not in groups:
            return None
        return [*available(ENTRY_POINTS[rest[0]])]


def open_mappings(node: DictConfig) -> None:
    """Let mappings of type `dict[str, Any]` take any key, without a `+` on the command line."""
    for key in map(str, node):
        kind = OmegaConf.get_type(node, key)
        if kind is dict:
            OmegaConf.set_struct(node[key], False)
        elif is_dataclass(kind):
            open_mappings(node[key])


def _split(config_path: str) -> list[str]:
    return [part for part in config_path.removesuffix(".yaml").split("/") if part]

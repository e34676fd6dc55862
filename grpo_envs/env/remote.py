"""The code on a node of a cluster: a copy of the environment that grades, with one core."""

from __future__ import annotations

import hashlib
import pickle
import platform
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from grpo_envs.env.text import TextEnv
from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runtime import launch


class Copy:
    """A copy of an environment in a process of its own. Arguments and results are pickled bytes."""

    def __init__(self, env: bytes) -> None:
        """Unpickle the environment, whose package must be installed on the node.

        Args:
            env: The pickled environment.
        """
        launch.own(1)  # before the environment sizes its pools
        self._env: TextEnv = pickle.loads(env)

    def about(self) -> tuple[str, dict[str, str]]:
        """Return the name of this machine, and the `sources` of its copy."""
        return platform.node(), sources(self._env)

    def grade(self, given: bytes) -> bytes:
        """Grade episodes; return the pickled replies, or the pickled exception that was raised.

        Args:
            given: Problems and episodes, pickled.
        """
        problems, episodes = pickle.loads(given)
        try:
            return pickle.dumps(self._env.reply_batch(problems, episodes))
        except GrpoEnvsError as error:
            return pickle.dumps(error)
        except Exception as error:  # noqa: BLE001  its class may be unknown to the run
            return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def sources(env: TextEnv) -> dict[str, str]:
    """Return a hash of the Python files of each package that an environment's class comes from.

    Two machines with the same hashes grade alike.
    """
    classes = [kind for kind in type(env).__mro__ if issubclass(kind, TextEnv)]
    names = {_package(kind.__module__) for kind in classes if kind.__module__ != "__main__"}
    return {name: _hash(name) for name in sorted(names)}


def _package(module: str) -> str:
    """Return the package of a module; the module itself if that package is a namespace package."""
    top = module.partition(".")[0]
    spec = find_spec(top)
    return top if spec and spec.origin else module


def _hash(name: str) -> str:
    mark = hashlib.sha256()
    for place, path in sorted(_files(name)):
        mark.update(f"{place}\0".encode() + path.read_bytes())
    return mark.hexdigest()[:16]


def _files(name: str) -> Iterator[tuple[str, Path]]:
    spec = find_spec(name)
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in map(Path, folders):
        yield from ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    if spec and spec.origin and not folders:
        yield "", Path(spec.origin)

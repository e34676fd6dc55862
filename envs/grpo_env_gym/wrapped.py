"""A Gymnasium environment of text, made by its id and played from the start."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium
from gymnasium import spaces

from grpo_envs.env.spaces import UnicodeText
from grpo_envs.errors import ConfigError, nearest

_OURS = "grpo_envs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The state of an episode after some actions."""

    said: tuple[str, ...]
    """The first observation, and the observation after each action."""
    total: float
    """The sum of the rewards so far."""
    terminated: bool
    truncated: bool
    strange: bool = False
    """Whether the last action is outside the action space; it was not passed on."""

    @property
    def observation(self) -> str:
        """The last observation."""
        return self.said[-1]


class Wrapped:
    """One instance of an environment, reset and replayed for every question."""

    def __init__(self, name: str | None, keywords: Mapping[str, Any]) -> None:
        """Make the environment `name` with `keywords`.

        Raises:
            ConfigError: the environment is not registered, not of text, one of ours, or cannot be
                made.
        """
        spec = spec_of(name)
        self.env = _made(spec, keywords)
        for what in ("observation", "action"):
            space = getattr(self.env, f"{what}_space")
            if not isinstance(space, spaces.Text | UnicodeText):
                problem = f"env.id={name}: its {what}s are {type(space).__name__}"
                raise ConfigError(f"{problem}. Allowed: Text or UnicodeText for both.")
        self.most_steps: int | None = self.env.spec.max_episode_steps if self.env.spec else None

    def open(self, seed: int) -> str:
        """Return the first observation."""
        with _contained():
            observation, _ = self.env.reset(seed=seed)
        return _text(observation)

    def play(self, seed: int, actions: Sequence[str]) -> Step:
        """Play an episode from its start, up to its end or the last of `actions`."""
        step = Step(said=(self.open(seed),), total=0.0, terminated=False, truncated=False)
        for action in actions:
            if step.terminated or step.truncated:
                break
            step = self._step(step, action)
        return step

    def close(self) -> None:
        """Close the environment."""
        with _contained():
            self.env.close()

    def _step(self, before: Step, action: str) -> Step:
        if not self.env.action_space.contains(action):
            said = (*before.said, "")
            return Step(
                said=said, total=before.total, terminated=True, truncated=False, strange=True
            )
        with _contained():
            observation, reward, terminated, truncated, _ = self.env.step(action)
        if not isinstance(reward, SupportsFloat):
            raise TypeError(f"a reward is a {type(reward).__name__}, not a number")
        return Step(
            said=(*before.said, _text(observation)),
            total=before.total + float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
        )


def spec_of(name: str | None) -> gymnasium.envs.registration.EnvSpec:
    """Return the spec registered under `name`; a module before a colon is imported first.

    Raises:
        ConfigError: nothing is registered, the module cannot be imported, or the environment is one
            of ours.
    """
    if not name:
        example = "env.id=my_package:Guess-v0"
        raise ConfigError(f"env.id={name}. Allowed: an id registered with Gymnasium ({example}).")
    module, _, plain = str(name).rpartition(":")
    if module:
        try:
            with _contained():
                importlib.import_module(module)
        except Exception as error:  # the import of another package can raise anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"env.id={name}: {module} cannot be imported: {cause}.") from error
    if plain.startswith(_OURS):
        own = plain.removeprefix(_OURS).rpartition("-v")[0]
        raise ConfigError(f"env.id={name} is one of ours: env={own or '<name>'}.")
    spec = gymnasium.registry.get(plain)
    if spec is None:
        foreign = [known for known in gymnasium.registry if not known.startswith(_OURS)]
        remedy = "A package that registers ids is imported with env.id=<module>:<id>."
        raise ConfigError(f"env.id={name} is not registered.{nearest(plain, foreign)} {remedy}")
    return spec


def _made(
    spec: gymnasium.envs.registration.EnvSpec, keywords: Mapping[str, Any]
) -> gymnasium.Env[Any, Any]:
    try:
        with _contained():
            return gymnasium.make(spec, disable_env_checker=True, **keywords)
    except Exception as error:  # the constructor of another package can raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        how = f" with env.kwargs={dict(keywords)}" if keywords else ""
        raise ConfigError(f"env.id={spec.id} cannot be made{how}: {cause}.") from error


@contextmanager
def _contained() -> Iterator[None]:
    """Turn exceptions that would end the process, such as SystemExit, into a RuntimeError.

    KeyboardInterrupt passes: it may come from a person at the keyboard.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        name = type(error).__name__
        raise RuntimeError(f"the environment raised {name}: {error}".rstrip(": ")) from error


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(f"an observation is a {type(observation).__name__}, not text")
    return observation

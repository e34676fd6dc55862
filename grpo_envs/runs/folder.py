"""A run's folder: its name in a sweep, its configuration, and how the run ended."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grpo_envs.errors import ConfigError
from grpo_envs.runs.earlier import in_present_keys, in_present_words
from grpo_envs.runs.provenance import now
from grpo_envs.runtime.files import shown, write_atomically

_LONGEST = 100
_TRACES = {".hydra", ".lock", "run.log", "multirun.yaml", "base"}
"""Files that a command writes before its run begins."""


def job_name(overrides: Sequence[str], but: Sequence[str] = ()) -> str:
    """Return a stable name for a job of a sweep: its overrides, those without a dot first.

    >>> job_name(["seed=1", "env=math", "trainer.steps=5"], but=["trainer.steps"])
    'env-math_seed-1'

    Args:
        overrides: Overrides of the job.
        but: Keys to leave out, because all jobs of the sweep have the same value.
    """
    kept = [text for text in overrides if _key(text) not in but]
    return _readable(sorted(kept, key=lambda text: ("." in _key(text), text)))


def sweep_name(overrides: Mapping[str, str | None]) -> str:
    """Return a stable name for a sweep: the keys that vary, then the others with their value.

    A sweep that is extended by more values keeps its folder.

    >>> sweep_name({"env": None, "seed": None, "trainer.steps": "5"})
    'env_seed_trainer.steps-5'

    Args:
        overrides: Each key with its value, or None if it has several values.
    """
    varied = sorted(key for key, value in overrides.items() if value is None)
    fixed = sorted(f"{key}={value}" for key, value in overrides.items() if value is not None)
    return _readable([*varied, *fixed])


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`config.json` holds the run's configuration; `done.json` or `failed.json` how the run ended.

    Without the latter two, the run is still running or was interrupted.
    """

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other runs. The system releases the lock of a killed run.

        Raises:
            ConfigError: another run uses the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{shown(self.path)}: another run is using it.") from None
        try:
            yield
        finally:
            lock.release()

    def claim(
        self,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Write config.json for the run that starts here: its flat configuration, and more.

        A finished run in this folder counts as unfinished from now on.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "done.json").unlink(missing_ok=True)
        note = {"overrides": list(overrides), "config": dict(config), "about": dict(about or {})}
        write_atomically(self.path / "config.json", json.dumps(note, indent=1))

    def end(self) -> None:
        """Record when this session of the run ended."""
        note = _read(self.path / "config.json")
        if note and (sessions := note["about"].get("sessions")):
            sessions[-1]["end"] = now()
            write_atomically(self.path / "config.json", json.dumps(note, indent=1))

    @property
    def begun(self) -> bool:
        """Whether a run has begun in the folder, which then has a configuration or checkpoints."""
        return self.config is not None or (self.path / "checkpoints").is_dir()

    def require_same(self, config: Mapping[str, Any]) -> None:
        """Refuse a folder that holds a run of another configuration.

        Raises:
            ConfigError: the configurations differ; the message names the keys.
        """
        before = self.config
        if before is not None and not self.is_of(config):
            changes = differences(before, _as_read(config))
            raise ConfigError(f"{shown(self.path)} holds another run: {changes}.")

    def is_of(self, config: Mapping[str, Any]) -> bool:
        """Return whether the run in this folder has this configuration."""
        return self.config == _as_read(config)

    def finish(self, steps: int, metrics: Mapping[str, float], stopped: str = "") -> None:
        """Record that the run is done, its last metrics, and the limit that ended it, if any."""
        done = {"steps": steps, "metrics": dict(metrics), "stopped": stopped}
        write_atomically(self.path / "done.json", json.dumps(done, indent=1))

    def abandon(self) -> None:
        """Remove the folder if it holds only files from before the run began.

        Empty parent folders are removed, too, up to the working folder. A folder that another run
        has locked is kept.
        """
        here = Path.cwd()
        if not self.path.is_dir() or here.is_relative_to(self.path.resolve()):
            return
        try:
            with self.locked():
                if not {file.name for file in self.path.iterdir()} <= _TRACES:
                    return
                shutil.rmtree(self.path)
        except ConfigError:  # another run
            return
        for parent in self.path.resolve().parents:
            if parent == here or not parent.is_relative_to(here):
                return
            try:
                parent.rmdir()
            except OSError:  # not empty
                return

    def fail(self, why: str, overrides: Sequence[str]) -> None:
        """Record that the run ended early, and why."""
        note = {"overrides": list(overrides), "error": why}
        write_atomically(self.path / "failed.json", json.dumps(note, indent=1))

    def try_again(self) -> None:
        """Remove the record that the run ended early."""
        (self.path / "failed.json").unlink(missing_ok=True)

    @property
    def config(self) -> dict[str, Any] | None:
        """The flat configuration of the run in this folder; None if no run has started.

        Keys of earlier versions have their present names.
        """
        note = _read(self.path / "config.json") or {}
        return in_present_keys(note["config"]) if "config" in note else None

    @property
    def about(self) -> dict[str, Any]:
        """Further information about the run."""
        return dict((_read(self.path / "config.json") or {}).get("about", {}))

    @property
    def overrides(self) -> list[str]:
        """The overrides of the command line."""
        note = _read(self.path / "config.json") or _read(self.path / "failed.json") or {}
        return in_present_words(note.get("overrides", []))

    @property
    def result(self) -> dict[str, float] | None:
        """The last metrics of a run that is done, else None."""
        done = _read(self.path / "done.json")
        return None if done is None else dict(done.get("metrics", {}))

    @property
    def stopped(self) -> str:
        """The limit that ended a run that is done before its last step; '' if there was none."""
        return str((_read(self.path / "done.json") or {}).get("stopped", ""))

    @property
    def error(self) -> str | None:
        """Why the run ended early; None if it did not."""
        failed = _read(self.path / "failed.json")
        return None if failed is None else str(failed["error"])


def failures(sweep: Path, since: float) -> list[RunFolder]:
    """Return the jobs of a sweep that failed after `since` [seconds since the epoch]."""
    found = sorted(sweep.glob("*/failed.json"))
    return [RunFolder(path.parent) for path in found if path.stat().st_mtime >= since]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the differences of two flat configurations, in words.

    >>> differences({"seed": 0, "env.level": 1}, {"seed": 1, "env.level": None})
    'env.level=1 then, null now; seed=0 then, 1 now'
    """
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    pairs = {key: [as_typed(values.get(key)) for values in (before, now)] for key in keys}
    return "; ".join(f"{key}={then} then, {here} now" for key, (then, here) in pairs.items())


def _back(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the overrides, for a shell, that turn `now` into `before`.

    >>> _back({"seed": 0, "model.text of chat_template": "ab"}, {"seed": 1, "env.level": 1})
    'seed=0 without env.level'
    """
    keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    typed = [key for key in keys if key in before and " " not in key]
    words = [shlex.quote(f"{key}={as_typed(before[key])}") for key in typed]
    return " ".join([*words, *(f"without {key}" for key in keys if key not in before)])


def as_typed(value: Any) -> str:
    """Return a value in the form of a Hydra override.

    >>> as_typed(None), as_typed(True), as_typed("math"), as_typed(["a"])
    ('null', 'true', 'math', '["a"]')
    >>> as_typed({"prompt": "question", "of": {"a": 1}})
    '{prompt: "question", of: {a: 1}}'
    """
    return value if isinstance(value, str) else _in_mapping(value)


def _in_mapping(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_in_mapping(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)


def require_alike(run: Path, before: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse to continue in a run's folder with another configuration.

    Raises:
        ConfigError: the configurations differ; the message names the keys.
    """
    then, now = in_present_keys(before), _as_read(config)
    different = differences(then, now)
    if different:
        again = f" As it was: {words}" if (words := _back(then, now)) else ""
        raise ConfigError(f"resume={shown(run)}: another configuration: {different}.{again}")


def _as_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it is after writing and reading."""
    return dict(json.loads(json.dumps(dict(config))))


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{shown(path)}: not JSON ({error}).") from error
    return found


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _readable(words: Sequence[str]) -> str:
    """Join words to a folder's name that can be used in an override: `model.path=multirun/...`.

    A hash is appended if the name was shortened or changed.
    """
    text = "_".join(words).replace("=", "-") or "default"
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in text)[:_LONGEST]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

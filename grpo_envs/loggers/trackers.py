"""Loggers for trackers: Weights & Biases, MLflow, Trackio. Each package is imported on use."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from grpo_envs.errors import ConfigError, install
from grpo_envs.loggers.basic import Logger
from grpo_envs.loggers.forms import COLUMNS, mlflow_name, sample_rows
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runtime.files import shown, write_atomically
from grpo_envs.types import Group

PROJECT = "grpo-envs"
MOST_COMPLETIONS = 200
LABEL = ("name", "tags", "notes")


class Tracker(Logger, ABC):
    """One run of a tracker for one run of ours, even if that is resumed several times.

    `<name>.json` in the run's folder has the id of the tracker's run and the last step that was
    sent. Trackers cannot remove values: if a resumed run repeats steps, the first values stay. At
    the end a sample of the completions is sent, spread over the steps.
    """

    name: ClassVar[str]

    def __init__(self, run: Path, steps: int, done: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._folder, self._note = run, run / f"{self.name}.json"
        old = json.loads(self._note.read_text("utf-8")) if done and self._note.is_file() else {}
        self._sent: dict[str, Any] = {"id": None, "step": 0, "eval": -1, **old}
        self._first = self._sent["step"] + 1
        self._every = max(1, -(-steps // MOST_COMPLETIONS))
        self._each = max(1, MOST_COMPLETIONS // max(1, steps))
        self._sample: list[dict[str, Any]] = []
        self._configured = self._closed = False
        self._sent["id"] = self._open(self._sent["id"])
        self._write_note()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step; before the first step also the configuration."""
        self._send("step", step, metrics)

    def log_completions(
        self, step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Keep a sample of the completions."""
        if step >= self._first and step % self._every == 0:
            rows = list(sample_rows(step, groups, advantages))[: self._each]
            self._sample += rows[: MOST_COMPLETIONS - len(self._sample)]

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Send the metrics of an evaluation, without its answers."""
        self._send("eval", step, metrics)

    def close(self) -> None:
        """Send the sample of completions and end the tracker's run."""
        if self._closed:
            return
        self._closed = True
        if self._sample:
            self._send_table(self._sent["step"], self._sample)
        self._end()

    @property
    def _label(self) -> str:
        """Name of the run for people: `math-2026-01-31_12-00-00`."""
        path = self._folder.absolute()
        return f"{path.parent.name}-{path.name}"

    def _send(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if step <= self._sent[kind]:
            return
        if not self._configured:  # the folder has no config.json yet when loggers are made
            folder = RunFolder(self._folder)
            self._send_config(folder.config or {})
            self._send_label({key: x for key, x in folder.about.items() if key in LABEL and x})
            self._configured = True
        self._send_metrics(step, metrics)
        self._sent[kind] = step
        self._write_note()

    def _write_note(self) -> None:
        write_atomically(self._note, json.dumps(self._sent))

    @abstractmethod
    def _open(self, known: str | None) -> str:
        """Begin a run of the tracker, or continue the run `known`; return its id."""

    @abstractmethod
    def _send_config(self, config: Mapping[str, Any]) -> None:
        """Send the configuration, before any metrics."""

    @abstractmethod
    def _send_label(self, label: Mapping[str, Any]) -> None:
        """Send those of `run.name`, `run.tags` and `run.notes` that are set."""

    @abstractmethod
    def _send_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics."""

    @abstractmethod
    def _send_table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send the sample; its columns are `COLUMNS`."""

    @abstractmethod
    def _end(self) -> None:
        """End the tracker's run."""


class WandbLogger(Tracker):
    """Weights & Biases, configured by its own environment variables (`WANDB_MODE=offline`).

    The project is `grpo-envs` unless `WANDB_PROJECT` is set, and the files are in the run's folder
    unless `WANDB_DIR` is set. The x-axis of charts is the metric `step`: wandb's own step counter
    must not decrease, and would refuse a late evaluation of a resumed run.
    """

    name = "wandb"

    def _open(self, known: str | None) -> str:
        self._wandb = _imported(self.name, "wandb")
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=os.environ.get("WANDB_NAME", self._label),
                dir=os.environ.get("WANDB_DIR", str(self._folder)),
                id=known,
                resume=None if known is None else "allow",
                reinit="create_new",  # the calling program may have a run of its own
            )
        except self._wandb.errors.Error as error:
            raise _refused(self.name, error) from error
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def _send_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def _send_label(self, label: Mapping[str, Any]) -> None:
        for key, value in label.items():  # attributes of wandb's run have these names
            setattr(self._run, key, tuple(value) if key == "tags" else value)

    def _send_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def _send_table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        data = [list(row.values()) for row in rows]
        table = self._wandb.Table(columns=list(COLUMNS), data=data)
        self._run.log({"step": step, "completions": table})

    def _end(self) -> None:
        self._run.finish()


class MlflowLogger(Tracker):
    """MLflow, at `MLFLOW_TRACKING_URI` or in its default, a local mlflow.db.

    The experiment is `grpo-envs` unless `MLFLOW_EXPERIMENT_NAME` (or `_ID`) names another. MLflow
    refuses some names: `@` becomes `_at_` (`eval/pass_at_4`), other characters become `_`. Its file
    store cannot have both `eval/accuracy/math` and `eval/accuracy`, so a second slash becomes a
    dot. A parameter cannot change: `trainer.steps` keeps its first value. MLflow's telemetry is off
    unless `MLFLOW_DISABLE_TELEMETRY` is set.
    """

    name = "mlflow"

    def _open(self, known: str | None) -> str:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = _imported(self.name, "mlflow")
        if not mlflow.is_tracking_uri_set():
            for package in ("sqlalchemy", "alembic"):  # the default store needs them
                _imported(self.name, package)
        self._kinds = _imported(self.name, "mlflow.entities")
        self._failure = mlflow.exceptions.MlflowException
        try:
            self._client = mlflow.MlflowClient()
            if known is None:
                made = self._client.create_run(self._experiment(), run_name=self._label)
                return str(made.info.run_id)
            self._client.update_run(known, status="RUNNING")
        except self._failure as error:
            where = "" if known is None else f" ({shown(self._note)} names run {known})"
            raise _refused(self.name + where, error) from error
        return known

    def _experiment(self) -> str:
        if "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except self._failure:
                found = self._client.get_experiment_by_name(name)
                if found is None:  # otherwise another job has just created it
                    raise
        return str(found.experiment_id)

    def _send_config(self, config: Mapping[str, Any]) -> None:
        known = self._client.get_run(self._sent["id"]).data.params
        named = ((mlflow_name(key), str(value)) for key, value in config.items())
        new = [self._kinds.Param(*item) for item in named if item[0] not in known]
        for start in range(0, len(new), 100):  # the most that MLflow takes at once
            self._client.log_batch(self._sent["id"], params=new[start : start + 100])

    def _send_label(self, label: Mapping[str, Any]) -> None:
        if "name" in label:
            self._client.update_run(self._sent["id"], name=label["name"])
        tags = dict.fromkeys(label.get("tags", ()), "true")  # MLflow's tags have values
        if "notes" in label:
            tags["mlflow.note.content"] = label["notes"]  # shown as the run's description
        for tag, value in tags.items():
            self._client.set_tag(self._sent["id"], tag, value)

    def _send_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        named = ((mlflow_name(name), value) for name, value in metrics.items())
        made = [self._kinds.Metric(*item, now, step) for item in named]
        self._client.log_batch(self._sent["id"], metrics=made)

    def _send_table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        # dtype=object avoids a warning of pandas 3 about string columns in MLflow.
        table = _imported(self.name, "pandas").DataFrame(rows, dtype=object)
        self._client.log_table(self._sent["id"], table, "completions.json")  # appends

    def _end(self) -> None:
        self._client.set_terminated(self._sent["id"])


class TrackioLogger(Tracker):
    """Trackio: a local database, in `TRACKIO_DIR` if that is set; `trackio show` draws it.

    The project is `grpo-envs` unless `TRACKIO_PROJECT` names another. `TRACKIO_SPACE_ID` and
    `TRACKIO_SERVER_URL` are Trackio's own variables for logging elsewhere.
    """

    name = "trackio"

    def _open(self, known: str | None) -> str:
        self._trackio = _imported(self.name, "trackio")
        # Trackio resumes by name, so the name must be unique.
        name = known or f"{self._label}-{secrets.token_hex(4)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = self._trackio.init(project, name=name, resume="allow", embed=False)
        return name

    def _send_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(config)  # sent with the first metrics

    def _send_label(self, label: Mapping[str, Any]) -> None:
        self._run.config.update({f"run.{key}": value for key, value in label.items()})

    def _send_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def _send_table(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        table = self._trackio.Table(data=[dict(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def _end(self) -> None:
        self._trackio.finish()


def _imported(logger: str, package: str) -> Any:
    """Import a package that only this logger needs.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # installed, but broken
            raise
        text = f"logger.names={logger} needs {package}: {install(logger)}"
        raise ConfigError(text) from error


def _refused(what: str, error: Exception) -> ConfigError:
    """Return a library's error about its own settings, in one line."""
    return ConfigError(f"logger.names={what}: {' '.join(str(error).split())}")

"""CSV files, wandb, MLflow and Trackio: what the real libraries hold afterwards, offline."""

import csv
import json
import os
import shutil
import socket
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.loggers.csv import CsvLogger
from grpo_envs.loggers.trackers import MlflowLogger, Tracker, TrackioLogger, WandbLogger
from grpo_envs.runs.folder import RunFolder
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.trainer import Trainer
from grpo_envs.types import Completion, Group, Reward

ROOT = Path(__file__).parents[2]
TRACKERS = (WandbLogger, MlflowLogger, TrackioLogger)
EVERY_TRACKER = pytest.mark.parametrize("made", TRACKERS, ids=lambda made: made.name)
CONFIG = {"env.name": "math", "agent.lr": 1e-4, "seed": 0, "env.level": None, "env.of": ""}


@dataclass
class Held:
    """What a tracker holds: its runs, and of the first of them all values in order."""

    runs: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    values: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    completions: list[dict[str, Any]] = field(default_factory=list)

    def steps(self, name: str) -> list[int]:
        return [step for step, _ in self.values[name]]


@pytest.fixture(scope="module")
def trackio_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trackio reads its variable once, when it is imported."""
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder))
        assert folder == import_module("trackio.utils").TRACKIO_DIR
        yield folder


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's, whose tables take it a second to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    import_module("mlflow").MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def offline(
    tmp_path: Path, trackio_dir: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the machine's own settings, and nothing over the network."""
    for name in os.environ:
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")) and name != "TRACKIO_DIR":
            monkeypatch.delenv(name)
    for name in ("WANDB_SILENT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("TRACKIO_PROJECT", tmp_path.name)
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a .wandb file: LevelDB's log format, after a header of seven bytes."""
    record = import_module("wandb.proto.wandb_internal_pb2").Record
    raw, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        if at + 7 + size > len(raw):  # it is being written
            return
        part += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record.FromString(part)
            part = b""


def written(path: Path) -> list[Any]:
    """Return the records of a run that is over: wandb writes the last ones a moment later."""
    for _ in range(100):
        records = list(wandb_records(path))
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    return records


def in_wandb(run: Path) -> Held:
    held = Held()
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for record in written(path):
            if record.HasField("run") and record.run.run_id not in held.runs:
                held.runs.append(record.run.run_id)
            for item in (*record.config.update, *record.run.config.update):
                held.config[item.key or item.nested_key[0]] = json.loads(item.value_json)
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            for name, value in row.items():
                if isinstance(value, int | float):
                    held.values.setdefault(name, []).append((row["step"], value))
    for path in sorted(run.glob("wandb/offline-run-*/files/media/table/*.json")):
        table = json.loads(path.read_text())
        held.completions += [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    return held


def in_mlflow(run: Path) -> Held:
    client = import_module("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name("grpo-envs")
    (first, *others) = client.search_runs([experiment.experiment_id])
    held = Held([r.info.run_id for r in (first, *others)], dict(first.data.params))
    for name in first.data.metrics:
        history = client.get_metric_history(first.info.run_id, name)
        held.values[name] = sorted((m.step, m.value) for m in history)
    if client.list_artifacts(first.info.run_id):
        path = client.download_artifacts(first.info.run_id, "completions.json")
        table = json.loads(Path(path).read_text())
        held.completions = [dict(zip(table["columns"], r, strict=True)) for r in table["data"]]
    return held


def in_trackio(run: Path) -> Held:
    project = os.environ["TRACKIO_PROJECT"]
    runs = list(import_module("trackio").Api().runs(project))
    held = Held([r.name for r in runs], runs[0].config)
    storage = import_module("trackio.sqlite_storage").SQLiteStorage
    for row in storage.get_logs(project, runs[0].name, run_id=runs[0].id):
        held.completions += row.get("completions", {"_value": []})["_value"]
        for name, value in row.items():
            if isinstance(value, int | float):
                held.values.setdefault(name, []).append((row["step"], value))
    return held


IN: dict[str, Callable[[Path], Held]] = {
    "wandb": in_wandb,
    "mlflow": in_mlflow,
    "trackio": in_trackio,
}


def group(text: str = "<answer>1</answer>", size: int = 2) -> Group:
    completion = Completion(text=text, token_ids=(1,))
    rewards = tuple(Reward(parts={"correct": float(i == 0)}) for i in range(size))
    return Group(
        key=7, prompt="1?", prompt_ids=(1,), completions=(completion,) * size, rewards=rewards
    )


def trainer(out: Path, steps: int, *, resume: bool = False) -> Trainer:
    """A small run with every logger of these, and JSON lines to compare them with."""
    cfg = deepcopy(
        compose_run(
            [
                *("model.size=tiny", "logger=files", "trainer.prompts_per_step=2"),
                *("trainer.eval_problems=4", "agent.group_size=2", "sampler.max_new_tokens=8"),
            ]
        )
    )
    cfg.trainer.steps, cfg.resume = steps, str(out) if resume else None
    made = build(cfg, out, make_envs(cfg))
    loggers = (CsvLogger, *TRACKERS)
    made.loggers = [*made.loggers, *(logger(out, steps, made.done) for logger in loggers)]
    RunFolder(out).claim(cfg.identity(), [])
    return made


def rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8").splitlines()
    return (
        [json.loads(line) for line in text]
        if path.suffix == ".jsonl"
        else list(csv.DictReader(text))
    )


def test_a_run_and_its_resume_are_one_run_in_every_one_of_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, 2).run()
    metrics = trainer(run, 3, resume=True).run()
    for name in ("metrics", "eval"):
        expected, found = rows(run / f"{name}.jsonl"), rows(run / f"{name}.csv")
        assert [{k: float(v) for k, v in row.items() if v} for row in found] == expected
    answers = rows(run / "completions.jsonl")
    assert len(answers) == 12
    for tracker in TRACKERS:
        held = IN[tracker.name](run)
        assert len(held.runs) == 1, tracker
        assert held.steps("reward/mean") == [1, 2, 3], tracker
        assert held.steps("eval/accuracy") == [0, 2, 3], tracker
        assert held.values["loss/total"][-1][1] == pytest.approx(metrics["loss/total"])
        assert int(held.config["agent.group_size"]) == 2
        for key in ("step", "problem", "prompt", "text", "reward"):
            assert [c[key] for c in held.completions] == [a[key] for a in answers], tracker
        advantages = [round(c["advantage"], 6) for c in held.completions]
        assert advantages == [a["advantage"] for a in answers]


@EVERY_TRACKER
def test_name_tags_and_notes_go_along(made: type[Tracker], tmp_path: Path) -> None:
    run = tmp_path / "run"
    about = {"name": "baseline", "tags": ["paper", "lr sweep"], "notes": "the first row of table 2"}
    RunFolder(run).claim(CONFIG, [], about)
    one = made(run, 1, 0)
    one.log(1, {"reward/mean": 0.5})
    one.close()
    if made is WandbLogger:
        (path,) = run.glob("wandb/offline-run-*/*.wandb")
        sent = [record.run for record in written(path) if record.HasField("run")][-1]
        found: Any = (sent.display_name, [*sent.tags], sent.notes)
    elif made is MlflowLogger:
        client = import_module("mlflow").MlflowClient()
        experiment = client.get_experiment_by_name("grpo-envs")
        (held,) = client.search_runs([experiment.experiment_id])
        tags = [tag for tag in held.data.tags if not tag.startswith("mlflow.")]
        found = (
            held.info.run_name,
            sorted(tags, reverse=True),
            held.data.tags["mlflow.note.content"],
        )
    else:
        config = in_trackio(run).config
        found = tuple(config[f"run.{key}"] for key in about)
    assert found == tuple(about.values())


@EVERY_TRACKER
def test_steps_that_are_made_again_are_there_once(made: type[Tracker], tmp_path: Path) -> None:
    """A run that was killed after step 3 goes on from the checkpoint of step 2."""
    RunFolder(tmp_path / "run").claim(CONFIG, [])
    first = made(tmp_path / "run", 4, 0)
    first.log_eval(0, {"eval/accuracy": 0.25}, [{"text": "a"}])
    for step in (1, 2, 3):
        first.log(step, {"reward/mean": step / 10})
        first.log_completions(step, [group()], [[0.5, -0.5]])
    first.log_eval(3, {"eval/accuracy": 0.5}, [])
    first.close()
    second = made(tmp_path / "run", 4, 2)
    for step in (3, 4):
        second.log(step, {"reward/mean": step / 10 + 0.5})
        second.log_completions(step, [group()], [[0.5, -0.5]])
        second.log_eval(step, {"eval/accuracy": 0.75}, [])
    second.close()
    third = made(tmp_path / "run", 4, 4)  # cut off between the last checkpoint and the end
    third.log_eval(4, {"eval/accuracy": 0.9}, [])
    third.close()
    held = IN[made.name](tmp_path / "run")
    assert len(held.runs) == 1
    assert held.values["reward/mean"] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9)]
    assert held.values["eval/accuracy"] == [(0, 0.25), (3, 0.5), (4, 0.75)]
    assert [row["step"] for row in held.completions] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert held.config["env.name"] == "math"


@EVERY_TRACKER
def test_a_run_from_the_start_is_another_run(made: type[Tracker], tmp_path: Path) -> None:
    for _ in range(2):
        logger = made(tmp_path / "run", 4, 0)
        logger.log(1, {"reward/mean": 0.5})
        logger.close()
        logger.close()  # does nothing
    assert len(IN[made.name](tmp_path / "run").runs) == 2


@EVERY_TRACKER
def test_the_sample_of_completions_is_small_and_spread_over_the_run(
    made: type[Tracker], tmp_path: Path
) -> None:
    logger = made(tmp_path / "run", 500, 0)
    for step in range(1, 501):
        # A lone surrogate, which a model may well write, fits into no database.
        logger._sent["step"] = step
        logger.log_completions(step, [group("\ud800 <b>")], [[0.5, -0.5]])
    logger.log_eval(500, {"eval/accuracy": 0.5}, [])
    logger.close()
    found = IN[made.name](tmp_path / "run").completions
    assert [row["step"] for row in found] == list(range(3, 501, 3))
    assert {row["text"] for row in found} == {"\\ud800 <b>"}


@pytest.mark.filterwarnings("ignore:The filesystem tracking backend:FutureWarning")  # MLflow 3.7
@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_mlflow_gets_names_that_it_takes(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "files":  # which MLflow itself allows only where it is asked for
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    names = ["eval/accuracy", "eval/accuracy/math", "eval/pass@4", "env/a(b)/share", "kl"]
    RunFolder(tmp_path / "run").claim({f"env.key@{i}": i for i in range(120)}, [])
    logger = MlflowLogger(tmp_path / "run", 1, 0)
    logger.log_eval(0, dict.fromkeys(names, 0.5), [])
    logger.close()
    held = in_mlflow(tmp_path / "run")
    expected = ["eval/accuracy", "eval/accuracy.math", "eval/pass_at_4", "env/a_b_.share", "kl"]
    assert held.values == {name: [(0, 0.5)] for name in expected}
    assert held.config == {f"env.key_at_{i}": str(i) for i in range(120)}  # 100 is a batch


@pytest.mark.parametrize("made", [WandbLogger, TrackioLogger])
def test_the_others_take_names_as_they_are(made: type[Tracker], tmp_path: Path) -> None:
    names = ["eval/accuracy", "eval/accuracy/math", "eval/pass@4", "env/a(b)/share"]
    logger = made(tmp_path / "run", 1, 0)
    logger.log_eval(0, dict.fromkeys(names, 0.5), [])
    logger.close()
    values = IN[made.name](tmp_path / "run").values
    assert {name: values[name] for name in names} == {name: [(0, 0.5)] for name in names}


def test_mlflow_has_a_default_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name)
    (tmp_path / "mlflow.db").unlink()
    logger = MlflowLogger(tmp_path / "run", 1, 0)
    logger.log(1, {"reward/mean": 0.5})
    logger.close()
    assert os.environ.pop("MLFLOW_DISABLE_TELEMETRY") == "true"
    assert (tmp_path / "mlflow.db").is_file()
    assert in_mlflow(tmp_path / "run").values == {"reward/mean": [(1, 0.5)]}


def test_projects_are_ours_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def projects() -> tuple[str, str, str]:
        place = tmp_path / "run"
        wandb, mlflow = WandbLogger(place, 1, 0), MlflowLogger(place, 1, 0)
        trackio = TrackioLogger(place, 1, 0)
        for logger in (wandb, mlflow, trackio):
            logger.close()
        run = mlflow._client.get_run(mlflow._sent["id"])
        experiment = mlflow._client.get_experiment(run.info.experiment_id)
        return wandb._run.project, experiment.name, trackio._run.project

    monkeypatch.delenv("TRACKIO_PROJECT")
    assert projects() == ("grpo-envs",) * 3
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.setenv(name, "mine")
    assert projects() == ("mine",) * 3


@EVERY_TRACKER
def test_a_package_that_is_missing_is_one_line(
    made: type[Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = made.name
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        made(tmp_path / "run", 1, 0)
    assert str(caught.value) == (f'logger.names={name} needs {name}: pip install -e ".[{name}]"')
    assert not list((tmp_path / "run").iterdir())


def test_the_default_of_mlflow_needs_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match=r'needs alembic: pip install -e "\.\[mlflow\]"$'):
        MlflowLogger(tmp_path / "run", 1, 0)


def test_a_run_that_mlflow_does_not_have_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.json").write_text('{"id": "4711", "step": 1, "eval": 0}')
    with pytest.raises(ConfigError, match=r"mlflow \(mlflow\.json names run 4711\): .*not found$"):
        MlflowLogger(tmp_path, 3, 1)


def test_a_run_of_the_calling_program_stays_its_own(tmp_path: Path) -> None:
    theirs = import_module("wandb").init(project="theirs", dir=str(tmp_path))
    ours = WandbLogger(tmp_path / "run", 1, 0)
    ours.log(1, {"reward/mean": 0.5})
    ours.close()
    theirs.finish()
    assert in_wandb(tmp_path / "run").values["reward/mean"] == [(1, 0.5)]
    assert "reward/mean" not in in_wandb(tmp_path).values


def test_what_wandb_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(ConfigError, match=r"^logger\.names=wandb: [^\n]*project[^\n]*$"):
        WandbLogger(tmp_path, 3, 0)


def csv_text(run: Path, done: int, *rows: tuple[int, Mapping[str, float]]) -> str:
    logger = CsvLogger(run, 9, done)
    for step, metrics in rows:
        logger.log(step, metrics)
        logger.log_completions(step, [group()], [[0.0, 0.0]])
    logger.close()
    return (run / "metrics.csv").read_text()


def test_a_new_metric_is_a_new_column(tmp_path: Path) -> None:
    rows: Sequence[tuple[int, Mapping[str, float]]] = [
        (1, {"a": 0.123456789, "b,c": 2.0}),
        (2, {"b,c": 3.0, "a": float("nan")}),
        (3, {"d": 1.0, "a": 4.0}),
        (4, {"a": 5.0}),
    ]
    text = 'step,a,"b,c",d\n1,0.123457,2.0,\n2,,3.0,\n3,4.0,,1.0\n4,5.0,,\n'
    run = tmp_path / "run"
    run.mkdir()
    assert csv_text(run, 0, *rows) == text
    assert sorted(p.name for p in run.iterdir()) == ["metrics.csv"]


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    csv_text(tmp_path, 0, *((step, {"a": float(step)}) for step in (1, 2, 3)))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1")  # what was written of the row of step 12 is no row of step 1
    assert (
        csv_text(tmp_path, 2, (3, {"a": 7.0, "b": 8.0})) == "step,a,b\n1,1.0,\n2,2.0,\n3,7.0,8.0\n"
    )
    assert csv_text(tmp_path, 0, (1, {"a": 9.0})) == "step,a\n1,9.0\n"  # from the start


def test_an_evaluation_at_the_end_of_a_run_is_one_row(tmp_path: Path) -> None:
    for done, value in ((0, 0.5), (4, 0.75)):
        logger = CsvLogger(tmp_path, 4, done)
        logger.log_eval(4, {"eval/accuracy": value}, [{"text": "a"}])
        logger.close()
    assert (tmp_path / "eval.csv").read_text() == "step,eval/accuracy\n4,0.5\n"


def test_each_is_an_entry_point_and_has_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"]["grpo_envs.loggers"]
    for logger in (CsvLogger, *TRACKERS):
        module, _, name = declared[getattr(logger, "name", "csv")].partition(":")
        assert getattr(import_module(module), name) is logger
    assert {tracker.name for tracker in TRACKERS} <= set(project["optional-dependencies"])

"""Which run a path means, and which model."""

import json
import os
from pathlib import Path

import pytest

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.newest import model_in, model_path, newest_run, run_at


def run(path: Path, moment: int, *, checkpoint: bool = True) -> Path:
    """A run that began at a moment."""
    RunFolder(path).claim({"seed": 0}, [])
    os.utime(path / "config.json", (moment, moment))
    if checkpoint:
        (path / "checkpoints" / "last").mkdir(parents=True)
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two runs of one environment, one of another, and what else lies in outputs/."""
    folder = tmp_path / "outputs"
    run(folder / "math" / "2026-01-02_10-00-00", 100)
    run(folder / "math" / "2026-01-01_10-00-00", 200)  # it was resumed last
    run(folder / "code", 150)
    answers = folder / "evaluate" / "math" / "tiny-12345678"
    answers.mkdir(parents=True)
    (answers / "config.json").write_text('{"env": {}, "model": "tiny"}')
    (folder / "math" / "empty").mkdir()
    (folder / "math" / ".trash").mkdir()
    (folder / "math" / "broken").mkdir()
    (folder / "math" / "broken" / "config.json").write_text("[1, {")
    return folder


def test_a_folder_of_runs_means_the_one_that_began_last(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outputs.parent)
    newest = Path("outputs/math/2026-01-01_10-00-00")
    for given in ("outputs", "outputs/math", "."):
        assert run_at(Path(given)) == Path(given) / newest.relative_to(given)
        said = capsys.readouterr().err
        assert said == f"{given}: its newest run is {newest}\n"
    assert model_path("outputs/math") == str(newest)


def test_a_run_of_the_same_moment_is_chosen_by_its_name(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, 100) for name in ("b", "c", "a")]
    assert newest_run(tmp_path) == runs[1]


def test_a_run_a_model_and_what_is_not_there_mean_themselves(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, adapters = outputs / "model", outputs / "adapters"
    for folder, name in ((model, "config.json"), (adapters, "adapter_config.json")):
        folder.mkdir()
        (folder / name).write_text('{"model_type": "qwen3"}')
        run(folder / "later", 900)  # a run in it makes it no folder of runs
    paths = (outputs / "code", model, adapters, outputs / "evaluate", outputs / "nowhere")
    for path in paths:
        assert run_at(path) == path
    assert model_path(None) is None
    assert model_path("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert capsys.readouterr().err == ""


def test_a_run_that_logs_metrics_alone_is_one(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.jsonl").touch()
    assert newest_run(tmp_path) == tmp_path / "old"


def test_folders_far_below_are_not_looked_at(tmp_path: Path) -> None:
    run(tmp_path / "a" / "b" / "c" / "d", 100)
    assert newest_run(tmp_path) is None
    assert newest_run(tmp_path / "a") == tmp_path / "a" / "b" / "c" / "d"


def test_the_model_of_a_run_is_its_last_checkpoint(outputs: Path, tmp_path: Path) -> None:
    assert model_in(outputs / "code") == outputs / "code" / "checkpoints" / "last"
    assert model_in(outputs / "nowhere") == outputs / "nowhere"
    bare = run(tmp_path / "bare", 100, checkpoint=False)
    with pytest.raises(ConfigError, match=r"bare: a run without a checkpoint yet\.$"):
        model_in(bare)


def test_training_from_a_folder_of_runs_is_refused(outputs: Path) -> None:
    """Its newest run is another one as soon as the training has begun."""
    from torch import device

    from grpo_policy.models import resolve

    with pytest.raises(ConfigError) as raised:
        resolve(ModelConfig(path=str(outputs)), device("cpu"))
    newest = outputs / "math" / "2026-01-01_10-00-00"
    assert str(raised.value).endswith(f"a folder of runs. Give model.path={newest}.")
    assert "\n" not in str(raised.value)


def test_a_model_of_transformers_stays_one_where_a_run_wrote_into_it(tmp_path: Path) -> None:
    config = {"model_type": "qwen3", "overrides": [], "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_in(tmp_path) == tmp_path

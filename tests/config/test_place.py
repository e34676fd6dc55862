"""The folder that a command takes before Hydra writes into it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from grpo_envs.config import place
from grpo_envs.config.place import Place
from grpo_envs.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def nothing_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    place._held.close()
    place._taken.clear()


def config(folder: str, resume: str | None = None, launcher: str = "Basic") -> DictConfig:
    """What Hydra has composed of a command."""
    hydra = {
        "run": {"dir": folder},
        "sweep": {"dir": folder},
        "launcher": {"_target_": launcher},
        "overrides": {"hydra": [], "task": []},
    }
    made = OmegaConf.create({"hydra": hydra, "resume": resume})
    OmegaConf.set_readonly(made, True)
    return made


def taken(new: str = "outputs/math/now") -> str:
    cfg = config(new)
    Place(new).on_run_start(cfg)
    return str(cfg.hydra.run.dir)


def test_a_new_run_whose_folder_is_taken_gets_the_next_name() -> None:
    names = [taken() for _ in range(3)]
    assert names == ["outputs/math/now", "outputs/math/now_2", "outputs/math/now_3"]
    assert all(Path(name).is_dir() for name in names)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_that_start_together_get_a_folder_each(tmp_path: Path) -> None:
    start, begin = os.pipe()
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(begin)
                os.read(start, 1)  # until all are there
                Path(taken(), "who").write_text(str(number))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(begin)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    os.close(start)
    folders = [*(tmp_path / "outputs" / "math").iterdir()]
    assert len(folders) == 8
    assert {(folder / "who").read_text() for folder in folders} == set("01234567")


def test_a_folder_that_the_command_names_is_that_folder() -> None:
    """Whose it is, the run decides: it may go on in it."""
    Path("here").mkdir()
    cfg = config("here")
    Place("outputs/math/now").on_run_start(cfg)
    assert cfg.hydra.run.dir == "here"


@pytest.mark.parametrize(
    ("resume", "folder", "said"),
    [
        pytest.param("nowhere", "nowhere", "resume=nowhere: no checkpoint in it."),
        pytest.param("full", "full", "resume=full: no checkpoint in it."),
        pytest.param(
            "a", "b", "resume=a with hydra.run.dir=b. Allowed: one of them.", id="two folders"
        ),
    ],
)
def test_what_is_no_run_is_not_resumed_and_nothing_is_written(
    resume: str, folder: str, said: str, tmp_path: Path
) -> None:
    for name in "ab":
        RunFolder(Path(name)).claim({}, [])
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as raised:
        Place("new").on_run_start(config(folder, resume))
    assert str(raised.value) == f"grpo_envs: {said}"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_whose_folder_another_one_is_at_work_in_gets_the_next_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sweep that has ended, or was killed, holds nothing: the same command goes on in it."""
    with RunFolder(Path("multirun/it's")).locked():
        cfg = config("multirun/it's")
        Place("new").on_multirun_start(cfg)
        assert cfg.hydra.sweep.dir == "multirun/it's_2"
        assert cfg.hydra.overrides.hydra == ["hydra.sweep.dir='multirun/it\\'s_2'"]
        said = "multirun/it's: another sweep is using it; this one goes to multirun/it's_2\n"
        assert capsys.readouterr().err == said
        place._held.close()
    cfg = config("multirun/it's")
    Place("new").on_multirun_start(cfg)
    assert (cfg.hydra.sweep.dir, cfg.hydra.overrides.hydra) == ("multirun/it's", [])
    assert capsys.readouterr().err == ""


def test_slurm_without_slurm_is_one_line_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    with pytest.raises(SystemExit, match=r"^grpo_envs: hydra/launcher=submitit_slurm: no sbatch"):
        Place("new").on_multirun_start(config("multirun/seed", launcher=target))
    assert not Path("multirun").exists()
    for name in ("sbatch", "srun"):
        (tmp_path / name).touch(mode=0o755)
    Place("new").on_multirun_start(config("multirun/seed", launcher=target))
    assert Path("multirun/seed").is_dir()


@pytest.mark.parametrize("override", ["hydra/launcher=submitit_slurm", "hydra/sweeper=optuna"])
def test_what_only_a_sweep_heeds_is_refused_for_one_run(override: str) -> None:
    cfg = config("outputs/math/now")
    OmegaConf.set_readonly(cfg, False)
    cfg.hydra.overrides.hydra += ["hydra/launcher=basic", "hydra.launcher.n=1", override]
    with pytest.raises(
        SystemExit, match=f"^grpo_envs: {override} is for a sweep. Allowed: with -m"
    ):
        Place("outputs/math/now").on_run_start(cfg)
    assert not Path("outputs").exists()


def test_a_command_that_did_not_begin_leaves_nothing(tmp_path: Path) -> None:
    folder = Path(taken())
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").touch()
    (folder / "run.log").touch()
    place.abandon()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["config.json", "checkpoints", "notes.txt"])
def test_a_run_that_has_begun_and_what_is_not_ours_stay(name: str) -> None:
    folder = Path(taken())
    (folder / name).touch()
    place.abandon()
    assert (folder / name).exists()


def test_the_folder_of_another_run_at_work_and_the_working_folder_stay(tmp_path: Path) -> None:
    folder = Path(taken())
    with RunFolder(folder).locked():
        place.abandon()
    assert folder.is_dir()
    RunFolder(tmp_path).abandon()
    assert tmp_path.is_dir()

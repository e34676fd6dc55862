"""The commands as a user gives them: what a run leaves behind, how it stops, goes on, complains."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_envs.env.plugins import conf_dir
from tests.support import forked

ENVIRONMENTS = ", ".join(sorted(path.stem for path in conf_dir().glob("env/*.yaml")))
QUICK = [
    "trainer.steps=3",
    "trainer.prompts_per_step=2",
    "trainer.eval_problems=8",
    "agent.group_size=4",
    "sampler.max_new_tokens=24",
]


def grpo(cwd: Path, *args: str, module: str = "run") -> subprocess.CompletedProcess[str]:
    return forked.run(cwd, f"grpo_envs.{module}", *args)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run, made once, in an interpreter of its own: its folder and what it printed."""
    cwd = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "grpo_envs.run", "env=math", "model=qwen", *QUICK]
    done = subprocess.run(
        [*command, "hydra.run.dir=here"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return cwd / "here", done.stdout


def test_a_run_prints_what_a_newcomer_needs(finished: tuple[Path, str]) -> None:
    _, printed = finished
    assert "model: the bundled tiny Qwen3 (model.size=auto on CPU)" in printed
    assert "step 3/3  reward " in printed
    assert "before" in printed
    assert "checkpoint: here/checkpoints/last" in printed


def test_metrics_have_the_contracts_names(finished: tuple[Path, str]) -> None:
    out, _ = finished
    metrics = rows(out / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    names = """reward/mean reward/std reward/correct reward/format reward/invalid group/zero_std
        completion/length completion/truncated loss/policy loss/kl loss/clipped policy/entropy
        policy/sample_gap optim/grad_norm optim/lr time/sample time/score time/update
        tokens/per_second memory/process memory/left"""
    for row in metrics:
        assert set(names.split()) <= set(row)
        assert row["policy/sample_gap"] < 1e-4


def test_completions_can_be_read_and_added_up(finished: tuple[Path, str]) -> None:
    out, _ = finished
    completions = rows(out / "completions.jsonl")
    assert len(completions) == 3 * 2 * 4
    for row in completions:
        assert row["prompt"].startswith("What is ")
        parts = row["parts"]
        assert row["reward"] == pytest.approx(parts["correct"] + 0.1 * parts["format"])
        assert row["finish_reason"] in ("stop", "length")
    first = [row for row in completions if row["step"] == 1]
    mean = rows(out / "metrics.jsonl")[0]["reward/mean"]
    assert sum(row["reward"] for row in first) / 8 == pytest.approx(mean, rel=1e-5)
    assert len({row["problem"] for row in first}) == 2


def test_evaluations_stand_before_and_after(finished: tuple[Path, str]) -> None:
    out, _ = finished
    evals = rows(out / "eval.jsonl")
    assert [row["step"] for row in evals] == [0, 3]
    assert 0 <= evals[0]["eval/accuracy"] <= 1
    assert evals[0]["eval/ci95"] > 0
    result = json.loads((out / "done.json").read_text())["metrics"]
    assert result["eval/accuracy"] == evals[1]["eval/accuracy"]


def test_the_checkpoint_is_a_transformers_folder(finished: tuple[Path, str]) -> None:
    out, _ = finished
    last = out / "checkpoints" / "last"
    assert last.resolve().name == "step_000003"
    model = AutoModelForCausalLM.from_pretrained(last)
    tokenizer = AutoTokenizer.from_pretrained(last)
    assert model.config.model_type == "qwen3"
    assert tokenizer.decode(tokenizer("<think>1</think>")["input_ids"]) == "<think>1</think>"


def test_everything_of_a_run_is_in_its_folder(finished: tuple[Path, str]) -> None:
    out, _ = finished
    assert (out / ".hydra" / "config.yaml").is_file()
    assert "held-out accuracy" in (out / "run.log").read_text()
    assert list((out / "tensorboard").glob("events.*"))
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_the_same_seed_repeats_and_another_differs(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    out, _ = finished
    args = ["logger=files", *QUICK, "trainer.eval_problems=0", "trainer.steps=1"]
    assert grpo(tmp_path, "-m", *args, "seed=0,1", "hydra.sweep.dir=runs").returncode == 0
    folders = sorted((tmp_path / "runs").glob("*seed-*/"))
    texts = [row["text"] for row in rows(out / "completions.jsonl") if row["step"] == 1]
    assert [row["text"] for row in rows(folders[0] / "completions.jsonl")] == texts
    prompts = {row["prompt"] for row in rows(out / "completions.jsonl")}
    other = {row["prompt"] for row in rows(folders[1] / "completions.jsonl")}
    assert not prompts & other
    assert rows(folders[0] / "eval.jsonl") == []


def test_a_rerun_into_the_same_folder_is_done_or_refused(finished: tuple[Path, str]) -> None:
    out, _ = finished
    again = grpo(out.parent, *QUICK, "hydra.run.dir=here")
    assert again.returncode == 0
    assert "already done" in again.stdout
    other = grpo(out.parent, *QUICK, "hydra.run.dir=here", "agent.loss.beta=0")
    assert other.returncode == 1
    assert (
        other.stderr == "grpo_envs: here holds another run: agent.loss.beta=0.04 then, 0.0 now.\n"
    )


def test_ctrl_c_saves_says_how_to_go_on_and_that_command_does(tmp_path: Path) -> None:
    """That it then ends as a run that was left alone is test_resume.py's."""
    args = [*QUICK, "trainer.steps=6", "logger=files"]
    process = forked.Forked(tmp_path, "grpo_envs.run", *args, "hydra.run.dir=cut")
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    told = printed.strip().splitlines()[-1].split()
    assert told[:3] == ["python", "-m", "grpo_envs.run"]
    assert told[-1] == "resume=cut"
    assert 2 <= len(rows(metrics)) < 6
    resumed = grpo(tmp_path, *told[3:])
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    steps = [row["step"] for row in rows(metrics)]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_resume_with_another_configuration_names_the_keys(finished: tuple[Path, str]) -> None:
    out, _ = finished
    done = grpo(out.parent, *QUICK, "resume=here", "agent.loss.beta=0.5")
    assert done.returncode == 1
    assert done.stderr == (
        "grpo_envs: resume=here: another configuration: agent.loss.beta=0.04 then, 0.5 now. "
        "As it was: agent.loss.beta=0.04\n"
    )


def test_resuming_what_does_not_exist(tmp_path: Path) -> None:
    done = grpo(tmp_path, "resume=nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("grpo_envs: resume=")
    assert done.stderr.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_mistake_leaves_no_folder_of_a_new_run(tmp_path: Path) -> None:
    """One that the environment finds, after Hydra has written its files."""
    done = grpo(tmp_path, "env.levle=2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not [*tmp_path.iterdir()]


def test_a_bug_is_one_line_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text('{"config": 3}')  # which no run of ours writes
    done = grpo(tmp_path, "hydra.run.dir=here")
    assert done.returncode == 1
    assert done.stderr.startswith("grpo_envs: AttributeError: ")
    assert done.stderr.endswith("(HYDRA_FULL_ERROR=1 shows where)\n")
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback" in (tmp_path / "here" / "run.log").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["env=maths"],
            f"env=maths. Allowed: {ENVIRONMENTS}. Did you mean 'math'?",
        ),
        (["agent.group_sise=8"], "Did you mean 'agent.group_size'?"),
        (["agent.group_size=eight"], "agent.group_size=eight. Allowed: a whole number."),
        (["model.path=nowhere"], "model.path=nowhere: no such folder"),
        (["trainer.steps=0"], "trainer.steps=0. Allowed: 1 or more."),
        (
            ["--foo"],
            "unrecognized arguments: --foo. Allowed: options of --hydra-help",
        ),
        (["--multirn"], "then key=value. Did you mean '--multirun'?"),
        (
            ["hydra/launcher=submitit_slurm"],
            "hydra/launcher=submitit_slurm in a single run, which has no use for it. Allowed: in a "
            "sweep, python -m grpo_envs.run -m ...",
        ),
        (["hydra.launcher=slurm"], "hydra.launcher=slurm in a single run"),
        (
            ["seed=1,2"],
            "seed=1,2: one run takes one value. Allowed: -m first, for a run of each",
        ),
        (["-m", "env=maht,math", "hydra.sweep.dir=out"], "env=maht. Allowed: "),
        (["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "ValueError: n_jobs == 0"),
        *(
            pytest.param(args, said, marks=pytest.mark.slow)
            for args, said in (
                (["env.levle=2"], "no env.levle. Allowed: env.split, env.level"),
                (["env.group_size=4"], "no env.group_size. Allowed: env.split, env.level"),
                (["env.dataset=empty.jsonl"], "env.dataset=empty.jsonl: the file is empty"),
                (["env.dataset=other.jsonl"], "no column 'prompt'."),
                (["trainer.device=cuda"], "trainer.device=cuda: no CUDA GPU here."),
                (["env.split=eval"], "env.split is set by the run"),
            )
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    args: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"question": "1+1?", "gold": "2"}\n')
    done = grpo(tmp_path, *args, "hydra.run.dir=out")
    assert done.returncode == 1
    assert done.stderr.startswith("grpo_envs: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_a_dataset_with_columns_of_its_own_trains(tmp_path: Path) -> None:
    lines = [{"question": f"What is {i}+{i}?", "answer": f"so #### {2 * i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = grpo(
        tmp_path,
        "env.dataset=rows.jsonl",
        "env.columns={prompt: question, gold: answer}",
        *QUICK,
        "logger=files",
        "trainer.steps=1",
        "hydra.run.dir=out",
    )
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out" / "completions.jsonl")[0]["prompt"] in {
        line["question"] for line in lines
    }


def test_check_prints_a_table_and_exits_0(tmp_path: Path) -> None:
    done = grpo(tmp_path, "env=math", "env.level=4", "--problems", "10", module="check")
    assert done.returncode == 0, done.stderr
    assert "15 of 15 promises held" in done.stdout
    wrong = grpo(tmp_path, "env=maths", module="check")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        f"grpo_envs: env=maths. Allowed: {ENVIRONMENTS}. Did you mean 'math'?\n",
    )


def test_check_exits_1_on_a_broken_promise(tmp_path: Path) -> None:
    """Weights that pay for nothing but the shape: a wrong answer then earns the maximum."""
    done = grpo(tmp_path, "env.rewards={correct: 0, format: 1}", "--problems", "5", module="check")
    assert done.returncode == 1
    assert "no" in done.stdout


def test_plot_draws_the_run(finished: tuple[Path, str]) -> None:
    out, _ = finished
    done = grpo(out.parent, "here", "--out", "deep/curve.png", module="plot")
    assert done.returncode == 0, done.stderr
    assert (out.parent / "deep" / "curve.png").read_bytes().startswith(b"\x89PNG")
    wrong = grpo(out.parent, "nowhere", module="plot")
    assert wrong.stderr == "grpo_envs: nowhere: no metrics.jsonl. Give the folder of a run.\n"


def test_help_names_groups_and_keys_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['run', '--help']\n"
        "from grpo_envs.run import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("agent.group_size=8  ", "python -m grpo_envs.run env=math model=qwen"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())

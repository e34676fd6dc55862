"""Without extras: environments, graders, sandbox and `check`, beside any trainer's packages."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LIGHT = ("math", "code", "format", "countdown", "guess", "calculator", "sql", "mixture")
PLAY = """
import sys
import grpo_envs

for name in sys.argv[1:]:
    keywords = {"of": {"math": 1, "format": 1}} if name == "mixture" else {}
    env = grpo_envs.make(name, **keywords)
    env.reset(seed=0)
    _, reward, *_ = env.step("<answer>1</answer>")
    print(name, reward)
    env.close()
heavy = {"torch", "transformers", "accelerate", "datasets", "hydra", "omegaconf"} & {*sys.modules}
print("heavy:", sorted(heavy))
"""

INTEROP = """
import sys
from grpo_envs.interop import verl

(row,) = verl.rows_of("countdown", {}, "train", 1)
truth = row["reward_model"]["ground_truth"]
print(verl.compute_score(row["data_source"], "", truth, row["extra_info"])["score"])
assert not {"torch", "transformers", "datasets", "verl"} & {*sys.modules}
"""


def closure() -> set[str]:
    """The distributions that `pip install .` brings here, by name."""
    found, left = set[str](), ["grpo-envs"]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these distributions and no other."""
    folder = tmp_path_factory.mktemp("site")
    for name in closure():
        dist = metadata.distribution(name)
        for top in {file.parts[0] for file in dist.files or () if file.parts[0] != ".."}:
            link = folder / top
            if not link.exists():
                link.symlink_to(str(dist.locate_file(top)))
    return folder


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [site, ROOT, ROOT / "envs", ROOT / "agents"]
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )


def test_what_it_brings() -> None:
    assert not closure() & {"torch", "transformers", "accelerate", "datasets", "pandas", "plotly"}


def test_light_environments_grade(site: Path) -> None:
    done = run(site, "-W", "error", "-c", PLAY, *LIGHT)
    assert done.returncode == 0, done.stderr
    *played, heavy = done.stdout.splitlines()
    assert [line.split()[0] for line in played] == [*LIGHT]
    assert heavy == "heavy: []"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("run env=math", "a run needs torch, transformers, accelerate, safetensors, jinja2"),
        ("evaluate env=math", "a model's evaluation needs torch"),
        ("plan model.size=4b", "a plan needs torch"),
        ("check env=math env.dataset=x.csv", "env.dataset=x.csv needs datasets, pandas"),
    ],
)
def test_what_needs_the_trainer_says_how_to_get_it(site: Path, command: str, says: str) -> None:
    (site.parent / "x.csv").write_text("prompt,gold\n1+1?,2\n")
    module, *rest = command.split()
    done = run(site, "-m", f"grpo_envs.{module}", *rest)
    assert done.returncode
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"grpo_envs: {says}")
    assert line.endswith('pip install -e ".[train]"')
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of uv: pip needs over twenty minutes to resolve verifiers' dependencies."""
    folder = tmp_path_factory.mktemp("uv")
    pip("install", "--target", str(folder), "uv")
    return folder / "bin" / "uv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    (ours,) = folder.glob("*.whl")
    return ours


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "beside", ["verl==0.9.1", "verifiers==0.4.0", "openenv==0.10.0", "trl==1.16.0"]
)
def test_it_can_be_installed_beside(beside: str, uv: Path, wheel: Path) -> None:
    """Asks the package index, and installs nothing."""
    done = subprocess.run(
        [uv, "pip", "compile", "-", "--python", sys.executable, "--no-annotate"],
        input=f"grpo-envs @ {wheel.as_uri()}\n{beside}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert beside in done.stdout.splitlines()


def test_verl_scores_without_our_trainer(site: Path) -> None:
    done = run(site, "-W", "error", "-c", INTEROP)
    assert (done.returncode, done.stdout) == (0, "0.0\n"), done.stderr

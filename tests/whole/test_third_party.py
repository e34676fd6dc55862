"""Somebody else's packages, installed by pip beside ours: found by name, everywhere.

They are in `third_party/`, as their authors would write them. Ours is installed the same way: from
a wheel, or editable. `new_env` writes two more, whose tests are run as they are.
"""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THEIRS = [
    ROOT / "tests" / "third_party" / name
    for name in ("acme", "bare", "rival", "broken", "lab", "idea")
]
SMALL = [
    *("trainer=smoke", "trainer.eval_problems=4", "agent.group_size=2"),
    *("sampler.max_new_tokens=8", "logger.names=[jsonl]"),
]
WARNING = "grpo_envs.conf: 'cracked' (acme_broken.conf) is left out: OSError: no licence file"

FORKS = """
import json, os, sys
import grpo_envs.run
for args in json.loads(sys.argv[1]):
    print("\\0", end="", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        sys.argv[1:] = args
        grpo_envs.run.main()
        sys.exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@dataclass(frozen=True)
class Place:
    """A virtual environment of its own, and a folder to work in."""

    bin: Path
    cwd: Path

    def run(
        self, *args: str, cwd: Path | None = None, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        return subprocess.run(
            [str(self.bin / args[0]), *args[1:]],
            cwd=cwd or self.cwd,
            env={**own, "OMP_NUM_THREADS": "1", **(variables or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def grpo(self, *args: str) -> tuple[str, str]:
        done = self.run("python", "-m", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def refused(self, *runs: Sequence[str]) -> list[str]:
        """Return the last line that each run writes: forks of one process, imported once."""
        done = self.run("python", "-c", FORKS, json.dumps(runs))
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["256"] * len(runs), done.stdout  # each exits with 1
        return [lines[-1] for lines in map(str.splitlines, done.stderr.split("\0")[1:])]


def wheels(sources: Sequence[Path], out: Path) -> list[str]:
    for source in sources:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    return [str(wheel) for wheel in out.glob("*.whl")]


def made(folder: Path, *, editable: bool) -> Place:
    """A fresh virtual environment with ours, theirs, and two that `new_env` writes."""
    python = folder / "venv" / "bin" / "python"
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    base = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "base.pth").write_text(base)  # torch and the like, not the editable install of ours
    place = Place(python.parent, folder / "work")
    place.cwd.mkdir()
    for name in ("sort_letters", "shops --tools"):
        command = ["-m", "grpo_envs.new_env", *name.split(), "--out", str(folder)]
        subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=60)
    sources = [ROOT, *THEIRS, folder / "grpo-env-sort-letters", folder / "grpo-env-shops"]
    if editable:
        what = [word for source in sources for word in ("-e", str(source))]
    else:
        what = wheels(sources, folder / "dist")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, *what], check=True, timeout=240)
    return place


@pytest.fixture(
    scope="module",
    params=["wheel", pytest.param("editable", marks=pytest.mark.slow)],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(request.param)
    return made(folder, editable=request.param == "editable")


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_they_are_installed_as_said(place: Place) -> None:
    code = "import grpo_envs, acme_tasks; print(grpo_envs.__file__); print(acme_tasks.__file__)"
    paths = place.run("python", "-c", code).stdout.split()
    editable = "editable" in str(place.cwd)
    below = [Path(path).is_relative_to(place.cwd.parent / "venv") for path in paths]
    assert below == [not editable] * 2


def test_a_run_takes_environment_options_reward_and_logger(place: Place) -> None:
    _, err = place.grpo(
        *("grpo_envs.run", "env=shout", "agent=acme", *SMALL, "hydra.run.dir=all"),
        *("env.rewards={correct: 1.0, acme_vowels: {weight: 0.5, of: xyz}}",),
        "logger.names=[jsonl,acme_lines]",
    )
    assert [line for line in err.splitlines() if "Warning" in line] == [
        line for line in err.splitlines() if WARNING in line
    ]
    assert WARNING in err
    out = place.cwd / "all"
    config = json.loads((out / "config.json").read_text())["config"]
    assert (config["env.loud"], config["agent.loss.beta"]) == (2, 0.0)
    assert '"reward/acme_vowels"' in lines(out / "metrics.jsonl")[0]
    assert "Shout" in lines(out / "completions.jsonl")[0]
    assert [line.rpartition(" ")[0] for line in lines(out / "lines.txt")] == [
        "after 0 accuracy",
        *("1/2 reward", "1/2 completions", "2/2 reward", "2/2 completions"),
        "after 2 accuracy",
    ]


def test_check_finds_them_sound(place: Place) -> None:
    for overrides in (["env=shout"], ["env=whisper", "env.gap=+"], ["env=mumble", "env.mouth=2"]):
        printed, _ = place.grpo("grpo_envs.check", *overrides)
        assert "15 of 15" in printed


def test_gymnasium_makes_them(place: Place) -> None:
    code = """
import gymnasium, json, sys, grpo_envs
early = [name for name in sys.modules if name.startswith("acme")]
made = gymnasium.make("grpo_envs/shout-v0", split="eval", loud=1)
vector = gymnasium.make_vec("grpo_envs/whisper-v0", num_envs=4, group_size=2, gap="/",
    vectorization_mode="vector_entry_point")
prompts = vector.reset(seed=[3, 4])[0]
other = grpo_envs.make("shout", split="eval", loud=1).reset(seed=3)[0]
print(json.dumps([early, made.reset(seed=3)[0], other, prompts]))
"""
    done = place.run("python", "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    early, made, other, prompts = json.loads(done.stdout)
    assert early == []
    assert made == other
    assert made.endswith(", 1 times !")
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]


def test_gymnasium_tells_who_claims_a_name(place: Place) -> None:
    code = """
import gymnasium, grpo_envs
for make in (gymnasium.make, gymnasium.make_vec):
    try:
        make("grpo_envs/claimed-v0", **({"num_envs": 2} if make is gymnasium.make_vec else {}))
    except grpo_envs.errors.PluginError as error:
        print(error)
gymnasium.pprint_registry()
"""
    done = place.run("python", "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    said = "grpo_envs.envs: several packages claim 'claimed': acme_bare:WhisperEnv, "
    assert done.stdout.splitlines()[:2] == [said + "acme_rival:ClaimedEnv."] * 2


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("basic", marks=pytest.mark.slow),
        pytest.param("joblib", marks=pytest.mark.slow),
        pytest.param("submitit_local", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_takes_them_beside_ours(place: Place, launcher: str) -> None:
    agent = ["agent=acme_grpo", "agent.loss.beta=0.0"]
    args = ["env=math,shout,whisper", *SMALL, *agent, "logger.names=[jsonl,acme_lines]"]
    _, err = place.grpo(
        *("grpo_envs.run", "-m", *args, f"hydra/launcher={launcher}"),
        f"hydra.sweep.dir={launcher}",
    )
    assert WARNING in err
    for env in ("math", "shout", "whisper"):
        (done,) = (place.cwd / launcher).glob(f"*env-{env}_*/done.json")
        assert json.loads(done.read_text())["steps"] == 2
        assert len(lines(done.with_name("lines.txt"))) == 6
        assert '"acme/groups": 2.0' in lines(done.with_name("metrics.jsonl"))[0]


@pytest.mark.slow
def test_an_experiment_of_theirs_is_a_sweep(place: Place) -> None:
    place.grpo("grpo_envs.run", "experiment=acme", *SMALL, "hydra.sweep.dir=theirs")
    assert len(list((place.cwd / "theirs").glob("*/done.json"))) == 2


LAB = [
    *("agent=patient", "agent.clipping.norm=0.5", "agent.group_size=2", "sampler=generate"),
    *("sampler.rows=1", "sampler.max_new_tokens=8", "trainer=smoke", "trainer.eval_problems=4"),
    *("logger.names=[jsonl]", "env.rewards={correct: 1.0, acme_vowels: 0.5}"),
]


@pytest.mark.slow
def test_an_agent_and_a_sampler_of_theirs_train_and_go_on(place: Place) -> None:
    """Keys of their own, no file of ours: a run, and one that is cut off and goes on."""
    for name, more in (("whole", []), ("half", ["trainer.steps=1"])):
        place.grpo("grpo_envs.run", "env=shout", *LAB, *more, f"hydra.run.dir={name}")
    place.grpo("grpo_envs.run", "env=shout", *LAB, "resume=half")
    log = (place.cwd / "half" / "run.log").read_text()
    assert re.search(r"resuming \S*half after step 1", log)
    assert "REINFORCE, lr 0.0001, decay 0.99" in log
    whole, half = (
        [json.loads(line) for line in lines(place.cwd / name / "metrics.jsonl")]
        for name in ("whole", "half")
    )
    assert [row["step"] for row in half] == [1, 2]
    for a, b in zip(whole, half, strict=True):
        assert a["lab/baseline"] == b["lab/baseline"]
        assert a["optim/grad_norm"] == b["optim/grad_norm"] > 0
        assert a["lab/completions"] > 0
    weights = [
        (place.cwd / name / "checkpoints" / "last" / "model.safetensors").read_bytes()
        for name in ("whole", "half")
    ]
    assert weights[0] == weights[1]
    config = json.loads((place.cwd / "whole" / "config.json").read_text())["config"]
    assert (config["agent.name"], config["agent.decay"]) == ("reinforce", 0.99)
    assert (config["sampler.name"], config["sampler.rows"]) == ("generate", 1)


def test_an_advantage_and_an_objective_of_theirs_train(place: Place) -> None:
    mechanisms = [
        *("agent.advantage.name=ranked", "agent.advantage.options.power=0.5"),
        *("agent.loss.objective=leashed", "agent.loss.options.leash=0.1", "agent.minibatches=2"),
    ]
    args = ["env.rewards={correct: 1.0, acme_vowels: 0.5}", "sampler.max_new_tokens=16"]
    place.grpo(
        *("grpo_envs.run", "env=shout", *SMALL, *args, *mechanisms, "hydra.run.dir=mechanisms"),
        "agent.group_size=4",
    )
    sampled = [json.loads(line) for line in lines(place.cwd / "mechanisms" / "completions.jsonl")]
    ranks = {round(abs(row["advantage"]) ** 2, 6) for row in sampled}
    thirds = {0.0, *(round(i / 3, 6) for i in range(1, 4))}
    assert ranks <= thirds
    assert ranks - {0.0}, "some group had different rewards"


@pytest.mark.slow
def test_a_sweep_over_keys_of_theirs(place: Place) -> None:
    sweep = ["agent.decay=0.5,0.9", "sampler.rows=1,2", "trainer.steps=1"]
    args = [word for word in LAB if word.partition("=")[0] != "sampler.rows"]
    place.grpo("grpo_envs.run", "-m", "env=shout", *args, *sweep, "hydra.sweep.dir=lab")
    assert len(list((place.cwd / "lab").glob("*/done.json"))) == 4


def test_an_idea_takes_forty_lines() -> None:
    package = ROOT / "tests" / "third_party" / "idea" / "short_ideas"
    sources = [*package.rglob("*.py"), *package.rglob("*.yaml")]
    assert sum(len(lines(path)) for path in sources) <= 40


@pytest.mark.slow
def test_an_idea_is_swept_by_its_keys(place: Place) -> None:
    """An advantage, a clip schedule and a reward that sees the group: forty lines of theirs."""
    place.grpo(
        *("grpo_envs.run", "-m", "agent=relative", "agent.advantage.options.floor=0.1,0.5"),
        *("env.rewards={correct: 1.0, format: 0.1, shortest: 0.2}", "agent.group_size=4"),
        *("trainer=smoke", "trainer.eval_problems=4", "logger.names=[jsonl]"),
        "hydra.sweep.dir=idea",
    )
    runs = sorted((place.cwd / "idea").glob("*/done.json"))
    assert len(runs) == 2
    for run in runs:
        first, second = map(json.loads, lines(run.with_name("metrics.jsonl")))
        assert (first["schedule/clip_high"], second["schedule/clip_high"]) == (0.2, 0.1)
        assert 0 <= first["reward/shortest"] <= first["reward/correct"]
        for row in map(json.loads, lines(run.with_name("completions.jsonl"))):
            assert row["parts"]["shortest"] <= row["parts"]["correct"]


def test_help_has_their_keys(place: Place) -> None:
    text, _ = place.grpo("grpo_envs.run", "agent=reinforce", "sampler=generate", "--help")
    for row in (
        "patient         REINFORCE whose baseline moves slowly.",
        "agent.decay=0.9",
        "agent.clipping.norm=1.0         Gradients are scaled down to this L2 norm.",
        "sampler.rows=4                  Completions of a prompt that are sampled at once.",
    ):
        assert row in text


MISTAKES: dict[str, tuple[list[str], str]] = {
    "an environment": (["env=shoot"], "whisper. Did you mean 'shout'?"),
    "an option": (["agent=acne"], "Did you mean 'acme'?"),
    "a logger": (["logger.names=[acme_line]"], "Did you mean 'acme_lines'?"),
    "a keyword of an environment without YAML": (
        ["env=whisper", "env.gab=x"],
        "no env.gab. Allowed: env.split, env.gap, env.rewards. Did you mean 'gap'?",
    ),
    "a keyword that is needed": (["env=mumble"], "missing: env.mouth=..."),
    "a keyword of another type": (
        ["env=mumble", "env.mouth=wide"],
        "env.mouth=wide. Allowed: a whole number.",
    ),
    "a keyword of another type that its constructor takes": (
        ["env=whisper", "env.gap=3"],
        "env.gap=3. Allowed: text.",
    ),
    "a key of an agent": (
        ["agent=reinforce", "agent.deca=1"],
        "agent.decay, agent.clipping. Did you mean 'agent.decay'?",
    ),
    "a value of an agent": (["agent=reinforce", "agent.decay=1"], "0 to below 1."),
    "a value of a sampler": (["sampler=generate", "sampler.rows=0"], "1 or more."),
    "an option of an advantage": (
        ["agent.advantage.name=ranked", "agent.advantage.options.powr=2"],
        "no agent.advantage.options.powr. Allowed: agent.advantage.options.power. "
        "Did you mean 'power'?",
    ),
    "an option that an objective needs": (
        ["agent.loss.objective=leashed"],
        "missing: agent.loss.options.leash=...",
    ),
    "a reward": (["env.rewards={acme_vowel: 1}"], "Did you mean 'acme_vowels'?"),
    "a name that two claim": (
        ["env=claimed"],
        "grpo_envs.envs: several packages claim 'claimed': acme_bare:WhisperEnv, "
        "acme_rival:ClaimedEnv.",
    ),
    "a broken package that is asked for": (
        ["env=cracked"],
        "grpo_envs.envs: 'cracked' (acme_broken:CrackedEnv) cannot be loaded: "
        "OSError: no licence file",
    ),
}


@pytest.fixture(scope="module")
def refusals(place: Place) -> dict[str, str]:
    """What each mistake is answered with."""
    runs = [overrides for overrides, _ in MISTAKES.values()]
    return dict(zip(MISTAKES, place.refused(*runs), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_their_names(refusals: dict[str, str], mistake: str) -> None:
    line = refusals[mistake]
    assert line.startswith("grpo_envs: ")
    assert line.endswith(MISTAKES[mistake][1]), line


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("grpo-envs env=", {"env=math", "env=shout", "env=whisper", "env=sort_letters"}),
        ("grpo-envs agent=a", {"agent=acme"}),
        ("grpo-envs experiment=a", {"experiment=acme"}),
        ("grpo-envs agent=reinforce agent.clipping.", {"agent.clipping.norm="}),
        ("grpo-envs sampler=", {"sampler=default", "sampler=generate", "sampler=torch"}),
    ],
)
def test_the_shell_completes_their_names(place: Place, typed: str, offered: set[str]) -> None:
    done = place.run("grpo-envs", "-sc", "query=bash", variables={"COMP_LINE": typed})
    assert done.returncode == 0, done.stderr
    assert offered <= set(done.stdout.split())


def test_what_new_env_writes_passes_its_own_tests(place: Place) -> None:
    folder = place.cwd.parent / "grpo-env-sort-letters"
    done = place.run("python", "-m", "pytest", "-q", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
    printed, _ = place.grpo("grpo_envs.check", "env=sort_letters", "env.length=9")
    assert "15 of 15" in printed


def test_what_new_env_writes_with_tools_passes_its_own_tests(place: Place) -> None:
    folder = place.cwd.parent / "grpo-env-shops"
    done = place.run("python", "-m", "pytest", "-q", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
    printed, _ = place.grpo("grpo_envs.check", "env=shops", "env.turns=2", "--problems", "5")
    assert "15 of 15" in printed

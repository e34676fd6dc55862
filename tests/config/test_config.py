"""Composition, conversion, and one clear line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException

from grpo_envs.config.composition import compose_run, register, sweep_dir_name
from grpo_envs.config.convert import explain
from grpo_envs.config.schema import RunConfig
from grpo_envs.env.plugins import conf_dir
from grpo_envs.errors import ConfigError

OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name not in ("hydra", "experiment")
)
ENVIRONMENTS = ", ".join(sorted(path.stem for path in conf_dir().glob("env/*.yaml")))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_converts(option: str) -> None:
    needed = {"model=hf": ["model.path=somewhere"], "agent=distill": ["agent.teacher=somewhere"]}
    assert isinstance(compose_run([option, *needed.get(option, [])]), RunConfig)


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: p.name)
def test_every_yaml_says_what_it_is(path: Path) -> None:
    comments = [x for x in path.read_text(encoding="utf-8").splitlines() if x.startswith("# ")]
    assert [c for c in comments if "@package" not in c]


@pytest.mark.parametrize("path", sorted(conf_dir().glob("experiment/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes(path: Path) -> None:
    assert compose_run([f"experiment={path.stem}"]).trainer.steps > 0


def test_the_default_is_the_source_objective() -> None:
    """grpo.md: beta 0.04, eps 0.2, mu 1, standardised with the unbiased std + 1e-4."""
    cfg = compose_run([])
    loss, advantage = cfg.agent.loss, cfg.agent.advantage
    assert (loss.beta, loss.clip_low, loss.clip_high, cfg.agent.epochs) == (0.04, 0.2, 0.2, 1)
    assert (advantage.name, advantage.ddof, advantage.eps) == ("standardized", 1, 1e-4)
    assert cfg.env == {"name": "math"}


def test_environment_keys_need_no_plus() -> None:
    cfg = compose_run(["env.level=3", "env.rewards={format: 0.5}", "env.terms=[2,3]"])
    assert cfg.env_keywords == {"level": 3, "rewards": {"format": 0.5}, "terms": [2, 3]}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "env=maths",
            f"env=maths. Allowed: {ENVIRONMENTS}. Did you mean 'math'?",
        ),
        ("agent.group_sise=8", "no agent.group_sise=8. Allowed: *Did you mean 'agent.group_size'?"),
        ("agent.group_size=eight", "agent.group_size=eight. Allowed: a whole number."),
        (
            "agent.group_size=1",
            "agent.group_size=1 with agent.advantage.name=standardized: *2 or more",
        ),
        (
            "agent.loss.ratio=tokn",
            "agent.loss.ratio=tokn. Allowed: token, *sequence_product. Did you mean 'token'?",
        ),
        ("agent.loss.kl=k1", "agent.loss.kl=k1 with agent.loss.kl_in=loss: *gradient*kl_in=reward"),
        (
            "agent.loss.cispo_cap=0.3",
            "agent.loss.cispo_cap is now agent.loss.options.cap. Write agent.loss.options.cap=0.3.",
        ),
        (
            "agent.loss.vespo_k_negative=2",
            "agent.loss.vespo_k_negative is now agent.loss.options.k_negative.",
        ),
        ("agent.minibatches=17", "agent.minibatches=17 with trainer.prompts_per_step=16: *1 to 16"),
        (
            "agent.sync_reference_every=2 model.lora.rank=4",
            "agent.sync_reference_every=2 with model.lora.rank=4: *Allowed: 0",
        ),
        (
            "agent.sync_reference_every=2 agent.loss.beta=0",
            "agent.sync_reference_every=2 with agent.loss.beta=0: there is no reference",
        ),
        ("agent.overlong.truncated=masc", "agent.overlong.truncated=masc. *Did you mean 'mask'?"),
        (
            "agent.overlong.in_baseline=false",
            "in_baseline=false with *truncated=score*truncated=mask",
        ),
        (
            "agent.overlong.truncated=penalise agent.overlong.buffer=0.2",
            "truncated=penalise with agent.overlong.buffer=0.2: *penalised twice",
        ),
        ("agent=dapi", "agent=dapi. Allowed: cispo, *Did you mean 'dapo'?"),
        ("agent=distill", "agent.reward_weight=0 without agent.teacher: *agent.teacher=FOLDER"),
        ("agent.teacher_weight=0", "agent.teacher_weight=0.0. Allowed: above 0"),
        (
            "agent.sync_reference_decay=0.9",
            "agent.sync_reference_decay=0.9 with agent.sync_reference_every=0: *1 or more",
        ),
        (
            "agent.sync_reference_decay=1 agent.sync_reference_every=1",
            "agent.sync_reference_decay=1.0. Allowed: 0 or more, below 1",
        ),
        (
            "agent=gdpo agent.advantage.turns=per_turn",
            "agent.advantage.turns=per_turn with agent.advantage.name=gdpo*Allowed: episode",
        ),
        (
            "agent=gdpo agent.loss.kl_in=reward",
            "agent.loss.kl_in=reward with agent.advantage.name=gdpo: *kl_in=loss",
        ),
        (
            "agent=gdpo agent.overlong.buffer=0.2",
            "agent.overlong.buffer=0.2 with agent.advantage.name=gdpo: *{length: WEIGHT}",
        ),
        (
            "agent=gdpo agent.overlong.truncated=penalise",
            "agent.overlong.truncated=penalise with agent.advantage.name=gdpo: *score, mask",
        ),
        (
            "agent=vespo agent.loss.ratio=sequence",
            "agent.loss.ratio=sequence with agent.loss.objective=vespo, *Allowed: token",
        ),
        ("agent.loss.clip_high=-1", "agent.loss.clip_high=-1. Allowed: 0 or more"),
        ("agent.lr=high", "agent.lr=high. Allowed: a number, or null."),
        ("agent.group_size=1.5", "agent.group_size=1.5. Allowed: a whole number."),
        ("trainer.steps=null", "trainer.steps=null. Allowed: a whole number."),
        ("model.path=[a,b]", "model.path=[a,b]. Allowed: text, or null."),
        ("model.gradient_checkpointing=maybe", "checkpointing=maybe. Allowed: true or false."),
        ("agent.lr=-1", "agent.lr=-1.0. Allowed: 0 or more, or null"),
        ("sampler.temperature=0", "sampler.temperature=0. Allowed: above 0"),
        ("model=hf", "missing: model.path=..."),
        ("model.size=0.7b", "model.size=0.7b. Allowed: *0.6b*Did you mean"),
        ("model=gpt", "model=gpt. Allowed: hf, qwen"),
        ("trainer.device=cudo", "trainer.device=cudo. Allowed: *Did you mean 'cuda'?"),
        ("trainer.steps=0", "trainer.steps=0. Allowed: 1 or more"),
        ("logger.names=[consol]", "logger.names=consol. Allowed: *Did you mean 'console'?"),
        ("enw=math", "no enw=math. Allowed: env, *Did you mean 'env'?"),
        ("agent", "agent: not of the form key=value"),
        ("env.dataset=a(1).csv", "its value cannot be read.*in quotes, as in 'env.dataset="),
        ("env.columns={prompt:ä}", "its value cannot be read.*in quotes, as in 'env.columns="),
        ("+agent.foo=2", "an added (+) key does not exist: *foo"),
        ("seed=x", "seed=x. Allowed: a whole number."),
        ("agent.lr=inf", "agent.lr=inf. Allowed: 0 or more, or null"),
        ("agent.weight_decay=inf", "agent.weight_decay=inf. Allowed: 0 or more"),
        ("agent=sapo agent.loss.options.tau_positive=inf", "tau_positive=inf. Allowed: above 0"),
        (
            "trainer.target=nan trainer.eval_every=1",
            "trainer.target=nan. Allowed: a finite number, or null",
        ),
        (
            "trainer.evaluations={hard:{level:3}} trainer.eval_problems=0",
            "trainer.evaluations={hard: {level: 3}} with trainer.eval_problems=0: *1 or more",
        ),
        ("agent.lr={0:1}", "agent.lr={0:1}. Allowed: a number, or null."),
        ("run.tags=paper", "run.tags=paper. Allowed: [a, list]."),
        ("run.tags={a:1}", "run.tags={a:1}. Allowed: [a, list]."),
        ("trainer.evaluations=[a]", "trainer.evaluations=[a]. Allowed: {name: value, ...}."),
        ("trainer.evaluations={1:{level:2}}", "trainer.evaluations={1:{level:2}}*Key 1 (int)"),
    ],
)
def test_a_mistake_ends_with_one_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(override.split())
    line = str(caught.value)
    assert "\n" not in line
    position = 0
    for part in said.split("*"):
        assert part in line[position:], line
        position = line.index(part, position) + len(part)


def test_decisive_keys_leave_out_what_a_resume_may_change() -> None:
    one = compose_run([])
    other = compose_run(["trainer.steps=999", "trainer.save_every=3", "logger=files", "resume=x"])
    assert one.decisive() == other.decisive()
    assert one.identity() != other.identity()  # of another length: not the same run
    assert one.decisive() != compose_run(["agent.loss.beta=0"]).decisive()
    assert one.decisive() != compose_run(["env.level=2"]).decisive()


def test_a_sweeps_folder_is_named_by_its_keys() -> None:
    register()
    fixed = ["env=math,code", "trainer.steps=5"]
    few, more = ([*fixed, f"seed={seeds}"] for seeds in ("0,1", "range(0,9)"))
    assert sweep_dir_name(few) == sweep_dir_name(more) == "env_seed_trainer.steps-5"
    assert sweep_dir_name([*few, "agent.lr=1e-5"]) != sweep_dir_name([*few, "agent.lr=1e-4"])


_INDECISIVE = ("resume", "logger", "steps", "eval_every", "save_every", "device", "objective")


def test_under_a_hundred_keys() -> None:
    """A newcomer can read them all; --help lists those that matter."""
    assert len(compose_run([]).decisive()) + len(_INDECISIVE) < 90


@pytest.mark.slow
def test_the_next_hydra_works(tmp_path: Path) -> None:
    """A release candidate of Hydra 1.4, before ours on the path: no warning, one run, one sweep."""
    wanted = [f"--target={tmp_path / 'site'}", "--quiet", "--pre", "hydra-core>=1.4.0rc0,<1.5"]
    got = subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=False)
    if got.returncode:
        pytest.skip("Hydra 1.4 cannot be had here")
    code = "import warnings; warnings.simplefilter('error'); from grpo_envs.run import main; main()"
    small = ["trainer=smoke", "trainer.eval_problems=4", "agent.group_size=2", "logger=files"]
    small += ["sampler.max_new_tokens=8", "hydra.sweep.dir=many"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    version = [sys.executable, "-c", "import hydra; print(hydra.__version__)"]
    assert subprocess.check_output(version, env=variables, text=True).startswith("1.4.")
    for args in (["env=math"], ["-m", "seed=0,1"], ["-m", "seed=2,3", "hydra/launcher=joblib"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *args, *small],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    assert len(list(tmp_path.glob("many/*/done.json"))) == 4


@pytest.mark.parametrize(
    ("option", "extra"),
    [("hydra/launcher/submitit_slurm", "sweep"), ("hydra/sweeper/optuna", "optuna")],
)
def test_an_option_of_hydra_that_a_package_brings_names_the_extra(option: str, extra: str) -> None:
    error = MissingConfigException("", option, ["basic"])
    group, _, name = option.rpartition("/")
    assert str(explain(error)) == f'{group}={name} needs a package: pip install -e ".[{extra}]"'
    unknown = MissingConfigException("", f"{group}/basik", ["basic"])
    said = f"{group}=basik. Allowed: basic. Did you mean 'basic'?"
    assert str(explain(unknown)) == said


def test_the_text_of_a_template_decides_a_run(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    decided = []
    for text in ("one", "two", "one"):
        template.write_text(text, encoding="utf-8")
        decided.append(compose_run([f"model.chat_template={template}"]).decisive())
    assert decided[0] == decided[2] != decided[1]

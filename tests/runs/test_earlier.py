"""Runs of the version whose objectives had their options beside those of all: read as today's."""

from pathlib import Path

import pytest

from grpo_agent.loss_options import OPTIONS
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import RunFolder, require_alike
from grpo_envs.runs.newest import newest_cut_off

THEN = {
    **{"cispo_cap": 5.0, "sapo_tau_positive": 1.0, "sapo_tau_negative": 1.05},
    **{"vespo_k_positive": 2.0, "vespo_lambda_positive": 3.0},
    **{"vespo_k_negative": 3.0, "vespo_lambda_negative": 2.0},
    **{"cov_share": 2e-4, "cov_low": 1.0, "cov_high": 5.0, "cov_kl": 1.0},
}
"""The eleven keys below agent.loss with their defaults, as that version wrote them."""
NOW = {
    **{("cispo", "cap"): "cispo_cap", ("kl_cov", "penalty"): "cov_kl"},
    **{("sapo", f"tau_{sign}"): f"sapo_tau_{sign}" for sign in ("positive", "negative")},
    **{
        ("vespo", f"{letter}_{sign}"): f"vespo_{letter}_{sign}"
        for letter in ("k", "lambda")
        for sign in ("positive", "negative")
    },
    **{("clip_cov", name): f"cov_{name}" for name in ("share", "low", "high")},
    ("kl_cov", "share"): "cov_share",
}
"""The key of then for each option of now."""


def then(folder: Path, objective: str, **changed: float) -> RunFolder:
    """The folder of a run that was begun with that version."""
    run = RunFolder(folder)
    keys = {f"agent.loss.{key}": value for key, value in {**THEN, **changed}.items()}
    words = [f"agent.loss.{key}={value:g}" for key, value in changed.items()]
    run.claim({"agent.loss.objective": objective, **keys}, words)
    return run


def now(objective: str, **options: float) -> dict[str, object]:
    """The configuration of the same run today."""
    keys = {f"agent.loss.options.{key}": value for key, value in options.items()}
    return {"agent.loss.objective": objective, **keys}


def test_an_option_of_now_is_written_as_these_tests_write_it() -> None:
    words = ["agent=cispo", "agent.loss.options.cap=4"]
    found = compose_run(words).identity()
    assert now("cispo", cap=4).items() <= found.items()
    assert [key for key in found if "loss.options" in key] == ["agent.loss.options.cap"]


def test_every_option_of_now_has_a_key_of_then() -> None:
    assert {(name, key) for name, options in OPTIONS.items() for key in options} == set(NOW)


@pytest.mark.parametrize("objective", OPTIONS)
def test_a_run_of_then_is_todays_with_the_same_options(objective: str, tmp_path: Path) -> None:
    usual = now(objective)
    then(tmp_path / "usual", objective).require_same(usual)
    for name, option in OPTIONS[objective].items():
        old, value = NOW[objective, name], option.default * 1.5
        assert THEN[old] == option.default
        run = then(tmp_path / name, objective, **{old: value})
        run.require_same(now(objective, **{name: value}))
        assert run.overrides == [f"agent.loss.options.{name}={value:g}"]
        with pytest.raises(ConfigError, match=rf"options\.{name}={value} then, null now"):
            run.require_same(usual)


def test_a_checkpoint_of_then_resumes_with_the_same_options_only(tmp_path: Path) -> None:
    before = {"agent.loss.objective": "cispo", "agent.loss.cispo_cap": 4.0}
    require_alike(tmp_path, before, now("cispo", cap=4))
    with pytest.raises(ConfigError) as caught:
        require_alike(tmp_path, before, now("cispo", cap=3))
    line = "agent.loss.options.cap=4.0 then, 3 now. As it was: agent.loss.options.cap=4.0"
    assert str(caught.value).endswith(line)


def test_resume_auto_finds_the_run_of_then(tmp_path: Path) -> None:
    run = then(tmp_path / "run", "cispo", cispo_cap=4.0)
    assert newest_cut_off(tmp_path, ["agent.loss.options.cap=4", "resume=auto"]) == run.path

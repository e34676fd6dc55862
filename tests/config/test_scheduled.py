"""Numbers that change while a run trains, and the keys of the learning rate."""

from fnmatch import fnmatchcase

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.config.scheduled import value_at
from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import differences


def test_a_value_holds_from_its_step_until_the_next() -> None:
    schedule = {0: 0.3, 2: 0.2, 5: 0.1}
    assert [value_at(schedule, step) for step in range(1, 7)] == [0.3, 0.2, 0.2, 0.2, 0.1, 0.1]


def test_a_plain_number_is_as_before() -> None:
    cfg = compose_run(["agent.loss.beta=1e-2", "sampler.temperature=1"])
    assert (cfg.agent.loss.beta, cfg.sampler.temperature) == (0.01, 1.0)
    assert cfg.agent.loss.changing() == {}
    assert cfg.identity()["agent.loss.beta"] == 0.01


def test_a_schedule_is_one_key_of_a_runs_identity() -> None:
    cfg = compose_run(["agent.loss.clip_low={0: 0.2, 1000: 0.1}", "sampler.temperature={0: 1}"])
    assert cfg.agent.loss.clip_low == {0: 0.2, 1000: 0.1}
    same = compose_run(["agent.loss.clip_low={0: 0.2, 1000: 0.1}", "sampler.temperature={0: 1.0}"])
    assert cfg.identity() == same.identity()
    other = compose_run(["agent.loss.clip_low=0.2", "sampler.temperature={0: 1.0}"])
    said = differences(cfg.decisive(), other.decisive())
    assert said == "agent.loss.clip_low={0: 0.2, 1000: 0.1} then, 0.2 now"


def test_a_reference_is_kept_where_beta_is_above_0_at_any_step() -> None:
    assert compose_run(["agent.loss.beta={0: 0, 10: 0.04}"]).agent.reference
    assert not compose_run(["agent.loss.beta={0: 0, 10: 0}"]).agent.reference


def test_trainer_steps_is_decisive_where_the_learning_rate_depends_on_it() -> None:
    assert "trainer.steps" not in compose_run([]).decisive()
    for key in ("agent.lr_schedule=linear", "agent.warmup_steps=0.1"):
        assert compose_run([key]).decisive()["trainer.steps"] == 60


FORM = "Allowed: {0: a number, step: a number, ...} with steps that ascend from 0."


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "agent.loss.clip_low={1: 0.2}",
            f"agent.loss.clip_low={{1: 0.2}}: no value for step 0, the beginning. {FORM}",
        ),
        (
            "agent.loss.beta={0: 0.2, 9: 0.1, 5: 0}",
            f"agent.loss.beta={{0: 0.2, 9: 0.1, 5: 0}}: its steps do not ascend. {FORM}",
        ),
        (
            "agent.loss.beta={a: 0.2}",
            f"agent.loss.beta={{a: 0.2}}: a step is a whole number. {FORM}",
        ),
        (
            "agent.loss.clip_low={0: 0.2, 9: 1.5}",
            "agent.loss.clip_low={0: 0.2, 9: 1.5}: at step 9, 1.5. Allowed: 0 to 1, or *",
        ),
        ("agent.loss.entropy=much", "agent.loss.entropy=much. Allowed: 0 or more, or *"),
        (
            "sampler.temperature={0: 1, 9: 0}",
            "sampler.*at step 9, 0. Allowed: above 0*",
        ),
        ("agent.lr_schedule=cosin", "agent.lr_schedule=cosin. *Did you mean 'cosine'?"),
        ("agent.warmup_steps=2.5", "agent.warmup_steps=2.5. Allowed: *below 1 a share*"),
        ("agent.lr_end=0.1", "agent.lr_end=0.1 with agent.lr_schedule=constant: *"),
        (
            "agent.lr_schedule=linear trainer.steps=5",
            "*=5 with trainer.steps=5*0 to 4.",
        ),
        ("agent.adam_betas=[0.9]", "agent.adam_betas=*Allowed: two numbers from 0 to below 1."),
        ("agent.adam_eps=0", "agent.adam_eps=0.0. Allowed: above 0."),
    ],
)
def test_a_mistake_is_one_clear_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(override.split(" ") if "trainer" in override else [override])
    line = str(caught.value).replace("[", "(").replace("]", ")")
    assert fnmatchcase(line, said.replace("[", "(").replace("]", ")")), line
    assert "\n" not in line

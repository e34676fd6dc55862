"""The supervised warm start: what is learnt from which demonstrations, and what goes on from it."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator

import grpo_envs
from grpo_envs import run, sft
from grpo_envs.config.composition import compose_run
from grpo_envs.env import TextEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.timing import Timer
from grpo_envs.training.agent import Parts
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.trainer import Trainer
from grpo_envs.types import Group
from grpo_policy.demonstrations import demonstration, encode
from grpo_policy.imitation import Demonstrations
from grpo_policy.policy import Policy
from grpo_policy.pretrain import loss_of
from grpo_policy.samplers import Decoding
from grpo_sft.agent import SftAgent
from grpo_sft.config import SftConfig
from tests.conftest import Write

SMALL = ["logger=files", "trainer.prompts_per_step=8", "trainer.eval_problems=16", "agent=sft"]


def shown(env: TextEnv, policy: Policy, numbers: range) -> list[Group]:
    return Demonstrations(env, policy.chat)(numbers, Timer())


def trainer(out: Path, *overrides: str) -> Trainer:
    cfg = compose_run([*SMALL, *overrides])
    return build(cfg, out, make_envs(cfg))


@pytest.mark.parametrize("name", ["math", "guess", "calculator"])
def test_the_loss_is_the_cross_entropy_of_what_the_environment_would_say(
    tiny: Policy, name: str
) -> None:
    """By the loss that made the bundled model: of prompts and replies nothing is learnt."""
    env = grpo_envs.make(name)
    rows = [encode(tiny.chat, demonstration(env, number, 0.0)) for number in range(5)]
    learnt = sum(label != -100 for _, labels in rows for label in labels)
    expected = loss_of(tiny, rows).item() / learnt
    parts = Parts(
        policy=tiny, accelerator=Accelerator(cpu=True), decoding=Decoding(max_new_tokens=8)
    )
    agent = SftAgent(SftConfig(lr=0.0, micro_batch_tokens=300), parts)
    metrics, advantages = agent.update(shown(env, tiny, range(5)))
    assert metrics["loss/imitation"] == pytest.approx(expected, rel=1e-4)
    assert metrics["loss/total"] == pytest.approx(expected, rel=1e-4)
    assert advantages == [[0.0]] * 5


def test_a_demonstration_is_graded_and_ends_as_the_template_ends_a_turn(tiny: Policy) -> None:
    (group,) = shown(grpo_envs.make("guess"), tiny, range(1))
    (completion,), (reward,) = group.completions, group.rewards
    assert reward.valid
    assert reward.parts["correct"] == 1
    assert len(completion.turns) > 1
    assert tiny.tokenizer.decode([completion.token_ids[-1]]) == "<|im_end|>"
    assert False in completion.mask, "the environment's replies are not learnt"


def test_it_learns_and_grpo_goes_on_from_it(tmp_path: Path) -> None:
    """Greedily the bundled model answers at once; shown that thinking helps, it thinks."""
    first = trainer(tmp_path / "sft", "trainer.steps=4")
    assert first.run()["eval/accuracy"] > 0.7
    before, after = read_jsonl(tmp_path / "sft" / "eval.jsonl")
    assert before["eval/accuracy"] < 0.5
    assert (before["step"], after["step"]) == (0, 4)
    rows = read_jsonl(tmp_path / "sft" / "metrics.jsonl")
    assert rows[-1]["loss/imitation"] < rows[0]["loss/imitation"]
    assert {row["reward/correct"] for row in rows} == {1.0}
    goes_on = ["agent=grpo", "trainer.steps=1", f"model.path={tmp_path / 'sft'}"]
    made = trainer(tmp_path / "grpo", *goes_on, "trainer.eval_problems=0")
    for name, value in made.policy.model.state_dict().items():
        assert value.equal(first.policy.model.state_dict()[name])


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_starts_from_adapters(tmp_path: Path, rank: int) -> None:
    none = "trainer.eval_problems=0"
    lora = trainer(tmp_path / "sft", "model.lora.rank=4", "trainer.steps=2", none, "agent.lr=1e-2")
    lora.run()
    made = trainer(
        tmp_path / "grpo",
        *("agent=grpo", none, "trainer.steps=1", "agent.group_size=2", "sampler.max_new_tokens=4"),
        *(f"model.path={tmp_path / 'sft'}", f"model.lora.rank={rank}"),
    )
    ids = torch.tensor([made.policy.tokenizer("12+34=")["input_ids"]])
    logits = [one.policy.model(input_ids=ids).logits for one in (lora, made)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    made.run()
    again = trainer(
        tmp_path / "more",
        *("agent=grpo", none, f"model.path={tmp_path / 'grpo'}", "trainer.steps=1"),
    )
    now = [one.policy.model(input_ids=ids).logits for one in (made, again)]
    torch.testing.assert_close(*now, rtol=1e-4, atol=1e-4)


def test_rows_without_a_solution_are_left_out(tiny: Policy, write: Write) -> None:
    env = grpo_envs.make("guess")
    real = type(env).demonstrate

    class Gaps(type(env)):  # type: ignore[misc]
        def demonstrate(self, problem: Any, turns: Any) -> str:
            return real(self, problem, turns) if problem.meta["range"][1] % 2 else ""

    room = Demonstrations(Gaps(), tiny.chat)
    found, left_out = room.take(0, 6)
    assert len(found) == 6
    assert left_out == found[-1] + 1 - 6 > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.lag=1"], "trainer.lag=1 with agent=sft: *Allowed: 0."),
        (["agent.group_size=2"], "agent.group_size=2. Allowed: 1, with agent=sft."),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(["agent=sft", *overrides])
    begin, _, end = said.partition("*")
    assert str(caught.value).startswith(begin)
    assert str(caught.value).endswith(end)


def test_an_environment_without_demonstrations_is_refused(tiny: Policy) -> None:
    class Mute(TextEnv):
        parts: ClassVar[dict[str, float]] = {"correct": 1.0}

        def draw(self, rng: Any, split: str) -> grpo_envs.Problem:
            return grpo_envs.Problem(prompt="?", gold="", solution="")

    with pytest.raises(ConfigError, match=r"^agent=sft: no problem of Mute.*Allowed: "):
        Demonstrations(Mute(), tiny.chat).check()


def test_the_command_is_a_run_with_the_agent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(run, "main", lambda: ran.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["sft", "env=math", "agent.lr=1e-4"])
    sft.main()
    assert ran == [["env=math", "agent.lr=1e-4", "agent=sft"]]
    monkeypatch.setattr(sys, "argv", ["sft", "agent=dapo"])
    with pytest.raises(SystemExit):
        sft.main()
    assert "agent=dapo: python -m grpo_envs.sft is a run with agent=sft." in capsys.readouterr().err

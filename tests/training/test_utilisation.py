"""The share of a card's peak: of counts and seconds, and of a card by its name alone."""

from dataclasses import dataclass, field

import pytest
import torch

from grpo_agent.config import GrpoConfig
from grpo_envs.config.agent import AgentConfig
from grpo_envs.training.utilisation import Utilisation
from grpo_envs.types import Completion, Group
from grpo_policy.flops import ModelFlops
from grpo_policy.policy import Policy
from grpo_ppo.config import CriticConfig, PpoConfig

FLOPS = ModelFlops(weights=1000, trained=1000, attention=0)
ANSWER = Completion(text="", token_ids=(1,) * 4)
GROUP = Group(key=0, prompt="", prompt_ids=(1,) * 2, completions=(ANSWER,) * 2, rewards=())


@dataclass
class OnACard:
    """Stands in for Accelerate's on a GPU."""

    device: torch.device = field(default_factory=lambda: torch.device("cuda:0"))
    num_processes: int = 2


def test_it_is_operations_by_seconds_and_peak() -> None:
    share = Utilisation(flops=FLOPS, peak=1e6, passes=2, reference=True)
    found = share.metrics([GROUP, GROUP], [GROUP], {"sample": 0.5, "update": 4.0, "step": 9.0})
    tokens = 2 + 4 + 4
    assert found == {
        "mfu/sample": 2 * tokens * 2 * 1000 / (0.5 * 1e6),
        "mfu/update": tokens * (2 * 6 + 2) * 1000 / (4.0 * 1e6),
    }


def test_a_critic_scores_once_more_and_learns_by_itself() -> None:
    critic = ModelFlops(weights=600, trained=600, attention=0)
    share = Utilisation(flops=FLOPS, peak=1e6, passes=2, critic=critic)
    found = share.metrics([GROUP], [GROUP], {"update": 4.0})
    tokens = 2 + 4 + 4
    assert found["mfu/update"] == tokens * (2 * 6 * 1000 + (2 * 6 + 2) * 600) / (4.0 * 1e6)


def test_a_critic_is_a_body_without_words(tiny: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    tiny.compute_in(torch.bfloat16)
    found = Utilisation.of(tiny, OnACard(), PpoConfig())
    assert found is not None
    assert found.critic is not None
    words = tiny.model.get_output_embeddings().weight.numel()
    assert found.flops.weights - found.critic.weights == words
    shared = Utilisation.of(tiny, OnACard(), PpoConfig(critic=CriticConfig(body="shared")))
    assert shared is not None
    assert shared.critic is None


def test_a_part_that_took_no_time_has_no_share() -> None:
    assert Utilisation(flops=FLOPS, peak=1e6).metrics([GROUP], [GROUP], {}) == {}


def test_a_card_is_known_by_its_name(tiny: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert Utilisation.of(tiny, OnACard(), GrpoConfig(epochs=3)) is None, "of float32 none is known"
    tiny.compute_in(torch.bfloat16)
    found = Utilisation.of(tiny, OnACard(), GrpoConfig(epochs=3))
    assert found is not None
    assert found.peak == 2 * 312e12
    assert (found.passes, found.reference) == (3, True)
    other = Utilisation.of(tiny, OnACard(), AgentConfig())
    assert other is not None
    assert (other.passes, other.reference) == (1, False)


def test_without_a_known_card_there_is_none(tiny: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = OnACard(device=torch.device("cpu"))
    assert Utilisation.of(tiny, cpu, AgentConfig()) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Imaginary 9000")
    assert Utilisation.of(tiny, OnACard(), AgentConfig()) is None

"""Advantages and objectives of other packages: found by name, given their options, or refused."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_agent.advantages import Scores, advantages, per_member, per_token
from grpo_agent.config import AdvantageConfig, LossConfig
from grpo_agent.loss_options import OPTIONS
from grpo_agent.mechanisms import ADVANTAGE, OBJECTIVE, Kind, Mechanism, resolve
from grpo_envs.config.composition import compose_run
from grpo_envs.env.installed import ADVANTAGES, OBJECTIVES, available
from grpo_envs.errors import ConfigError, GrpoEnvsError, PluginError
from grpo_policy.policy import Policy
from tests.agents.test_agent import agent_of, chosen, gradient, made, move, same, size_of, weights

ROOT = Path(__file__).parents[2]
ADVANTAGE_NAMES = (
    "batch_std, centered, gdpo, ideas_scaled, leave_one_out, max_rl, standardized, whitened"
)
OBJECTIVE_NAMES = (
    "cispo, clip_cov, clipped, dppo_kl, dppo_tv, gmpo, ideas_torn, kl_cov, sapo, vespo"
)
SOURCE = '''
from typing import Literal

import torch
from torch import Tensor

from grpo_agent.advantages import Scores
from grpo_agent.losses import LossInputs

PI = 3.14


def scaled(scores: Scores, *, factor: float = 2.0, ddof: int) -> Tensor:
    return scores.rewards_PG * factor + ddof


def owes(scores: Scores, *, factor: float) -> Tensor:
    return scores.rewards_PG * factor


def chooses(scores: Scores, how: Literal["up", "down"] = "up") -> Tensor:
    return scores.rewards_PG


def plain(scores: Scores) -> Tensor:
    return scores.rewards_PG


def anything(scores: Scores, **options: float) -> Tensor:
    return scores.rewards_PG * sum(options.values())


def nothing() -> None:
    """Takes no scores."""


def constant(scores: Scores, *, whole: bool) -> Tensor:
    """The centred reward, one number a member or the same at each of its tokens."""
    a_PG = scores.rewards_PG - scores.rewards_PG.mean(dim=1, keepdim=True)
    return a_PG if whole else a_PG[..., None] * torch.ones_like(scores.mask_PGT, dtype=a_PG.dtype)


def late(scores: Scores) -> Tensor:
    """The centred reward, at each member's last two tokens alone; nonsense outside the mask."""
    a_PG = scores.rewards_PG - scores.rewards_PG.mean(dim=1, keepdim=True)
    places_T = torch.arange(scores.mask_PGT.shape[-1])
    last_PGT = (places_T >= scores.tokens_PG[..., None] - 2) & scores.mask_PGT
    return torch.where(scores.mask_PGT, a_PG[..., None] * last_PGT, torch.nan)


def returns(scores: Scores, *, what: str) -> object:
    found = {
        "a number": 1.0,
        "nothing": None,
        "one group": scores.rewards_PG[:1],
        "members first": scores.rewards_PG.T,
        "too few tokens": scores.mask_PGT[..., 1:] * 1.0,
    }
    return found[what]


def linear(ratio_BT: Tensor, x: LossInputs, *, clip_low: float, slope: float = 1.0):
    """-slope rho A; bounded where the ratio is below 1 - clip_low."""
    return -slope * ratio_BT * x.advantages_BT, ratio_BT < 1 - clip_low


def torn(ratio_BT: Tensor, x: LossInputs, *, what: str) -> object:
    found = {
        "a loss alone": -ratio_BT * x.advantages_BT,
        "a total": ((-ratio_BT * x.advantages_BT).sum(), ratio_BT > 2),
        "three": (ratio_BT, ratio_BT, ratio_BT),
        "no bound": (ratio_BT, None),
        "no gradient": (-ratio_BT.detach() * x.advantages_BT, ratio_BT > 2),
    }
    return found[what]
'''
ENTRY_POINTS = """
[grpo_envs.advantages]
ideas_scaled = ideas:scaled

[grpo_envs.objectives]
ideas_torn = ideas:torn
"""


@pytest.fixture(autouse=True)
def ideas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the functions above, and forget them afterwards."""
    info = tmp_path / "ideas-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ideas\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "ideas.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("raise OSError('no licence\\n  file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("ideas", None)


def scores(rewards: list[list[float]], tokens: list[list[int]]) -> Scores:
    rewards_PG, tokens_PG = torch.tensor(rewards), torch.tensor(tokens)
    return Scores(
        rewards_PG=rewards_PG,
        valid_PG=torch.ones_like(rewards_PG).bool(),
        mask_PGT=torch.arange(int(tokens_PG.max())) < tokens_PG[..., None],
    )


def rule(name: str, **options: Any) -> Mechanism:
    return resolve(ADVANTAGE, AdvantageConfig(name=name, options=options))


# --- found, and given its options


@pytest.mark.parametrize("name", ["ideas:scaled", "ideas_scaled"])
def test_an_advantage_gets_its_options_and_the_keys_of_the_same_name(name: str) -> None:
    given = [f"agent.advantage.name={name}", "agent.advantage.ddof=0"]
    s = scores([[1.0, 0.0]], [[3, 2]])
    found = []
    for more in ([], ["agent.advantage.options.factor=0.5"]):
        cfg = compose_run([*given, *more])
        found.append(resolve(ADVANTAGE, cfg.agent.advantage)(s).tolist())
    assert found == [[[2.0, 0.0]], [[0.5, 0.0]]]
    assert resolve(ADVANTAGE, AdvantageConfig(name=name, ddof=1))(s).tolist() == [[3.0, 1.0]]
    assert cfg.identity()["agent.advantage.options.factor"] == 0.5  # a resumed run must share it


def test_an_objective_gets_its_options_and_the_keys_of_the_same_name() -> None:
    given = "agent.loss={objective: 'ideas:linear', clip_low: 0.5, options: {slope: 3.0}}"
    cfg = compose_run([given]).agent.loss
    ratio_BT = torch.tensor([[0.4, 0.6]])
    x: Any = type("X", (), {"advantages_BT": torch.tensor([[1.0, 2.0]])})
    loss_BT, bounded_BT = resolve(OBJECTIVE, cfg)(ratio_BT, x)
    torch.testing.assert_close(loss_BT, torch.tensor([[-1.2, -3.6]]))
    assert bounded_BT.tolist() == [[True, False]]


def test_a_function_of_any_options_gets_them_all() -> None:
    s = scores([[1.0, 0.0]], [[3, 2]])
    assert rule("ideas:anything", one=1.0, two=2.0)(s).tolist() == [[3.0, 0.0]]


@pytest.mark.parametrize("kind", [ADVANTAGE, OBJECTIVE], ids=lambda kind: kind.selector)
def test_ours_are_entry_points_whose_options_are_keys_of_the_configuration(kind: Kind) -> None:
    """So an option of ours is refused without importing it."""
    group, config = (ADVANTAGES, AdvantageConfig) if kind is ADVANTAGE else (OBJECTIVES, LossConfig)
    ours = {n: ep for n, ep in available(group).items() if ep.value.startswith("grpo_agent.")}
    assert len(ours) == {ADVANTAGE.key: 7, OBJECTIVE.key: 9}[kind.key]
    keys = {field.name for field in fields(config)}
    for name, ep in ours.items():
        own = set(OPTIONS.get(name, {})) if kind is OBJECTIVE else set()
        assert not own & keys, "a key of the same name would fill it"
        names = list(inspect.signature(ep.load()).parameters)
        assert set(names[kind.arguments :]) <= keys | own


def test_names_of_ours_and_their_mistakes_need_no_torch() -> None:
    code = (
        "import sys, grpo_agent.plugin\n"
        "from grpo_envs.config.composition import compose_run, composed\n"
        "from grpo_envs.config.help import help_text\n"
        "from grpo_envs.errors import ConfigError\n"
        "help_text(composed(['agent=gspo']))\n"
        "compose_run(['agent=sapo', 'agent.advantage.name=whitened'])\n"
        "for wrong in ('agent.loss.options.x=1', 'agent.loss.objective=cipso'):\n"
        "    try: compose_run([wrong])\n"
        "    except ConfigError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "no agent.loss.options.x. Allowed: none, clipped has no options.",
        f"agent.loss.objective=cipso. Allowed: {OBJECTIVE_NAMES.replace('ideas_torn, ', '')}, or "
        "package.module:function. Did you mean 'cispo'?",
        "False",
    ]


# --- refused where the configuration is read

A, L = "agent.advantage", "agent.loss"
A_FORM, O_FORM = "f(scores, *, option=default)", "f(ratio_BT, x, *, option=default)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(
            [f"{A}.name=standardised"],
            f"{A}.name=standardised. Allowed: {ADVANTAGE_NAMES}, or package.module:function. Did "
            "you mean 'standardized'?",
            id="an unknown advantage",
        ),
        pytest.param(
            [f"{L}.objective=ideas_tron"],
            f"{L}.objective=ideas_tron. Allowed: {OBJECTIVE_NAMES}, or package.module:function. "
            "Did you mean 'ideas_torn'?",
            id="an unknown objective, near an installed one",
        ),
        pytest.param(
            [f"{L}.objective=ideas."],
            f"{L}.objective=ideas.. Allowed: {OBJECTIVE_NAMES}, or package.module:function. Did "
            "you mean 'ideas_torn'?",
            id="half of a name",
        ),
        pytest.param(
            [f"{A}.name='ideas:'"],
            f"{A}.name=ideas:. Allowed: {ADVANTAGE_NAMES}, or package.module:function. Did you "
            "mean 'ideas_scaled'?",
            id="no function",
        ),
        pytest.param(
            [f"{A}.name=nowhere.at.all:scaled"],
            f"{A}.name=nowhere.at.all:scaled: nowhere.at.all cannot be imported: "
            "ModuleNotFoundError: No module named 'nowhere'.",
            id="no such module",
        ),
        pytest.param(
            [f"{L}.objective=broken:linear"],
            f"{L}.objective=broken:linear: broken cannot be imported: OSError: no licence file.",
            id="a module whose import raises",
        ),
        pytest.param(
            [f"{L}.objective=ideas:liner"],
            f"{L}.objective=ideas:liner: no liner in ideas. Allowed: scaled, owes, chooses, plain, "
            "anything, nothing, constant, late, returns, linear, torn. Did you mean 'linear'?",
            id="no such function",
        ),
        pytest.param(
            [f"{A}.name=ideas:PI"],
            f"{A}.name=ideas:PI is 3.14. Allowed: a function {A_FORM}.",
            id="no function at all",
        ),
        pytest.param(
            [f"{A}.name=ideas:nothing"],
            f"{A}.name=ideas:nothing is called as f() -> None. Allowed: a function {A_FORM}.",
            id="it takes no scores",
        ),
        pytest.param(
            [f"{L}.objective=math:hypot"],
            f"{L}.objective=math:hypot has no signature. Allowed: a function {O_FORM}.",
            id="written in C",
        ),
        pytest.param(
            [f"{A}.name=ideas:scaled", f"{A}.options.facter=1"],
            f"no {A}.options.facter. Allowed: {A}.options.factor. Did you mean 'factor'?",
            id="an unknown option",
        ),
        pytest.param(
            [f"{L}.options.clip=1"],
            f"no {L}.options.clip. Allowed: none, clipped has no options.",
            id="an option of ours",
        ),
        pytest.param(
            [f"{A}.name=ideas:plain", f"{A}.options.x=1"],
            f"no {A}.options.x. Allowed: none, ideas:plain has no options.",
            id="an option of a function without",
        ),
        pytest.param(
            [f"{L}.objective=ideas:linear", f"{L}.options.clip_low=0.1"],
            f"no {L}.options.clip_low. Allowed: {L}.clip_low.",
            id="an option that is a key",
        ),
        pytest.param(
            [f"{A}.name=ideas:owes"],
            f"missing: {A}.options.factor=...",
            id="an option without a default",
        ),
        pytest.param(
            [f"{A}.name=ideas:scaled", f"{A}.options.factor=much"],
            f"{A}.options.factor=much. Allowed: a number.",
            id="text for a number",
        ),
        pytest.param(
            [f"{A}.name=ideas:chooses", f"{A}.options.how=upp"],
            f"{A}.options.how=upp. Allowed: up, down. Did you mean 'up'?",
            id="one of two",
        ),
    ],
)
def test_a_mistake_ends_with_one_line(given: list[str], said: str) -> None:
    with pytest.raises(GrpoEnvsError) as caught:
        compose_run(given)
    assert str(caught.value) == said


def test_a_name_that_two_packages_claim_is_refused(
    ideas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = ideas / "more" / "thief-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpo_envs.advantages]\ncentered = ideas:plain\n")
    monkeypatch.syspath_prepend(info.parent)
    with pytest.raises(PluginError, match=r"several packages claim 'centered': grpo_agent.*ideas"):
        compose_run([f"{A}.name=centered"])


# --- at work


GIVEN = [made([3, 6, 5, 2], [1.0, 0.0, 0.25, 0.0]), made([4, 4, 1, 6], [0.0, 0.0, 1.0, 0.5], key=1)]


def advantage_cfg(name: str, **options: Any) -> AdvantageConfig:
    return AdvantageConfig(name=name, options=options)


def test_an_advantage_of_each_token_that_is_constant_is_that_of_the_member(
    random_policy: Policy,
) -> None:
    """Bit for bit, in the gradient of both updates and in what is logged."""
    cfg = {w: advantage_cfg("ideas:constant", whole=w) for w in (True, False)}
    one, other = (
        gradient(random_policy, GIVEN, advantage=cfg[w], loss=LossConfig(beta=0.0))
        for w in (True, False)
    )
    assert size_of(one) > 1e-3
    assert all(value.equal(other[name]) for name, value in one.items())
    logged = [agent_of(random_policy, advantage=cfg[w]).update(GIVEN)[1] for w in (True, False)]
    assert (
        logged[0]
        == logged[1]
        == [[0.6875, -0.3125, -0.0625, -0.3125], [-0.375, -0.375, 0.625, 0.125]]
    )


def test_an_advantage_of_some_tokens_moves_these_alone(random_policy: Policy) -> None:
    """The gradient of -A lp, summed by hand over each completion's last two tokens."""
    loss = LossConfig(beta=0.0)
    got = gradient(random_policy, GIVEN, advantage=advantage_cfg("ideas:late"), loss=loss)
    everywhere = advantage_cfg("ideas:constant", whole=True)
    whole = gradient(random_policy, GIVEN, advantage=everywhere, loss=loss)
    before = weights(random_policy)
    move(random_policy, 2)  # as `gradient` does
    random_policy.zero_grad()
    for group in GIVEN:
        rewards = [r.total for r in group.rewards]
        for i, reward in enumerate(rewards):
            logps_T = chosen(random_policy, group, i, 1.0)
            a = reward - sum(rewards) / len(rewards)
            (-a * logps_T[-2:].sum() / len(logps_T) / 8).backward()
    named = random_policy.model.named_parameters()
    expected = {name: p.grad.clone() for name, p in named if p.grad is not None}
    random_policy.model.load_state_dict(before, strict=False)
    same(got, expected, 1e-6)
    assert max((got[n] - whole[n]).abs().max() for n in got) > 1e-3


def test_what_is_logged_of_a_member_is_the_mean_over_its_tokens(random_policy: Policy) -> None:
    agent = agent_of(random_policy, advantage=advantage_cfg("ideas:late"))
    (logged, _) = agent.update(GIVEN)[1]
    shares = [2 / 3, 2 / 6, 2 / 5, 2 / 2]
    by_hand = [a * s for a, s in zip([0.6875, -0.3125, -0.0625, -0.3125], shares, strict=True)]
    assert logged == pytest.approx(by_hand)


@pytest.mark.parametrize("each_token", [False, True])
def test_members_without_a_grade_and_flat_groups_get_zeros(each_token: bool) -> None:
    """Whatever the rule returns for them; of each token also outside the mask, where it is NaN."""

    def ones(s: Scores) -> Tensor:
        if not each_token:
            return torch.ones_like(s.rewards_PG)
        return torch.where(s.mask_PGT, 1.0, torch.nan)

    rewards = [[1.0, 0.0, 5.0], [2.0, 2.0, 2.0], [1.0, 0.0, 0.0]]
    s = scores(rewards, [[3, 2, 1], [2, 2, 2], [1, 3, 2]])
    valid_PG = torch.tensor([[True, True, False], [True] * 3, [True] * 3])
    value = advantages(replace(s, valid_PG=valid_PG), Mechanism("agent.advantage.name=ones", ones))
    counts_PG = torch.tensor([[1.0, 1.0, 0.0], [0.0] * 3, [1.0] * 3])
    assert per_member(value, s.mask_PGT).equal(counts_PG)
    expected_PGT = counts_PG[..., None].expand(3, 3, 3)
    if each_token:
        expected_PGT = expected_PGT * s.mask_PGT
    assert per_token(value, s.mask_PGT).equal(expected_PGT.reshape(9, 3))


def test_an_integer_advantage_counts_as_one(random_policy: Policy) -> None:
    s = scores([[1.0, 0.0]], [[3, 2]])
    mine = Mechanism("agent.advantage.name=mine", lambda s: (s.rewards_PG > 0).long())
    value = advantages(s, mine)
    assert value.dtype == s.rewards_PG.dtype
    assert value.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("a number", "float"),
        ("nothing", "NoneType"),
        ("one group", "Tensor of shape (1, 4)"),
        ("members first", "Tensor of shape (4, 2)"),
        ("too few tokens", "Tensor of shape (2, 4, 5)"),
    ],
)
def test_an_advantage_of_another_shape_is_refused(
    random_policy: Policy, what: str, shown: str
) -> None:
    agent = agent_of(random_policy, advantage=advantage_cfg("ideas:returns", what=what))
    with pytest.raises(ConfigError) as caught:
        agent.update(GIVEN)
    assert str(caught.value) == (
        f"agent.advantage.name=ideas:returns returned {shown}. Allowed: a tensor of shape (P, G) = "
        "(2, 4) or (P, G, T) = (2, 4, 6)."
    )


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a loss alone", "Tensor of shape (8, 6). Allowed: (loss_BT, bounded_BT), two tensors of"),
        ("a total", "(Tensor of shape (), Tensor of shape (8, 6)). Allowed: (loss_BT, bounded_BT)"),
        ("three", "Allowed: (loss_BT, bounded_BT), two tensors of shape (B, T) = (8, 6)."),
        ("no bound", "(Tensor of shape (8, 6), NoneType). Allowed: (loss_BT, bounded_BT), two"),
        ("no gradient", "Allowed: a loss_BT with a gradient, through ratio_BT or x.logps_BT."),
    ],
)
def test_an_objective_that_returns_something_else_is_refused(
    random_policy: Policy, what: str, said: str
) -> None:
    loss = LossConfig(objective="ideas_torn", options={"what": what})
    with pytest.raises(ConfigError) as caught:
        agent_of(random_policy, loss=loss).update(GIVEN)
    line = str(caught.value)
    assert line.startswith("agent.loss.objective=ideas_torn returned ")
    assert said in line
    assert "\n" not in line


def test_an_objective_sees_three_policies(random_policy: Policy) -> None:
    """The old one is the policy before the step; the sampler's is as it was stored."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    agent = agent_of(random_policy, epochs=2, lr=1e-2, loss=LossConfig(beta=0.0))
    function = agent.objective.function

    def look(ratio_BT: Tensor, x: Any) -> Any:
        seen.append((x.logps_BT.detach(), x.old_logps_BT, x.sampled_logps_BT))
        return function(ratio_BT, x)

    agent.objective = Mechanism("agent.loss.objective=look", look)
    agent.update(GIVEN)
    (now, old, sampled), (later, old_later, sampled_later) = seen
    assert old.equal(now)
    assert sampled.equal(sampled_later)
    assert old_later.allclose(old)
    assert sampled.unique().tolist() == [-1.0, 0.0]  # as `made` stores them
    assert not later.equal(now)


def test_an_update_is_a_named_tuple_that_unpacks(random_policy: Policy) -> None:
    update: Any = agent_of(random_policy).update(GIVEN)
    metrics, member_advantages = update
    assert update.metrics is metrics
    assert update.advantages is member_advantages
    assert metrics["optim/updates"] == 1


# --- what the documentation says


@pytest.mark.parametrize("page", ["docs/plugins.md"])
def test_the_example_of_the_documentation_trains(
    page: str, ideas: Path, random_policy: Policy
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "gamma" in b]
    (ideas / "my_ideas.py").write_text(block, encoding="utf-8")
    overrides = re.findall(r"agent\.[\w.]+=[\w.:]+", text)
    assert {o for o in overrides if "my_ideas:" in o} == {
        "agent.advantage.name=my_ideas:discounted",
        "agent.loss.objective=my_ideas:capped",
    }
    try:
        cfg = compose_run([o for o in overrides if "my_ideas:" in o or ".options." in o]).agent
        loss = replace(cfg.loss, beta=0.0)
        agent = agent_of(random_policy, advantage=cfg.advantage, loss=loss)
        metrics, member_advantages = agent.update(GIVEN)
    finally:
        sys.modules.pop("my_ideas", None)
    assert metrics["optim/grad_norm"] > 0
    assert cfg.advantage.options == {"gamma": 0.9}
    gamma = 0.9
    by_hand = 0.6875 * (1 + gamma + gamma**2) / 3  # three tokens: the last has the whole reward
    assert member_advantages[0][0] == pytest.approx(by_hand)

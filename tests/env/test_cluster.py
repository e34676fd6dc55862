"""Grading on a Ray cluster: two nodes on this machine, one of which is lost."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.env import cluster
from grpo_envs.env.grading import place
from grpo_envs.env.remote import sources
from grpo_envs.env.text import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError, ContractBroken
from tests.support.graded import Placed
from tests.support.ray_nodes import Nodes
from tests.training.test_trainer import in_step, trainer

SIZE = 4
NOWHERE = "ray://127.0.0.1:1"

# Without Ray.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ray://head", "ray://HOST:PORT, a head node and the port of its client server"),
        ("ray://head:0", "ray://HOST:PORT"),
        ("ray://head:65536", "ray://HOST:PORT"),
        ("ray://a head:10001", "ray://HOST:PORT"),
        ("rays://head:10001", "auto, none, threads, processes, ray://HOST:PORT"),
        ("process", "ray://HOST:PORT. Did you mean 'processes'?"),
    ],
)
def test_what_is_no_address_is_one_line(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run([f"trainer.graders={given}"])
    text = str(caught.value)
    assert text.startswith(f"trainer.graders={given}. Allowed: ")
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize("given", ["ray://head:10001", "ray://10.0.0.1:1", "ray://[fe80::1]:65535"])
def test_an_address_is_taken_and_decides_no_result(given: str) -> None:
    cfg = compose_run([f"trainer.graders='{given}'"])
    assert cfg.trainer.graders == given
    assert "trainer.graders" not in cfg.decisive()


@pytest.mark.parametrize("env", ["code", "math"])
def test_workers_of_a_cluster_are_graders(env: str) -> None:
    cfg = compose_run([f"env={env}", f"env.workers='{NOWHERE}'"])
    assert cfg.trainer.graders == NOWHERE
    assert "workers" not in cfg.env_keywords


def test_two_places_are_one_too_many() -> None:
    said = rf"^env\.workers={NOWHERE} with trainer\.graders=threads: both choose where "
    with pytest.raises(ConfigError, match=said):
        compose_run(["env=code", f"env.workers='{NOWHERE}'", "trainer.graders=threads"])


def test_an_address_without_a_port_is_refused_as_workers_too() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.graders=ray://head\. Allowed: "):
        compose_run(["env=code", "env.workers='ray://head'"])


@pytest.mark.parametrize("name", ["math", "code", "format", "countdown", "guess"])
def test_our_environments_go_to_a_cluster(name: str) -> None:
    assert place(grpo_envs.make(name), NOWHERE, "cpu") == (NOWHERE, "")


def test_an_environment_that_learns_stays() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.graders=ray://.*\(adapt\)\. Allowed: auto,"):
        place(grpo_envs.make("mixture"), NOWHERE, "cpu")


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = r'^trainer\.graders=ray://127\.0\.0\.1:1 needs Ray: pip install -e "\.\[ray\]"$'
    with pytest.raises(ConfigError, match=said):
        GroupVectorEnv(grpo_envs.make("math"), 2).grade_in(NOWHERE)


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    pytest.importorskip("ray")
    said = r"^trainer\.graders=ray://127\.0\.0\.1:1: no connection: Connection refused\.$"
    with pytest.raises(ConfigError, match=said):
        GroupVectorEnv(grpo_envs.make("math"), 2).grade_in(NOWHERE)


# With two nodes.


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    made = Nodes()
    yield made
    made.lose_all()


def graded(env: TextEnv, answers: Sequence[str], where: str) -> list[tuple[float, bool]]:
    """The rewards of groups of the first problems, graded ahead but for the last group."""
    vector = GroupVectorEnv(env, len(answers), SIZE)
    vector.grade_in(where)
    try:
        return step(vector, answers)
    finally:
        vector.close()


def step(vector: GroupVectorEnv, answers: Sequence[str]) -> list[tuple[float, bool]]:
    vector.reset(seed=list(range(vector.num_envs // SIZE)))
    for start in range(0, len(answers) - SIZE, SIZE):
        vector.score_ahead({i: answers[i] for i in range(start, start + SIZE)})
    _, rewards, *_, info = vector.step(answers)
    return list(zip(rewards.tolist(), info["reward_valid"].tolist(), strict=True))


def answers_of(env: TextEnv, groups: int) -> list[str]:
    """Of each group: right, wrong, in no form, and cut off."""
    found: list[str] = []
    for seed in range(groups):
        right = env.problem(seed).solution
        found += [right, env.problem(seed + 1).solution, "I do not know.", right[: len(right) // 2]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math", "code", "format"])
def test_a_cluster_gives_the_rewards_of_this_machine(name: str, nodes: Nodes) -> None:
    env = grpo_envs.make(name, level=2)
    answers = answers_of(env, 3)
    expected = graded(env, answers, "none")
    assert len(set(expected)) > 1
    assert graded(env, answers, nodes.address) == expected


@pytest.mark.slow
def test_a_run_is_the_same_on_a_cluster(nodes: Nodes, tmp_path: Path) -> None:
    """The same answers, rewards and weights, to the bit."""
    runs = {}
    for name, where in {"here": "none", "there": nodes.address}.items():
        made = trainer(tmp_path / name, f'trainer.graders="{where}"', "trainer.steps=2")
        made.run()
        in_step(made).rollout.env.close()  # type: ignore[attr-defined]
        completions = (tmp_path / name / "completions.jsonl").read_text(encoding="utf-8")
        runs[name] = (completions, made.policy.trained_weights())
    assert runs["here"][0] == runs["there"][0]
    for name, value in runs["here"][1].items():
        assert value.equal(runs["there"][1][name])


PRISONER = """```python
def {name}(*_):
    import os
    for path in ({path!r}, os.path.expanduser("~/{file}")):
        try:
            open(path, "w").write("out")
        except OSError:
            pass
    os.kill(os.getppid(), 9)
```"""


@pytest.mark.slow
def test_a_hostile_program_is_confined_on_a_node(nodes: Nodes, tmp_path: Path) -> None:
    env = grpo_envs.make("code")
    problem = env.problem(0)
    file = f"grpo_envs_{os.getpid()}"
    hostile = PRISONER.format(name=problem.gold.entry_point, path=str(tmp_path / file), file=file)
    answers = [hostile, problem.solution, hostile, problem.solution]
    rewards = graded(env, answers, nodes.address)
    assert rewards == graded(env, answers, "none")
    assert rewards[1][0] > rewards[0][0]
    assert not (tmp_path / file).exists()
    assert not (Path.home() / file).exists()


@pytest.mark.slow
def test_a_lost_node_costs_time_and_no_reward(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(GroupVectorEnv(Placed(), 4 * SIZE, SIZE)) as vector:
        vector.grade_in(nodes.address)
        answers = ["right 0.5", "wrong 0.5", "right 0.5", "wrong"] * 4
        expected = [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, 1.0)] * 4
        assert step(vector, answers) == expected
        before = {reply.reward.note for reply in vector.replies.values()}
        assert len(before) == 2, "both nodes grade"
        losing = threading.Timer(0.7, nodes.lose_one)
        losing.start()
        with caplog.at_level(logging.WARNING):
            assert step(vector, answers) == expected
        losing.join()
        assert "a grader of the cluster is lost" in caplog.text
        nodes.add_one()
        until = time.monotonic() + 60
        while vector._graders._cluster._live < 2:  # type: ignore[union-attr]
            assert time.monotonic() < until
            time.sleep(0.1)
        assert step(vector, answers) == expected
        after = {reply.reward.note for reply in vector.replies.values()}
        assert len(after) == 2
        assert len(after & before) == 1, "the other node grades in its place"


@pytest.mark.slow
def test_an_answer_that_kills_its_grader_costs_its_own_reward(nodes: Nodes) -> None:
    rewards = graded(Placed(), ["right", "kill", "right", "wrong"] * 2, nodes.address)
    assert rewards == [(1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0)] * 2


@pytest.mark.slow
def test_what_a_grader_raises_is_raised_here(nodes: Nodes) -> None:
    with pytest.raises(ContractBroken, match=r"^score returned no reward component 'undeclared'"):
        graded(Placed(), ["right", "break", "right", "wrong"], nodes.address)


@pytest.mark.slow
def test_nodes_without_the_environment_are_one_line(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from tests.support.graded import Placed\n\nclass Here(Placed): pass\n"
    (tmp_path / "only_here.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    from only_here import Here  # type: ignore[import-not-found]

    vector = GroupVectorEnv(Here(), SIZE, SIZE)
    with pytest.raises(ConfigError) as caught:
        vector.grade_in(nodes.address)
    assert str(caught.value) == (
        f"trainer.graders={nodes.address}: ModuleNotFoundError: No module named 'only_here', "
        "on a node of the cluster."
    )


@pytest.mark.slow
def test_other_sources_on_a_node_are_one_line(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = sources(Placed())
    monkeypatch.setattr(cluster, "sources", lambda _: there | {"grpo_envs": "0"})
    vector = GroupVectorEnv(Placed(), SIZE, SIZE)
    with pytest.raises(ConfigError) as caught:
        vector.grade_in(nodes.address)
    assert str(caught.value) == (
        f"trainer.graders={nodes.address}: {socket.gethostname()} has another version of "
        "grpo_envs. Install the same."
    )


@pytest.mark.slow
def test_without_the_cluster_this_machine_grades(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("ray")
    nodes = Nodes()
    with closing(GroupVectorEnv(Placed(), 2 * SIZE, SIZE)) as vector:
        vector.grade_in(nodes.address)
        answers = ["right 0.5", "wrong 0.5", "kill", "wrong"] * 2
        expected = [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.0, 1.0)] * 2
        losing = threading.Timer(0.3, nodes.lose_all)
        losing.start()
        with caplog.at_level(logging.WARNING):
            assert step(vector, answers) == expected
            assert step(vector, answers) == expected
        losing.join()
        assert caplog.text.count("no grader of the cluster is left: this machine grades") == 1

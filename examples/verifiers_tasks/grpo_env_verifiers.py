"""A taskset of verifiers whose tasks ask for one answer.

Task: the task's prompt and system prompt; tasks are split by their prompts.
Answer: the whole text.
Reward: `score` is the task's reward, scaled from `env.return_range` to [0, 1] and clipped; its
metrics are the note. A task whose scoring raises, or leaves a reward out, is no wrong answer: the
reward is invalid.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import verifiers.v1 as vf
from verifiers.v1.envs.single_agent import SingleAgentEnv
from verifiers.v1.graph import MessageNode
from verifiers.v1.trace import TraceTask
from verifiers.v1.types import AssistantMessage, UserMessage
from verifiers.v1.utils.generic import concrete_type
from verifiers.v1.utils.loaders import environment_class, load_taskset, taskset_class

from grpo_envs import Problem, Reward, TextEnv
from grpo_envs.env import SPLITS
from grpo_envs.errors import ConfigError, require
from grpo_envs.seeding import split_of


class VerifiersEnv(TextEnv):
    """Problems that are tasks of one taskset."""

    parts: ClassVar[Mapping[str, float]] = {"score": 1.0}

    def __init__(
        self,
        split: str = "train",
        *,
        id: str | None = None,
        keywords: dict[str, Any] | None = None,
        most: int = 10_000,
        return_range: list[float] | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`: other prompts.
            id: The installed taskset.
            keywords: Of its configuration.
            most: Tasks that are read, of one that may have no end.
            return_range: [least, most] that a task's reward is; [0, 1] when None.
            rewards: Weight of `score`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: there is no such taskset, or its tasks ask for more than one answer.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        self.low, self.high = _range(return_range)
        tasks = list(islice(_tasks(id, keywords or {}), most))
        if reason := next(filter(None, map(_needs, tasks)), ""):
            raise ConfigError(f"env.id={id}: {reason}. Allowed: tasks of one answer.")
        self.tasks = {s: [t for t in tasks if split_of(t.data.prompt_text) == s] for s in SPLITS}
        for each, found in self.tasks.items():
            require(len(found) > 0, "env.most", most, f"more tasks: {each} has none")

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw a task."""
        number = rng.randrange(len(self.tasks[split]))
        data = self.tasks[split][number].data
        return Problem(
            prompt=data.prompt_text,
            gold=(split, number),
            solution="",
            system_prompt=data.system_prompt or "",
            meta={"task": data.idx},
        )

    def score(self, problem: Problem, answer: str) -> Reward:
        """Return what the task's rewards add up to."""
        return self.score_batch([problem], [answer])[0]

    def score_batch(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Score all answers side by side: rewards of verifiers are coroutines."""

        async def together() -> list[Reward]:
            pairs = zip(problems, answers, strict=True)
            return await asyncio.gather(*(self._reward(p.gold, a) for p, a in pairs))

        return asyncio.run(together())

    async def _reward(self, place: tuple[str, int], answer: str) -> Reward:
        split, number = place
        task = self.tasks[split][number]
        trace = _trace(task, answer)
        try:
            await task.score(trace)
        except Exception as error:  # noqa: BLE001  of somebody else's code
            return Reward(valid=False, error=" ".join(f"{type(error).__name__}: {error}".split()))
        share = (trace.reward - self.low) / (self.high - self.low)
        if not math.isfinite(share):
            return Reward(valid=False, error=f"the reward is {trace.reward}")
        note = ", ".join(f"{name} {value:g}" for name, value in trace.metrics.items())
        return Reward(parts={"score": min(max(share, 0.0), 1.0)}, note=note)


def _range(given: list[float] | None) -> tuple[float, float]:
    pair = (0.0, 1.0) if given is None else tuple(given)
    fits = len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1]
    require(fits, "env.return_range", given, "[least, most], two finite numbers in order")
    return pair[0], pair[1]


def _tasks(name: str | None, keywords: Mapping[str, Any]) -> Iterable[vf.Task]:
    if not name:
        raise ConfigError(f"env.id={name}. Allowed: an installed taskset of verifiers.")
    try:
        config = concrete_type(taskset_class(name), vf.TasksetConfig) or vf.TasksetConfig
        player, taskset = environment_class(name), load_taskset(config(id=name, **keywords))
    except Exception as error:  # of somebody else's package
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"env.id={name} cannot be loaded: {cause}") from error
    if player is not SingleAgentEnv:
        allowed = "Allowed: tasks of one answer."
        raise ConfigError(f"env.id={name}: {player.__name__} plays its tasks. {allowed}")
    return taskset


def _needs(task: vf.Task) -> str:
    """Return why a task is more than a prompt and what scores one answer; '' where it is not."""
    scoring = [*task.hooks("reward"), *(judge.score for judge in task.plugged_judges())]
    runtime = [
        f.__name__
        for f in scoring
        if (p := inspect.signature(f).parameters.get("runtime")) and p.default is p.empty
    ]
    needs = {
        "its tasks need a container": task.NEEDS_CONTAINER or task.data.image,
        "its tasks have a setup": type(task).setup is not vf.Task.setup,
        "its tasks have tools": type(task).toolsets(task.config),
        f"{', '.join(runtime)} needs a runtime": runtime,
        "its user begins": task.data.prompt is None,
    }
    return next((reason for reason, found in needs.items() if found), "")


def _trace(task: vf.Task, answer: str) -> vf.Trace:
    """Return the record of a conversation of one answer."""
    nodes = [
        MessageNode(message=UserMessage(content=task.data.prompt_text), parent=None),
        MessageNode(message=AssistantMessage(content=answer), parent=0, sampled=True),
    ]
    kind = type(task).__name__
    return vf.Trace(
        task=TraceTask(type=kind, data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo.model_construct(name="agent", trainable=True),
        nodes=nodes,
    )

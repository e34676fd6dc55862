"""Grading a batch of episodes: in this thread, or in parts by a pool of threads or processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from grpo_envs.env.text import TextEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.launch import cores
from grpo_envs.types import Problem, Reply, Reward, Turn

CONCURRENCY = ("none", "threads", "processes")


@dataclass(slots=True)
class Graders:
    """Grades episodes as `env.concurrency` says; workers start with the first batch."""

    env: TextEnv
    _executor: Executor | None = None

    def __post_init__(self) -> None:
        """Check the environment's `concurrency`."""
        if self.env.concurrency not in CONCURRENCY:
            name = type(self.env).__name__
            raise ConfigError(
                f"{name}.concurrency={self.env.concurrency!r}. Allowed: {', '.join(CONCURRENCY)}."
            )

    def replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Return the reply to the last turn of each episode, in order."""
        if not problems:
            return []
        if self.env.concurrency == "none":
            return self.env.reply_batch(problems, episodes)
        workers = min(cores(), len(problems))
        size = -(-len(problems) // workers)
        starts = range(0, len(problems), size)
        parts = [(problems[i : i + size], episodes[i : i + size]) for i in starts]
        executor = self._workers()
        futures = [_submit(executor, self.env.reply_batch, *part) for part in parts]
        replies: list[Reply] = []
        for part, future in zip(parts, futures, strict=True):
            try:
                replies += future.result()
            except BrokenExecutor:  # a process of the pool was killed, perhaps by one answer
                self._executor = None
                replies += [self._alone(*pair) for pair in zip(*part, strict=True)]
        return replies

    def close(self) -> None:
        """Stop the workers."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _alone(self, problem: Problem, episode: Sequence[Turn]) -> Reply:
        """Grade one answer in the pool; its reward is invalid where that kills a process."""
        executor = self._workers()
        try:
            return executor.submit(self.env.reply_batch, [problem], [episode]).result()[0]
        except BrokenExecutor as error:
            self._executor = None
            return Reply(reward=Reward(valid=False, error=f"the grading process died: {error}"))

    def _workers(self) -> Executor:
        self._executor = self._executor or _executor(self.env.concurrency)
        return self._executor


def _submit(executor: Executor, call: Callable[..., Any], *args: Any) -> Future[Any]:
    """Let a pool that broke before, while idle or just now, fail where its results are read."""
    try:
        return executor.submit(call, *args)
    except BrokenExecutor as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _executor(kind: str) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(cores())
    return ProcessPoolExecutor(cores(), mp_context=get_context("spawn"))

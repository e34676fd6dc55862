"""Grading a batch of episodes: sequentially, or in parts by threads, processes or a cluster."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any

from grpo_envs.env.cluster import ClusterGraders
from grpo_envs.env.ray_client import SCHEME, require_address
from grpo_envs.env.text import TextEnv
from grpo_envs.errors import ConfigError, require_one_of
from grpo_envs.runtime import launch
from grpo_envs.runtime.launch import cores
from grpo_envs.types import Problem, Reply, Reward, Turn

CONCURRENCY = ("auto", "none", "threads", "processes")
"""auto: processes if a GPU samples and the environment can be pickled; otherwise none."""


def require_place(asked: str) -> None:
    """Refuse a value of `trainer.graders`.

    Raises:
        ConfigError: the value is neither a known place nor the address of a cluster.
    """
    if asked.startswith(SCHEME):
        require_address("trainer.graders", asked)
    else:
        require_one_of("trainer.graders", asked, (*CONCURRENCY, f"{SCHEME}HOST:PORT"))


def place(env: TextEnv, asked: str, device: str) -> tuple[str, str]:
    """Return where a run grades answers: none, threads, processes or the address of a cluster.

    A grader in pure Python holds the interpreter lock that a GPU's sampler needs to launch kernels.
    Beside a GPU, answers are therefore graded in processes. Each process has a copy of the
    environment from the start of the run. An environment is not moved if it learns (`adapt`),
    cannot be pickled, or has a reward function that takes all answers at once.

    Args:
        env: The environment; its `concurrency` decides if `asked` is auto.
        asked: `trainer.graders`.
        device: The type of the device that samples: cpu, cuda.

    Returns:
        The place, and why it is not `processes` as auto would have it; '' otherwise.

    Raises:
        ConfigError: processes or a cluster are asked for, and the environment cannot be moved.
    """
    wanted = env.concurrency if asked == "auto" else asked
    if wanted == "auto":
        wanted = "none" if device == "cpu" else "processes"
    elif asked == "auto" or wanted in ("none", "threads"):
        return wanted, ""  # the author's choice is known to work
    if wanted == "none" or not (cause := _cannot_move(env)):
        return wanted, ""
    if asked != "auto":
        raise ConfigError(f"trainer.graders={asked}: {cause}. Allowed: auto, none, threads.")
    return "none", cause


def reentrant(env: TextEnv) -> bool:
    """Return whether several threads, as in a server, may call an environment at once."""
    return env.concurrency != "none" if env.reentrant is None else env.reentrant


def _cannot_move(env: TextEnv) -> str:
    """Return why an environment cannot grade in other processes; '' if it can."""
    name = type(env).__name__
    if not env.grades_each_alone:
        return f"{name} has a reward function that takes all answers of a step at once"
    if type(env).adapt is not TextEnv.adapt:
        return f"{name} learns from the groups of a step (adapt)"
    try:
        pickle.loads(pickle.dumps((env, env.problem(0))))
    except Exception as error:  # noqa: BLE001  a package's class may raise anything
        cause = (str(error).splitlines() or [""])[0]
        return f"{name} cannot be sent to a process ({type(error).__name__}: {cause})"
    return ""


@dataclass(slots=True)
class Graders:
    """Grades episodes in one place; threads and processes start with the first batch."""

    env: TextEnv
    where: str = ""
    """none, threads, processes or the address of a cluster; '': `env.concurrency`."""
    _executor: Executor | None = None
    _cluster: ClusterGraders | None = None
    _here: Graders | None = None
    """With a cluster: processes of this machine, for the time without a grader on the cluster."""

    def __post_init__(self) -> None:
        """Check the environment's `concurrency`; connect to a cluster.

        Raises:
            ConfigError: the concurrency is unknown, or the cluster cannot grade.
        """
        if self.env.concurrency not in CONCURRENCY:
            name = type(self.env).__name__
            raise ConfigError(
                f"{name}.concurrency={self.env.concurrency!r}. Allowed: {', '.join(CONCURRENCY)}."
            )
        self.where = self.where or self.env.concurrency
        if self.where == "threads":
            self._executor = self._threads()  # made here: several threads may submit batches
        if self.where.startswith(SCHEME):
            self._here = Graders(self.env, "processes")
            self._cluster = ClusterGraders(self.env, self.where, self._here.replies)

    @property
    def at_once(self) -> int:
        """Number of batches that can be graded at the same time."""
        if self._cluster is not None:
            return self._cluster.count
        return (self.env.workers or 1) if self.where == "threads" else 1

    def replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Return the reply to the last turn of each episode, in order."""
        if not problems:
            return []
        if self._cluster is not None:
            return self._cluster.replies(problems, episodes)
        if self.where in ("auto", "none") or not self.env.grades_each_alone:
            return self.env.reply_batch(problems, episodes)
        size = self._size(len(problems))
        starts = range(0, len(problems), size)
        parts = [(problems[i : i + size], episodes[i : i + size]) for i in starts]
        executor = self._workers()
        futures = [_submit(executor, self._grade, *part) for part in parts]
        replies: list[Reply] = []
        for part, future in zip(parts, futures, strict=True):
            try:
                replies += future.result()
            except BrokenExecutor:  # a process was killed, perhaps by one answer
                self._executor = None
                replies += [self._alone(*pair) for pair in zip(*part, strict=True)]
        return replies

    def close(self) -> None:
        """Stop the workers, and leave the cluster."""
        if self._cluster is not None:
            self._cluster.close()
        if self._here is not None:
            self._here.close()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _size(self, count: int) -> int:
        """Return how many of `count` answers a worker takes at once.

        One, if answers wait for something else (`workers`), because some wait longer than others.
        """
        if self.where == "threads" and self.env.workers:
            return 1
        return -(-count // min(cores(), count))

    def _alone(self, problem: Problem, episode: Sequence[Turn]) -> Reply:
        """Grade one answer in the pool; its reward is invalid if that kills the process."""
        executor = self._workers()
        try:
            return executor.submit(self._grade, [problem], [episode]).result()[0]
        except BrokenExecutor as error:
            self._executor = None
            return Reply(reward=Reward(valid=False, error=f"the grading process died: {error}"))

    @property
    def _grade(self) -> Callable[..., list[Reply]]:
        return _grade_here if self.where == "processes" else self.env.reply_batch

    def _workers(self) -> Executor:
        if self._executor is None:
            self._executor = self._threads() if self.where == "threads" else _processes(self.env)
        return self._executor

    def _threads(self) -> Executor:
        return ThreadPoolExecutor(self.env.workers or cores())


def _submit(executor: Executor, call: Callable[..., Any], *args: Any) -> Future[Any]:
    """Submit a call; if the pool is broken, the error is raised when the result is read."""
    try:
        return executor.submit(call, *args)
    except BrokenExecutor as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _processes(env: TextEnv) -> Executor:
    """Return a pool whose processes have a copy of `env` each, sent once when they start."""
    given = (pickle.dumps(env),)
    spawn = get_context("spawn")
    return ProcessPoolExecutor(cores(), mp_context=spawn, initializer=_begin, initargs=given)


_copy: list[TextEnv] = []
"""The environment, in a process that grades."""


def _begin(env: bytes) -> None:
    """Set up a process that grades: it ignores Ctrl-C, and ends when the run ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    launch.own(1)  # one process for each core; set before the environment sizes its pools
    _copy.append(pickle.loads(env))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # this is a process of a pool
    parent.join()
    os._exit(1)


def _grade_here(problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]) -> list[Reply]:
    return _copy[0].reply_batch(problems, episodes)

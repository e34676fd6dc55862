"""Grading on a Ray cluster: one copy of the environment for each CPU that the cluster has.

The run is a Ray Client (`ray://HOST:PORT`, the client server of the head node), so a failure of the
cluster does not end the run. One thread for each copy sends it answers. If a copy dies, other
copies grade its answers; if no copy is left, processes of this machine grade.
"""

from __future__ import annotations

import logging
import pickle
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_envs.env.ray_client import connect, last_line
from grpo_envs.env.remote import Copy, sources
from grpo_envs.env.text import TextEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runtime import launch
from grpo_envs.types import Problem, Reply, Reward, Turn

log = logging.getLogger(__name__)
_TRIES = 3
"""An answer gets an invalid reward after this many copies died while grading it."""
_FIRST_S = 120.0
"""Seconds until the first copy must have started; a cluster may have to start a node."""
_REST_S = 20.0
"""Seconds that training waits for the other copies; later ones grade, too."""
_AGAIN_S = 5.0
"""Seconds before another try to start a copy."""
_LOOK_S = 0.5
"""Seconds between two checks whether any copy is left."""

Episode = Sequence[Turn]
Grade = Callable[[Sequence[Problem], Sequence[Episode]], list[Reply]]


@dataclass(slots=True, eq=False)
class _Job:
    """Answers that are graded together."""

    problems: Sequence[Problem]
    episodes: Sequence[Episode]
    deaths: int = 0
    """Copies that died while they held these answers."""
    replies: Future[list[Reply]] = field(default_factory=Future)
    parts: list[_Job] = field(default_factory=list)
    """The answers one by one, after a copy died; `replies` is empty then."""

    def settle(self, grade: Callable[[], list[Reply]]) -> None:
        """Store the replies that `grade` returns, or the exception that it raises."""
        try:
            self.replies.set_result(grade())
        except Exception as error:  # noqa: BLE001  raised again where the replies are read
            self.replies.set_exception(error)


class ClusterGraders:
    """Copies of an environment on a Ray cluster. `replies` may be called from any thread."""

    def __init__(self, env: TextEnv, address: str, here: Grade) -> None:
        """Connect, and start a copy on each CPU of this process's share of the cluster.

        Args:
            env: The environment. It can be pickled, and its package is installed on every node.
            address: `ray://HOST:PORT`.
            here: Grades on this machine while the cluster has no copy.

        Raises:
            ConfigError: the cluster cannot be reached, or has other versions of the environment's
                packages.
        """
        self.count = 0
        """Copies that were requested."""
        self._key = f"trainer.graders={address}"
        self._ray = connect(address)
        self._here, self._sources = here, sources(env)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._began: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Result of the first start of each copy: '', or the error."""
        self._lock, self._one_here = threading.Lock(), threading.Lock()
        self._threads: list[threading.Thread] = []
        self._live = 0
        self._said: set[str] = set()
        self._ended = threading.Event()
        try:
            self._start(env)
        except BaseException:
            self.close()
            raise

    def replies(self, problems: Sequence[Problem], episodes: Sequence[Episode]) -> list[Reply]:
        """Return the reply to the last turn of each episode, in order."""
        size = -(-len(problems) // self.count)
        starts = range(0, len(problems), size)
        jobs = [_Job(problems[i : i + size], episodes[i : i + size]) for i in starts]
        for job in jobs:
            self._jobs.put(job)
        return [reply for job in jobs for reply in self._end(job)]

    def close(self) -> None:
        """Leave the cluster, which then ends the copies."""
        if not self._ended.is_set():
            self._ended.set()
            for _ in self._threads:
                self._jobs.put(None)
            self._ray.shutdown()
            for thread in self._threads:  # their references belong to this connection
                thread.join(_AGAIN_S)

    def _start(self, env: TextEnv) -> None:
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        as_copy = self._ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
        self._make, self._env = as_copy(Copy), self._ray.put(pickle.dumps(env))
        self.count = max(1, cpus // launch.count())
        for _ in range(self.count):
            self._threads.append(threading.Thread(target=self._serve, daemon=True))
            self._threads[-1].start()
        until = time.monotonic() + _FIRST_S
        for number in range(self.count):
            try:
                error = self._began.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if error:
                raise ConfigError(f"{self._key}: {error}")
            if number == 0:
                until = time.monotonic() + _REST_S
        if not self._live:
            raise ConfigError(f"{self._key}: no CPU of the cluster was free in {_FIRST_S:g} s.")
        log.info("answers are graded on %d of %d CPUs of the cluster", self._live, cpus)

    def _end(self, job: _Job) -> list[Reply]:
        """Wait for a job; while no copy is left, grade waiting jobs on this machine."""
        while not wait([job.replies], _LOOK_S).done:
            self._grade_here()
        return job.replies.result() + [reply for part in job.parts for reply in self._end(part)]

    def _grade_here(self) -> None:
        with self._one_here:
            while not self._live:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
                if job is not None:
                    self._warn("no grader of the cluster is left: this machine grades meanwhile")
                    job.settle(partial(self._here, job.problems, job.episodes))

    def _warn(self, text: str) -> None:
        """Log a warning once; again only after a copy has started."""
        with self._lock:
            known = text in self._said
            self._said.add(text)
        if not known and not self._ended.is_set():
            log.warning(text)

    # In the thread of a copy.

    def _serve(self) -> None:
        """Start a copy, hand it answers until it dies, and start another one."""
        copy, error = self._started()
        self._began.put(error)
        while not self._ended.is_set():
            if copy is None:
                self._warn(f"a grader of the cluster cannot be started: {error}")
                self._ended.wait(_AGAIN_S)
            else:
                self._hand_out(copy)
                self._count(-1)
            copy = None  # Ray ends a copy without references
            if not self._ended.is_set():
                copy, error = self._started()

    def _count(self, more: int) -> None:
        with self._lock:
            self._live += more
            if more > 0:
                self._said.clear()

    def _started(self) -> tuple[Any, str]:
        """Return a new copy once it has a CPU, or None and the error."""
        try:
            copy = self._make.remote(self._env)
            node, theirs = copy.about.remote().future().result()
        except Exception as error:  # noqa: BLE001  Ray's own, and what `Copy` raised on a node
            return None, f"{last_line(error)}, on a node of the cluster."
        other = [name for name, mark in self._sources.items() if theirs.get(name) != mark]
        if not other:
            self._count(1)
            return copy, ""
        self._ray.kill(copy)
        return None, f"{node} has another version of {', '.join(other)}. Install the same."

    def _hand_out(self, copy: Any) -> None:
        while (job := self._jobs.get()) is not None:
            if job.deaths and not _lives(copy):
                self._jobs.put(job)  # the copy was dead before it got these answers
                return
            try:
                given = pickle.dumps((job.problems, job.episodes))
                found = pickle.loads(copy.grade.remote(given).future().result())
            except Exception as error:  # noqa: BLE001  Ray's: the node, the copy or the network
                self._lost(job, type(error).__name__)
                return
            job.settle(partial(_or_raised, found))

    def _lost(self, job: _Job, why: str) -> None:
        self._warn(f"a grader of the cluster is lost ({why}): others grade its answers")
        job.deaths += 1
        if len(job.problems) > 1:
            pairs = zip(job.problems, job.episodes, strict=True)
            job.parts = [_Job([problem], [turns], job.deaths) for problem, turns in pairs]
            for part in job.parts:
                self._jobs.put(part)
            job.replies.set_result([])
        elif job.deaths < _TRIES:
            self._jobs.put(job)
        else:
            error = f"the grading process died {job.deaths} times ({why})"
            job.replies.set_result([Reply(reward=Reward(valid=False, error=error))])


def _lives(copy: Any) -> bool:
    try:
        copy.about.remote().future().result()
    except Exception:  # noqa: BLE001  Ray's, whatever it is
        return False
    return True


def _or_raised(found: list[Reply] | Exception) -> list[Reply]:
    if isinstance(found, Exception):
        raise found
    return found

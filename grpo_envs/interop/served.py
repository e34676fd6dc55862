"""An environment that many sessions share, called in threads with a time limit per call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from grpo_envs.env import TextEnv
from grpo_envs.env.grading import reentrant
from grpo_envs.errors import RunStopped
from grpo_envs.interop.rows import require_each_alone, require_fixed

_ENDS = "the server ends."
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Served:
    """An environment that all sessions share."""

    name: str
    env: TextEnv
    seconds: float
    """The time limit of a call; an answer whose grading takes longer is invalid. Python cannot end
    the thread of such a call, so it is abandoned."""
    _alone: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)
    _waiting: set[asyncio.Future[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Refuse an environment whose rewards or problems depend on more than one answer.

        Raises:
            ConfigError: the environment is refused.
        """
        require_each_alone(self.name, self.env, "a server")
        require_fixed(self.name, self.env)

    async def call(self, function: Callable[[], _T]) -> _T:
        """Call the environment in a thread, so that no session waits for another.

        An environment that is not `reentrant` is called by one thread at a time. The thread is a
        daemon: a call that never ends does not keep the server from ending.

        Raises:
            TimeoutError: the call takes too long.
            RunStopped: the server is ending.
        """
        if self._ended.is_set():
            raise RunStopped(_ENDS)
        answered: Future[_T] = Future()
        answered.set_running_or_notify_cancel()  # the end of a session does not cancel the call

        def work() -> None:
            try:
                with nullcontext() if reentrant(self.env) else self._alone:
                    answered.set_result(function())
            except Exception as error:  # noqa: BLE001  the session raises it
                answered.set_exception(error)
            except BaseException as error:  # noqa: BLE001  SystemExit would end the server
                answered.set_exception(RuntimeError(repr(error)))

        threading.Thread(target=work, daemon=True).start()
        result = asyncio.wrap_future(answered)
        self._waiting.add(result)
        try:
            return await asyncio.wait_for(result, self.seconds)
        except asyncio.CancelledError:
            if self._ended.is_set():
                raise RunStopped(_ENDS) from None
            raise
        finally:
            self._waiting.discard(result)

    def end(self) -> None:
        """Let every running and every later call raise RunStopped."""
        self._ended.set()
        for result in [*self._waiting]:
            result.cancel()

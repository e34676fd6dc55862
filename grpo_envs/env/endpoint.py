"""Chat completions of an OpenAI-compatible endpoint: tries, time limits, a cache on disk."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import random
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_envs.errors import GrpoEnvsError

log = logging.getLogger(__name__)

_FORMAT = 1
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
"""HTTP statuses after which a retry may succeed."""
_MOST_BYTES = 2**22
_PIECE = 2**16
_SHOWN = 200
"""Characters of a server's message that an error quotes."""


class EndpointFailed(GrpoEnvsError, RuntimeError):
    """The endpoint gave no answer."""


class _Passing(EndpointFailed):
    """A retry may succeed; `wait` is the number of seconds that the server asks for, if any."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An endpoint for chat completions."""

    url: str
    """Ends in /chat/completions."""
    variable: str | None
    """The environment variable that holds the key; None for no key."""
    timeout: float
    """Seconds that a try may take."""
    retries: int
    """Tries after the first one."""
    concurrency: int
    """Concurrent requests of this process."""

    def ask(self, body: Mapping[str, Any]) -> str:
        """Return the text of the reply; the wait doubles with each retry.

        Raises:
            EndpointFailed: there is no reply. The message never contains the key.
        """
        for number in range(self.retries + 1):
            try:
                with _slots(self.url, self.concurrency):
                    return _text_of(self._post(json.dumps(body).encode()))
            except _Passing as error:
                if number == self.retries:
                    tries = f", {number + 1} tries" if number else ""
                    raise EndpointFailed(self._without_key(f"{error}{tries}")) from None
                time.sleep(_wait(number, error.wait))
            except EndpointFailed as error:
                raise EndpointFailed(self._without_key(str(error))) from None
        raise AssertionError("unreachable")

    @property
    def _key(self) -> str:
        return os.environ.get(self.variable, "").strip() if self.variable else ""

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _post(self, body: bytes) -> bytes:
        """Return the body of the response, read within the time limit."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        until = time.monotonic() + self.timeout
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                return _read(response, until)
        except urllib.error.HTTPError as error:
            with error:
                raise _of_status(error) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)  # of a URLError
            late = isinstance(cause, TimeoutError)
            what = f"no answer within {self.timeout:g} s" if late else str(cause)
            raise _Passing(what or type(cause).__name__) from None


def _wait(number: int, asked: float | None) -> float:
    """Return the seconds before a retry: twice the last wait, or more if the server asks."""
    own: float = _FIRST_WAIT_S * 2**number * random.uniform(0.5, 1.5)
    return min(_LONGEST_WAIT_S, max(own, asked or 0.0))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: another host must not get the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Say that there is no request to follow with."""


@lru_cache(maxsize=1)
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


@lru_cache(maxsize=64)
def _slots(url: str, count: int) -> threading.BoundedSemaphore:
    """Return the semaphore that limits concurrent requests; training and evaluation share it."""
    return threading.BoundedSemaphore(count)


def _read(response: Any, until: float) -> bytes:
    """Read a response in pieces, each with a time limit, up to the time limit of the whole."""
    found = b""
    while piece := response.read1(_PIECE):
        found += piece
        if time.monotonic() > until:
            raise TimeoutError
        if len(found) > _MOST_BYTES:
            raise EndpointFailed(f"its answer is longer than {_MOST_BYTES} bytes")
    return found


def _of_status(error: urllib.error.HTTPError) -> EndpointFailed:
    said = b""
    with suppress(OSError, http.client.HTTPException):
        said = error.read(_PIECE)
    text = " ".join(said.decode("utf-8", "replace").split())[:_SHOWN]
    line = f"HTTP {error.code} {error.reason}: {text}".removesuffix(": ")
    if error.code not in _PASSING:
        return EndpointFailed(line)
    wait = error.headers.get("Retry-After", "")
    return _Passing(line, float(wait) if wait.isdecimal() else None)


def _text_of(response: bytes) -> str:
    """Return the reply in a response of the endpoint.

    Raises:
        EndpointFailed: the response is not a chat completion, or the reply was cut off.
    """
    try:
        choice = json.loads(response)["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError):
        shown = " ".join(response[:_SHOWN].decode("utf-8", "replace").split())
        raise _Passing(f"its answer is no chat completion: {shown!r}") from None
    if not isinstance(text, str):
        raise EndpointFailed("its reply has no text")
    if reason == "length":
        raise EndpointFailed("its reply was cut off (finish_reason=length): allow more tokens")
    return text


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies cached in `$XDG_CACHE_HOME/grpo-envs/judge`, one file for each request."""

    kept: bool = True
    """Whether replies are cached."""

    def key_of(self, url: str, body: Mapping[str, Any]) -> str:
        """Return the name of a request; it does not depend on the API key."""
        sent = json.dumps([_FORMAT, url, body], sort_keys=True)
        return hashlib.sha256(sent.encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return the cached reply, or None."""
        if not self.kept:
            return None
        try:
            found = json.loads(_place(key).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, LookupError, TypeError):  # missing or incomplete
            return None
        return found if isinstance(found, str) else None

    def put(self, key: str, reply: str) -> None:
        """Cache a reply; a failure to write is a warning."""
        if not self.kept:
            return
        path = _place(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"reply": reply}, file)
            Path(name).replace(path)
        except OSError as error:
            _warn(f"a judge's replies cannot be kept: {error}")


def _place(key: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "grpo-envs" / "judge" / key[:2] / f"{key}.json"


@lru_cache(maxsize=8)
def _warn(text: str) -> None:
    log.warning("%s", text)

"""An OpenAI-compatible endpoint on this machine that says what a function tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """A response: `text` as a chat completion, or `raw` as it is."""

    text: str = ""
    status: int = 200
    reason: str = "stop"
    raw: bytes | None = None
    after_s: float = 0.0
    trickle_s: float = 0.0
    """Seconds between two bytes."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.reason}
        return json.dumps({"choices": [choice]}).encode()


@dataclass
class Server:
    say: Callable[[str], Said]
    """From what the user's message asks to the response."""
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Said:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.requests.append(json.loads(body))
            self.headers.append(headers)
            self.paths.append(path)
        try:
            said = self.say(self.requests[-1]["messages"][-1]["content"])
            time.sleep(said.after_s)
            return said
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def judging(say: Callable[[str], Said]) -> Iterator[Server]:
    server = Server(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            said = server.answer(self.path, dict(self.headers), body)
            with suppress(OSError):  # the client has gone
                self._send(said)

        do_GET = do_POST

        def _send(self, said: Said) -> None:
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            if not said.trickle_s:
                self.wfile.write(said.body)
                return
            for byte in said.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(said.trickle_s)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as at:
        server.url = f"http://127.0.0.1:{at.server_address[1]}/v1"
        thread = threading.Thread(target=at.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            at.shutdown()
            thread.join()

"""`python -m grpo_envs.report RUN --watch`: a server on 127.0.0.1 whose page follows runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.report.watched import Watched

_HOST = "127.0.0.1"


def serve(paths: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """Return the server of a page; it is not serving yet.

    Args:
        paths: The runs.
        port: A port of 127.0.0.1; 0 for a free one.

    Raises:
        ConfigError: a folder is not a run, or the port is in use.
    """
    watched = Watched(paths)

    class Handler(_Handler):
        """A handler for these runs."""

        runs = watched

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--port {port}: {why}. Allowed: a free one, or 0 for any.") from None


class _Handler(BaseHTTPRequestHandler):
    """`/` is the page, `/news?since=VERSION` the data after a version."""

    runs: Watched

    def do_GET(self) -> None:
        """Answer requests for 127.0.0.1 or localhost only, against DNS rebinding."""
        asked = urlsplit(self.path)
        if (self.headers["Host"] or "").rpartition(":")[0] not in (_HOST, "localhost"):
            self._answer(403, "text/plain", "127.0.0.1 only")
            return
        try:
            if asked.path == "/":
                self._answer(200, "text/html", self.runs.page())
            elif asked.path == "/news":
                since = parse_qs(asked.query).get("since", [""])[0]
                news = self.runs.news(since)
                self._answer(
                    200 if news else 204, "application/json", json.dumps(news, ensure_ascii=False)
                )
            else:
                self._answer(404, "text/plain", "nothing here")
        except (GrpoEnvsError, OSError, ValueError) as error:  # such as a deleted folder
            self._answer(500, "text/plain", str(error))

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = b"" if code == 204 else text.encode("utf-8", "replace")
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""

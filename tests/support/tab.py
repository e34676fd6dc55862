"""A tab of headless Chromium that tests drive: scripts, keys, pictures (DevTools protocol)."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_SECONDS = 60.0


class Tab:
    """One page that is open."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=_SECONDS))
            if said.get("id") == self._number:  # events have none
                assert "error" not in said, said
                return dict(said["result"])

    def js(self, expression: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        said = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not (found := self.js(expression)):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        """Press a key that writes one character."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Choose the size of the window and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, out: Path) -> None:
        """Write what the window shows as a PNG."""
        out.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def opened(address: str, profile: Path) -> Iterator[Tab]:
    """Open a page, with a profile of its own."""
    client = pytest.importorskip("websockets.sync.client")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    with subprocess.Popen([*command, "about:blank"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = iter(process.stderr.readline, "")
            port = next(m[1] for line in said if (m := re.search(r"127\.0\.0\.1:(\d+)/", line)))
            with urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
                pages = [each for each in json.load(reply) if each["type"] == "page"]
            place = pages[0]["webSocketDebuggerUrl"]
            with client.connect(place, max_size=None) as socket:
                tab = Tab(socket)
                tab.call("Page.enable")
                tab.call("Page.navigate", url=address)
                tab.until(f"location.href.startsWith({json.dumps(address)})")
                yield tab
        finally:
            process.terminate()
            process.wait(timeout=30)

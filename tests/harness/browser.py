"""A real headless browser, driven over a pipe by the DevTools protocol: what a page does there, and how it looks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 30.0

ON_THREE_AND_FOUR = """
import os, sys
there, back = int(sys.argv[1]), int(sys.argv[2])
there, back = os.dup(there), os.dup(back)  # neither is 3 or 4 any more
while there < 5: there = os.dup(there)
while back < 5: back = os.dup(back)
os.dup2(there, 3)
os.dup2(back, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Where the browser speaks the protocol."""


def found() -> str | None:
    """The browser of this machine, if there is one; MLC_JITD_TEST_BROWSER names another, or none."""
    named = os.environ.get("MLC_JITD_TEST_BROWSER")
    return named or next(filter(None, map(shutil.which, NAMES)), None) if named != "none" else None


class Browser:
    """One browser with one page.

    Args:
        folder: For its profile.
    """

    def __init__(self, folder: Path) -> None:
        program = found()
        assert program is not None
        here, theirs = os.pipe(), os.pipe()
        words = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_THREE_AND_FOUR, str(here[0]), str(theirs[1]), *words],
            pass_fds=(here[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(here[0])
        os.close(theirs[1])
        self._to, self._from = here[1], theirs[0]
        self._left = b""
        self._last = 0
        self.heard: list[dict[str, Any]] = []
        """What the browser told by itself: requests, console, exceptions."""
        self._session = ""
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, page: Path, *, width: int, dark: bool) -> None:
        """Load a file at a width, in a light or a dark room."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self._ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + SECONDS
        while not any(each["method"] == "Page.loadEventFired" for each in self.heard):
            self._hear(deadline)
        self.heard = [each for each in self.heard if each["method"] != "Page.loadEventFired"]

    def value(self, expression: str) -> Any:
        """What a script of ours makes of the page."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(AssertionError, OSError):
            self._session = ""
            self._ask("Browser.close")
        os.close(self._to)
        os.close(self._from)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._hear(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _hear(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._from, 1 << 20) if ready else b""
            assert piece, "the browser says nothing"
            self._left += piece
        said, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(said)
        if "method" in message:
            self.heard.append(message)
        return message

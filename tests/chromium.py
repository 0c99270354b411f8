"""A headless Chromium, driven over its DevTools protocol, without any client library.

The protocol runs over two pipes: JSON messages that end in a zero byte
(https://chromedevtools.github.io/devtools-protocol/).
"""

import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe", "--enable-precise-memory-info",
)  # fmt: skip


class Tab:
    """One page. Everything that happens on it is kept in `events`."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._numbers = itertools.count(1)
        self._rest = b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, timeout: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come before it are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + timeout
        while True:
            found = self._receive(end)
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def wait(self, event: str, timeout: float = 60.0) -> dict[str, Any]:
        """The next event of this name, or one that has come already; it is used up."""
        end = time.monotonic() + timeout
        while True:
            for i, found in enumerate(self.events):
                if found.get("method") == event:
                    return self.events.pop(i)["params"]
            self.events.append(self._receive(end))

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._read, 2**20)
            if not data:
                raise RuntimeError("Chromium is gone")
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, address: str, timeout: float = 120.0) -> float:
        """Loads a page; seconds until its load event."""
        start = time.monotonic()
        self.send("Page.navigate", url=address)
        self.wait("Page.loadEventFired", timeout)
        return time.monotonic() - start

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def key(self, name: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            written = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=name, **written)

    def resize(self, width: int, height: int, dark: bool = False, scale: float = 1.0) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=scale, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def named(self, event: str) -> list[dict[str, Any]]:
        """Parameters of the events of this name so far."""
        return [found["params"] for found in self.events if found.get("method") == event]


@contextlib.contextmanager
def tab() -> Iterator[Tab]:
    """A tab of a fresh browser that ends with the block."""
    assert BINARY, "no Chromium"
    there, write = os.pipe()
    read, back = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads from descriptor 3 and writes to 4.
        launch = f'exec "$0" "$@" 3<&{there} 4>&{back}'
        process = subprocess.Popen(
            ["bash", "-c", launch, BINARY, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        try:
            yield _attached(Tab(read, write))
        finally:
            process.kill()
            process.wait()
            os.close(read)
            os.close(write)


def _attached(found: Tab) -> Tab:
    targets = found.send("Target.getTargets")["targetInfos"]
    page = next(target for target in targets if target["type"] == "page")
    attached = found.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
    found.session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log", "Performance"):
        found.send(f"{domain}.enable")
    return found


def address(file: pathlib.Path) -> str:
    return file.absolute().as_uri()

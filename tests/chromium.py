"""A real headless Chromium for tests, spoken to through a pipe (the DevTools protocol), without a driver.

It has no network: whatever a page asks for is refused and noted. `PATH` says which Chromium; without one, tests
that ask for `browser` are skipped.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--force-device-scale-factor=1", "--hide-scrollbars", "--force-color-profile=srgb"),
    # Every name resolves to nothing, so that a request that slips through fails as well as being noted.
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
_PATIENCE = 60.0

# Every text whose contrast with what lies behind it is too low, by WCAG's formula; 4.5 is AA for any size.
FAINT = r"""(() => {
  const rgba = c => { const n = c.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || ['STYLE', 'title'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = rgba(e.tagName === 'text' ? style.fill : style.color);
    const ratio = contrast(over(ink, behind(e)), behind(e));
    if (ratio < 4.5) bad.push([walk.currentNode.data.slice(0, 40), ratio]);
  }
  return bad;
})()"""


def found() -> str | None:
    """The Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser with one page.

    Attributes:
        problems: what the console said that is an error or a warning, and uncaught exceptions.
        requests: every address that a page asked for, the page itself left out.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and answers at 4.
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = [*_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, ""
        self._seen: set[str] = set()
        self._attach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE)
        os.close(self._write)
        os.close(self._read)

    def open(self, page: Path, *, width: int = 1280, height: int = 800, **media: str) -> None:
        """Load a file; `media`: prefers_color_scheme="dark", prefers_reduced_motion="reduce"."""
        self.problems.clear()
        self.requests.clear()
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.ask("Emulation.setEmulatedMedia", media="", features=features)
        size = {"width": width, "height": height}
        self.ask("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        self._seen.discard("Page.loadEventFired")
        self.ask("Page.navigate", url=page.as_uri())
        self._until("Page.loadEventFired")
        self.requests[:] = [address for address in self.requests if address != page.as_uri()]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page, a promise's too."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one DevTools command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer)

    def _attach(self) -> None:
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")  # the first one is about:blank
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def _until(self, event: str) -> None:
        while event not in self._seen:
            self._note(self._next())

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready = select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]
            piece = os.read(self._read, 1 << 20) if ready else b""
            assert piece, "Chromium ended" if ready else f"Chromium said nothing for {_PATIENCE:.0f} seconds"
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        method, what = event.get("method", ""), event.get("params", {})
        self._seen.add(method)
        level = what.get("type") or what.get("entry", {}).get("level")
        said = method in ("Runtime.consoleAPICalled", "Log.entryAdded") and level in (
            "error",
            "warning",
            "assert",
        )
        if said or method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(what))
        elif method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])

"""A server that misbehaves by a script, and completions that make verifiers misbehave."""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from chat_server import completion
from soak import child, mutate

CLASSES = ("server", "verifier")
_TEXTS = [
    "!spin", "!sleep", "!memory", "!segfault", "!exit", "!sysexit", "!raise", "!text", "!nan", "!two", "!print", "!stubborn",
    "", "\0", "\x1b[2J", "\\boxed{9^{9^{9^9}}}", "\\boxed{" * 200, "\\frac{" * 3000, "1/0", "x" * 200_000, "\u202e\U0001f600" * 100,
    "[[" * 5000, "\\boxed{\\int_0^\\infty e^{-x^2}dx}", "nan", "1e999999", "0" * 5000,
]  # fmt: skip
_STATUSES = [204, 301, 307, 400, 401, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 599]
_WAITS = ["0", "-1", "nan", "inf", "x", "", "Wed, 21 Oct 2015 07:28:00 GMT", "0.5", "9" * 400]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, kind: str, seed: int, badness: float, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.kind, self.badness, self.chance = kind, badness, random.Random(f"{kind} server:{seed}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._answer(
            {"object": "list", "data": [{"id": "tiny"}]},
            self.server.badness / 4 if self.server.kind == "server" else 0.0,
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer, chance = completion(body), self.server.chance
        if self.server.kind == "verifier" and chance.random() < self.server.badness:
            answer["choices"][0]["message"]["content"] = chance.choice(_TEXTS)
        self._answer(answer, self.server.badness if self.server.kind == "server" else 0.0)

    def _answer(self, value: Any, badness: float) -> None:
        chance = self.server.chance
        if chance.random() >= badness:
            self._send(200, json.dumps(value).encode())
            return
        self.close_connection = True
        kind, text = chance.randrange(12), json.dumps(value).encode()
        if kind <= 2:
            self._send(200, json.dumps(mutate.retyped(value, chance)).encode())
        elif kind == 3:
            self._send(200, mutate.damaged(text, chance))
        elif kind == 4:
            self._send(
                chance.choice(_STATUSES), text, {"Retry-After": chance.choice(_WAITS), "Location": self.path}
            )
        elif kind == 5:
            self._send(200, text[: len(text) // 2], {"Content-Length": str(len(text))})
        elif kind == 6:
            self.wfile.write(chance.randbytes(200))
        elif kind == 7:
            self._send(200, text, {"Content-Encoding": chance.choice(("gzip", "br", "deflate", "x"))})
        elif kind == 8:
            self._send(200, text, {f"X-{k}": "y" * 900 for k in range(200)})
        elif kind == 9:
            self._send(200, text, {"Content-Length": chance.choice(("-1", "x", "1", "9" * 30))})
        elif kind == 10:
            for place in range(0, len(text), 20):
                with suppress(OSError):
                    self.wfile.write(text[place : place + 20])
                time.sleep(0.05)
        # Else: it hangs up.

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        with suppress(OSError):
            self.end_headers()
            self.wfile.write(data)


def _serve(kind: str, seed: int, badness: float, port: int) -> None:
    with _Server(kind, seed, badness, port) as server:
        Path("port").write_text(f"{server.server_address[1]}\n")
        server.serve_forever(0.05)


def _begin(kind: str, seed: int, badness: float, folder: Path, port: int = 0) -> tuple[child.Child, int]:
    place = folder / "served"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    server, path = child.start(partial(_serve, kind, seed, badness, port), place), place / "port"
    while not (path.exists() and path.read_text().endswith("\n")):
        if not server.alive():
            raise RuntimeError(server.wait().stderr)
        time.sleep(0.01)
    return server, int(path.read_text())


def case(kind: str, seed: int, world: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Rollouts with such a server; where it ends early, then with a good one at the same place."""
    chance = random.Random(f"{kind}:{seed}")
    box = folder / "box"
    shutil.copytree(world, box)
    badness = chance.choice((0.1, 0.5, 1.0))
    verifier = chance.choice(
        ("exact", "math", "bad_verifiers:check") if kind == "verifier" else ("exact", "bad_verifiers:check")
    )
    on_error = chance.choice(("stop", "skip", "skip"))
    server, port = _begin(kind, seed, badness, folder)
    command = [
        "difficulty", "rollout", "set", "-o", "new", "--server", f"http://127.0.0.1:{port}", "--verifier", verifier, "--samples", "2",
        "--reference", "6", "--max-tokens", "8", "--retries", "1", "--timeout", "2", "--verify-seconds", "1", "--on-error", on_error,
    ]  # fmt: skip
    seen = child.start(command, box).wait()
    server.kill()
    server.wait()
    found = child.faults(seen)
    facts = {
        "work": f"{verifier} {on_error}",
        "badness": badness,
        "code": seen.code,
        "error": seen.error[:300],
    }
    facts["seconds"] = round(seen.seconds, 2)
    if seen.code != 0 and on_error == "skip" and not found:
        server, _ = _begin("good", seed, 0.0, folder, port)
        again = child.start(command, box).wait()
        if again.code == 2 and "--overwrite" in again.error:  # the bad one had another model
            again = child.start([*command, "--overwrite"], box).wait()
        server.kill()
        server.wait()
        found += child.faults(again)
        if again.code != 0:
            found.append(f"with a good server: exit code {again.code}, {again.error[:500]}")
    return found, facts | ({"stderr": seen.stderr[-3000:]} if found else {})

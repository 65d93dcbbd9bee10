"""A small OpenAI-compatible server on this machine that can misbehave."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS = 200  # of an answer without a fault
Key = tuple[str, int]  # the last message's text and the seed: which completion is asked for
Fault = Callable[[Key, int], str | Iterable[bytes] | None]


def answer_of(question: str) -> str:
    """What `tiny.questions` has as the answer."""
    return str(3 * int(question.rstrip("?").split()[-1]))


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """Right for even seeds; the same for the same request."""
    question, seed = body["messages"][-1]["content"], body["seed"]
    text = answer_of(question) if seed % 2 == 0 else f"wrong {seed}"
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    choice["message"] = {"role": "assistant", "content": text}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]}
    if body.get("return_token_ids"):
        choice["token_ids"] = [5, 6]
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


def wire(body: bytes, status: str = "200 OK", *headers: str, length: bool = True) -> bytes:
    """An answer as it is sent."""
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {len(body)}"] if length else []), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class ChatServer(ThreadingHTTPServer):
    """Answers on a thread of its own while it is used as a context.

    `fault` is which fault the n-th attempt (from 1) of a completion meets: `drop`, `half`, `broken`, `other`,
    `date` or a status, or what is sent, in parts, instead. `before` is called before each completion is given.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        fault: Fault = lambda key, attempt: None,
        *,
        models: tuple[str, ...] = ("tiny",),
        before: Callable[[Key], None] = lambda key: None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.before = fault, before
        self.list_of_models: Any = {"data": [{"id": name} for name in models]}
        self.lock = threading.Lock()
        self.attempts: Counter[Key] = Counter()
        self.given: list[Key] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> ChatServer:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class Gate:
    """Holds every completion after the first `free` ones, for `ChatServer(before=...)`, until `held` is set."""

    def __init__(self, free: int) -> None:
        self.free, self.reached, self.held = free, threading.Event(), threading.Event()
        self.arrived: list[Key] = []

    def __call__(self, key: Key) -> None:
        self.arrived.append(key)
        if len(self.arrived) > self.free:
            self.reached.set()
            self.held.wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        found = self.path == "/v1/models"
        self._send(200 if found else 404, json.dumps(self.server.list_of_models if found else {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        assert self.path == "/v1/chat/completions"
        key = (body["messages"][-1]["content"], body["seed"])
        with server.lock:
            server.attempts[key] += 1
            attempt = server.attempts[key]
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
        server.before(key)
        fault, text = server.fault(key, attempt), json.dumps(completion(body))
        self.close_connection = fault in ("drop", "half") or not isinstance(fault, str | None)
        if fault is None:
            with server.lock:
                server.given.append(key)
            self._send(STATUS, text)
        elif not isinstance(fault, str):
            for part in fault:
                self.wfile.write(part)
        elif fault == "half":
            self._send(200, text[: len(text) // 2], length=len(text))
        elif fault in ("broken", "other"):
            self._send(200, text[: len(text) // 2] if fault == "broken" else '{"choices": []}')
        elif fault == "date":
            self._send(429, "{}", retry="Wed, 21 Oct 2015 07:28:00 GMT")
        elif fault != "drop":
            self._send(int(fault), json.dumps({"error": {"message": f"fault {fault}"}}), retry="0")

    def _send(self, status: int, text: str, *, length: int | None = None, retry: str | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(data)))
        if retry is not None:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(data)

"""An object store on this machine for tests: moto's server on the loopback address, with faults put in front of it."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECRET = "hidden-f3a1b2c9"
"""A secret access key, which must be nowhere but in the environment."""
Answer = tuple[int, bytes]
Fault = Callable[[str, str, dict[str, str]], "Answer | dict[str, str] | None"]
"""Method, path and headers to an answer instead of the store's, to other headers, or to nothing."""


def environment(endpoint: str) -> dict[str, str]:
    """What a user sets."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIAUSER",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


@contextmanager
def moto() -> Iterator[str]:
    """The server's address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def ask(url: str, method: str = "GET", data: bytes | None = None) -> bytes:
    """What the store answers, asked without any of our code. moto looks at no signature."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}
    signed["Content-Type"] = "application/octet-stream"
    with urllib.request.urlopen(urllib.request.Request(url, data, signed, method=method)) as answer:
        body: bytes = answer.read()
    return body


def files(endpoint: str, bucket: str, folder: str) -> dict[str, bytes]:
    """What lies in a folder of a bucket, by name."""
    listed = ask(f"{endpoint}/{bucket}?list-type=2&prefix={folder}").decode()
    keys = re.findall(r"<Key>([^<]+)</Key>", listed)
    return {key.removeprefix(folder): ask(f"{endpoint}/{bucket}/{key}") for key in keys}


class Proxy:
    """Stands in front of a store; `fault` may answer in its place. `seen` lists what was asked."""

    def __init__(self, endpoint: str) -> None:
        self.fault: Fault = lambda method, path, headers: None
        self.seen: list[tuple[str, str]] = []
        host = endpoint.removeprefix("http://")
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                proxy.seen.append((self.command, self.path))
                changed = proxy.fault(self.command, self.path, headers)
                if isinstance(changed, tuple):
                    self._answer(changed[0], {}, changed[1])
                    return
                behind = http.client.HTTPConnection(host, timeout=60)
                behind.request(self.command, self.path, body, changed if changed is not None else headers)
                answer = behind.getresponse()
                own = ("connection", "transfer-encoding", "date", "server")
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in own}
                self._answer(answer.status, headers, answer.read())
                behind.close()

            do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                if "content-length" not in {name.lower() for name in headers}:
                    headers["Content-Length"] = str(len(body))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""What a server may say: each misbehaviour with its sentence, and that none of them spoils a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx2
import pytest

import chat_server
from chat_server import ChatServer, wire
from gaincurate.difficulty.config import base_url
from gaincurate.difficulty.prompts import Completion, Prompt, Refused
from gaincurate.difficulty.rollout import roll_out
from gaincurate.errors import InputError, RowError, ServerError
from server_rollouts import config, question, rows_of

pytest.importorskip("httpx2")
from gaincurate.difficulty.server_engine import ServerEngine, _read, _retry_after, clean

SECRET = "sk-0123456789abcdef"
SHOWN = "[OPENAI_API_KEY]"
ERROR = json.dumps({"error": {"message": "no"}}).encode()


def answer(**change: Any) -> dict[str, Any]:
    """A chat completion with other values, by place: `tokens`, `prompt_tokens`, `logprobs`, `ids`, ..."""
    choice = {
        "index": 0,
        "message": {"content": change.get("content", "yes")},
        "finish_reason": change.get("reason", "stop"),
        "logprobs": {"content": [{"logprob": value} for value in change.get("logprobs", [-0.5])]},
        "token_ids": change.get("ids", [5]),
    }
    usage = {"completion_tokens": change.get("tokens", 1), "prompt_tokens": change.get("prompt_tokens", 1)}
    return {"choices": [choice], "usage": usage}


def says(value: object) -> list[bytes]:
    return [wire(json.dumps(value).encode())]


NO_CHAT = "its answer is no chat completion ({})"
PROTOCOL = "of RemoteProtocolError ({})"
TOO_LARGE = "its answer has more than 33,554,432 bytes"

AGAIN: dict[str, tuple[Iterable[bytes], str]] = {
    "nothing": ([], PROTOCOL.format("Server disconnected without sending a response.")),
    "an endless answer": (chain([wire(b"", length=False)], repeat(b" " * 65536)), TOO_LARGE),
    "a length beyond the bytes": (
        [wire(b"{}", "200 OK", "Content-Length: 99999999999", length=False)],
        PROTOCOL.format("peer closed connection without sending complete message body (received 2 bytes, expected 99999999999)"),
    ),
    "a 429 with an absurd wait": ([wire(ERROR, "429 No", "Retry-After: nan")], "it answered 429: no"),
    "an empty answer": ([wire(b"")], NO_CHAT.format("JSONDecodeError: Expecting value: line 1 column 1 (char 0)")),
    "half a text": ([wire(b'{"choices": [{"mess')], NO_CHAT.format("JSONDecodeError: Unterminated string starting at: line 1 column 15 (char 14)")),
    "no choices": (says({}), NO_CHAT.format("KeyError: 'choices'")),
    "a text that is a list": (says(answer(content=["yes"])), NO_CHAT.format("AttributeError: 'list' object has no attribute 'encode'")),
    "ids for other tokens": (says(answer(ids=[5, 6])), NO_CHAT.format("ValueError: it has 2 token ids and 1 log-probs")),
    "a probability above 1": (says(answer(logprobs=[-0.5, 0.5])), NO_CHAT.format("ValueError: a log-prob is no number, or above 0")),
    "a log-prob that is none": (says(answer(logprobs=[float("nan")])), NO_CHAT.format("ValueError: a log-prob is no number, or above 0")),
    "half a token": (says(answer(prompt_tokens=0.5)), NO_CHAT.format("TypeError: 'float' object cannot be interpreted as an integer")),
}  # fmt: skip


def ask(tmp_path: Path, fault: Iterable[bytes] | str, **options: Any) -> Completion | Refused:
    """One request, not repeated."""
    given = {"served_model": "m", "samples": 1, "retries": 0} | options
    with (
        ChatServer(lambda key, attempt: fault) as server,
        closing(ServerEngine(config(tmp_path, server, **given), {})) as engine,
    ):
        try:
            prompt = Prompt("a", [{"role": "user", "content": question(1)}], None, {}, 1)
            ((done,),) = list(engine.generate([prompt], frozenset()))
            return done
        except (InputError, ServerError) as error:
            error.args = (str(error).replace(server.url, "URL"),)
            raise


@pytest.mark.parametrize("name", AGAIN)
def test_an_answer_that_cannot_be_right_has_a_sentence(tmp_path: Path, name: str) -> None:
    fault, reason = AGAIN[name]
    with pytest.raises(ServerError) as caught:
        ask(tmp_path, fault)
    assert str(caught.value) == (
        f"the server at URL/v1 failed once for prompt a, sample 0, because {reason}. What had arrived is kept; "
        "see to the server and run the same command again."
    )


def test_an_answer_that_drips_ends_with_the_time(tmp_path: Path) -> None:
    ended = threading.Event()

    def drip() -> Iterator[bytes]:
        yield wire(b"", "200 OK", length=False)
        for _ in range(400):  # a byte is never far: without a total this is an answer after some seconds
            yield b" "
            ended.wait(0.01)
        yield json.dumps(answer()).encode()

    try:
        with pytest.raises(
            ServerError, match=r"because its answer was not there in 0\.5 seconds; give --timeout more"
        ):
            ask(tmp_path, drip(), timeout=0.5)
    finally:
        ended.set()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ([wire(ERROR, "400 Bad")], "no"),
        ([wire(b"", "422 ")], "422"),
        ([wire(b'{"error": null}', "400 Bad")], "None"),
    ],
)
def test_a_prompt_is_refused_by_three_statuses(tmp_path: Path, fault: Iterable[bytes], reason: str) -> None:
    assert ask(tmp_path, fault) == Refused("a", f"the server refused it: {reason}")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ([wire(ERROR, "403 No")], "answered 403: no. Is the key in OPENAI_API_KEY right?"),
        ([wire(b"", "404 ")], "answered 404."),
        ([wire(b"", "307 Go", "Location: http://other.example/v1")], "answered 307: Go."),
    ],
)  # fmt: skip
def test_any_other_status_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Iterable[bytes], sentence: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(InputError) as caught:
        ask(tmp_path, fault, retries=3)
    assert str(caught.value) == f"the server at URL/v1/chat/completions {sentence}"


@pytest.mark.parametrize("models", [{"data": [{"id": 3}]}, {"data": {"id": "m"}}, []])
def test_a_list_of_models_is_checked_too(tmp_path: Path, models: object) -> None:
    server = ChatServer()
    server.list_of_models = models
    with server, pytest.raises(ServerError) as caught:
        roll_out(config(tmp_path, server, retries=0))
    assert "failed once for its models, because its answer is no list of models (" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("\U0001f600", "\U0001f600"),
        ("a\0b", "a\ufffdb"),
    ],
)
def test_texts_that_no_file_can_hold(content: str | None, text: str) -> None:
    body = {"choices": [{"message": {"content": content}}]}
    done = _read("a", 0, body)
    assert (done.text, done.tokens, done.logprobs, done.finish_reason) == (text, None, None, None)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("86400", 3600.0), ("9" * 400, 3600.0), ("soon", None)]
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert _retry_after(httpx2.Response(429, headers={"Retry-After": value})) == seconds
    assert _retry_after(httpx2.Response(429)) is None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("https://h/some/v2", "https://h/some/v2"),
        ("HTTP://my_host-2.example.:65535", "http://my_host-2.example.:65535/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_urls(url: str, found: str) -> None:
    assert base_url(url) == found
    assert httpx2.Request("GET", found).url == found


EXPECTED = "--server {}: expected a URL in ASCII such as http://localhost:8000/v1."
LEFT_OUT = (
    "--server: leave user names, queries and fragments out of the URL; a key is read from OPENAI_API_KEY."
)
NO_URL = ["", "localhost:8000", "ftp://h/v1", "http:///v1", "http://[::1/v1", "http://h:99999/v1"]
NO_URL += ["http://h:0", "http://h /v1", "http://b\u00fccher.example"]
BAD_URLS = [(url, EXPECTED) for url in NO_URL]
BAD_URLS += [("http://me:secret@h:99999/v1", LEFT_OUT), ("http://h/v1?key=secret", LEFT_OUT)]


@pytest.mark.parametrize(("url", "sentence"), BAD_URLS)
def test_urls_that_cannot_be_used_have_a_sentence(tmp_path: Path, url: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        config(tmp_path, url)
    assert str(caught.value) == sentence.format(url)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_refusal_that_quotes_the_key_does_not_write_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    # The key lies where a line of 300 characters is cut.
    reply = json.dumps({"error": {"message": "x" * 284 + f" \ud83d {SECRET}"}}).encode()
    refused, printed = [wire(reply, "400 Bad")], ""
    with ChatServer(lambda key, attempt: refused if key[0] == question(5) else None) as server:
        try:
            roll_out(config(tmp_path, server, on_error=on_error))
        except RowError as error:
            printed = str(error)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert SECRET[:8] not in printed
    assert ("rejected.jsonl" in kept, "shard-00000.arrow" in kept) == ((on_error == "skip"),) * 2
    assert not any(SECRET[:8].encode() in data for data in kept.values())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ([wire(json.dumps({"error": f"no such key: {SECRET}"}).encode(), "401 No")], f"no such key: {SHOWN}"),
        ([wire(b"", f"500 {SECRET}")], f"500: {SHOWN}"),
        ([f"HTTP/1.1 {SECRET}\r\n\r\n".encode()], f"HTTP/1.1 {SHOWN}"),
        (says({"choices": [{"message": {}, "token_ids": [SECRET]}]}), f"'{SHOWN}'"),
    ],
)
def test_an_error_that_quotes_the_key_does_not_print_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Iterable[bytes], said: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises((InputError, ServerError)) as caught:
        ask(tmp_path, fault)
    assert said in str(caught.value)
    shown: BaseException | None = caught.value
    while shown is not None:  # what a traceback shows, with GAINCURATE_DEBUG=1
        assert SECRET not in str(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


def test_a_completion_or_a_model_that_quotes_the_key_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(chat_server, "completion", lambda body: answer(content=f"<{SECRET}>", reason=SECRET))
    with ChatServer(models=(f"tiny-{SECRET}",)) as server:
        roll_out(config(tmp_path, server))
    row = rows_of(tmp_path / "out")[0]
    assert (row["completion"], row["finish_reason"]) == (f"<{SHOWN}>", SHOWN)
    kept = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in data for data in kept)


def test_an_echo_of_the_key_is_replaced_and_a_placeholder_is_left() -> None:
    assert clean(f"<{SECRET}> and {SECRET}", SECRET) == f"<{SHOWN}> and {SHOWN}"
    assert clean("<sk%2F01234567%2B89>", "sk/01234567+89") == f"<{SHOWN}>"
    assert clean("EMPTY is the set", "EMPTY") == "EMPTY is the set"
    assert clean("nothing", "") == "nothing"


REFUSED: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "the set would keep the key": ({"OPENAI_API_KEY": SECRET}, {"server_body": {"a": [f"x {SECRET}"]}}, "--server-body holds the key of OPENAI_API_KEY"),
    "so would its model": ({"OPENAI_API_KEY": SECRET}, {"served_model": SECRET}, "--served-model holds the key of OPENAI_API_KEY"),
    "a SOCKS proxy": ({"ALL_PROXY": "socks5://127.0.0.1:1"}, {}, "the proxy that the environment names cannot be used; correct it"),
    "no proxy": ({"HTTP_PROXY": "foo://me:sk-0123@x"}, {}, "the proxy that the environment names cannot be used; correct it"),
    "a proxy without a port": ({"http_proxy": "http://a:sk-0123:c"}, {}, "the proxy that the environment names cannot be used; correct it"),
    "white space": ({"OPENAI_API_KEY": "sk-0123 words!"}, {}, "OPENAI_API_KEY has white space in it, or what no HTTP header can hold; set it again."),
    "a line break": ({"OPENAI_API_KEY": "sk-0123\nbreak"}, {}, "OPENAI_API_KEY has white space in it"),
    "an accent": ({"OPENAI_API_KEY": "sk-0123-cl\u00e9"}, {}, "OPENAI_API_KEY has white space in it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_key_or_a_proxy_that_cannot_be_used_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    environment, options, sentence = REFUSED[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        roll_out(config(tmp_path, "http://127.0.0.1:1", **options))
    assert sentence in str(caught.value)
    assert "sk-0" not in str(caught.value)
    assert not (tmp_path / "out").exists()

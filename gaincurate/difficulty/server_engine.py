"""Rollouts by an OpenAI-compatible server, asked many at a time.

What a server says is checked before it is kept, and asked for again where it cannot be right. Ctrl-C is
only noted while the event loop runs and raised after it, because an exception inside leaves the loop broken.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import httpx2
import numpy as np
import tenacity

from gaincurate.core.process import Pressed, ctrl_c_noted
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Key, Refused, Request, request_seed
from gaincurate.errors import InputError, ServerError

API_KEY = "OPENAI_API_KEY"
LOGPROBS = "as the server gives them; many give those before temperature and top-p"
RESERVED_KEYS = {"messages", "model", "seed", "n", "stream", "temperature", "top_p", "max_tokens"}
"""Keys of a request's body that are not the user's."""
_BUSY = {408, 409, 425, 429}
_OF_THE_PROMPT = {400, 413, 422}
_LONGEST_WAIT = 30.0
_LONGEST_ASKED = 3600.0
_SHORTEST_SECRET = 8
_LOOK = 0.2  # seconds until Ctrl-C is seen, at most: it does not wake a loop
_Result = TypeVar("_Result")


async def first_done(tasks: set[asyncio.Task[_Result]], pressed: Pressed) -> set[asyncio.Task[_Result]]:
    """Those that are done, at least one; none where there is no task or Ctrl-C was pressed."""
    done: set[asyncio.Task[_Result]] = set()
    while tasks and not done and not pressed:
        done, _ = await asyncio.wait(tasks, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
    return done


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel and wait until they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _RetryableError(Exception):
    """An attempt failed in a way that another may not; `after` seconds if the server said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ServerEngine:
    """A server that generates.

    Args:
        config: of the rollouts; `server` is set.
        template_kwargs: extra variables for the chat template, as when the set was scored.

    Raises:
        InputError: the URL or the model's name cannot be used.
        ServerError: the server does not answer.
    """

    def __init__(self, config: RolloutConfig, template_kwargs: dict[str, Any]) -> None:
        assert config.server is not None
        reserved = RESERVED_KEYS & config.server_body.keys()
        if reserved:
            raise InputError(
                f"--server-body sets {min(reserved)!r}, which is set for each request; leave it out."
            )
        self._config, self._next = config, 0.0
        self._url = base_url(config.server)
        key = os.environ.get(API_KEY, "")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise InputError(
                f"{API_KEY} has white space in it, or what no HTTP header can hold; set it again."
            )
        self._clean = partial(clean, key=key)
        self._runner = asyncio.Runner()
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(config.timeout, connect=min(30.0, config.timeout), pool=None),
            limits=httpx2.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
        )
        self._body: dict[str, Any] = {"chat_template_kwargs": template_kwargs} if template_kwargs else {}
        if config.logprobs:
            self._body["logprobs"] = True
        self._body |= config.server_body
        try:
            with ctrl_c_noted() as pressed:
                self._model = config.served_model or self._runner.run(self._only_model(pressed))
        except BaseException:
            self.close()
            raise
        self.identity: dict[str, Any] = {
            "kind": "openai-chat",
            "model": self._model,
            "body": self._body,
            "logprobs": LOGPROBS if config.logprobs else None,
        }

    def generate(
        self, requests: Sequence[Request], done: frozenset[Key]
    ) -> Generator[list[Completion | Refused]]:
        """See `Engine`. What had arrived when a request failed for good is yielded before the error."""
        wanted = iter([request for request in requests if request.key not in done])
        running: set[asyncio.Task[Completion | Refused]] = set()
        with ctrl_c_noted() as pressed:
            try:
                while True:
                    # Short work of the caller between two steps of the loop only lets sockets fill up.
                    finished = self._runner.run(self._step(running, wanted, pressed))
                    running -= finished
                    good = [task.result() for task in finished if task.exception() is None]
                    if good:
                        yield good
                    for task in finished:
                        if error := task.exception():
                            raise error
                    if not finished:
                        return
            finally:
                self._runner.run(cancel(running))

    def close(self) -> None:
        """Close the connections."""
        with ctrl_c_noted():
            self._runner.run(self._client.aclose())
            self._runner.close()

    async def _step(
        self, running: set[asyncio.Task[Completion | Refused]], wanted: Iterator[Request], pressed: Pressed
    ) -> set[asyncio.Task[Completion | Refused]]:
        """Fill up with requests and wait for one. What is finished: nothing after the last, or Ctrl-C."""
        while len(running) < self._config.concurrency and (request := next(wanted, None)) is not None:
            running.add(asyncio.ensure_future(self._complete(request)))
        return await first_done(running, pressed)

    async def _complete(self, request: Request) -> Completion | Refused:
        """One completion, however many attempts it takes."""
        config = self._config
        if request.messages[-1]["role"] == "assistant":
            return Refused(
                request.gc_id, "its last message is the assistant's, which a server would not go on"
            )
        body = {
            **self._body,
            "model": self._model,
            "messages": request.messages,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": request_seed(config.seed, request.gc_id, request.sample),
        }

        async def attempt() -> Completion | Refused:
            response = await self._send("POST", "/chat/completions", body)
            if response.status_code in _OF_THE_PROMPT:
                return Refused(request.gc_id, f"the server refused it: {self._error_text(response)}")
            return _read(request, _json(response), self._clean)

        return await self._with_retries(attempt, f"for prompt {request.gc_id}, sample {request.sample}")

    async def _only_model(self, pressed: Pressed) -> str:
        """The server's model where it has one; empty after Ctrl-C."""

        async def attempt() -> list[str]:
            models = _json(await self._send("GET", "/models", None))
            try:
                return [self._clean(str(entry["id"])) for entry in models["data"]]
            except (LookupError, TypeError) as error:
                raise _RetryableError("it sent something else than a list of models") from error

        asked = asyncio.ensure_future(self._with_retries(attempt, "for its models"))
        if not await first_done({asked}, pressed):
            await cancel({asked})
            return ""
        names = asked.result()
        if len(names) != 1:
            raise InputError(
                f"--server {self._url} has {len(names)} models; name one with --served-model"
                + (f": {', '.join(sorted(names)[:10])}." if names else ".")
            )
        return names[0]

    async def _with_retries(self, attempt: Callable[[], Awaitable[_Result]], what: str) -> _Result:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_RetryableError),
            stop=tenacity.stop_after_attempt(self._config.retries + 1),
            wait=self._wait,
            reraise=True,
        )
        try:
            result: _Result = await retrying(attempt)
        except _RetryableError as error:
            tries = self._config.retries + 1
            often, last = ("once", "") if tries == 1 else (f"{tries} times", "the last time ")
            raise ServerError(
                f"the server at {self._url} failed {often} {what}, {last}"
                f"because {error}. What had arrived is kept; see to the server and run the same command "
                "again.",
                url=self._url,
            ) from error
        return result

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _RetryableError) and error.after is not None:
            return error.after
        return float(tenacity.wait_random_exponential(self._config.backoff, _LONGEST_WAIT)(state))

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        await self._turn()
        try:
            response = await self._client.request(method, self._url + path, json=body)
        except httpx2.TransportError as error:
            reason = self._clean(" ".join(str(error).split()))
            raise _RetryableError(
                f"of {type(error).__name__}" + (f" ({reason})" if reason else "")
            ) from error
        except httpx2.DecodingError as error:
            raise _RetryableError("its answer could not be decoded") from error
        status = response.status_code
        if status in _BUSY or status >= 500:
            raise _RetryableError(
                f"it answered {status} ({self._error_text(response)})", _retry_after(response)
            )
        if status in _OF_THE_PROMPT or response.is_success:
            return response
        hint = f" Is the key in {API_KEY} right?" if status in (401, 403) else ""
        reason = self._error_text(response)
        raise InputError(f"the server at {self._url}{path} answered {status}: {reason}.{hint}")

    def _error_text(self, response: httpx2.Response) -> str:
        """What an error answer says, in one line."""
        try:
            answer = response.json()
            answer = answer.get("error", answer)
            text = str(answer.get("message", answer) if isinstance(answer, dict) else answer)
        except (ValueError, AttributeError, RecursionError):
            text = response.text
        # The key goes first: of a line cut in its middle, half of it would stay.
        return " ".join(self._clean(text).split())[:300].rstrip(".") or self._clean(response.reason_phrase)

    async def _turn(self) -> None:
        """Wait until the rate allows one more request."""
        if self._config.rate is not None:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 1 / self._config.rate
            await asyncio.sleep(begin - now)


def base_url(server: str) -> str:
    """The URL that paths are appended to; /v1 is added where there is no path.

    Raises:
        InputError: no http or https URL, or one with a password in it.
    """
    try:
        url = httpx2.URL(server)
    except httpx2.InvalidURL as error:
        raise InputError(f"--server {server}: {error}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"--server {server}: expected a URL such as http://localhost:8000/v1.")
    if url.userinfo or url.query:
        raise InputError(f"--server: leave secrets out of the URL; a key is read from {API_KEY}.")
    return str(url).rstrip("/") + ("/v1" if url.path.strip("/") == "" else "")


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise _RetryableError("it sent broken JSON") from error


def clean(text: str, key: str = "") -> str:
    """What a server says, fit to be printed and kept: without the key, and as text that a file can hold.

    A key of less than 8 characters is left: it is a placeholder such as `EMPTY`, perhaps a word of an answer.
    """
    # Half of a surrogate pair becomes the replacement character.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace(key, f"[{API_KEY}]") if len(key) >= _SHORTEST_SECRET else text


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds until the server wants to be asked again: a number or a date."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = (
            float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
        )
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST_ASKED)


def _read(request: Request, body: Any, clean: Callable[[str], str] = clean) -> Completion:
    """A chat completion as the API has it. Whatever is kept of it has the type and range of its column.

    A line in the journal is final, so a number that no shard can hold would spoil the folder for good.
    """
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        text, listed = choice["message"]["content"], (choice.get("logprobs") or {}).get("content")
        ids, reason = choice.get("token_ids"), choice.get("finish_reason")
        logprobs = None if listed is None else [token["logprob"] for token in listed]
        counts = usage.get("completion_tokens"), usage.get("prompt_tokens")
    except (LookupError, TypeError, AttributeError) as error:
        raise _RetryableError("it sent something else than a chat completion") from error
    _expect(text is None or isinstance(text, str), "a completion that is no text")
    _expect(reason is None or isinstance(reason, str), "a finish_reason that is no text")
    for count in counts:
        _expect(count is None or _is_count(count), "a count of tokens that is no whole number of 31 bits")
    _expect(logprobs is None or all(map(_is_logprob, logprobs)), "a logprob that is no finite number")
    whole = ids is None or (isinstance(ids, list) and all(map(_is_count, ids)))
    _expect(whole, "token ids that are no whole numbers of 31 bits")
    return Completion(
        request.gc_id,
        request.sample,
        clean(text or ""),  # null where a server keeps the thinking apart and the tokens ended in it
        None if reason is None else clean(reason),
        *counts,
        None if logprobs is None else np.array(logprobs, np.float32),
        None if ids is None else np.array(ids, np.int32),
    )


def _expect(fits: bool, instead: str) -> None:
    if not fits:
        raise _RetryableError(f"it sent {instead}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_logprob(value: Any) -> bool:
    """Whether it is a number that float32 holds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= float(np.finfo(np.float32).max)  # which NaN is not, either

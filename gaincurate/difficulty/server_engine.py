"""Rollouts by an OpenAI-compatible server, many requests at a time. Checks everything that a server sends.

An answer that exceeds a limit or has another shape is requested again, and ends the run if it stays so: it is
the server's fault, and rejecting the prompt would drop every prompt of a broken server. Ctrl-C is only noted
while the event loop runs and raised after it, because an exception inside leaves the loop broken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import islice
from operator import index
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np

from gaincurate.core.foreign import json_value
from gaincurate.core.process import ctrl_c_noted
from gaincurate.difficulty.config import API_KEY, RolloutConfig, base_url
from gaincurate.difficulty.prompts import Completion, Key, Prompt, Refused, request_seed
from gaincurate.errors import InputError, ServerError

LOGPROBS = "as the server gives them; many give those before temperature and top-p"
RESERVED_KEYS = {
    "messages", "model", "seed", "n", "stream", "temperature", "top_p", "max_tokens", "max_completion_tokens",
}  # fmt: skip
"""Keys of a request's body that are not the user's."""
LARGEST_ANSWER = 1 << 25  # bytes: 200,000 tokens with log-probs; its line in the journal has up to twice that
_BUSY = {408, 409, 425, 429}
_OF_THE_PROMPT = {400, 413, 422}
_LONGEST_WAIT = 30.0
_REAL_KEY = 8  # characters; shorter ones, such as EMPTY, are no secret
_LONGEST_ASKED = 3600.0
_HIGHEST_LOGPROB = 0.01  # rounding may bring one slightly above 0
_SHOWN = 300  # characters of what a server says in a sentence
_LOOK = 0.2  # seconds until Ctrl-C is seen, at most: it does not wake a loop
_Result = TypeVar("_Result")


class _RetryableError(Exception):
    """An attempt failed in a way that another may not; it may begin after `after` seconds, if not None."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ServerEngine:
    """A server that generates, named by the config's `server`; `template_kwargs` are those of the scored set.

    Raises `InputError` if URL or model cannot be used, and `ServerError` if the server does not answer.
    """

    def __init__(self, config: RolloutConfig, template_kwargs: dict[str, Any]) -> None:
        assert config.server is not None
        reserved = RESERVED_KEYS & config.server_body.keys()
        if reserved:
            raise InputError(
                f"--server-body sets {min(reserved)!r}, which is set for each request; leave it out."
            )
        self._config = config
        self._url = base_url(config.server)
        key = os.environ.get(API_KEY, "")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise InputError(
                f"{API_KEY} has white space in it, or what no HTTP header can hold; set it again."
            )
        for option, given in ("--server-body", config.server_body), ("--served-model", config.served_model):
            if len(key) >= _REAL_KEY and key in str(given):
                raise InputError(
                    f"{option} holds the key of {API_KEY}, and a set says how it was made. Leave it out."
                )
        self._clean = partial(clean, key=key)
        self._runner = asyncio.Runner()
        try:
            httpx2.URL(self._url)
            self._client = httpx2.AsyncClient(
                # A few compressed bytes can be gigabytes.
                headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx2.Timeout(None, connect=min(30.0, config.timeout)),
                limits=httpx2.Limits(max_connections=config.concurrency),
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            # It is not quoted, because the URL of a proxy can hold a password.
            raise InputError(
                "the URL of --server or the proxy that the environment names cannot be used; correct it, or "
                "unset HTTP_PROXY, HTTPS_PROXY and ALL_PROXY. A SOCKS proxy needs the package socksio."
            ) from error
        self._body: dict[str, Any] = {"chat_template_kwargs": template_kwargs} if template_kwargs else {}
        if config.logprobs:
            self._body["logprobs"] = True
        self._body |= config.server_body
        try:
            self._model = config.served_model or self._runner.run(self._only_model())
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
        self, prompts: Sequence[Prompt], done: frozenset[Key]
    ) -> Generator[list[Completion | Refused]]:
        """See `prompts`. If a request fails for good, the completions that arrived are yielded first."""
        wanted = (
            self._complete(prompt, sample)
            for prompt in prompts
            for sample in range(self._config.samples)
            if (prompt.gc_id, sample) not in done
        )
        running: set[asyncio.Task[Completion | Refused]] = set()

        async def step() -> set[asyncio.Task[Completion | Refused]]:
            """Start requests up to the limit, return finished ones: none after the last, or after Ctrl-C."""
            for request in islice(wanted, self._config.concurrency - len(running)):
                running.add(asyncio.ensure_future(request))
            finished: set[asyncio.Task[Completion | Refused]] = set()
            while running and not finished and not pressed:
                finished, _ = await asyncio.wait(running, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            return finished

        async def cancel() -> None:
            """Cancel what runs and wait until it has ended, however it does."""
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        with ctrl_c_noted() as pressed:
            try:
                # Short work of the caller between two steps of the loop only lets sockets fill up.
                while finished := self._runner.run(step()):
                    running -= finished
                    good = [task.result() for task in finished if task.exception() is None]
                    if good:
                        yield good
                    for task in finished:
                        task.result()
            finally:
                self._runner.run(cancel())

    def close(self) -> None:
        """Close the connections."""
        with ctrl_c_noted():
            self._runner.run(self._client.aclose())
            self._runner.close()

    async def _complete(self, prompt: Prompt, sample: int) -> Completion | Refused:
        """One completion, after as many attempts as needed."""
        config, gc_id = self._config, prompt.gc_id
        if prompt.messages[-1]["role"] == "assistant":
            return Refused(gc_id, "its last message is the assistant's, which a server would not go on")
        try:  # a key that the source added to a message may hold anything
            json.dumps([prompt.messages, prompt.tools], allow_nan=False)
        except (TypeError, ValueError) as error:
            return Refused(gc_id, f"its messages cannot be sent as JSON ({error})")
        body = {
            **self._body,
            "model": self._model,
            "messages": prompt.messages,
            **({"tools": prompt.tools} if prompt.tools else {}),
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": request_seed(config.seed, gc_id, sample),
        }

        def read(status: int, data: bytes) -> Completion | Refused:
            if status in _OF_THE_PROMPT:
                return Refused(gc_id, f"the server refused it: {self._reason(data) or status}")
            done = _read(gc_id, sample, json_value(data, surrogates=True), self._clean)
            if prompt.tools and done.finish_reason == "tool_calls":
                return Refused(
                    gc_id,
                    "the server parsed its completion into tool calls; start it without a tool parser, or "
                    """add --server-body '{"tool_choice": "none"}' if it then still renders the tools""",
                )
            return done

        return await self._ask(body, read, f"for prompt {gc_id}, sample {sample}")

    async def _only_model(self) -> str:
        """The server's model where it has one."""

        def read(_: int, data: bytes) -> list[str]:
            return [self._clean(model["id"]) for model in json_value(data, surrogates=True)["data"]]

        names = await self._ask(None, read, "for its models")
        if len(names) != 1:
            raise InputError(
                f"--server {self._url} has {len(names)} models; name one with --served-model"
                + (f": {', '.join(sorted(names)[:10])}." if names else ".")
            )
        return names[0]

    async def _ask(
        self, body: dict[str, Any] | None, read: Callable[[int, bytes], _Result], whose: str
    ) -> _Result:
        """The result of `read` for an answer's status and bytes, after as many attempts as needed."""
        tries = self._config.retries + 1
        for number in range(tries):
            try:
                status, data = await self._send(body)
                try:
                    return read(status, data)
                except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
                    why = self._clean(f"{type(error).__name__}: {error}")[:_SHOWN]
                    kind = "list of models" if body is None else "chat completion"
                    raise _RetryableError(f"its answer is no {kind} ({why})") from None
            except _RetryableError as error:
                last = error
            if number + 1 < tries:
                longest = min(self._config.backoff * 2.0 ** min(number, 99), _LONGEST_WAIT)
                await asyncio.sleep(random.uniform(0, longest) if last.after is None else last.after)
        often, when = ("once", "") if tries == 1 else (f"{tries} times", "the last time ")
        raise ServerError(
            f"the server at {self._url} failed {often} {whose}, {when}because {last}. What had arrived is "
            "kept; see to the server and run the same command again.",
            url=self._url,
        ) from last

    async def _send(self, body: dict[str, Any] | None) -> tuple[int, bytes]:
        """The status and bytes of a good answer or one about the prompt; without a body, of the models."""
        most, data = self._config.timeout, bytearray()
        method, path = ("GET", "/models") if body is None else ("POST", "/chat/completions")
        try:
            stream = self._client.stream(method, self._url + path, json=body)
            async with asyncio.timeout(most), stream as response:
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > LARGEST_ANSWER:
                        raise _RetryableError(f"its answer has more than {LARGEST_ANSWER:,} bytes")
        except TimeoutError as error:
            raise _RetryableError(
                f"its answer was not there in {most:g} seconds; give --timeout more, or --max-tokens less"
            ) from error
        except httpx2.RequestError as error:
            reason = self._clean(" ".join(str(error).split()))[:_SHOWN]
            # Not `from error`, because the library quotes what a server sent, perhaps the key.
            raise _RetryableError(f"of {type(error).__name__}" + (f" ({reason})" if reason else "")) from None
        status = response.status_code
        if response.is_success or (body is not None and status in _OF_THE_PROMPT):
            return status, bytes(data)
        reason = self._reason(data) or self._reason(response.reason_phrase.encode())
        answered = f"answered {status}" + (f": {reason}" if reason else "")
        if status in _BUSY or status >= 500:
            raise _RetryableError(f"it {answered}", _retry_after(response))
        hint = f" Is the key in {API_KEY} right?" if status in (401, 403) else ""
        raise InputError(f"the server at {self._url}{path} {answered}.{hint}")

    def _reason(self, data: bytes | bytearray) -> str:
        """The text of a response with an error status, in one line."""
        try:
            answer = json_value(bytes(data), surrogates=True)
            answer = answer.get("error", answer)
            text = str(answer.get("message", answer) if isinstance(answer, dict) else answer)
        except (ValueError, AttributeError):
            text = data.decode(errors="replace")
        # The key goes first: of a line cut in its middle, half of it would stay.
        return " ".join(self._clean(text).split())[:_SHOWN].rstrip(".")


def clean(text: str, key: str = "") -> str:
    """A server's text in valid Unicode and without the key, but for a placeholder as short as `EMPTY`."""
    # Half of a surrogate pair becomes the replacement character, and so does NUL.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    if len(key) < _REAL_KEY:
        return text
    for secret in {key, quote(key, safe="")}:
        text = text.replace(secret, f"[{API_KEY}]")
    return text


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds until the server wants to be asked again, an hour at most; None if it names none."""
    value = response.headers.get("Retry-After", "").strip()
    return min(float(value), _LONGEST_ASKED) if value.isdecimal() else None


def _read(gc_id: str, sample: int, body: Any, clean: Callable[[str], str] = clean) -> Completion:
    """The parts of a chat completion that a rollout keeps."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    reason, ids = choice.get("finish_reason"), choice.get("token_ids")
    # No content where a server keeps the thinking apart and the tokens ended in it.
    text, listed = choice["message"].get("content") or "", (choice.get("logprobs") or {}).get("content")
    logprobs = None if listed is None else np.array([token["logprob"] for token in listed], np.float32)
    if logprobs is not None and not (logprobs <= _HIGHEST_LOGPROB).all():
        raise ValueError("a log-prob is no number, or above 0")
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        raise ValueError(f"it has {len(ids):,} token ids and {len(logprobs):,} log-probs")
    tokens, prompt_tokens = (usage.get(name) for name in ("completion_tokens", "prompt_tokens"))
    return Completion(
        gc_id,
        sample,
        clean(text),
        None if reason is None else clean(reason),
        None if tokens is None else index(tokens),
        None if prompt_tokens is None else index(prompt_tokens),
        logprobs,
        None if ids is None else np.array(ids, np.int32),
    )

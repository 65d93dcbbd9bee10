"""Turns a row's messages into tokens and three spans: prefix, question and tail.

Spans come from the rendered template and the tokenizer's character offsets, never from constants of a model.
Slow tokenizers report no offsets, so these are found by decoding growing parts of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from gaincurate.core.files import digest_bytes
from gaincurate.core.prompts import Message, PromptProblem, Tool, with_additions
from gaincurate.errors import ModelError
from gaincurate.scoring.model import is_failure

RULE = "last-user-message-stripped/1"  # the name of this segmentation in the identity
_AT_ONCE = 1 << 20  # characters
_Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64] | None]
LONGEST_PROMPT = 1 << 22
"""Characters of a row's messages, about a million tokens. Longer texts would only cost time."""
_MOST_DECODED = 8192  # tokens, which take a quarter of a minute
# Digits survive templates that trim, change case or escape, and 40 of them do not occur by chance.
_PROBE = "7093518426619742850367214958603927184560"
_PROBE_TOOL: Tool = {
    "type": "function",
    "function": {"name": "probe", "description": _PROBE, "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True, slots=True)
class Segmented:
    """One prompt's tokens; the question is `token_ids[prefix:end]`."""

    token_ids: npt.NDArray[np.int32]  # [prompt_tokens]
    prefix: int
    end: int
    truncated: bool = False  # the question's end is cut off

    @property
    def question_tokens(self) -> int:
        """Tokens in the question."""
        return self.end - self.prefix


class Unusable(Exception):
    """The reason why a row cannot be segmented. `overlong` rows follow `--on-overlong`."""

    def __init__(self, reason: str, *, overlong: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.overlong = reason, overlong


@dataclass
class Segmenter:
    """Renders, tokenizes and segments prompts.

    Args:
        tokenizer: a transformers tokenizer, with a chat template unless all prompts are plain texts.
        system: a system message for rows without one.
        system_override: replace rows' own system messages by `system` instead of refusing them.
        shots: chat messages put after the system message.
        template_kwargs: extra variables for the chat template (`enable_thinking`, `date_string`).
        max_length: the longest whole prompt in tokens; None for no limit.
        truncate: cut the question's end to `max_length` instead of refusing the row.
        vocab_size: how many tokens the model has embeddings for; None for no check.
        tails: the model reads tails too.

    Raises:
        ModelError: the chat template is missing, or refuses the system message or the examples.
    """

    tokenizer: Any
    _: KW_ONLY
    system: str | None = None
    system_override: bool = False
    shots: Sequence[Message] = ()
    template_kwargs: dict[str, Any] | None = None
    max_length: int | None = None
    truncate: bool = False
    vocab_size: int | None = None
    tails: bool = False

    def __post_init__(self) -> None:
        self._has_template = bool(getattr(self.tokenizer, "chat_template", None))
        self._frames: dict[str, tuple[str, str] | None] = {}
        if not self._has_template and (self.system is not None or self.shots):
            raise ModelError(
                "this model's tokenizer has no chat template, so --system and --shots have no place; "
                "leave them out, or take the instruction-tuned model."
            )
        try:
            rendering = self._render(self._full([{"role": "user", "content": _PROBE}]))
        except Unusable as error:
            raise ModelError(
                f"the chat template cannot render the prompt: {error}. Leave out --system or --shots "
                "if it does not allow them, or check --template-kwargs."
            ) from error
        # A hash of a rendered probe prompt: system message, examples, template, and today's date if used.
        self.fingerprint = digest_bytes(rendering.encode())

    @property
    def renders_tools(self) -> bool:
        """Whether the chat template renders tools."""
        probe = self._full([{"role": "user", "content": _PROBE}])
        return self._has_template and self._render(probe, [_PROBE_TOOL]) != self._render(probe)

    def __call__(
        self, prompts: Sequence[Sequence[Message]], tools: Sequence[list[Tool] | None] | None = None
    ) -> list[Segmented | Unusable]:
        """Segment each prompt, independently of the others; `tools` are those of each prompt."""
        results: dict[int, Segmented | Unusable] = {}
        located: dict[int, tuple[str, int, int]] = {}
        for place, messages in enumerate(prompts):
            try:
                located[place] = self._locate(self._full(list(messages)), tools[place] if tools else None)
            except Unusable as error:
                results[place] = error.with_traceback(None)
        tokens = self._tokenize([text for text, _, _ in located.values()])
        for (place, (text, start, stop)), (ids, offsets) in zip(located.items(), tokens, strict=True):
            try:
                if offsets is None:
                    self._check_length(ids)
                    offsets = decoded_offsets(self.tokenizer, text, ids)
                results[place] = self._cut(ids, offsets, start, stop)
            except Unusable as error:
                results[place] = error.with_traceback(None)
        return [results[place] for place in range(len(prompts))]

    def _full(self, messages: list[Message]) -> list[Message]:
        """The row's messages with the system message and the examples of the run."""
        try:
            return with_additions(messages, self.system, self.shots, override=self.system_override)
        except PromptProblem as error:
            raise Unusable(str(error)) from None

    def _render(self, messages: list[Message], tools: list[Tool] | None = None) -> str:
        if not self._has_template:
            if len(messages) != 1:
                raise Unusable(
                    "the tokenizer has no chat template, so only a plain text or one user message "
                    f"can be scored, and this prompt has {len(messages)} messages"
                )
            return str(messages[0]["content"])
        last_is_answer = messages[-1]["role"] == "assistant"
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=not last_is_answer,
                continue_final_message=last_is_answer,
                **(self.template_kwargs or {}),
            )
        except Exception as error:  # a template is a program and can raise anything
            reason = " ".join(str(error).split())[:200]
            raise Unusable(f"the chat template refused the messages ({reason})") from None
        if len(rendered) > 2 * LONGEST_PROMPT:
            raise Unusable(f"the chat template makes {len(rendered):,} characters of the messages")
        try:
            rendered.encode()
        except UnicodeEncodeError:
            raise Unusable("the chat template writes half of a surrogate pair") from None
        return rendered

    def _locate(self, messages: list[Message], tools: list[Tool] | None) -> tuple[str, int, int]:
        """The rendered text, and the first character of the question in it and the one after its last."""
        place = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
        if place is None:
            raise Unusable("there is no user message")
        question = (messages[place]["content"] or "").strip()
        if not question:
            raise Unusable("the question is empty")
        characters = sum(len(message["content"] or "") for message in messages)
        if characters > LONGEST_PROMPT:
            raise Unusable(
                f"the prompt has {characters:,} characters and the limit is {LONGEST_PROMPT:,}",
                overlong=self.max_length is not None and not self.truncate,
            )
        text = self._render(messages, tools)
        frame = self._frame(messages, place, tools)
        if frame is not None and (span := _inside(text, question, *frame)):
            return text, *span
        # The template depends on the content or rewrote the probe: only an unambiguous match is safe.
        hits = text.count(question)
        if hits == 0:
            raise Unusable(
                "the question cannot be found in the rendered prompt: the chat template rewrites it"
            )
        if hits > 1:
            raise Unusable(
                f"the question occurs {hits} times in the rendered prompt and the chat template's frame "
                "around it cannot be told"
            )
        start = text.index(question)
        return text, start, start + len(question)

    def _frame(self, messages: list[Message], place: int, tools: list[Tool] | None) -> tuple[str, str] | None:
        """The rendered text before and after the question, found with a probe in its place."""
        others = [*messages[:place], {"role": "user", "content": _PROBE}, *messages[place + 1 :]]
        key = repr((others, tools))
        if key not in self._frames:
            if len(self._frames) >= 64:  # rows with different histories never share a frame
                self._frames.clear()
            rendered = self._render(others, tools)
            head, probe, tail = rendered.partition(_PROBE)
            self._frames[key] = (head, tail) if probe and _PROBE not in tail else None
        return self._frames[key]

    def _tokenize(self, texts: list[str]) -> Iterator[_Tokens]:
        """Ids `[tokens]` and character offsets `[tokens, 2]`, None for a slow tokenizer."""
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        # In groups of texts, because a tokenizer's lists of numbers are ten times as large as arrays.
        ends = zip(texts, accumulate(map(len, texts)), strict=True)
        for _, group in groupby(ends, lambda each: each[1] // _AT_ONCE):
            part = [text for text, _ in group]
            try:
                # A rendered template has a BOS token; a plain text gets the tokenizer's, as in training.
                encoded = self.tokenizer(
                    part,
                    add_special_tokens=not self._has_template,
                    return_offsets_mapping=fast,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )
            except BaseException as error:
                if not is_failure(error):
                    raise
                reason = " ".join(str(error).split())[:200]
                raise ModelError(f"the model's tokenizer fails ({reason}). Copy its files again.") from error
            offsets = encoded["offset_mapping"] if fast else [None] * len(part)
            for ids, spans in zip(encoded["input_ids"], offsets, strict=True):
                where = None if spans is None else np.asarray(spans, np.int64).reshape(-1, 2)
                yield np.asarray(ids, np.int32), where

    def _cut(
        self, ids: npt.NDArray[np.int32], spans: npt.NDArray[np.int64], start: int, stop: int
    ) -> Segmented:
        """Segment at the tokens that overlap the question. One across its border belongs to the question."""
        touches = (spans[:, 0] < stop) & (spans[:, 1] > start) & (spans[:, 0] < spans[:, 1])
        places = np.flatnonzero(touches)
        if not len(places):
            raise Unusable("no token overlaps the question")
        prefix, end = int(places[0]), int(places[-1]) + 1
        read = ids if self.tails else ids[:end]
        unknown = read[read >= (self.vocab_size or np.iinfo(np.int32).max)]
        if len(unknown):
            raise Unusable(
                f"token {unknown[0]} is outside the model's vocabulary of {self.vocab_size}: the tokenizer "
                "has tokens that the model was never given"
            )
        self._check_length(ids)
        if self.max_length is None or len(ids) <= self.max_length:
            return Segmented(ids, prefix, end)
        if prefix >= self.max_length:
            raise Unusable(f"its prefix alone has {prefix} tokens and the limit is {self.max_length}")
        cut = ids[: self.max_length]
        return Segmented(cut, prefix, min(end, len(cut)), truncated=end > len(cut))

    def _check_length(self, ids: npt.NDArray[np.int32]) -> None:
        if self.max_length is not None and len(ids) > self.max_length and not self.truncate:
            sentence = f"the prompt has {len(ids)} tokens and the limit is {self.max_length}"
            raise Unusable(sentence, overlong=True)


def _inside(text: str, question: str, head: str, tail: str) -> tuple[int, int] | None:
    """The question's span in a text that begins with the template's `head` or ends with its `tail`."""
    begin, tail_start = len(head), len(text) - len(tail)
    begins, ends = text.startswith(head), text.endswith(tail)
    if begins and ends and begin < tail_start:
        inside = text[begin:tail_start]
        start, stop = begin + len(inside) - len(inside.lstrip()), begin + len(inside.rstrip())
        return (start, stop) if start < stop else None
    # One side depends on the content (such as a switch for thinking in it), so the other one decides.
    if begins:
        start = begin + len(text[begin:]) - len(text[begin:].lstrip())
        if text.startswith(question, start):
            return start, start + len(question)
    if ends:
        stop = len(text[:tail_start].rstrip())
        if text.endswith(question, 0, stop):
            return stop - len(question), stop
    return None


def decoded_offsets(tokenizer: Any, text: str, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Character offsets in `text`, `[tokens, 2]`, found by decoding the first n tokens for every n.

    Special tokens that are not in the text (an added BOS) get an empty span, and a token that is a part of a
    character gets the whole character. The time is quadratic in the number of tokens.

    Raises:
        Unusable: there are too many tokens, or they do not decode to the text.
    """
    if len(ids) > _MOST_DECODED:
        raise Unusable(
            f"the prompt has {len(ids):,} tokens, and the question's can be located in at most "
            f"{_MOST_DECODED:,} with a tokenizer that gives no offsets"
        )

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    special, body, lead = set(tokenizer.all_special_ids), ids.tolist(), 0
    while body and body[0] in special and not text.startswith(tokenizer.convert_ids_to_tokens(body[0])):
        body, lead = body[1:], lead + 1
    if body and body[-1] in special and not text.endswith(tokenizer.convert_ids_to_tokens(body[-1])):
        body.pop()
    whole = decode(body)
    # Some tokenizers add or remove white space at the start.
    shift = len(whole) - len(whole.lstrip()) - (len(text) - len(text.lstrip()))
    if whole[max(shift, 0) :] != text[max(-shift, 0) :]:  # spans would be guesses
        raise Unusable(
            "the question's tokens cannot be told: this tokenizer gives no offsets and its tokens do not "
            "decode to the text they were made from"
        )
    spans = np.zeros((len(ids), 2), np.int64)
    start, same, decoded = 0, 0, ""
    for n in range(1, len(body) + 1):
        before, decoded = decoded, decode(body[:n])
        if decoded != before:  # else the token is another part of the same character
            start, same = same, len(decoded)
            while not whole.startswith(decoded[:same]):  # the end may be half a character
                same -= 1
        spans[lead + n - 1] = start, same + (same < len(decoded))
    offsets: npt.NDArray[np.int64] = np.maximum(spans - shift, 0)
    return offsets

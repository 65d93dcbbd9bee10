"""Character offsets for tokenizers that give none: takes a text and its tokens, yields spans.

Knows nothing of prompts or templates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class UndecodableError(Exception):
    """The tokens do not decode to the text they were made from."""


def decoded_offsets(tokenizer: Any, text: str, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Where each token stands in `text`, `[tokens, 2]`, found by decoding ever longer heads.

    Special tokens that are not in the text (an added BOS) get an empty span; a token that is a part of a
    character has the whole character. The time grows with the square of the tokens.

    Raises:
        UndecodableError: decoding does not give the text back, so spans would be guesses.
    """
    lead, body = _without_added_tokens(tokenizer, text, ids)
    whole = _decode(tokenizer, body)
    # Some tokenizers add or drop white space at the start.
    shift = len(whole) - len(whole.lstrip()) - (len(text) - len(text.lstrip()))
    if whole[max(shift, 0) :] != text[max(-shift, 0) :]:
        raise UndecodableError
    spans = np.zeros((len(ids), 2), np.int64)
    start, same, made = 0, 0, ""
    for n in range(1, len(body) + 1):
        before, made = made, _decode(tokenizer, body[:n])
        if made != before:  # else one more part of the same character
            start, same = same, len(made)
            while not whole.startswith(made[:same]):  # the end may be half a character
                same -= 1
        spans[lead + n - 1] = start, same + (same < len(made))
    found: npt.NDArray[np.int64] = np.maximum(spans - shift, 0)
    return found


def _without_added_tokens(tokenizer: Any, text: str, ids: npt.NDArray[np.int32]) -> tuple[int, list[int]]:
    """How many special tokens were put before the text, and the tokens that are the text."""
    special = set(tokenizer.all_special_ids)
    lead = 0
    while lead < len(ids) and int(ids[lead]) in special:
        if text.startswith(tokenizer.convert_ids_to_tokens(int(ids[lead]))):
            break
        lead += 1
    body = [int(i) for i in ids[lead:]]
    if body and body[-1] in special and not text.endswith(tokenizer.convert_ids_to_tokens(body[-1])):
        body.pop()
    return lead, body


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text

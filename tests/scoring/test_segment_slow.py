from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

import templates
from gaincurate.scoring.segment import Segmented, Segmenter, Unusable
from templates import BOS, CASES, one, user

BY_NAME = {case.name: case for case in CASES}


class SlowByteLevel(transformers.PreTrainedTokenizer):
    """The same tokens as a fast byte-level tokenizer, from Python code and without offsets."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012  declared so by the base class

    def __init__(self, fast: Any, add_bos: bool, finish: Callable[[str], str] = str) -> None:
        self._inner = fast
        self._add_bos = add_bos
        self._finish = finish
        self._byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        marks = [str(t) for t in fast.added_tokens_decoder.values()]
        super().__init__(  # type: ignore[no-untyped-call]
            bos_token=BOS, eos_token="<|im_end|>", extra_special_tokens=marks
        )
        self.chat_template = fast.chat_template

    @property
    def vocab_size(self) -> int:
        return len(self._inner)

    def get_vocab(self) -> Any:
        return self._inner.get_vocab()

    def _tokenize(self, text: str, **kwargs: Any) -> Any:
        ids = self._inner(text, add_special_tokens=False)["input_ids"]
        return self._inner.convert_ids_to_tokens(ids)

    def _convert_token_to_id(self, token: str) -> Any:
        return self._inner.convert_tokens_to_ids(token)

    def _convert_id_to_token(self, index: int) -> Any:
        return self._inner.convert_ids_to_tokens(index)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return ([self._inner.bos_token_id] if self._add_bos else []) + token_ids_0

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        made = bytes(b for token in tokens for b in self._spell(token)).decode("utf-8", "replace")
        return self._finish(made)

    def _spell(self, token: str) -> bytes:
        if token in self.all_special_tokens:
            return token.encode()
        return bytes(self._byte_of[letter] for letter in token)


SLOW_TEXTS = [
    "🎉 2+2? 🎉", "👩‍👩‍👧", "e\u0301 été", "  padded \n", "\ufffd?\ufffd", "a", "日本", "<|im_end|> <s> x",
]  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: bool(t.strip()))


@pytest.mark.parametrize("name", ["qwen2.5", "mistral"])
@given(texts=st.lists(st.one_of(ANY_TEXT, st.sampled_from(SLOW_TEXTS)), min_size=1, max_size=3))
def test_a_slow_tokenizer_without_offsets_cuts_like_the_fast_one(name: str, texts: list[str]) -> None:
    case = BY_NAME[name]
    fast = templates.byte_level(case.template, words=False)
    slow = SlowByteLevel(fast, add_bos=True)
    rows = [user(text) for text in texts]
    by_fast = Segmenter(fast, template_kwargs=case.kwargs)(rows)
    by_slow = Segmenter(slow, template_kwargs=case.kwargs)(rows)
    assert all(map(alike, by_fast, by_slow))


def alike(a: Segmented | Unusable, b: Segmented | Unusable) -> bool:
    assert isinstance(a, Segmented)
    assert isinstance(b, Segmented), b
    return (a.token_ids.tolist(), a.prefix, a.end) == (b.token_ids.tolist(), b.prefix, b.end)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("text", SLOW_TEXTS)
def test_a_slow_base_tokenizer_cuts_like_the_fast_one(text: str, bos: bool) -> None:
    fast = templates.byte_level(None, bos=bos)
    assert alike(
        one(Segmenter(fast), user(text)), one(Segmenter(SlowByteLevel(fast, add_bos=bos)), user(text))
    )


@pytest.mark.parametrize("finish", [lambda text: " " + text, str.lstrip], ids=["adds", "drops"])
@pytest.mark.parametrize("text", ["  padded \n", "🎉 2+2? 🎉"])
def test_blanks_that_decoding_adds_or_drops_move_no_border(text: str, finish: Callable[[str], str]) -> None:
    fast = templates.byte_level(None, bos=True)
    slow = SlowByteLevel(fast, add_bos=True, finish=finish)
    assert alike(one(Segmenter(fast), user(text)), one(Segmenter(slow), user(text)))


def test_a_slow_tokenizer_whose_tokens_do_not_give_the_text_back_is_refused() -> None:
    slow = SlowByteLevel(templates.byte_level(BY_NAME["qwen2.5"].template), add_bos=False, finish=" ".join)
    (found,) = Segmenter(slow)([user("What is 2 + 2?")])
    assert isinstance(found, Unusable)
    assert "do not decode to the text they were made from" in found.reason


def test_a_prompt_too_long_to_decode_token_by_token_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowByteLevel, "decode", Mock(side_effect=AssertionError))
    slow = SlowByteLevel(templates.byte_level(BY_NAME["qwen2.5"].template), add_bos=False)
    cases: list[tuple[dict[str, Any], str, bool]] = [
        ({"max_length": 50}, "tokens and the limit is 50", True),
        ({}, "the question's can be located in at most 8,192 with a tokenizer that gives no offsets", False),
        ({"max_length": 50, "truncate": True}, "can be located in at most 8,192", False),
    ]
    for options, said, overlong in cases:
        (found,) = Segmenter(slow, **options)([user("What is 2 + 2? " * 1000)])
        assert isinstance(found, Unusable)
        assert (said in found.reason, found.overlong) == (True, overlong)

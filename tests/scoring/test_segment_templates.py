from __future__ import annotations

import unicodedata
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import templates
from gaincurate.core.prompts import Message
from gaincurate.scoring.segment import Segmented, Segmenter
from templates import CASES, QUOTED, Case

# What a template, a trimming rule or a tokenizer might trip over.
CONTENTS = [
    "What is 12 plus 7?", "  \n\tHow many apples are there?\n\n ", "user", "7", "?",
    "e\u0301tude: wie groß ist x\u0302? naïve",
    "🎉👩‍👩‍👧 party 🎉",
    "日本語の問題です。",
    "two  blanks   and\n\na line\r\nand a \u00a0 hard one",
    "<|im_end|> is a mark and so is </s>",
    "{{ messages }} {% raise %} %s {0}",
    "/no_think <think>\n</think> 2 + 2?",
    "<tool_response>4</tool_response>",
    "assistant\n[/INST] model Answer:",
    "\\frac{1}{2} + \"quotes\" & 'more' <b>",
    "\ufffd replaced \ufffd",
]  # fmt: skip
PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([*CONTENTS, " ", "\n", "<|im_start|>", "<s>", "[INST]", "<start_of_turn>", "assistant"]),
)
TEXTS = st.lists(PIECES, min_size=1, max_size=5).map("".join).filter(lambda text: bool(text.strip()))

_TOKENIZERS: dict[str, Any] = {}


def tokenizer(kind: str, template: str) -> Any:
    """Made once; `byte-level`, `no-words`, or sentencepiece-like `bpe` and `unigram`."""
    if kind not in _TOKENIZERS:
        if kind in ("byte-level", "no-words"):
            _TOKENIZERS[kind] = templates.byte_level(None, words=kind == "byte-level")
        else:
            _TOKENIZERS[kind] = templates.sentencepiece(None, unigram=kind == "unigram", first=kind == "bpe")
    _TOKENIZERS[kind].chat_template = template
    return _TOKENIZERS[kind]


def plain(content: str, case: Case, kind: str) -> str:
    """Without what makes the expected border itself unclear."""
    if kind == "unigram":  # it fuses unknown characters, and then all of them have one span
        content = "".join(" " if char.isspace() and char != "\n" else char for char in content)
    return content.strip() if case is QUOTED else content  # escaped blanks are blanks no more


def training_ids(made: Any, messages: list[Message], **kwargs: Any) -> Any:
    """What a trainer feeds the model."""
    encoded = made.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **kwargs)
    return encoded["input_ids"]


def check(made: Any, case: Case, messages: list[Message], found: Any, tail: str | None = None) -> None:
    """Hold a segmentation against the literal tail and the bytes that each token spells."""
    assert isinstance(found, Segmented), found
    tail = case.tail if tail is None else tail
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user").strip()
    shown = case.shown(question)
    last = messages[-1]["role"] == "assistant"
    text = made.apply_chat_template(
        messages, add_generation_prompt=not last, continue_final_message=last, tokenize=False, **case.kwargs
    )
    ids = found.token_ids.tolist()
    if not last:
        assert ids == training_ids(made, messages, **case.kwargs)
    assert ids.count(made.bos_token_id) == text.count(templates.BOS)
    assert text.endswith(tail)
    body = text.removesuffix(tail).rstrip()
    assert body.endswith(shown)
    start, stop = len(body.removesuffix(shown).encode()), len(body.encode())
    ends = list(accumulate(templates.token_bytes(made, ids)))
    blank = ends[-1] - len(text.encode())  # that a sentencepiece model puts before a text
    assert blank == 0 or (blank == 1 and made.convert_ids_to_tokens(ids[:1])[0].startswith("▁"))
    ends = [end - blank for end in ends]
    touching = [i for i, end in enumerate(ends) if end > start and (ends[i - 1] if i else 0) < stop]
    assert (found.prefix, found.end) == (touching[0], touching[-1] + 1)
    decoded = made.decode(ids[found.prefix : found.end], clean_up_tokenization_spaces=False)
    assert shown in decoded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_question_repeated_in_system_message_and_examples_is_found_at_its_own_place(case: Case) -> None:
    made = tokenizer("byte-level", case.template)
    for content in CONTENTS:
        shots = [{"role": "user", "content": content}, {"role": "assistant", "content": f"It is {content}"}]
        system = f"Never say {content} again." if case.system else None
        segmenter = Segmenter(made, system=system, shots=shots, template_kwargs=case.kwargs)
        own = [{"role": "user", "content": content}]
        (found,) = segmenter([own])
        full = ([{"role": "system", "content": system}] if system else []) + shots + own
        check(made, case, full, found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_last_user_message_of_a_conversation_is_the_question(case: Case) -> None:
    made = tokenizer("no-words", case.template)
    for content in CONTENTS:
        texts = ["What is 1 plus 1?", "2", content, "The answer is 19.", content + " and again?"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        (found,) = Segmenter(made, template_kwargs=case.kwargs)([messages])
        check(made, case, messages, found)


@pytest.mark.parametrize("case", [c for c in CASES if not c.name.startswith("qwen3")], ids=lambda c: c.name)
def test_an_answer_begun_after_the_question_is_tail_and_stays_open(case: Case) -> None:
    made = tokenizer("no-words", case.template)
    begun = "Let me think"
    closings = {"upper": "\nassistant: " + begun.upper(), "mistral": " [/INST] " + begun}
    tail = closings.get(case.name, case.tail + begun)
    for content in CONTENTS[:6]:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": begun}]
        (found,) = Segmenter(made, template_kwargs=case.kwargs)([messages])
        if case.name == "upper":  # transformers cannot tell where a rewritten answer ends
            assert not isinstance(found, Segmented)
            assert "the chat template refused the messages" in found.reason
        else:
            check(made, case, messages, found, tail)


@pytest.mark.parametrize("kind", ["byte-level", "no-words", "bpe", "unigram"])
@pytest.mark.parametrize("case", [*CASES, QUOTED], ids=lambda case: case.name)
@settings(max_examples=15)
@given(content=TEXTS)
def test_any_content_is_found_where_the_template_puts_it(case: Case, kind: str, content: str) -> None:
    made = tokenizer(kind, case.template)
    messages = [{"role": "user", "content": plain(content, case, kind)}]
    (found,) = Segmenter(made, template_kwargs=case.kwargs)([messages])
    check(made, case, messages, found)


@given(content=st.text("aeoAnn u\u0301\u0302\u0308\u0327éñ\n", min_size=1).filter(lambda t: bool(t.strip())))
def test_a_tokenizer_that_composes_characters_keeps_the_spans(content: str) -> None:
    if "nfc" not in _TOKENIZERS:
        _TOKENIZERS["nfc"] = templates.byte_level(None, nfc=True)
    made, case = _TOKENIZERS["nfc"], CASES[0]
    made.chat_template = case.template
    (found,) = Segmenter(made)([[{"role": "user", "content": content}]])
    assert isinstance(found, Segmented)
    messages = [{"role": "user", "content": content}]
    text = made.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    body = text.removesuffix(case.tail).rstrip()
    ends = list(accumulate(templates.token_bytes(made, found.token_ids.tolist())))
    parts = (body.removesuffix(content.strip()), body)
    start, stop = (len(unicodedata.normalize("NFC", part).encode()) for part in parts)
    touching = [i for i, end in enumerate(ends) if end > start and (ends[i - 1] if i else 0) < stop]
    assert (found.prefix, found.end) == (touching[0], touching[-1] + 1)

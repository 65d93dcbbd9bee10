"""Chat templates that behave like the well-known ones, and tokenizers to render and tokenise them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import tiny
from gaincurate.core.prompts import Message
from gaincurate.scoring.segment import Segmented, Segmenter

BOS = "<s>"
_MARKS = [
    BOS, "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
    "[INST]", "[/INST]",
]  # fmt: skip

_CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Looks for the last query and for thoughts inside contents.
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' and not (m.content.startswith('<tool_response>') "
    "and m.content.endswith('</tool_response>')) %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' %}"
    "{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{ 'Today Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_TURNS = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% set turns = messages %}"
    + _TURNS
    + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_GEMMA3 = (
    "{{ bos_token }}{% set first = '' %}{% set turns = messages %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% endif %}" + _TURNS +
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)  # fmt: skip
# The system message goes into the last user turn.
_MISTRAL = (
    "{{ bos_token }}{% set system = '' %}{% set turns = messages %}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% endif %}" + _TURNS +
    "{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.last else '') }}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + eos_token }}{% endif %}{% endfor %}"
)  # fmt: skip
_PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_UPPER = "{% for m in messages %}{{ m.role + ': ' + m.content | upper + '\n' }}{% endfor %}{{ 'Answer:' }}"
_QUOTED = (
    "{% for m in messages %}{{ m.role + ' said ' + m.content | tojson + '\n' }}{% endfor %}{{ 'Answer:' }}"
)
# Qwen2.5's way with tools: their schemas in the system message, calls and answers of tools as JSON.
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n"
    "{% elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' or not loop.first %}<|im_start|>{{ m.role }}"
    "{% if m.content %}\n{{ m.content }}{% endif %}{% for call in m.tool_calls or [] %}"
    '\n<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _quoted(question: str) -> str:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    rendered: str = _compile_jinja_template("{{ text | tojson }}").render(text=question)
    return rendered[1:-1]


@dataclass(frozen=True)
class Case:
    """A template, what it writes behind the question, and what it makes of a question."""

    name: str
    template: str
    tail: str
    shown: Callable[[str], str] = str
    kwargs: dict[str, Any] = field(default_factory=dict)
    system: bool = True


_END = "<|im_end|>\n<|im_start|>assistant\n"
_HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
CASES = [
    Case("qwen2.5", _CHATML, _END),
    Case("qwen3", QWEN3, _END),
    Case("qwen3-off", QWEN3, _END + "<think>\n\n</think>\n\n", kwargs={"enable_thinking": False}),
    Case("llama3", _LLAMA3, _HEADER),
    Case("llama3-dated", _LLAMA3, _HEADER, kwargs={"date_string": "26 Jul 2024"}),
    Case("gemma2", GEMMA2, "<end_of_turn>\n<start_of_turn>model\n", system=False),
    Case("gemma3", _GEMMA3, "<end_of_turn>\n<start_of_turn>model\n"),
    Case("mistral", _MISTRAL, " [/INST]"),
    Case("phi3", _PHI3, "<|end|>\n<|assistant|>\n"),
    Case("upper", _UPPER, "\nAnswer:", str.upper),
]
QUOTED = Case("quoted", _QUOTED, '"\nAnswer:', _quoted)


def byte_level(template: str | None, *, nfc: bool = False, words: bool = True, bos: bool = True) -> Any:
    """A byte-level BPE; with `words=False` its tokens go across blanks and borders; with `bos` the
    tokenizer itself adds one, as Llama's and Gemma's do.
    """
    fast = tiny.tokenizer(template, merges=120)
    state = fast.backend_tokenizer
    if not words:
        state.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if nfc:
        state.normalizer = normalizers.NFC()
    return _finish(fast, bos)


def sentencepiece(template: str | None, *, unigram: bool, first: bool, bos: bool = True) -> Any:
    """Pieces with ▁ for blanks and bytes for unknown characters, as in Llama-2, Mistral and Gemma."""
    letters = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "\n", *map(chr, range(33, 127))]
    pieces = ["▁W", "he", "▁a", "us", "se", "▁2", "\n▁", ":▁", "??"]
    if unigram:
        scored = [(piece, -5.0 - i % 7 / 10) for i, piece in enumerate(letters)]
        state = Tokenizer(models.Unigram([*scored, *((p, -4.0) for p in pieces)], 0, True))
    else:
        vocab = {piece: i for i, piece in enumerate([*letters, *pieces])}
        merges = [(piece[0], piece[1]) for piece in pieces]
        state = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    scheme = "first" if first else "never"
    state.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    state.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if first else [])
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=state, eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return _finish(fast, bos)


def _finish(fast: Any, bos: bool) -> Any:
    fast.add_special_tokens({"bos_token": BOS, "extra_special_tokens": _MARKS})
    if bos:
        number = fast.convert_tokens_to_ids(BOS)
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, number)]
        )
    return fast


def user(text: str) -> list[Message]:
    """A chat of one user message."""
    return [{"role": "user", "content": text}]


def one(segmenter: Segmenter, messages: list[Message]) -> Segmented:
    """The one prompt that a segmenter cuts."""
    (prompt,) = segmenter([messages])
    assert isinstance(prompt, Segmented), prompt
    return prompt


def token_bytes(tokenizer: Any, ids: list[int]) -> list[int]:
    """How many UTF-8 bytes of the rendered text each token stands for, from its own spelling."""
    marks = set(_MARKS) | {"<|endoftext|>"}
    lengths = []
    for token in tokenizer.convert_ids_to_tokens(ids):
        if token in marks:
            lengths.append(len(token))
        elif "<0x00>" in tokenizer.get_vocab():
            piece = len(token.replace("▁", " ").encode())
            lengths.append(1 if token.startswith("<0x") and token.endswith(">") else piece)
        else:
            lengths.append(len(token))  # byte-level: one letter, one byte
    return lengths

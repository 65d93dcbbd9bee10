r"""The answer that a completion gives, by the marks that prompts ask for.

The answer is the last `<answer>` element, else the last `\boxed{}`, else the text after the last `</think>`:
the rest of a line after `####`, or else all of it. Marks inside a thought count only if the completion gives
no answer after it, because a model may try several answers while it thinks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gaincurate.core.foreign import json_value
from gaincurate.core.prompts import Message

_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_ELEMENT = re.compile(r"<answer>((?:(?!</?answer>).)*+)</answer>", re.IGNORECASE | re.DOTALL)
_BRACE = re.compile(r"\\f?box(?:ed)?\s*(?:\{|(?<=\s)(\w+))|\\.|[{}]", re.DOTALL)
_LINE = re.compile(r"####+([^\n]*)")
_STATED = re.compile(r"\banswer\b[^.\n:=]{0,60}?(?:\bis\b|\bare\b|[:=])[\s:]*", re.IGNORECASE)
_HEADING = re.compile(r"\s*[^\W\d_]{2,}.*(?:\s|:\s*$)")
_WRAPPER = re.compile(r"\\(?:text|mbox|math)(?:bf|it|rm|sf|tt)?\s*\{([^{}]*)\}")
_FENCE = re.compile(r"\\[()\[\],;:! ]|[$*`~]")
_GROUPS = re.compile(r"(?<=\d)(?:\\[,;: ]|,?\\!|\{,\}|[\u2009\u202f\xa0])(?=\d{3}(?!\d))")
_LABEL = re.compile(r"\s*(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Z])\s*\))\s*[:.]?\s*(.*)", re.DOTALL)
_COLON = re.compile(r"\s*([A-Z])\s*(?::|\.(?=\s)|\s[-\u2013\u2014](?=\s))\s*(.*)", re.DOTALL)
_AFTER = re.compile(
    r"(.*\d\D*?)(?:\\(?:implies|(?:[Ll]ong)?[Rr]ightarrow)\s*\(?([A-Z])\)?|[\s,]\s*\(([A-Z])\))", re.DOTALL
)
_LETTER = r"[(\[]?\s*+([A-Z]|(?<=[(\[])[a-z]|[a-z](?=\s*(?:[.,]|$)))\s*[)\]]?(?![\w'])"
_CHOICES = (
    re.compile(rf"\b(?i:answer)\b(?i:\s+(?:is|choice|option)|\s*[:=])*\s*+{_LETTER}", re.MULTILINE),
    re.compile(r"\b([A-Z])\)? is (?:the )?(?:correct|right|answer|best)"),
    re.compile(rf"\b(?i:option|choice)\b(?i:\s+is|\s*[:=])*\s*+{_LETTER}", re.MULTILINE),
)
_PREFIX = re.compile(r"^(?i:option|choice|answer)\s*[:=]?\s+(?=[(A-Z])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTIONS = "arc(?:sin|cos|tan)|sqrt|sinh|cosh|tanh|infty|infinity|theta|alpha|beta|gamma|sigma|lambda"
_NAMES = re.compile(_FUNCTIONS, re.IGNORECASE)
_PROSE = re.compile(rf"\b(?!(?:{_FUNCTIONS})\b)[^\W\d_]{{4,}}\b", re.IGNORECASE)
_UNIT = re.compile(r"(?<=\d)\s+(?!(?:and|or|pi|sqrt)\b)[^\W\d_]{2,3}\b|^[^\W\d_]{2,3}\s", re.IGNORECASE)
_OPERATORS = re.compile(r"[-+=^_*(){}\[\]\\|<>]")
_SPACED = re.compile(r"[ \t]*([-+=])[ \t]*|(?<=frac)[ \t]+(?=\{)")
_PI = re.compile(r"(?<![\\A-Za-z])(?:pi\b|\u03c0)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
_HASHES = re.compile(r"####(?!#| +(?!(?i:answer|final|your))[A-Za-z])")
_BOLD = re.compile(r"(?<![\w)}])\*\*|\*\*(?![\w({\\])|`")
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?!\w)")
_SIGNS = {
    0x2212: "-",
    0x3000: " ",
    0xB0: r"^\circ ",
    0xB2: "^2",
    0xB3: "^3",
    0xD7: r"\times ",
    0x221A: r"\sqrt ",
}
_SIGNS |= {0xFF00 + code: chr(0x20 + code) for code in range(1, 95)}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a completion; `marked` says whether a tag, a box or `####` encloses it."""

    text: str
    marked: bool


def given_answers(completion: str) -> list[Answer]:
    """The answer that counts, then the one that replaces it if it holds no expression.

    Empty if a thought was cut off, or nothing follows it and nothing is marked.
    """
    visible, hidden, tail = _thoughts(completion)
    if (text := _marked(visible)) is not None:
        return [Answer(text, True)]
    if tail is None:
        return []
    text = _after_hashes(tail)
    answers = [Answer(tail.strip(), False)] if text is None else [Answer(text, True)]
    if text is None and (inner := _marked(hidden)) is not None:
        answers.append(Answer(inner, True))
    return [answer for answer in answers if answer.text]


def said_answer(completion: str) -> str:
    """The content of the last `<answer>` element outside thoughts, else the text after the last thought."""
    visible, _, tail = _thoughts(completion)
    element = _element(visible)
    return (element if element is not None else tail or "").strip()


def _thoughts(completion: str) -> tuple[str, str, str | None]:
    """The text outside thoughts, the text of closed thoughts, and the text after the last thought.

    The last is None if the thought was cut off. A thought may have begun in the prompt, so `</think>` may
    come without an opening tag.
    """
    visible: list[str] = []
    hidden: list[str] = []
    place, is_open = 0, False
    for tag in _THOUGHT.finditer(completion):
        closes = bool(tag[1])
        (hidden if closes or is_open else visible).append(completion[place : tag.start()])
        place, is_open = tag.end(), not closes
    tail = completion[place:]
    if not is_open:
        visible.append(tail)
    return "\n".join(visible), "\n".join(hidden), None if is_open else tail


def _element(text: str) -> str | None:
    """The content of the last `<answer>` element. Servers leave out a stop string such as `</answer>`."""
    if elements := _ELEMENT.findall(text):
        return str(elements[-1])
    _, tag, rest = text.rpartition("<answer>")
    return rest if tag and rest.strip() else None


def _marked(text: str) -> str | None:
    content = _element(text)
    if content is None:
        return last_box(text)
    content = content.strip()
    box = last_box(content)
    return next((inner for inner in (box, _after_hashes(content)) if inner is not None), content)


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{}` (or `\fbox{}`) that is closed and not empty."""
    opened: list[int | None] = []  # where the content of each open brace begins, None where it is no box's
    last, content = -1, None
    for token in _BRACE.finditer(text):  # one pass: a box that is never closed costs no second scan
        if token[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None and begin > last and (inner := text[begin : token.start()].strip()):
                last, content = begin, inner
        elif token[0].endswith("{") and token[0] != r"\{":
            opened.append(token.end() if token[0] != "{" else None)
        elif token[1] and token.start() > last:
            last, content = token.start(), token[1]
    return content


def _after_hashes(text: str) -> str | None:
    """The rest of the last line with `####` that is no heading of a section."""
    for match in reversed(list(_LINE.finditer(text))):
        line = _statement(match[1].strip(" *:"))
        if line and not (_HEADING.match(line) and text[match.end() :].strip()):
            return line
    return None


def _statement(text: str) -> str:
    """The text after the last "answer is" or "answer:" up to the end of its sentence, else the text."""
    places = [match.end() for match in _STATED.finditer(text)]
    if not places:
        return text
    return re.split(r"\.(?:\s|$)|\n", text[places[-1] :], maxsplit=1)[0].strip()


def cleaned(text: str) -> str:
    """The stated answer in ASCII digits and signs of LaTeX, without bold and separators of thousands."""
    text = _BOLD.sub("", text).replace("**", "^").translate(_SIGNS)
    if not text.isascii():
        text = "".join(c if c.isascii() else str(unicodedata.decimal(c, c)) for c in text)
    text = _statement(_PI.sub(r"\\pi ", _GROUPS.sub("", text))).strip().removesuffix(".").strip()
    text = _EXPONENT.sub(r"\1 \\cdot 10^{\2}", text)
    whole = _WRAPPER.fullmatch(text)
    return whole[1].strip() if whole else text


def boxed(line: str) -> str:
    r"""An expression as the LaTeX that math-verify reads best. It takes the `b` of `a + b + c` for a unit."""
    return rf"\boxed{{{_SPACED.sub(lambda space: space[1] or '', line)}}}"


def is_expression(text: str) -> bool:
    """Whether a text is a single line of mathematics, without words or units around it."""
    symbols = _COMMAND.sub(" ", _WRAPPER.sub(" ", text))
    if "\n" in text or _PROSE.search(symbols):
        return False
    return bool(_OPERATORS.search(text)) or not _UNIT.search(symbols)


def words_of(text: str) -> str:
    """A text for comparison as words: case-folded, without wrappers of LaTeX, signs and extra spaces."""
    text = _plain(text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", text).split())


def is_words(text: str) -> bool:
    """Whether an answer is a word of four letters, or a phrase, and no expression."""
    plain = _plain(text)
    if not all(c.isalpha() or c.isspace() or c in "-'.," for c in plain) or _NAMES.fullmatch(plain):
        return False
    words = words_of(text).split()
    if len(words) == 1:
        return len(words[0]) > 3 or (len(words[0]) > 1 and _WRAPPER.search(text) is not None)
    return any(len(word) > 2 and word != "and" for word in words)


def choice_of(text: str) -> tuple[str, str] | None:
    """The letter of a choice, upper-case, and the text of the option: `(E) 12`, `E: 12`, `12 (E)`, `E`."""
    plain = _PREFIX.sub("", _plain(text))
    if len(plain) == 1 and plain.isalpha() and plain.isascii():
        return plain.upper(), ""
    if label := _LABEL.fullmatch(plain):
        return (label[1] or label[2]).upper(), label[3].strip()
    if (label := _COLON.fullmatch(plain)) and not re.fullmatch("[A-Z]", label[2]):  # `A: B` is a ratio
        return label[1], label[2].strip()
    if label := _AFTER.fullmatch(plain):
        return label[2] or label[3], label[1].strip()
    return None


def stated_choice(text: str) -> str | None:
    """The letter that a text without marks states: "The answer is E.", "option (E)", or `(E)` at its end."""
    plain = _plain(text)
    for pattern in _CHOICES:
        if letters := pattern.findall(plain):
            return str(letters[-1]).upper()
    label = choice_of(plain.strip().rpartition("\n")[2])
    return label[0] if label else None


def _plain(text: str) -> str:
    """A text without LaTeX's wrappers of words, `$` and bold."""
    for _ in range(2):  # `\text{\textbf{(E)}}`
        text = _WRAPPER.sub(r"\1", text)
    return _FENCE.sub(" ", text).strip().removesuffix(".").strip()


def comparable(completion: str) -> str:
    """The answer of a completion in a normal form that most equal answers share; empty without an answer."""
    answers = given_answers(completion)
    if not answers:
        return ""
    text = cleaned(answers[0].text)
    if not answers[0].marked and not is_expression(text):
        numbers = _NUMBER.findall(text)
        text = stated_choice(text) or (numbers[-1] if numbers else text.rpartition("\n")[2])
    if (label := choice_of(text)) is not None:
        return label[0]
    text = _plain(text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\s|(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"(?<![\d.])(\d+)\.0+(?!\d)", r"\1", text).casefold()


def accepted(answer: Any) -> list[Any]:
    """The accepted gold answers: the items of a list or of a JSON list of texts, else the answer itself."""
    if isinstance(answer, str) and answer.lstrip().startswith('["'):
        try:
            answer = json_value(answer)
        except ValueError:
            return [answer]
    return [item for item in answer if item is not None] if isinstance(answer, list | tuple) else [answer]


def asked_format(messages: Iterable[Message]) -> str:
    """The form in which the prompt asks for the answer, with `{answer}`: a tag, a box, `####`, or plain."""
    prompt = "\n".join(message["content"] or "" for message in messages)
    written = "{answer}"
    if r"\boxed" in prompt:
        written = r"\boxed{{answer}}"
    elif _HASHES.search(prompt):
        written = "#### {answer}"
    return f"<answer>{written}</answer>" if "<answer>" in prompt.lower() else written

"""The process that judges completions: pickled jobs on its standard input, a line of JSON for each.

It keeps one verifier for its lifetime, under a limit on memory, and each job runs under a limit on time that
the kernel enforces, because foreign code may never return to Python. Output of a verifier goes to standard
error. The process imports the verifier's own library and nothing heavy of ours, so that it starts quickly.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import pickle
import re
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from gaincurate.core.foreign import json_value, read_bytes, without_secrets
from gaincurate.difficulty.answers import (
    Answer,
    accepted,
    boxed,
    choice_of,
    cleaned,
    given_answers,
    is_expression,
    is_words,
    said_answer,
    stated_choice,
    words_of,
)

Check = Callable[[str, Any, dict[str, Any]], Any]
WALL = 3  # times its limit of processor time that a job may take by the clock, waiting included
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # they differ from run to run


@dataclass(frozen=True, slots=True)
class Job:
    """One completion, the row's gold answer, and the row as Python values."""

    completion: str
    answer: Any
    row: dict[str, Any]


class GoldProblem(Exception):
    """The row's answer, or another column that the verifier needs, cannot be used; the text is the reason."""


def main(verifier: str, seconds: float, memory: int) -> None:
    """Serve jobs until the input ends, each in `seconds` of processor time, with `memory` MiB in all."""
    jobs, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # a verifier's output must not mix with the replies
    # Ctrl-C is for the parent. A handler, because processes that a verifier starts would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # `ulimit -v`, which only root may raise
    limit = memory << 20
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        check, about = load(verifier)
    except BaseException as error:  # a user's module can end in any way
        _say(replies, {"failed": _short(error)})
        return
    _say(replies, {"about": about})
    process = os.getpid()
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        verdict = _judge(check, job, seconds, memory)
        if os.getpid() != process:  # a verifier forked and returned in both processes; the parent replies
            os._exit(0)
        _say(replies, verdict)


def _say(replies: BinaryIO, value: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the command ended
        # Short enough to go through a pipe in one piece.
        replies.write((json.dumps(value) + "\n").encode())


def _short(error: BaseException) -> str:
    text = type(error).__name__
    with suppress(BaseException):  # a verifier's own exception can have anything in it
        text = f"{text}: {' '.join(str(error).split())}".removesuffix(": ")
    return _told(text)


def _told(text: str, most: int = 400) -> str:
    """A verifier's text, shortened, in valid Unicode, without keys and addresses in memory."""
    text = _ADDRESS.sub("", without_secrets(text))
    # Half of a surrogate pair cannot be written.
    return text.encode(errors="backslashreplace").decode()[:most]


def _judge(check: Check, job: Job, seconds: float, memory: int) -> dict[str, Any]:
    """Run one job under the limit of time; past it the kernel ends this process."""
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)
    try:
        return _number(check(job.completion, job.answer, job.row))
    except GoldProblem as problem:
        return {"reason": _told(str(problem))}
    except MemoryError:
        return {"reason": f"the verifier needed more than {memory:,} MiB of memory", "spent": True}
    except BaseException as error:  # the verifier's own, SystemExit included
        return {"reason": f"the verifier raised {_short(error)}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _number(value: Any) -> dict[str, Any]:
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if not isinstance(value, bool | int | float):
        return {"reason": f"the verifier returned {_told(repr(value), 60)}, which is no number"}
    reward = float(value)
    if not (math.isfinite(reward) and 0 <= reward <= 1):
        return {"reason": f"the verifier returned {reward}, which is not from 0 to 1"}
    return {"reward": reward}


def load(verifier: str) -> tuple[Check, dict[str, Any]]:
    """The check of that name, and everything that can change its values (versions, a hash of the code).

    Raises `ImportError` or `AttributeError` if there is no such library, module or function.
    """
    if verifier == "exact":
        return _exact, {"rule": "stripped-text/2"}
    if verifier == "math":
        return _load_math()
    if verifier == "reasoning-gym":
        return _load_reasoning_gym()
    module, _, name = verifier.partition(":")
    imported = importlib.import_module(module)
    function = getattr(imported, name)
    path = getattr(imported, "__file__", None)
    code = blake2b(read_bytes(Path(path)), digest_size=16).hexdigest() if path else None
    return (lambda completion, _, row: function(completion, row)), {"code": code}


def gold_text(answer: Any) -> str:
    """The gold answer as text. Raises `GoldProblem` if it is null, empty, or neither text nor number."""
    if isinstance(answer, bool | int | float) and answer == answer:  # pandas writes null as NaN
        return str(answer)
    if not isinstance(answer, str):
        raise GoldProblem(
            "the gold answer is null"
            if answer is None or answer != answer
            else f"the gold answer is neither text nor number: {answer!r:.60}"
        )
    if not answer.strip():
        raise GoldProblem("the gold answer is empty")
    return answer


def gold_answer(answer: Any) -> str:
    """The bare gold answer: the box of a solution, or the text after its `####`; raises as `gold_text`."""
    text = gold_text(answer)
    answers = given_answers(text)
    return answers[0].text if answers else text


def _exact(completion: str, answer: Any, row: dict[str, Any]) -> bool:
    given = said_answer(completion)
    return any(given == gold_text(gold).strip() for gold in accepted(answer) or [None])


def _load_math() -> tuple[Check, dict[str, Any]]:
    import math_verify
    import sympy

    # It warns that its own limits of time are off: ours are around the process.
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    @functools.lru_cache(4096)  # the gold of a prompt, and equal answers, come once for each sample
    def parsed(text: str) -> tuple[Any, ...]:
        return tuple(math_verify.parse(text, parsing_timeout=None, raise_on_error=True))

    def forms(text: str, marked: bool = True) -> tuple[Any, ...]:
        """An answer's expressions. LaTeX is read inside a box, prose by its last expression."""
        line = cleaned(text)
        if is_expression(line):
            return parsed(boxed(line)) or parsed(text)
        return parsed(text) or (parsed(boxed(line)) if marked and "\n" not in line else ())

    def has_value(expressions: tuple[Any, ...]) -> bool:
        return any(not isinstance(form, str) for form in expressions)

    def equal(gold: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
        broken: Exception | None = None
        # Pair by pair, so that a comparison that fails is seen and does not count as a wrong answer.
        for gold_form, form in itertools.product(gold, given):
            try:
                if math_verify.verify(gold_form, form, timeout_seconds=None, raise_on_error=True):
                    return True
            except Exception as error:  # sympy raises many kinds
                broken = broken or error
        if broken:
            raise broken
        return False

    def agree(gold: str, given: Answer) -> bool | None:
        """Whether an answer is the gold one; None where it holds no expression."""
        choice, label = choice_of(gold), choice_of(cleaned(given.text))
        if choice is not None:
            letter = label[0] if label else None if given.marked else stated_choice(given.text)
            if letter is not None:
                return letter == choice[0]
        if is_words(gold):
            return words_of(gold) in (words_of(given.text), words_of(cleaned(given.text)))
        values = [text for text in (gold, choice[1] if choice else "") if text]
        texts = [given.text, *([label[1]] if label and label[1] else [])]
        expressions = [forms(text, given.marked) for text in texts]
        if not any(expressions):
            return None
        return any(equal(forms(value), given) for value in values for given in expressions)

    def check(completion: str, answer: Any, row: dict[str, Any]) -> bool:
        golds = [gold_answer(gold) for gold in accepted(answer) or [None]]
        golds = [gold for gold in golds if choice_of(gold) or is_words(gold) or has_value(forms(gold))]
        if not golds:
            raise GoldProblem(f"the gold answer cannot be parsed: {gold_text(answer)!r:.60}")
        for given in given_answers(completion):
            verdicts = [agree(gold, given) for gold in golds]
            if any(verdict is not None for verdict in verdicts):
                return any(verdicts)
        return False

    versions = {"math-verify": importlib.metadata.version("math-verify"), "sympy": sympy.__version__}
    return check, {"rule": "math/2", **versions}


def _load_reasoning_gym() -> tuple[Check, dict[str, Any]]:
    import reasoning_gym

    scorers: dict[str, Callable[[str, dict[str, Any]], float]] = {}

    def check(completion: str, answer: Any, row: dict[str, Any]) -> float:
        metadata = metadata_of(row)
        task = metadata.get("source_dataset") or row.get("source_dataset") or row.get("source")
        if not isinstance(task, str):
            raise GoldProblem(
                "which reasoning-gym task it is cannot be seen: there is no metadata.source_dataset and no "
                "column source_dataset or source"
            )
        if task not in scorers:
            try:
                scorers[task] = reasoning_gym.get_score_answer_fn(task)
            except ValueError as error:
                raise GoldProblem(f"reasoning-gym has no task {task!r:.60}") from error
        entry = {"question": row.get("question"), "answer": gold_text(answer), "metadata": metadata}
        try:
            return scorers[task](said_answer(completion), entry)
        except KeyError as error:
            raise GoldProblem(
                f"the check of task {task!r} needs {error} in the column metadata, which has not got it"
            ) from error

    return check, {"rule": "reasoning-gym/2", "reasoning-gym": importlib.metadata.version("reasoning-gym")}


def metadata_of(row: dict[str, Any]) -> dict[str, Any]:
    """The column `metadata`: a JSON text, or a struct, in which Arrow's nulls stand for absent keys."""
    value = row.get("metadata")
    if isinstance(value, str):
        try:
            value = json_value(value)
        except ValueError as error:
            raise GoldProblem(f"the column metadata is a text but no JSON ({error})") from error
    if not isinstance(value, dict | None):
        raise GoldProblem(f"the column metadata is no object: {value!r:.60}")
    return {key: inner for key, inner in (value or {}).items() if inner is not None}

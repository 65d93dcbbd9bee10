"""What trainers log of their rollouts: takes files, yields one entry for each rollout that a file has.

trl: `completions/completions_{step:05d}.parquet` of `log_completions=True`. verl: `{step}.jsonl` of
`trainer.rollout_data_dir`. prime-rl: `rollouts/step_N/train/all/traces.jsonl`. nemo-rl:
`train_data_step{N}.jsonl`. Which one a file is shows in its keys. Knows nothing of runs and rounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gaincurate.errors import OutcomeError
from gaincurate.files import json_lines, reading

LINES = "lines"
"""The lines of `outcomes.jsonl` themselves."""
_TRL = {"step", "prompt", "completion", "advantage"}
_KEYS = {
    "verl": {"input", "output", "score", "step"},
    "prime-rl": {"task", "traces"},
    "nemo-rl": {"content", "rewards", "idx"},
}
PATTERNS = {
    "trl": "completions_*.parquet",
    "verl": "[0-9]*.jsonl",
    "prime-rl": "train/all/traces.jsonl",
    "nemo-rl": "train_data_step*.jsonl",
    LINES: "outcomes*.jsonl",
}
"""The files of each kind below a folder."""
FORMATS = tuple(PATTERNS)


@dataclass(frozen=True, slots=True)
class Entry:
    """One rollout as a log has it; what the log lacks is None.

    `where` is for sentences. `texts` are beginnings of the rendered rollout, one of which is the prompt;
    `messages` are the prompt's chat messages. `name` may be the id, if somebody put it there. A reward of
    None could not be judged. `tokens` counts the completion's.
    """

    where: str
    reward: float | None
    gc_id: str | None = None
    step: int | None = None
    sample: str | int | None = None
    texts: tuple[str, ...] = ()
    messages: list[dict[str, Any]] | None = None
    answer: Any = None
    name: str | None = None
    tokens: int | None = None


def format_of(path: Path) -> str:
    """Which kind of log a file is.

    Raises:
        OutcomeError: none that is known.
        StorageError: it cannot be read.
    """
    if path.suffix == ".parquet":
        if set(_parquet(path).schema_arrow.names) >= _TRL:
            return "trl"
    else:
        first = next(objects(path), (0, {}))[1]
        for name, keys in _KEYS.items():
            if first.keys() >= keys:
                return name
        if "reward" in first or "resume_from_step" in first or "attempt" in first:
            return LINES
    raise OutcomeError(
        f"{path} is none of the logs that are known here: completions of TRL (.parquet), rollout_data_dir of "
        "verl, traces.jsonl of prime-rl, train_data_step*.jsonl of NeMo-RL, or lines with gc_id, reward and "
        "round.",
        path=str(path),
    )


def objects(path: Path, begin: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines and their line numbers, from a byte on.

    Raises:
        OutcomeError: a line that is no JSON object.
        StorageError: the file cannot be read.
    """
    for number, entry in json_lines(path, begin):
        if entry is None:
            raise OutcomeError(f"{path}, line {number} is broken: it is no JSON object.")
        yield number, entry


def read_trl(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The rows of a completions table, all of them; `begin` says nothing here.

    Raises:
        OutcomeError: it is not clear which column is the reward.
    """
    with reading(path):
        table = _parquet(path).read()
    if missing := _TRL - set(table.column_names):
        raise OutcomeError(f"{path} has no column {min(missing)!r}, so TRL did not write it.", path=str(path))
    rewards = table.column(_reward_column(path, table, reward_column)).to_pylist()
    ids = table.column("gc_id").to_pylist() if "gc_id" in table.column_names else [None] * len(rewards)
    prompts, steps = table.column("prompt").to_pylist(), table.column("step").to_pylist()
    for place, (gc_id, prompt, step) in enumerate(zip(ids, prompts, steps, strict=True)):
        plain = isinstance(prompt, str)
        yield Entry(
            f"{path.name}, row {place + 1}",
            _number(rewards[place]),
            gc_id,
            step,
            texts=(prompt,) if plain else (),
            messages=None if plain else prompt,
        )


def trl_rows(path: Path) -> list[str]:
    """A completions table's rows as texts that can be compared, without the step."""
    with reading(path):
        table = _parquet(path).read()
    rows: list[dict[str, Any]] = table.drop_columns(["step"]).to_pylist()
    return [json.dumps(row, sort_keys=True, default=str) for row in rows]


def read_verl(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The rows of a rollout dump; the id is in `gts` if the file was exported with --id-in-answer."""
    for number, row in objects(path, begin):
        answer = row.get("gts")
        gc_id = row.get("gc_id") or _id_in(answer)
        text, uid = row.get("input"), row.get("uid") or row.get("request_id")
        yield Entry(
            f"{path.name}, line {number}",
            _number(row.get(reward_column or "score")),
            gc_id,
            row.get("step"),
            uid if isinstance(uid, str) else None,
            (text,) if isinstance(text, str) else (),
            answer=answer,
        )


def read_prime_rl(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The traces of agents that are trained, over all episodes; a trace that failed has no reward."""
    found = re.search(r"step_(\d+)", str(path.parent))
    for number, episode in objects(path, begin):
        work = (episode.get("run") or {}).get("work") or {}
        if work.get("type", "train") != "train":
            continue
        # One that failed before its first trace has none; its rollout could not be judged.
        for trace in episode.get("traces") or [{"id": episode.get("id")}]:
            if not (trace.get("agent") or {}).get("trainable", True):
                continue
            data = (trace.get("task") or episode.get("task") or {}).get("data") or {}
            rewards = [one for one in (trace.get("rewards") or {}).values() if one is not None]
            judged = trace.get("ok") and rewards
            usages = [call.get("usage") or {} for call in trace.get("calls") or []]
            prompt, system = data.get("prompt"), data.get("system_prompt")
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            if messages and system is not None:
                messages = [{"role": "system", "content": system}, *messages]
            yield Entry(
                f"{path.name}, line {number}",
                sum(one["score"] * one.get("weight", 1.0) for one in rewards) if judged else None,
                data.get("gc_id"),
                int(found[1]) if found else work.get("step"),
                trace.get("id"),
                messages=messages,
                name=data.get("name"),
                tokens=sum(usage.get("completion_tokens") or 0 for usage in usages) or None,
            )


def read_nemo_rl(path: Path, begin: int, reward_column: str | None) -> Iterator[Entry]:
    """The rows of a step's training data; every value there is a list with one item."""
    found = re.search(r"train_data_step(\d+)", path.name)
    for number, row in objects(path, begin):
        content = _item(row["content"])
        parts = [content] if isinstance(content, str) else [str(part) for part in content or []]
        mask = _item(row.get("token_loss_mask"))
        yield Entry(
            f"{path.name}, line {number}",
            _number(_item(row.get(reward_column or "rewards"))),
            step=int(found[1]) if found else None,
            sample=row["idx"],
            # The prompt is the first part, or with a system message of its own the first two.
            texts=tuple("".join(parts[:end]) for end in range(1, len(parts) + 1)),
            tokens=int(sum(mask)) if isinstance(mask, list) else None,
        )


READERS: dict[str, Callable[[Path, int, str | None], Iterator[Entry]]] = {
    "trl": read_trl,
    "verl": read_verl,
    "prime-rl": read_prime_rl,
    "nemo-rl": read_nemo_rl,
}


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        with reading(path):
            return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowException as error:
        raise OutcomeError(f"{path} is no whole Parquet file; is it still being written?") from error


def _reward_column(path: Path, table: pa.Table, asked: str | None) -> str:
    others = (*sorted(_TRL), "gc_id", "image", "images")
    numbers = [
        f.name
        for f in table.schema
        if f.name not in others and (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))
    ]
    for name in (asked, "reward"):
        if name is not None and name in numbers:
            return str(name)
    if asked is not None or len(numbers) != 1:
        raise OutcomeError(
            f"{path} has {len(numbers)} columns that could be the reward ({', '.join(numbers) or 'none'})"
            + (f", and {asked!r} is not one of them" if asked is not None else "")
            + "; name it with --reward-column. With several reward functions, log_extra('reward', ...) in "
            "one of them puts the whole into the table.",
            path=str(path),
        )
    return str(numbers[0])


def _number(value: Any) -> float | None:
    """A reward; TRL writes one that was not given as NaN."""
    return None if value is None or value != value else value


def _item(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _id_in(answer: Any) -> str | None:
    if isinstance(answer, str) and answer.startswith('{"gc_id"'):
        try:
            found = json.loads(answer).get("gc_id")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, str) else None
    return None

"""Judge the completions of a rollout set again, compare the verdicts, and list prompts with a doubtful gold.

A new set is written, because a rollout set is of one verifier. Where most completions of a prompt agree on an
answer that is not the gold's, either the model or the gold is wrong, and only a person can say which.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import gaincurate
from gaincurate.core.artifact import EXECUTION, Artifact, Json, read_info
from gaincurate.core.files import append_line, digest_json, log_lines
from gaincurate.core.foreign import json_value
from gaincurate.core.progress import Progress
from gaincurate.core.schema import ID, take
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.answers import comparable
from gaincurate.difficulty.config import RejudgeConfig
from gaincurate.difficulty.prompts import Prompt, answer_column, read_prompts
from gaincurate.difficulty.rollout_set import ROLLOUTS, RolloutSet, begin, write_table, written_shards
from gaincurate.difficulty.verifier import VerifierPool, verifier_of
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import InputError

VERDICTS = ("right", "partly right", "wrong", "not judged")
_LEAST = 2
"""Completions that have to agree."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A prompt of which most completions agree on an answer that the new verifier gives no reward.

    `agreeing` of its `completions` give `answer`, spelled as it is compared; `gold` is the row's own.
    """

    gc_id: str
    answer: str
    gold: str
    agreeing: int
    completions: int


@dataclass(slots=True)
class Rejudged:
    """The verdicts of both verifiers: `counts[old][new]` are completions, by the names in `VERDICTS`."""

    out: Path
    old: str
    new: str
    rollouts: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)

    def count(self, old: Sequence[str], new: Sequence[str]) -> int:
        """Completions that had one of the first verdicts and have one of the second."""
        return sum(self.counts.get(before, {}).get(now, 0) for before in old for now in new)

    @property
    def disagreements(self) -> int:
        """Completions whose verdicts differ."""
        return sum(self.count([verdict], [v for v in VERDICTS if v != verdict]) for verdict in VERDICTS)

    @property
    def false_negatives(self) -> tuple[int, int]:
        """Completions that the old verifier judged wrong and the new one right, of those right now."""
        return self.count(["wrong"], ["right"]), self.count(VERDICTS[:3], ["right"])

    @property
    def false_positives(self) -> tuple[int, int]:
        """Completions that the old verifier judged right and the new one wrong, of those wrong now."""
        return self.count(["right"], ["wrong"]), self.count(VERDICTS[:3], ["wrong"])


def rejudge(config: RejudgeConfig, progress: Progress | None = None) -> Rejudged:
    """Write a rollout set with the same completions and the verdicts of another verifier.

    The same call goes on after an interruption: finished shards are kept.

    Raises:
        InputError: the scored set is not the one of the rollouts, or the verifier cannot be loaded.
        OutputError: the rollout set is unfinished or damaged, or the folder holds another one.
        StorageError: the file system refused.
        LockedError: another process writes the same set.
    """
    progress = progress or Progress()
    out = config.out or config.rollouts.with_name(
        f"{config.rollouts.name}-{config.verifier.replace(':', '.')}"
    )
    if out.resolve() == config.rollouts.resolve():
        raise InputError(f"--out {out} is the rollout set itself, which stays as it is; give another folder.")
    source, verifier = RolloutSet(config.rollouts), verifier_of(config)
    scored = _scored_set(config, source)
    identity: Json = source.manifest["identity"]
    column = config.answer_column or identity["source"].get("answer_column")
    answer = answer_column(scored, column, needed=not verifier.own)
    files, artifact = Artifact(source.folder, ROLLOUTS), Artifact(out, ROLLOUTS)
    artifact.read_identity(damaged=config.overwrite)
    with artifact.writing(), VerifierPool(verifier) as pool:
        changes = {
            "verifier": pool.identity,
            "rejudged": {"manifest": digest_json(source.manifest), "verifier": identity["verifier"]},
            "source": identity["source"] | {"answer_column": answer},
            "versions": {"gaincurate": gaincurate.__version__},
        }
        identity = json_value(json.dumps(identity | changes))
        counts = [entry["rollouts"] for entry in source.manifest["shards"]]
        written = written_shards(artifact, identity, len(counts), overwrite=config.overwrite)
        missing = begin(artifact, identity, written, len(counts))
        done = sum(counts) - sum(counts[index] for index in missing)
        progress.start(sum(counts), done, what="judging again", unit="completion")
        for index, table in enumerate(source.tables()):
            if index in missing:
                prompts = _prompts(scored, table, answer)
                rejected = read_info(files.part(index))["rejected"]
                write_table(out, index, identity, _judged(table, prompts, pool, progress), rejected)
        if not artifact.finished:
            artifact.finish(identity, len(counts))
        append_line(out / EXECUTION, {"scored": str(scored.folder), "rollouts": str(config.rollouts)})
    return _compare(source, RolloutSet(out), scored, answer)


def _scored_set(config: RejudgeConfig, source: RolloutSet) -> ScoredSet:
    folder = config.scored
    if folder is None:
        named = [line["scored"] for line in log_lines(source.folder / EXECUTION) if "scored" in line]
        if not named or not Path(named[-1]).exists():
            where = named[-1] if named else "a scored set"
            raise InputError(
                f"{source.folder} was made from {where}, which is not there; give the folder of that set "
                "with --scored."
            )
        folder = Path(named[-1])
    scored = ScoredSet(folder)
    if scored.manifest_hash != source.manifest["identity"]["source"]["manifest"]:
        raise InputError(
            f"{folder} is not the scored set that {source.folder} was made from: their hashes differ. "
            "Give that set with --scored."
        )
    return scored


def _prompts(scored: ScoredSet, table: pa.Table, answer: str | None) -> dict[str, Prompt]:
    """The prompts of a shard's completions, by id."""
    ids = table.column(ID).unique()
    places = pc.index_in(ids, value_set=scored.column(ID).combine_chunks())
    prompts = read_prompts(scored, np.asarray(places, np.int64), answer)
    return dict(zip(ids.to_pylist(), prompts, strict=True))


def _judged(table: pa.Table, prompts: dict[str, Prompt], pool: VerifierPool, progress: Progress) -> pa.Table:
    """The table with the verdicts of the pool's verifier."""
    rows = zip(table.column(ID).to_pylist(), table.column("completion").to_pylist(), strict=True)
    jobs = (Job(text, prompts[gc_id].answer, prompts[gc_id].row) for gc_id, text in rows)
    verdicts = []
    for verdict in pool.judge_all(jobs):
        verdicts.append(verdict)
        progress.advance(1)
    fresh = take(table, pa.array(range(len(table)), pa.int64()))
    for name in ("reward", "reason"):
        place = fresh.schema.get_field_index(name)
        values = pa.array([getattr(verdict, name) for verdict in verdicts], fresh.schema.types[place])
        fresh = fresh.set_column(place, fresh.schema.field(name), values)
    return fresh


def _compare(source: RolloutSet, new: RolloutSet, scored: ScoredSet, answer: str | None) -> Rejudged:
    old_name, name = (each.manifest["identity"]["verifier"]["name"] for each in (source, new))
    result = Rejudged(new.folder, old_name, name, new.manifest["rollouts"])
    for before, now in zip(source.tables(["reward"]), new.tables([ID, "completion", "reward"]), strict=True):
        by_prompt: dict[str, list[tuple[str, float | None]]] = {}
        for old, row in zip(before.column("reward").to_pylist(), now.to_pylist(), strict=True):
            row_of = result.counts.setdefault(_verdict(old), {})
            row_of[_verdict(row["reward"])] = row_of.get(_verdict(row["reward"]), 0) + 1
            by_prompt.setdefault(row[ID], []).append((comparable(row["completion"]), row["reward"]))
        agreed = {gc_id: _agreed(rows) for gc_id, rows in by_prompt.items()}
        doubtful = pa.table({ID: [gc_id for gc_id, agrees in agreed.items() if agrees is not None]})
        for gc_id, prompt in _prompts(scored, doubtful, answer).items() if len(doubtful) else ():
            text, count = agreed[gc_id] or ("", 0)
            result.agreements.append(Agreement(gc_id, text, str(prompt.answer), count, len(by_prompt[gc_id])))
    result.agreements.sort(
        key=lambda prompt: (-prompt.agreeing / prompt.completions, -prompt.agreeing, prompt.gc_id)
    )
    return result


def _verdict(reward: float | None) -> str:
    if reward is None:
        return "not judged"
    return "right" if reward >= 1 else "wrong" if reward <= 0 else "partly right"


def _agreed(rows: list[tuple[str, float | None]]) -> tuple[str, int] | None:
    """The answer of most completions and their number, where none of them got a reward of 1."""
    (text, count), *_ = Counter(text for text, _ in rows if text).most_common(1) or [("", 0)]
    is_right = any(reward is not None and reward >= 1 for each, reward in rows if each == text)
    return None if count < _LEAST or 2 * count <= len(rows) or is_right else (text, count)

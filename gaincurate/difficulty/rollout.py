"""A run of rollouts from its options to a finished rollout set, and another verifier's verdicts on it.

Gold answers are verified first, because a row whose own answer fails would count as impossible. Then come the
shards, one at a time: generate, verify, write. A journal keeps every completion as it arrives, because a
server's tokens cost money. This module prints nothing; a caller that wants to see a run passes a `Progress`.

`rejudge` writes a new set, because a rollout set has one verifier. If most completions of a prompt agree on
another answer than the gold one, either the model or the gold is wrong, and only a person can say which.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import gaincurate
from gaincurate.core.artifact import EXECUTION, Artifact, Json, read_info, shard_name
from gaincurate.core.files import append_lines, digest_json, log_lines, reading, write_lines
from gaincurate.core.foreign import json_value
from gaincurate.core.locks import work_folder
from gaincurate.core.options import checked
from gaincurate.core.progress import Progress
from gaincurate.core.rng import Ints
from gaincurate.core.schema import ID, take
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import rollout_set
from gaincurate.difficulty.answers import comparable
from gaincurate.difficulty.config import RejudgeConfig, RolloutConfig
from gaincurate.difficulty.prompts import (
    Completion,
    Key,
    Prompt,
    Refused,
    answer_column,
    draw_references,
    read_prompts,
)
from gaincurate.difficulty.verifier import Verdict, VerifierPool, check_gold
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import InputError, RowError, StorageError

if TYPE_CHECKING:
    from gaincurate.difficulty.local_engine import LocalEngine
    from gaincurate.difficulty.server_engine import ServerEngine

    Engine = LocalEngine | ServerEngine

_SAMPLING = ("samples", "adaptive", "temperature", "top_p", "max_tokens", "seed")
"""Part of a set's identity. `adaptive`, an option of earlier versions, is null: their sets stay the same."""
VERDICTS = ("right", "partly right", "wrong", "not judged")
_LEAST = 2  # completions that have to agree


@dataclass(slots=True)
class RolloutSummary:
    """Counts of a run: `generated` completions, their `tokens` and `elapsed` seconds are of this process.

    `other_lengths` counts its prompts that have another number of tokens than when they were scored. The rest
    is of the finished set; `unjudged` rollouts have a reason instead of a reward, and `reasons` counts the
    five most frequent ones. `warning` is set if no completion has the format that the verifier looks for.
    """

    out: Path
    generated: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    other_lengths: int = 0
    prompts: int = 0
    rollouts: int = 0
    unjudged: int = 0
    rejected: int = 0
    pass_rate: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    warning: str | None = None


def rollout(scored: str | Path, out: str | Path, *, verifier: str, **options: Any) -> RolloutSummary:
    """Sample completions of a scored set's prompts and verify them: `gaincurate difficulty rollout`.

    Args:
        scored: a finished scored set.
        out: the folder of the rollout set.
        verifier: `math`, `exact` or `module:function`.
        **options: as in `RolloutConfig`.

    Raises:
        InputError: there is no such keyword, or an option, the model or the verifier cannot be used.
        ServerError: a server that generates failed.
        StorageError: the file system refused a write.
        LockedError: another process writes the same set.
    """
    given = {"scored": scored, "out": out, "verifier": verifier, **options}
    return roll_out(checked(RolloutConfig, given, keywords=True))


def roll_out(config: RolloutConfig, progress: Progress | None = None) -> RolloutSummary:
    """Roll out a scored set's prompts, or resume an earlier run with the same options.

    Raises as `rollout` does. If a server fails too often, the completions that arrived are kept.
    """
    progress = progress or Progress()
    started, out, summary = time.perf_counter(), config.out, RolloutSummary(config.out)
    artifact = Artifact(out, rollout_set.ROLLOUTS)
    artifact.read_identity(damaged=config.overwrite)  # refuse what is not ours before anything is spent
    scored = ScoredSet(config.scored)
    answer = answer_column(scored, config.answer_column, needed=config.needs_answer)
    pieces = _pieces(config, scored)
    sizes = [len(piece) for piece in pieces]
    with artifact.writing(), VerifierPool(config) as pool, closing(_engine(config, scored)) as engine:
        identity = _identity(config, scored, answer, engine, pool)
        written = rollout_set.written_shards(artifact, identity, len(pieces), overwrite=config.overwrite)
        broken = dict[str, str]()
        if answer is not None and (written is None or len(written) < len(pieces)):
            broken = check_gold(scored, pieces, answer, pool, progress)
            _report_broken(config, broken, sum(sizes))
        # Invalid rows are refused before anything is deleted.
        shown = {"what": "rolling out", "unit": "prompt"}
        for index in rollout_set.shards_to_make(artifact, identity, sizes, written, progress, **shown):
            prompts = read_prompts(scored, pieces[index], answer)
            usable = [prompt for prompt in prompts if prompt.gc_id not in broken]
            journal = work_folder(out) / f"completions-{index:05d}.jsonl"
            judged, refused = _roll_out(config, usable, engine, pool, journal, progress, summary)
            reasons = {p.gc_id: broken[p.gc_id] for p in prompts if p.gc_id in broken} | refused
            rejected = [{"gc_id": gc_id, "reason": reason} for gc_id, reason in reasons.items()]
            rollout_set.write_shard(out, index, identity, judged, rejected)
            journal.unlink(missing_ok=True)  # it is spent
            progress.advance(len(prompts))
            progress.part(f"shard {index + 1} of {len(pieces)}", shard=index, units=len(prompts))
        _describe(summary)
        summary.elapsed = time.perf_counter() - started
        names = {"scored", "model", "server", "device", "concurrency", "on_error", "verify_workers"}
        line = config.model_dump(mode="json", include=names, exclude_none=True) | {"ended": time.time()}
        counts = {"generated": summary.generated, "tokens": summary.tokens}
        line |= counts | {"seconds": round(summary.elapsed, 3)}
        with suppress(StorageError):  # a full disk: the set is complete all the same
            append_lines(out / EXECUTION, [line])
    return summary


def outline(config: RolloutConfig) -> Json:
    """Count what `roll_out` would do, without its engine and without writing anything; raises as it does."""
    scored = ScoredSet(config.scored)
    answer_column(scored, config.answer_column, needed=config.needs_answer)
    pieces, tokens = _pieces(config, scored), scored.column("gc_prompt_tokens").to_numpy()
    count = sum(map(len, pieces))
    return {
        "prompts": count,
        "prompt_tokens": sum(int(tokens[list(piece)].sum()) for piece in pieces),
        "completions": count * config.samples,
        "completion_tokens": count * config.samples * config.max_tokens,
        "shards": len(pieces),
        "shards_done": sum((config.out / shard_name(index)).exists() for index in range(len(pieces))),
    }


def _pieces(config: RolloutConfig, scored: ScoredSet) -> Sequence[Ints | range]:
    """The places of the rows that are rolled out, by shard."""
    places: Ints | range = range(len(scored))
    if config.reference is not None:
        places = draw_references(len(scored), config.reference, config.seed)
    size = config.shard_prompts
    return [places[begin : begin + size] for begin in range(0, len(places), size)]


def _engine(config: RolloutConfig, scored: ScoredSet) -> Engine:
    # Each engine needs other packages, so it is imported when it is used.
    variables = scored.identity.get("segmentation", {}).get("template_kwargs", {})
    if config.server is not None:
        from gaincurate.difficulty.server_engine import ServerEngine

        return ServerEngine(config, variables)
    from gaincurate.difficulty.local_engine import LocalEngine

    return LocalEngine(config, variables)


def _identity(
    config: RolloutConfig, scored: ScoredSet, answer: str | None, engine: Engine, pool: VerifierPool
) -> Json:
    """Everything that can change a value of the set, as plain JSON values."""
    source = {"manifest": scored.manifest_hash, "rows": len(scored), "reference": config.reference}
    identity = {
        "format": rollout_set.ROLLOUTS.format,
        "kind": rollout_set.ROLLOUTS.holds,
        "source": source | {"answer_column": answer},
        "engine": engine.identity,
        "sampling": {name: getattr(config, name, None) for name in _SAMPLING},
        "verifier": pool.identity,
        "shard_prompts": config.shard_prompts,
        "versions": {"gaincurate": gaincurate.__version__},
    }
    return dict(json_value(json.dumps(identity)))


def _report_broken(config: RolloutConfig, broken: dict[str, str], rows: int) -> None:
    """Write the rows whose gold answer fails to a file; raise InputError unless they are to be skipped."""
    path = config.out / rollout_set.BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    write_lines(path, ({"gc_id": gc_id, "reason": reason} for gc_id, reason in broken.items()))
    if config.on_error == "stop":
        gc_id, reason = next(iter(broken.items()))
        raise InputError(
            f"{len(broken):,} of {rows:,} rows are broken: their own answer does not get a reward of 1, such "
            f"as {gc_id}: {reason}. All are listed in {path}. Fix them, see whether --answer-column, "
            "--verifier and --gold-as are right, or leave them out with --on-error skip.",
            ids=list(broken),
        )


def _describe(summary: RolloutSummary) -> None:
    """Fill in the summary from the finished set."""
    rollouts = rollout_set.RolloutSet(summary.out)
    for name in ("prompts", "rollouts", "unjudged", "rejected"):
        setattr(summary, name, rollouts.manifest[name])
    total, count, reasons = 0.0, 0, Counter[str]()
    for table in rollouts.tables(["reward", "reason"]):
        rewards = table.column("reward").drop_null().to_pylist()
        total, count = total + sum(rewards), count + len(rewards)
        reasons.update(table.column("reason").drop_null().to_pylist())
    summary.pass_rate = total / count if count else None
    summary.reasons = dict(reasons.most_common(5))
    summary.warning = rollout_set.unmarked(rollouts)


def _roll_out(
    config: RolloutConfig,
    prompts: Sequence[Prompt],
    engine: Engine,
    pool: VerifierPool,
    journal: Path,
    progress: Progress,
    summary: RolloutSummary,
) -> tuple[list[rollout_set.Judged], dict[str, str]]:
    """The rollouts of a shard's prompts by prompt and sample, and why the engine refused the other prompts.

    The journal holds the completions that arrived before an interruption, and gets those that arrive now.
    Raises `RowError` if a prompt is refused or a completion not judged, unless `--on-error skip`.
    """
    by_id, stops = {prompt.gc_id: prompt for prompt in prompts}, config.on_error == "stop"
    done: dict[Key, tuple[Completion, Future[Verdict]]] = {}
    refused: dict[str, str] = {}

    def judge(item: Completion) -> None:
        prompt = by_id[item.gc_id]
        done[item.key] = item, pool.submit(Job(item.text, prompt.answer, prompt.row))

    for entry in log_lines(journal):
        if entry["gc_id"] not in by_id:
            continue  # left out since, because its gold answer fails now
        if "refused" in entry:
            refused[entry["gc_id"]] = entry["refused"]
        elif "text" in entry:
            judge(decoded(entry))
    with closing(engine.generate(prompts, frozenset(done))) as arriving:
        for part in arriving:
            fresh = [item for item in part if isinstance(item, Completion)]
            unfit = {item.gc_id: item.reason for item in part if isinstance(item, Refused)}
            lines = [encoded(item) for item in fresh]
            if not stops:
                lines += [{"gc_id": gc_id, "refused": reason} for gc_id, reason in unfit.items()]
            append_lines(journal, lines)  # durable before it counts
            with reading(journal), journal.open("rb") as file:
                os.fsync(file.fileno())
            for item in fresh:
                judge(item)
            if unfit and stops:
                gc_id, reason = next(iter(unfit.items()))
                raise RowError(
                    f"prompt {gc_id} cannot be rolled out: {reason}. What had arrived is kept. Fix it, or "
                    "add --on-error skip to leave such rows out.",
                    gc_id=gc_id,
                    reason=reason,
                )
            refused = unfit | refused  # the first reason counts
            tokens = [item.tokens or 0 for item in fresh]
            summary.generated += len(tokens)
            summary.tokens += sum(tokens)
            progress.advance(0, completions=len(tokens), tokens=sum(tokens))
    judged, other_lengths = [], set()
    for key in [(gc_id, k) for gc_id in by_id if gc_id not in refused for k in range(config.samples)]:
        item, future = done[key]
        verdict = future.result()
        if verdict.reward is None and stops:
            raise RowError(
                f"sample {item.sample} of prompt {item.gc_id} was not judged: {verdict.reason}. All "
                "completions are kept; add --on-error skip to give such ones no reward, and count them.",
                gc_id=item.gc_id,
                reason=verdict.reason,
            )
        judged.append((item, verdict.reward, verdict.reason))
        if item.prompt_tokens not in (None, by_id[item.gc_id].tokens):
            other_lengths.add(item.gc_id)
    summary.other_lengths += len(other_lengths)
    return judged, refused


_ARRAYS = {"logprobs": np.float32, "token_ids": np.int32}


def encoded(done: Completion) -> dict[str, Any]:
    """A journal's line."""
    values = {name: getattr(done, name) for name in Completion.__slots__}
    return values | {name: values[name].tolist() for name in _ARRAYS if values[name] is not None}


def decoded(entry: dict[str, Any]) -> Completion:
    """The completion of a journal's line."""
    arrays = {name: np.array(entry[name], kind) for name, kind in _ARRAYS.items() if entry[name] is not None}
    return Completion(**entry | arrays)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A prompt whose completions mostly agree on an answer that gets no full reward from the new verifier.

    `agreeing` of its `completions` give `answer`, in the form of `comparable`; `gold` is the row's own.
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

    The same call resumes after an interruption: finished shards are kept. Raises `InputError` if the scored
    set is not that of the rollouts, `OutputError` if a folder holds another or an unfinished set.
    """
    progress = progress or Progress()
    name = f"{config.rollouts.name}-{config.verifier.replace(':', '.')}"
    out = config.out or config.rollouts.with_name(name)
    if out.resolve() == config.rollouts.resolve():
        raise InputError(f"--out {out} is the rollout set itself, which stays as it is; give another folder.")
    source = rollout_set.RolloutSet(config.rollouts)
    scored = _scored_set(config, source)
    identity: Json = source.manifest["identity"]
    column = config.answer_column or identity["source"].get("answer_column")
    answer = answer_column(scored, column, needed=config.needs_answer)
    files, artifact = Artifact(source.folder, rollout_set.ROLLOUTS), Artifact(out, rollout_set.ROLLOUTS)
    artifact.read_identity(damaged=config.overwrite)
    with artifact.writing(), VerifierPool(config) as pool:
        changes = {
            "verifier": pool.identity,
            "rejudged": {"manifest": digest_json(source.manifest), "verifier": identity["verifier"]},
            "source": identity["source"] | {"answer_column": answer},
            "versions": {"gaincurate": gaincurate.__version__},
        }
        identity = json_value(json.dumps(identity | changes))
        sizes = [entry["rollouts"] for entry in source.manifest["shards"]]
        written = rollout_set.written_shards(artifact, identity, len(sizes), overwrite=config.overwrite)
        shown = {"what": "judging again", "unit": "completion"}
        for index in rollout_set.shards_to_make(artifact, identity, sizes, written, progress, **shown):
            table, verdicts = source.shard(index), list[Verdict]()
            prompts = _prompts(scored, table, answer)
            rows = [prompts[gc_id] for gc_id in table.column(ID).to_pylist()]
            texts = zip(table.column("completion").to_pylist(), rows, strict=True)
            for verdict in pool.judge_all(Job(text, prompt.answer, prompt.row) for text, prompt in texts):
                verdicts.append(verdict)
                progress.advance(1)
            table = take(table, pa.array(range(len(table)), pa.int64()))
            for name in ("reward", "reason"):
                field_ = table.schema.field(name)
                values = pa.array([getattr(verdict, name) for verdict in verdicts], field_.type)
                table = table.set_column(table.column_names.index(name), field_, values)
            rollout_set.write_table(out, index, identity, table, read_info(files.part(index))["rejected"])
        append_lines(out / EXECUTION, [{"scored": str(scored.folder), "rollouts": str(config.rollouts)}])
    return _compare(source, rollout_set.RolloutSet(out), scored, answer)


def _scored_set(config: RejudgeConfig, source: rollout_set.RolloutSet) -> ScoredSet:
    folder = config.scored
    if folder is None:
        named = [line["scored"] for line in log_lines(source.folder / EXECUTION) if "scored" in line]
        folder = Path(named[-1] if named else "a scored set")
        if not folder.exists():
            raise InputError(
                f"{source.folder} was made from {folder}, which is not there; give the folder of that set "
                "with --scored."
            )
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


def _compare(
    source: rollout_set.RolloutSet, new: rollout_set.RolloutSet, scored: ScoredSet, answer: str | None
) -> Rejudged:
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
    result.agreements.sort(key=lambda each: (-each.agreeing / each.completions, -each.agreeing, each.gc_id))
    return result


def _verdict(reward: float | None) -> str:
    if reward is None:
        return "not judged"
    return "right" if reward >= 1 else "wrong" if reward <= 0 else "partly right"


def _agreed(rows: list[tuple[str, float | None]]) -> tuple[str, int] | None:
    """The most frequent answer and its count; None if it is rare, no majority, or got a reward of 1."""
    (text, count), *_ = Counter(text for text, _ in rows if text).most_common(1) or [("", 0)]
    is_right = any(reward is not None and reward >= 1 for each, reward in rows if each == text)
    return None if count < _LEAST or 2 * count <= len(rows) or is_right else (text, count)

"""A run of rollouts from its options to a finished rollout set.

Gold answers are verified first, because a row whose own answer fails would count as impossible. Then come the
shards, one at a time: generate, verify, write. A journal keeps every completion as it arrives, because a
server's tokens are paid for. Prints nothing. A caller that wants to see a run passes a `Progress`.
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
from typing import Any

import numpy as np

import gaincurate
from gaincurate.core.artifact import EXECUTION, Artifact, Json, shard_name
from gaincurate.core.files import append_line, append_lines, log_lines, reading, to_lines, write_atomic
from gaincurate.core.foreign import json_value
from gaincurate.core.locks import work_folder
from gaincurate.core.options import checked
from gaincurate.core.progress import Progress
from gaincurate.core.rng import Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Engine, Key, Refused
from gaincurate.difficulty.prompts import Prompt, answer_column, draw_references, parts, read_prompts
from gaincurate.difficulty.rollout_set import (
    BROKEN,
    FORMAT,
    KIND,
    ROLLOUTS,
    Judged,
    RolloutSet,
    begin,
    unmarked,
    write_shard,
    written_shards,
)
from gaincurate.difficulty.verifier import (
    Broken,
    Verdict,
    VerifierPool,
    check_gold,
    verifier_of,
)
from gaincurate.difficulty.verify_worker import Job
from gaincurate.errors import InputError, RowError, StorageError


@dataclass(slots=True)
class RolloutSummary:
    """Counts of a run: `generated` completions, their `tokens` and `elapsed` seconds are of this process.

    `other_lengths` counts its prompts that have another number of tokens than when they were scored. The rest
    is of the finished set; `unjudged` rollouts have a reason in the place of a reward.
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
    """Why rollouts were not judged, most frequent first: at most five."""
    warning: str | None = None
    """That no completion has the format that the verifier looks for."""


def rollout(scored: str | Path, out: str | Path, *, verifier: str, **options: Any) -> RolloutSummary:
    """Sample completions of a scored set's prompts and verify them: `gaincurate difficulty rollout`.

    Args:
        scored: a finished scored set.
        out: the folder of the rollout set.
        verifier: `math`, `exact` or `module:function`.
        **options: as in `RolloutConfig`.

    Raises:
        InputError: there is no such keyword, or an option, the model or the verifier is not right.
        ServerError: a server that generates failed.
        StorageError: the file system refused a write.
        LockedError: another process writes the same set.
    """
    given = {"scored": scored, "out": out, "verifier": verifier, **options}
    return roll_out(checked(RolloutConfig, given, keywords=True))


def roll_out(config: RolloutConfig, progress: Progress | None = None) -> RolloutSummary:
    """Roll out a scored set's prompts, or go on where an earlier run of the same options stopped.

    Raises:
        InputError: an option, the set, a row, the model, the verifier or the output folder is not right.
        ServerError: the server failed too often; what had arrived is kept.
        StorageError: the file system refused.
        LockedError: another process writes the same set.
    """
    progress = progress or Progress()
    started, out, summary = time.perf_counter(), config.out, RolloutSummary(config.out)
    verifier, artifact = verifier_of(config), Artifact(config.out, ROLLOUTS)
    artifact.read_identity(damaged=config.overwrite)  # refuse what is not ours before anything is spent
    scored = ScoredSet(config.scored)
    answer = answer_column(scored, config.answer_column, needed=not verifier.own)
    pieces = _pieces(config, scored)
    with artifact.writing(), VerifierPool(verifier) as pool, closing(_engine(config, scored)) as engine:
        identity = _identity(config, scored, answer, engine, pool)
        written = written_shards(artifact, identity, len(pieces), overwrite=config.overwrite)
        broken: Broken = {}
        if answer is not None and (written is None or len(written) < len(pieces)):
            broken = check_gold(scored, pieces, answer, verifier, pool, progress)
            _report_broken(config, broken, sum(map(len, pieces)))
        # Invalid rows are refused before anything is deleted.
        missing = begin(artifact, identity, written, len(pieces))
        total, left = sum(map(len, pieces)), sum(len(pieces[index]) for index in missing)
        progress.start(total, total - left, what="rolling out", unit="prompt")
        for index in missing:
            prompts = read_prompts(scored, pieces[index], answer)
            rejected = [{"gc_id": p.gc_id, "reason": broken[p.gc_id]} for p in prompts if p.gc_id in broken]
            usable = [prompt for prompt in prompts if prompt.gc_id not in broken]
            journal = work_folder(out) / f"completions-{index:05d}.jsonl"
            work = ShardWork(config, pool, usable, journal)
            judged = work.run(engine, progress, summary)
            rejected += [{"gc_id": gc_id, "reason": reason} for gc_id, reason in work.refused.items()]
            write_shard(out, index, identity, judged, rejected)
            journal.unlink(missing_ok=True)  # it is spent
            progress.advance(len(prompts))
            progress.part(f"shard {index + 1} of {len(pieces)}", shard=index, units=len(prompts))
        if not artifact.finished:
            artifact.finish(identity, len(pieces))
        _describe(summary)
        summary.elapsed = time.perf_counter() - started
        names = {"scored", "model", "server", "device", "concurrency", "on_error", "verify_workers"}
        line = config.model_dump(mode="json", include=names, exclude_none=True) | {"ended": time.time()}
        line |= {
            "generated": summary.generated,
            "tokens": summary.tokens,
            "seconds": round(summary.elapsed, 3),
        }
        with suppress(StorageError):  # a full disk: the set is complete all the same
            append_line(out / EXECUTION, line)
    return summary


def outline(config: RolloutConfig) -> Json:
    """Count what `roll_out` would do, without its engine and without writing anything.

    Raises:
        InputError: an option, the set or the verifier is not right.
    """
    scored, verifier = ScoredSet(config.scored), verifier_of(config)
    answer_column(scored, config.answer_column, needed=not verifier.own)
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
    return parts(places, config.shard_prompts)


def _engine(config: RolloutConfig, scored: ScoredSet) -> Engine:
    # Each engine needs packages of its own, so it is imported when it is wanted.
    variables = scored.identity.get("segmentation", {}).get("template_kwargs", {})
    if config.server is not None:
        from gaincurate.difficulty.server_engine import ServerEngine

        return ServerEngine(config, variables)
    from gaincurate.difficulty.local_engine import LocalEngine

    return LocalEngine(config, variables)


def _identity(
    config: RolloutConfig, scored: ScoredSet, answer: str | None, engine: Engine, pool: VerifierPool
) -> Json:
    """All that can change a value of the set; plain JSON values."""
    identity = {
        "format": FORMAT,
        "kind": KIND,
        "source": {
            "manifest": scored.manifest_hash,
            "rows": len(scored),
            "reference": config.reference,
            "answer_column": answer,
        },
        "engine": engine.identity,
        "sampling": {
            "samples": config.samples,
            "adaptive": None,  # an option of earlier versions, whose sets stay the same
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens,
            "seed": config.seed,
        },
        "verifier": pool.identity,
        "shard_prompts": config.shard_prompts,
        "versions": {"gaincurate": gaincurate.__version__},
    }
    same: Json = json_value(json.dumps(identity))
    return same


def _report_broken(config: RolloutConfig, broken: Broken, rows: int) -> None:
    """List the rows whose gold answer fails in a file, and stop for them unless they are to be left out."""
    path = config.out / BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    write_atomic(path, to_lines({"gc_id": gc_id, "reason": reason} for gc_id, reason in broken.items()))
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
    rollout_set = RolloutSet(summary.out)
    for name in ("prompts", "rollouts", "unjudged", "rejected"):
        setattr(summary, name, rollout_set.manifest[name])
    total, count, reasons = 0.0, 0, Counter[str]()
    for table in rollout_set.tables(["reward", "reason"]):
        rewards = table.column("reward").drop_null().to_pylist()
        total, count = total + sum(rewards), count + len(rewards)
        reasons.update(table.column("reason").drop_null().to_pylist())
    summary.pass_rate = total / count if count else None
    summary.reasons = dict(reasons.most_common(5))
    summary.warning = unmarked(rollout_set)


class ShardWork:
    """The rollouts of some prompts.

    Args:
        config: of the rollouts.
        pool: verifies.
        prompts: those of the shard, without those that were left out.
        journal: what had arrived before an interruption, and where more is added.
    """

    def __init__(
        self, config: RolloutConfig, pool: VerifierPool, prompts: Sequence[Prompt], journal: Path
    ) -> None:
        self._stops, self._samples = config.on_error == "stop", range(config.samples)
        self._pool, self._journal = pool, journal
        self._prompts = {prompt.gc_id: prompt for prompt in prompts}
        self._done: dict[Key, tuple[Completion, Future[Verdict]]] = {}
        self.refused: dict[str, str] = {}
        """Prompts that the engine does not take, and why."""
        for entry in log_lines(journal):
            if entry["gc_id"] not in self._prompts:
                continue  # left out since, because its gold answer fails now
            if "refused" in entry:
                self.refused[entry["gc_id"]] = entry["refused"]
            elif "text" in entry:
                self._judge(decoded(entry))

    def run(self, engine: Engine, progress: Progress, summary: RolloutSummary) -> list[Judged]:
        """All rollouts of the prompts that were not refused, by prompt and sample.

        Raises:
            RowError: a prompt was refused or a completion not judged, and that is to stop the run.
            ServerError: see `Engine`.
            StorageError: the file system refused.
        """
        with closing(engine.generate(list(self._prompts.values()), frozenset(self._done))) as arriving:
            for part in arriving:
                self._keep(part)
                tokens = [item.tokens or 0 for item in part if isinstance(item, Completion)]
                summary.generated += len(tokens)
                summary.tokens += sum(tokens)
                progress.advance(0, completions=len(tokens), tokens=sum(tokens))
        judged, other_lengths = [], set()
        for gc_id, prompt in self._prompts.items():
            for sample in () if gc_id in self.refused else self._samples:
                done, future = self._done[gc_id, sample]
                verdict = future.result()
                if verdict.reward is None and self._stops:
                    raise RowError(
                        f"sample {sample} of prompt {gc_id} was not judged: {verdict.reason}. All "
                        "completions are kept; add --on-error skip to give such ones no reward, and count "
                        "them.",
                        gc_id=gc_id,
                        reason=verdict.reason,
                    )
                judged.append((done, verdict.reward, verdict.reason))
                if done.prompt_tokens not in (None, prompt.tokens):
                    other_lengths.add(gc_id)
        summary.other_lengths += len(other_lengths)
        return judged

    def _keep(self, part: Sequence[Completion | Refused]) -> None:
        """Make what arrived durable, then count it."""
        done = [item for item in part if isinstance(item, Completion)]
        refused = {item.gc_id: item.reason for item in part if isinstance(item, Refused)}
        lines = [encoded(item) for item in done]
        if not self._stops:
            lines += [{"gc_id": gc_id, "refused": reason} for gc_id, reason in refused.items()]
        append_lines(self._journal, lines)
        with reading(self._journal), self._journal.open("rb") as file:
            os.fsync(file.fileno())
        for item in done:
            self._judge(item)
        if refused and self._stops:
            gc_id, reason = next(iter(refused.items()))
            raise RowError(
                f"prompt {gc_id} cannot be rolled out: {reason}. What had arrived is kept. Fix it, or add "
                "--on-error skip to leave such rows out.",
                gc_id=gc_id,
                reason=reason,
            )
        self.refused = refused | self.refused  # the first reason counts

    def _judge(self, done: Completion) -> None:
        prompt = self._prompts[done.gc_id]
        verdict = self._pool.submit(Job(done.text, prompt.answer, prompt.row))
        self._done[done.key] = done, verdict


def encoded(done: Completion) -> dict[str, Any]:
    """A journal's line."""
    line = {name: getattr(done, name) for name in Completion.__slots__}
    for name in ("logprobs", "token_ids"):
        line[name] = None if line[name] is None else line[name].tolist()
    return line


def decoded(entry: dict[str, Any]) -> Completion:
    """The completion of a journal's line."""
    values = dict(entry)
    for name, kind in (("logprobs", np.float32), ("token_ids", np.int32)):
        values[name] = None if values[name] is None else np.array(values[name], kind)
    return Completion(**values)

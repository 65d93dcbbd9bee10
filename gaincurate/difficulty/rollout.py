"""A run of rollouts from its options to a finished rollout set.

Gold answers are verified first, because a row whose own answer fails would count as impossible. Then come the
shards, one at a time: generate, verify, take more samples where the interval is wide, write. Prints nothing.
A caller that wants to see a run passes a `Progress`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gaincurate
from gaincurate.core.artifact import EXECUTION, Artifact, Json, shard_name
from gaincurate.core.files import append_line, write_atomic
from gaincurate.core.foreign import json_value
from gaincurate.core.locks import work_folder
from gaincurate.core.options import checked
from gaincurate.core.progress import Listener, Progress, Sent, for_python
from gaincurate.core.ray_workers import Worker, ray_workers
from gaincurate.core.rng import Ints
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import metrics
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Engine
from gaincurate.difficulty.prompts import answer_column, draw_references, parts, read_prompts
from gaincurate.difficulty.rollout_set import (
    BROKEN,
    FORMAT,
    KIND,
    ROLLOUTS,
    RolloutSet,
    unmarked,
    write_shard,
    written_shards,
)
from gaincurate.difficulty.rollout_shard import RolloutSummary, ShardWork
from gaincurate.difficulty.verifier import (
    Broken,
    VerifierConfig,
    VerifierPool,
    broken_lines,
    check_gold,
    remember,
    remembered,
    verifier_of,
)
from gaincurate.errors import InputError, StorageError


def rollout(scored: str | Path, out: str | Path, *, verifier: str, **options: Any) -> RolloutSummary:
    """Sample completions of a scored set's prompts and verify them: `gaincurate difficulty rollout`, with a
    bar in a notebook.

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
    with for_python() as progress:
        return roll_out(checked(RolloutConfig, given, keywords=True), progress)


def roll_out(config: RolloutConfig, progress: Progress | None = None) -> RolloutSummary:
    """Roll out a scored set's prompts, or go on where an earlier run of the same options stopped.

    Raises:
        InputError: an option, the set, a row, the model, the verifier or the output folder is not right.
        ServerError: the server failed too often; what had arrived is kept.
        StorageError: the file system refused.
        LockedError: another process writes the same set.
    """
    config.check()
    begin, out = time.perf_counter(), config.out
    verifier = verifier_of(config)
    artifact = Artifact(out, ROLLOUTS)
    artifact.read_identity(damaged=config.overwrite)  # refuse what is not ours before anything is spent
    prompts = _Prompts(config, verifier, ScoredSet(config.scored))
    summary = RolloutSummary(out)
    with artifact.writing(), VerifierPool(verifier) as pool:
        if config.engine == "ray":
            _on_ray(config, prompts, verifier, pool, progress or Progress(), summary)
        else:
            with closing(_engine(config, prompts.scored)) as engine:
                identity = _identity(config, prompts, engine, pool)
                run = _Run(config, prompts, engine, pool, identity, progress or Progress(), summary)
                run.everything(verifier, run.shards)
        summary.elapsed = time.perf_counter() - begin
        with suppress(StorageError):  # a full disk: the set is complete all the same
            append_line(out / EXECUTION, _execution(config, summary))
    return summary


def outline(config: RolloutConfig) -> Json:
    """Count what `roll_out` would do, without its engine and without writing anything.

    Raises:
        InputError: an option, the set or the verifier is not right.
    """
    config.check()
    prompts = _Prompts(config, verifier_of(config), ScoredSet(config.scored))
    tokens = prompts.scored.column("gc_prompt_tokens").to_numpy()
    count = sum(map(len, prompts.pieces))
    done = [(config.out / shard_name(index)).exists() for index in range(len(prompts.pieces))]
    return {
        "prompts": count,
        "prompt_tokens": sum(int(tokens[list(piece)].sum()) for piece in prompts.pieces),
        "completions": count * config.samples,
        "completion_tokens": count * config.samples * config.max_tokens,
        "shards": len(done),
        "shards_done": sum(done),
    }


class _Prompts:
    """Which rows of the set are rolled out, and where the answers are."""

    def __init__(self, config: RolloutConfig, verifier: VerifierConfig, scored: ScoredSet) -> None:
        self.scored = scored
        self.answer = answer_column(scored, config.answer_column, needed=not verifier.own)
        places: Ints | range = range(len(scored))
        if config.reference is not None:
            places = draw_references(len(scored), config.reference, config.seed)
        self.pieces = parts(places, config.shard_prompts)
        """Their places by shard."""


def _on_ray(
    config: RolloutConfig,
    prompts: _Prompts,
    verifier: VerifierConfig,
    pool: VerifierPool,
    progress: Progress,
    summary: RolloutSummary,
) -> None:
    """Have a cluster's workers do the shards; here gold answers are verified and the manifest is written."""

    def count(counts: Mapping[str, int]) -> None:
        summary.generated += counts.get("completions", 0)
        summary.tokens += counts.get("tokens", 0)

    listener = Listener(progress, count)

    def hear(kind: str, value: Any) -> None:
        listener(kind, value)
        if kind == "part":
            summary.other_lengths += value[1]["other_lengths"]

    def describe(shard: int) -> str:
        return f"its {len(prompts.pieces[shard])} prompts"

    with ray_workers(config, progress) as workers:
        [identity] = workers.run(_identity_on_ray, hear=hear)

        def do_shards(shards: Iterable[int], broken: Broken) -> None:
            workers.run(partial(_roll_out_on_ray, identity, broken), shards, hear=hear, describe=describe)

        _Run(config, prompts, None, pool, identity, progress, summary).everything(verifier, do_shards)


def _identity_on_ray(config: RolloutConfig, worker: Worker) -> Json:
    """A task: what a worker would do."""
    with _run_on_ray(config, worker) as run:
        return run.identity


def _roll_out_on_ray(identity: Json, broken: Broken, config: RolloutConfig, worker: Worker) -> None:
    """A task: rolls out the shards that the worker is given."""
    with _run_on_ray(config, worker) as run:
        Artifact(config.out, ROLLOUTS).join(identity, run.identity)
        run.shards((shard for shard, _ in worker.parts()), broken)


@contextmanager
def _run_on_ray(config: RolloutConfig, worker: Worker) -> Iterator[_Run]:
    verifier = verifier_of(config)
    prompts = _Prompts(config, verifier, ScoredSet(config.scored, verify=False))  # verified by the driver
    with VerifierPool(verifier) as pool, closing(_engine(config, prompts.scored)) as engine:
        identity = _identity(config, prompts, engine, pool)
        yield _Run(config, prompts, engine, pool, identity, Sent(worker.report), RolloutSummary(config.out))


def _engine(config: RolloutConfig, scored: ScoredSet) -> Engine:
    # Each engine needs packages of its own, so it is imported when it is wanted.
    variables = scored.identity.get("segmentation", {}).get("template_kwargs", {})
    if config.server is not None:
        from gaincurate.difficulty.server_engine import ServerEngine

        return ServerEngine(config, variables)
    from gaincurate.difficulty.local_engine import LocalEngine

    return LocalEngine(config, variables)


def _identity(config: RolloutConfig, prompts: _Prompts, engine: Engine, pool: VerifierPool) -> Json:
    """All that can change a value of the set; plain JSON values."""
    adaptive = {"samples_start": config.samples_start, "interval": config.interval, "rule": metrics.RULE}
    identity = {
        "format": FORMAT,
        "kind": KIND,
        "source": {
            "manifest": prompts.scored.manifest_hash,
            "rows": len(prompts.scored),
            "reference": config.reference,
            "answer_column": prompts.answer,
        },
        "engine": engine.identity,
        "sampling": {
            "samples": config.samples,
            "adaptive": adaptive if config.interval is not None else None,
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


def _execution(config: RolloutConfig, summary: RolloutSummary) -> Json:
    names = ("scored", "model", "server", "device", "concurrency", "rate", "on_error", "verify_workers")
    options = {name: value for name in names if (value := getattr(config, name)) is not None}
    facts = {"generated": summary.generated, "tokens": summary.tokens, "seconds": round(summary.elapsed, 3)}
    return {**options, "scored": str(config.scored), "ended": time.time(), **facts}


@dataclass(frozen=True, slots=True)
class _Run:
    """One run with all its parts at hand; it holds the folder's lock."""

    config: RolloutConfig
    prompts: _Prompts
    engine: Engine | None
    """None where others generate."""
    pool: VerifierPool
    identity: Json
    progress: Progress
    summary: RolloutSummary

    def everything(
        self, verifier: VerifierConfig, do_shards: Callable[[Sequence[int], Broken], None]
    ) -> None:
        """From the gold answers to the manifest."""
        config, out, identity, pieces = self.config, self.config.out, self.identity, self.prompts.pieces
        count = len(pieces)
        artifact = Artifact(out, ROLLOUTS)
        written = written_shards(artifact, identity, count, overwrite=config.overwrite)
        present = written or set()
        broken = self._gold(verifier) if len(present) < count else {}
        if written is None:
            # What is wrong with the rows is found before anything is deleted.
            artifact.remove()
            artifact.begin(identity)
        if len(present) < count:
            artifact.reopen()
        done = sum(len(pieces[k]) for k in present)
        self.progress.start(sum(map(len, pieces)), done, what="rolling out", unit="prompt")
        if len(present) < count:
            do_shards([index for index in range(count) if index not in present], broken)
        if not artifact.finished:
            artifact.finish(identity, count)
        self._describe()

    def _gold(self, verifier: VerifierConfig) -> Broken:
        """The rows whose gold answer fails, found once and listed in a file."""
        config, out, prompts = self.config, self.config.out, self.prompts
        if prompts.answer is None:
            return {}
        path = work_folder(out) / "gold.json"
        of = {key: self.identity[key] for key in ("source", "verifier")} | {"seed": config.seed}
        broken = remembered(path, of)
        if broken is None:
            broken = check_gold(
                prompts.scored, prompts.pieces, prompts.answer, verifier, self.pool, self.progress
            )
            remember(path, of, broken)
        if not broken:
            (out / BROKEN).unlink(missing_ok=True)
            return {}
        write_atomic(out / BROKEN, broken_lines(broken))
        if config.on_error == "stop":
            gc_id, reason = next(iter(broken.items()))
            raise InputError(
                f"{len(broken):,} of {sum(map(len, prompts.pieces)):,} rows are broken: their own answer "
                f"does not get a reward of 1, such as {gc_id}: {reason}. All are listed in {out / BROKEN}. "
                "Fix them, see whether --answer-column, --verifier and --gold-as are right, or leave them "
                "out with --on-error skip.",
                ids=list(broken),
            )
        return broken

    def shards(self, indexes: Iterable[int], broken: Broken) -> None:
        """Roll out these shards, one after the other."""
        for index in indexes:
            self._shard(index, broken)

    def _shard(self, index: int, broken: Broken) -> None:
        """Roll out one shard's prompts and write it; its journal is then spent."""
        out, folder = self.config.out, work_folder(self.config.out)
        prompts = read_prompts(self.prompts.scored, self.prompts.pieces[index], self.prompts.answer)
        rejected = [{"gc_id": p.gc_id, "reason": broken[p.gc_id]} for p in prompts if p.gc_id in broken]
        usable = [prompt for prompt in prompts if prompt.gc_id not in broken]
        assert self.engine is not None
        work = ShardWork(self.config, self.engine, self.pool, usable, folder, index)
        try:
            judged = work.run(self.progress, self.summary)
        finally:
            work.close()
        other_lengths = work.other_lengths()
        self.summary.other_lengths += other_lengths
        rejected += [{"gc_id": gc_id, "reason": reason} for gc_id, reason in work.refused.items()]
        write_shard(out, index, self.identity, judged, rejected)
        (folder / f"completions-{index:05d}.jsonl").unlink(missing_ok=True)
        self.progress.advance(len(prompts))
        counts = {"units": len(prompts), "other_lengths": other_lengths}
        self.progress.part(f"shard {index + 1} of {len(self.prompts.pieces)}", shard=index, **counts)

    def _describe(self) -> None:
        """Fill in the summary from the finished set."""
        rollout_set = RolloutSet(self.config.out)
        for name in ("prompts", "rollouts", "unjudged", "rejected"):
            setattr(self.summary, name, rollout_set.manifest[name])
        total, count, reasons = 0.0, 0, Counter[str]()
        for table in rollout_set.tables(["reward", "reason"]):
            rewards = table.column("reward").drop_null().to_pylist()
            total, count = total + sum(rewards), count + len(rewards)
            reasons.update(table.column("reason").drop_null().to_pylist())
        self.summary.pass_rate = total / count if count else None
        self.summary.reasons = dict(reasons.most_common(5))
        self.summary.warning = unmarked(rollout_set)

"""`gaincurate score`: scores a prompt set, and prints what was done and at what cost.

A set without a row is an error with the commonest reason, since a script would go on with it.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.progress import ProgressView, duration
from gaincurate.core.files import json_lines
from gaincurate.core.options import Cache, Option
from gaincurate.core.progress import Progress
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError
from gaincurate.scoring.summary import Summary

if TYPE_CHECKING:
    from gaincurate.scoring.config import ScoreConfig
    from gaincurate.scoring.estimate import Estimate


def print_summary(summary: Summary, verbose: bool = False) -> None:
    """Print it in three lines, and more where there is a reason to; where the time went if `verbose`."""
    from gaincurate.core.artifact import REJECTED

    if summary.scored and summary.rows != 0:  # rows that all were rejected have no rate worth a line
        model = summary.in_model or summary.elapsed  # a worker on Ray that is lost at its end sends no times
        output.fitted(
            f"scored {output.counted(summary.scored, 'row')}, {output.counted(summary.tokens, 'token')} in "
            f"{summary.elapsed:.1f} s "
            f"({summary.scored / model:,.1f} rows/s, {summary.tokens / model:,.0f} tokens/s in the model)",
            "  ",
        )
    if verbose and summary.scored and summary.rows != 0:
        parts = sorted(summary.seconds.items(), key=lambda item: -item[1])
        times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in parts)
        output.fitted(f"time: {times}", "  ", first="  ")
    if not summary.complete:
        output.fitted(f"{summary.out} is not complete yet: other --shard runs have shards left to write")
        return
    new = summary.scored or summary.seconds.get("segmenting")
    state = "complete" if new else "already complete, nothing was left to score"
    facts = [output.counted(summary.rows or 0, "row"), f"{summary.rejected:,} rejected"]
    if summary.truncated:
        facts.append(f"{summary.truncated:,} truncated")
    if summary.reused is not None:
        facts.append(f"{summary.reused:,} with scores from --reuse")
    output.fitted(f"{summary.out} is {state}: {', '.join(facts)}")
    if not summary.rows:  # what else there is to say is `need_a_row`'s
        return
    if summary.rejected:
        output.text(f"  the rejected rows and why: {summary.out / REJECTED}")
    if summary.rows_without_prefix:
        verb, whose = ("has", "its") if summary.rows_without_prefix == 1 else ("have", "their")
        output.fitted(
            f"  {output.counted(summary.rows_without_prefix, 'row')} {verb} no token before the question: "
            f"gc_angle is {whose} intra term alone"
        )
    if summary.zero_vectors:
        output.fitted(f"  {output.zero_vector_sentence(summary.zero_vectors)}")
    output.fitted(output.length_sentence(summary.spearman_length), "  ", first="  ")
    output.text(f"  next: gaincurate show {shlex.quote(str(summary.out))}")


def need_a_row(summary: Summary) -> None:
    """Refuse to call a finished set without a row a success, however often the command is run again.

    Raises:
        InputError: every row was rejected; says the commonest reason.
        StorageError: the list of them cannot be read.
    """
    if summary.rows != 0 or not summary.rejected:
        return
    from gaincurate.core.artifact import REJECTED, Artifact
    from gaincurate.core.scored_set import SCORES

    path = summary.out / REJECTED
    count, reason = _commonest(Artifact(summary.out, SCORES).folder / REJECTED)
    how = "the only one was" if summary.rejected == 1 else f"all {summary.rejected:,} were"
    which = "each" if count == summary.rejected else f"{count:,} of them"
    like = f", {which} like this" if summary.rejected > 1 and count else ""
    why = f"{like}: {reason.rstrip('.')}. {path} has the reason of every row" if count else ""
    raise InputError(
        f"no row was scored: {how} rejected{why}. Change the rows, the model or the options, and start over "
        "in a new --out or with --overwrite.",
        path=str(path),
        reason=reason,
    )


def _commonest(path: Path) -> tuple[int, str]:
    """How many rows were rejected for the commonest reason, numbers in it apart, and the first one's."""
    reasons: dict[str, tuple[int, str]] = {}
    for _, entry in json_lines(path):
        if entry is None or "reason" not in entry:
            continue  # somebody else wrote into it
        reason = str(entry["reason"])
        kind = re.sub(r"\d+", "0", reason)
        count, first = reasons.get(kind, (0, reason))
        reasons[kind] = count + 1, first
    return max(reasons.values(), key=lambda counted: counted[0], default=(0, ""))


@configured("gaincurate.scoring.config:ScoreConfig")
def score(
    config: ScoreConfig,
    cache: Cache = None,
    dry_run: Annotated[
        bool, Option("Count rows, tokens and finished shards, estimate the time, and write nothing.")
    ] = False,
    trial: Annotated[
        int | None,
        Option("With --dry-run: time the first N rows, which are scored and thrown away.", min=1),
    ] = None,
    as_json: AsJson = False,
    verbose: Annotated[
        bool,
        Option("Also print where the time went, and each key that differs.", names=("--verbose", "-v")),
    ] = False,
    quiet: Annotated[bool, Option("Print only errors.", names=("--quiet", "-q"))] = False,
) -> None:
    """Score a prompt set and write it as Arrow shards with score columns.

    Run the same command again after an interruption: finished shards are kept. It exits with 143
    after SIGTERM or SIGUSR1, and with 2 and the commonest reason if every row was rejected.

    Example: gaincurate score gsm8k.parquet --model demo --out scored
    """
    with output.reporting(resumes=True, verbose=verbose):
        use_cache(cache)
        if trial is not None and not dry_run:
            raise InputError(f"--trial {trial} goes with --dry-run.")
        view = nullcontext(Progress()) if quiet else ProgressView()
        if dry_run:
            need_packages("scoring")
            with view as progress:
                progress.loading("torch and transformers")
                from gaincurate.scoring.estimate import estimate

                facts = estimate(config, progress, trial)
            output.result(facts, as_json, print_estimate)
            return
        if config.split_run.source and not quiet:
            output.note(f"--shard {config.split_run} from {config.split_run.source}")
        need_packages("scoring")
        with view as progress:
            progress.loading("torch and transformers")
            from gaincurate.scoring.pipeline import score_dataset

            summary = score_dataset(config, progress)
        if as_json or not quiet:
            output.result(summary, as_json, partial(print_summary, verbose=verbose))
        need_a_row(summary)


def print_estimate(facts: Estimate) -> None:
    """Print what a run would do, and what the time rests on."""
    there = f"{facts.there:,} of {output.counted(facts.shards, 'shard')}"
    if not facts.rows_left:
        output.text(f"{facts.out}: {there} there, nothing is left to score")
        return
    output.fitted(
        f"{facts.out}: {output.counted(facts.rows_left, 'row')} of {facts.rows:,} to score, {there} there"
    )
    device = facts.devices[0].partition(":")[0]
    devices = f"{device}, {facts.dtype}, {output.counted(len(facts.devices), 'process', 'processes')}"
    whole = facts.counted == facts.rows_left
    how = "counted" if whole else f"by {facts.counted:,} rows that were counted"
    output.fitted(
        f"{facts.tokens:,} prompt tokens ({how}), the longest prompt {facts.longest:,}; on {devices}",
        first="  ",
    )
    if facts.unusable:
        output.fitted(f"{facts.unusable:,} of these rows cannot be scored: {facts.why}", first="  ")
    if facts.seconds is None:
        output.fitted(
            "time: add --trial 32, which times some rows",
            first="  ",
        )
    else:
        output.fitted(f"time: about {duration(facts.seconds)}, by the trial on this machine", first="  ")
    output.text("  nothing was written")


def need_packages(what: str, names: Sequence[str] = ("torch", "transformers"), extra: str = "score") -> None:
    """Say what is missing before anything heavy is imported.

    Raises:
        InputError: one of the packages is not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}: `pip install 'gaincurate[{extra}]'`.")

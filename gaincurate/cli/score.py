"""`gaincurate score`: scores a prompt set, and prints a summary with speed.

A set without rows is an error with the commonest reason, because a script would continue with it.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.output import counted
from gaincurate.cli.progress import ProgressView
from gaincurate.core.files import json_lines
from gaincurate.core.options import Option
from gaincurate.core.progress import Progress
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.scoring.config import ScoreConfig
    from gaincurate.scoring.plan import Summary


def print_summary(summary: Summary) -> None:
    """Print a summary of three lines, with warnings."""
    from gaincurate.core.artifact import REJECTED

    if summary.scored and summary.rows != 0:  # rows that all were rejected have no rate worth a line
        rates = summary.scored / summary.elapsed, summary.tokens / summary.elapsed
        output.fitted(
            f"scored {counted(summary.scored, 'row')}, {counted(summary.tokens, 'computed token')} in "
            f"{summary.elapsed:.1f} s ({rates[0]:,.1f} rows/s, {rates[1]:,.0f} tokens/s)"
        )
    if not summary.complete:
        output.fitted(f"{summary.out} is not complete yet: other --shard runs have shards left to write")
        return
    state = "complete" if summary.shards else "already complete, nothing was left to score"
    facts = [counted(summary.rows or 0, "row"), f"{summary.rejected:,} rejected"]
    if summary.truncated:
        facts.append(f"{summary.truncated:,} truncated")
    if summary.reused is not None:
        facts.append(f"{summary.reused:,} with scores from --reuse")
    output.fitted(f"{summary.out} is {state}: {', '.join(facts)}")
    if not summary.rows:  # what else there is to say is `_need_a_row`'s
        return
    if summary.rejected:
        output.text(f"  the rejected rows and why: {summary.out / REJECTED}")
    if summary.rows_without_prefix:
        verb, whose = ("has", "its") if summary.rows_without_prefix == 1 else ("have", "their")
        output.fitted(
            f"  {counted(summary.rows_without_prefix, 'row')} {verb} no token before the question: "
            f"gc_angle is {whose} intra term only"
        )
    if summary.zero_vectors:
        output.fitted(f"  {output.zero_vector_sentence(summary.zero_vectors)}")
    output.fitted(f"  {output.length_sentence(summary.spearman_length)}")
    output.text(f"  next: gaincurate show {shlex.quote(str(summary.out))}")


def _need_a_row(summary: Summary) -> None:
    """Raise an InputError with the commonest reason if every row was rejected."""
    if summary.rows != 0 or not summary.rejected:
        return
    from gaincurate.core.artifact import REJECTED, Artifact
    from gaincurate.core.scored_set import SCORES

    path = summary.out / REJECTED
    counts, firsts = Counter[str](), dict[str, str]()  # by reason, with its numbers taken out
    for _, entry in json_lines(Artifact(summary.out, SCORES).folder / REJECTED):
        if entry is not None and "reason" in entry:  # else somebody else wrote into it
            kind = re.sub(r"\d+", "0", str(entry["reason"]))
            counts[kind] += 1
            firsts.setdefault(kind, str(entry["reason"]))
    how = "the only one was" if summary.rejected == 1 else f"all {summary.rejected:,} were"
    reason = why = ""
    for kind, count in counts.most_common(1):
        reason = firsts[kind]
        which = "each" if count == summary.rejected else f"{count:,} of them"
        like = f", {which} like this" if summary.rejected > 1 else ""
        why = f"{like}: {reason.rstrip('.')}. {path} has the reason of every row"
    raise InputError(
        f"no row was scored: {how} rejected{why}. Change the rows, the model or the options, and start over "
        "in a new --out or with --overwrite.",
        path=str(path),
        reason=reason,
    )


@configured("gaincurate.scoring.config:ScoreConfig", resumes=True, stores=True)
def score(
    config: ScoreConfig,
    dry_run: bool = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, Option(names=("--quiet", "-q"))] = False,
    verbose: Annotated[bool, Option(names=("--verbose", "-v"))] = False,
) -> None:
    """Score a prompt set and write it as Arrow shards with score columns.

    Run the same command again after an interruption: finished shards are kept. It exits with 143
    after SIGTERM or SIGUSR1, and with 2 and the commonest reason if every row was rejected.

    Example: gaincurate score gsm8k.parquet --model demo --out scored

    Options:
        dry_run: Count rows, tokens and finished shards, and write nothing.
        quiet: Print only errors.
        verbose: Print each key that differs from a set's identity.
    """
    need_packages("scoring")
    if config.split_run.source and not quiet:
        output.note(f"--shard {config.split_run} from {config.split_run.source}")
    with nullcontext(Progress()) if quiet else ProgressView() as progress:
        progress.loading("torch and transformers")
        from gaincurate.scoring.pipeline import estimate, score_dataset

        done = estimate(config, progress) if dry_run else score_dataset(config, progress)
    if isinstance(done, dict):
        output.result(done, as_json, print_estimate)
        return
    if as_json or not quiet:
        output.result(done, as_json, print_summary)
    _need_a_row(done)


def print_estimate(facts: dict[str, Any]) -> None:
    """Print an estimate of the work of a run."""
    output.fitted(
        f"{facts['out']}: {counted(facts['rows_left'], 'row')} of {facts['rows']:,} to score with "
        f"{facts['tokens']:,} prompt tokens, {facts['longest']:,} in the longest prompt; "
        f"{facts['there']:,} of {counted(facts['shards'], 'shard')} there"
    )
    if facts["unusable"]:
        output.fitted(f"  {facts['unusable']:,} of these rows cannot be scored: {facts['why']}")
    output.text("  nothing was written")


def need_packages(what: str, names: Sequence[str] = ("torch", "transformers"), extra: str = "score") -> None:
    """Check that packages are installed, without importing them.

    Raises:
        InputError: one of the packages is not installed.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise InputError(f"{what} needs {' and '.join(missing)}: `pip install 'gaincurate[{extra}]'`.")

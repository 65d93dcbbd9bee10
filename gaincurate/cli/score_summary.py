"""What `gaincurate score` prints at its end: takes a summary, prints what was done and at what cost."""

from __future__ import annotations

import shlex

from gaincurate.cli import output
from gaincurate.scoring.watch import Summary

_MORE = {
    "head": "head (NLL and entropy)",
    "embedding": "embedding",
    "behind_site": "layers and norm behind the scored tensor",
    "tails": "tails (for gc_last_entropy)",
}
"""The stages that signals beside the angle bring, and what they are called."""


def print_summary(summary: Summary) -> None:
    """Print it."""
    if summary.scored:
        model = summary.in_model
        output.text(
            f"scored {summary.scored:,} rows, {summary.tokens:,} tokens in {summary.elapsed:.1f} s "
            f"({summary.scored / model:,.1f} rows/s, {summary.tokens / model:,.0f} tokens/s in the model)"
        )
        parts = sorted(summary.seconds.items(), key=lambda item: -item[1])
        output.text("  time: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in parts))
        if costs := _costs(summary):
            output.text(f"  cost of the signals, of the time in the model: {costs}")
        if summary.outside is not None:
            output.text(
                f"  after loading, {summary.outside:.1%} of the time was outside the model and the signals "
                "(reading, segmenting and writing go on beside it)"
            )
    if not summary.complete:
        output.text(f"{summary.out} is not complete yet: other --shard runs have shards left to write")
        return
    new = summary.scored or summary.seconds.get("segmenting")
    state = "complete" if new else "already complete, nothing was left to score"
    facts = [f"{summary.rows:,} rows", f"{summary.rejected:,} rejected"]
    if summary.truncated:
        facts.append(f"{summary.truncated:,} truncated")
    output.text(f"{summary.out} is {state}: {', '.join(facts)}")
    if not summary.rows:
        output.note("warning: no row could be scored")
    if summary.rejected:
        output.text(f"  the rejected rows and why: {summary.out / 'rejected.jsonl'}")
    if summary.rows_without_prefix:
        output.text(
            f"  {summary.rows_without_prefix:,} rows have no token before the question: gc_angle is "
            "their intra term alone"
        )
    if summary.zero_vectors:
        output.text(f"  {output.zero_vector_sentence(summary.zero_vectors)}")
    output.text(f"  {output.length_sentence(summary.spearman_length)}")
    output.text(f"  next: gaincurate show {shlex.quote(str(summary.out))}")


def _costs(summary: Summary) -> str:
    """The share of each signal and of what the forward did for them; nothing for the angle alone."""
    seconds = summary.seconds
    if not any(seconds.get(stage) for stage in _MORE):
        return ""
    shares = [
        f"{name} {seconds[stage] / summary.in_model:.1%}"
        for stage, name in {"angle": "angle", **_MORE}.items()
        if seconds.get(stage)
    ]
    return ", ".join(shares)

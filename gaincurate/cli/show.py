"""`gaincurate show`: what a scored set or a rollout set holds, with its rows from both ends.

Rows of a scored set are sorted as GAIN-RL teaches them, so the top is what a run begins with. Prompts of a
rollout set are sorted by their pass rate.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.core.options import Cache, Option
from gaincurate.core.store import Remote, located, use_cache

if TYPE_CHECKING:
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.difficulty.rollout_set import RolloutSet

_COLUMNS = ("gc_angle", "gc_angle_intra", "gc_angle_inter", "gc_angle_intra_offdiag", "gc_question_tokens")
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LEAST, _USUAL = 20, 120  # columns of a line that shows a text
_BESIDE = 32  # columns of a line that shows a question and its scores


@configured()
def show(
    folder: Annotated[
        Path,
        Option("A finished scored set or rollout set.", metavar="DIR", argument=True, stores=True),
    ],
    rows: Annotated[int, Option("Rows or prompts to show from each end.", min=0)] = 5,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Show a scored set: manifest, distribution, top and bottom rows; or a rollout set: completions, rewards.

    Of a rollout set it shows the prompts with the lowest and the highest mean rewards, each with its worst
    and its best completion. --json has all completions of these prompts, and whole ids.

    Example: gaincurate show scored
    """
    with output.reporting():
        from gaincurate.core.scored_set import open_scores
        from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set

        use_cache(cache)
        if is_rollout_set(folder):
            of_rollouts = describe_rollouts(RolloutSet(folder), rows)
            output.result(of_rollouts, as_json, partial(_print_rollouts, folder))
        else:
            output.result(describe(open_scores(folder), rows), as_json, partial(_print, folder))


def describe(scored: ScoredSet, rows: int) -> dict[str, Any]:
    """Everything that `show` prints, as plain values."""
    import numpy as np
    import pyarrow.types as pt

    from gaincurate.core.stats import spearman

    manifest, computed = scored.manifest, scored.computed_columns()
    kinds = {name: scored.column(name).type for name in computed}
    numeric = [name for name, kind in kinds.items() if pt.is_integer(kind) or pt.is_floating(kind)]
    columns = [*_columns(scored), *numeric]
    summary = {key: value for key, value in manifest.items() if key not in ("identity", "shards")}
    distribution: dict[str, list[float] | None] = {}
    for name in columns:
        values = scored.column(name).drop_null().to_numpy().astype(float)
        values = values[np.isfinite(values)]  # a computed column may have NaN and infinity
        distribution[name] = [float(v) for v in np.quantile(values, _QUANTILES)] if len(values) else None
    # Doubles have numbers between two floats that are next to each other.
    angle = scored.column("gc_angle").to_numpy().astype(float)
    # Highest first, ties by id: the order in which GAIN-RL teaches.
    ids = scored.column("gc_id").to_pylist()
    falling = np.where(np.isnan(angle), np.inf, -angle).tolist()  # without a score last
    order = sorted(range(len(ids)), key=lambda i: (falling[i], ids[i]))
    top, bottom = order[:rows], order[max(rows, len(order) - rows) :]
    return {
        **summary,
        "shards": len(manifest["shards"]),
        "identity": manifest["identity"],
        "quantiles": list(_QUANTILES),
        "distribution": distribution,
        "computed": {
            name: {"rows": len(ids) - scored.column(name).null_count, "how": description.get("how")}
            for name, description in computed.items()
        },
        "spearman_length": spearman(angle, scored.column("gc_question_tokens").to_numpy()),
        "top": _rows(scored, [ids[i] for i in top]),
        "bottom": _rows(scored, [ids[i] for i in bottom]),
    }


def describe_rollouts(rollouts: RolloutSet, prompts: int) -> dict[str, Any]:
    """The facts of a rollout set that `show` prints; `worst` and `best` are prompts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from gaincurate.difficulty.rollout_set import unmarked

    judged: dict[str, list[float]] = {}
    for table in rollouts.tables(["gc_id", "reward"]):
        for row in table.to_pylist():
            judged.setdefault(row["gc_id"], []).extend([row["reward"]] if row["reward"] is not None else [])
    means = {gc_id: sum(rewards) / len(rewards) for gc_id, rewards in judged.items() if rewards}
    order = sorted(means, key=lambda gc_id: (means[gc_id], gc_id))
    ends = {"worst": order[:prompts], "best": order[max(prompts, len(order) - prompts) :][::-1]}
    chosen = [gc_id for ids in ends.values() for gc_id in ids]
    asked = _asked(rollouts, chosen)
    completions: dict[str, list[dict[str, Any]]] = {}
    for table in rollouts.tables(["gc_id", "sample", "completion", "reward", "reason"]):
        for row in table.filter(pc.is_in(table["gc_id"], pa.array(chosen, pa.string()))).to_pylist():
            completions.setdefault(row.pop("gc_id"), []).append(row)

    def shown(gc_id: str) -> dict[str, Any]:
        rows = [row for row in completions[gc_id] if row["reward"] is not None]
        rows.sort(key=lambda row: (row["reward"], row["sample"]))
        rows += [row for row in completions[gc_id] if row["reward"] is None]
        facts = {"gc_id": gc_id, "question": asked.get(gc_id), "mean_reward": means[gc_id]}
        return {**facts, "completions": rows}

    summary = {key: value for key, value in rollouts.manifest.items() if key not in ("identity", "shards")}
    return {
        **summary,
        "mean_reward": sum(means.values()) / len(means) if means else None,
        "differ": sum(len(set(rewards)) > 1 for rewards in judged.values()),
        "warning": unmarked(rollouts),
        **{name: [shown(gc_id) for gc_id in ids] for name, ids in ends.items()},
    }


def _asked(rollouts: RolloutSet, ids: list[str]) -> dict[str, str]:
    """The questions of these ids, where the scored set that the rollouts were made from still is there."""
    from gaincurate.core.artifact import EXECUTION
    from gaincurate.core.files import log_lines
    from gaincurate.core.prompts import questions
    from gaincurate.core.scored_set import open_scores
    from gaincurate.errors import GaincurateError

    try:
        folder = [line["scored"] for line in log_lines(rollouts.folder / EXECUTION)][-1]
        if isinstance(located(folder), Remote):
            return {}  # a look is not worth a download
        scored = open_scores(folder)
        if scored.manifest_hash != rollouts.manifest["identity"]["source"]["manifest"]:
            return {}
        return dict(zip(ids, questions(scored.rows(ids), scored.identity), strict=True))
    except (GaincurateError, LookupError):  # moved, or another set: completions are worth a look without it
        return {}


def _print_rollouts(folder: Path, facts: dict[str, Any]) -> None:
    width = output.terminal_width() or _USUAL
    rate = "-" if facts["mean_reward"] is None else f"{facts['mean_reward']:.3f}"
    prompts = output.counted(facts["prompts"], "prompt")
    output.fitted(
        f"{folder}: {output.counted(facts['rollouts'], 'rollout')} of {prompts}, "
        f"{facts['unjudged']:,} not judged; mean reward {rate}"
    )
    output.fitted(f"rewards differ in {facts['differ']:,} of {prompts}", first="  ")
    if facts["warning"] is not None:
        output.fitted(f"warning: {facts['warning']}", first="  ")
    for name, title in (("worst", "lowest mean rewards"), ("best", "highest mean rewards")):
        if facts[name]:
            output.text()
            output.text(title)
        for prompt in facts[name]:
            head = f"  {output.short_id(prompt['gc_id'])}  {prompt['mean_reward']:.3f}  "
            output.text(head + output.excerpt(prompt["question"] or "", max(_LEAST, width - len(head))))
            rows = [row for row in prompt["completions"] if row["reward"] is not None]
            for row in rows[:1] if rows[0]["reward"] == rows[-1]["reward"] else (rows[0], rows[-1]):
                begin = f"    {row['reward']:g}: "
                output.text(begin + output.excerpt(row["completion"], max(_LEAST, width - len(begin))))


def _columns(scored: ScoredSet) -> list[str]:
    from gaincurate.core.schema import LIKELIHOODS

    return [*_COLUMNS, *(name for name in LIKELIHOODS if name in scored.schema.names)]


def _rows(scored: ScoredSet, ids: list[str]) -> list[dict[str, Any]]:
    from gaincurate.core.prompts import questions

    table = scored.rows(ids)
    rows = table.select(["gc_id", *_columns(scored)]).to_pylist()
    asked = questions(table, scored.identity)
    return [{**row, "question": question} for row, question in zip(rows, asked, strict=True)]


def _print(folder: Path, facts: dict[str, Any]) -> None:
    identity = facts["identity"]
    output.fitted(
        f"{folder}: {output.counted(facts['rows'], 'row')} in {output.counted(facts['shards'], 'shard')}, "
        f"{facts['rejected']:,} rejected, {facts['truncated']:,} truncated"
    )
    layer = "" if identity["layer"] is None else f" of layer {identity['layer']}"
    output.fitted(
        f"model {identity['model']['name']}, {identity['site']}{layer}, {identity['dtype']} on "
        f"{identity['device']}, prompt from {identity['source']['prompt_column']!r}",
        "  ",
        first="  ",
    )
    if facts["zero_vectors"]:
        output.fitted(output.zero_vector_sentence(facts["zero_vectors"]), "  ", first="  ")
    output.fitted(output.length_sentence(facts["spearman_length"]), "  ", first="  ")
    if facts["computed"]:
        listed = (f"{name} ({output.counted(c['rows'], 'row')})" for name, c in facts["computed"].items())
        output.fitted(f"computed columns: {', '.join(listed)}", "  ", first="  ")
    output.text()
    head = ["column", *("min" if q == 0 else "max" if q == 1 else f"{q:.0%}" for q in _QUANTILES)]
    lines = []
    for name, values in facts["distribution"].items():
        digits = 0 if name.endswith("tokens") else 4
        shown = [f"{v:.{digits}f}" for v in values] if values else ["-"] * len(_QUANTILES)
        lines.append([name, *shown])
    output.table(lines, head)
    room = max(_LEAST, (output.terminal_width() or _USUAL) - _BESIDE)
    for name in ("top", "bottom"):
        if facts[name]:
            output.text()
            output.text(f"{name} by gc_angle" + (" (taught first)" if name == "top" else ""))
            output.records(
                facts[name],
                {
                    "gc_id": lambda row: output.short_id(row["gc_id"]),
                    "gc_angle": ("gc_angle", ".4f"),
                    "tokens": ("gc_question_tokens", ""),
                    "question": lambda row: output.excerpt(row["question"], room),
                },
                left=("question",),
            )

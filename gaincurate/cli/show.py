"""`gaincurate show`: what a scored set is, how its scores are spread, and its first and last rows.

Rows are sorted as GAIN-RL teaches them, so the top is what a run begins with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.core.options import Cache, Option
from gaincurate.core.store import use_cache

if TYPE_CHECKING:
    from gaincurate.core.scored_set import ScoredSet

_COLUMNS = ("gc_angle", "gc_angle_intra", "gc_angle_inter", "gc_angle_intra_offdiag", "gc_question_tokens")
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 16


@configured()
def show(
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True, stores=True)],
    rows: Annotated[int, Option("Rows to show from each end.", min=0)] = 5,
    cache: Cache = None,
    as_json: Annotated[bool, Option("Print everything as JSON.", names=("--json",))] = False,
) -> None:
    """Show a scored set: manifest, distribution, top and bottom rows.

    Example: gaincurate show scored
    """
    with output.reporting():
        from gaincurate.core.scored_set import open_scores

        use_cache(cache)
        facts = describe(open_scores(folder), rows)
        if as_json:
            output.as_json(facts)
        else:
            _print(folder, facts)


def describe(scored: ScoredSet, rows: int) -> dict[str, Any]:
    """Everything that `show` prints, as plain values."""
    import numpy as np

    from gaincurate.core.stats import spearman

    manifest, computed = scored.manifest, scored.computed_columns()
    numeric = [name for name in computed if _is_numeric(scored, name)]
    columns = [*_columns(scored), *numeric]
    summary = {key: value for key, value in manifest.items() if key not in ("identity", "shards")}
    distribution: dict[str, list[float] | None] = {}
    for name in columns:
        values = scored.column(name).drop_null().to_numpy()
        distribution[name] = [float(v) for v in np.quantile(values, _QUANTILES)] if len(values) else None
    angle = scored.column("gc_angle").to_numpy()
    counts, edges = np.histogram(angle, _BINS) if len(angle) else (np.zeros(0, int), np.zeros(0))
    # Highest first, ties by id: the order in which GAIN-RL teaches.
    ids = scored.column("gc_id").to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (-angle[i], ids[i]))
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
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "spearman_length": spearman(angle, scored.column("gc_question_tokens").to_numpy()),
        "top": _rows(scored, [ids[i] for i in top]),
        "bottom": _rows(scored, [ids[i] for i in bottom]),
    }


def _is_numeric(scored: ScoredSet, name: str) -> bool:
    import pyarrow.types as pt

    kind = scored.column(name).type
    return bool(pt.is_integer(kind) or pt.is_floating(kind))


def _columns(scored: ScoredSet) -> list[str]:
    from gaincurate.core.schema import LIKELIHOODS

    return [*_COLUMNS, *(name for name in LIKELIHOODS if name in scored.schema.names)]


def _rows(scored: ScoredSet, ids: list[str]) -> list[dict[str, Any]]:
    from gaincurate.core.prompts import column_values, questions

    table = scored.rows(ids)
    column = scored.identity["source"]["prompt_column"]
    rows = table.select(["gc_id", *_columns(scored)]).to_pylist()
    asked = questions(column_values(table, column), column)
    return [{**row, "question": question} for row, question in zip(rows, asked, strict=True)]


def _print(folder: Path, facts: dict[str, Any]) -> None:
    identity = facts["identity"]
    output.text(
        f"{folder}: {output.counted(facts['rows'], 'row')} in {output.counted(facts['shards'], 'shard')}, "
        f"{facts['rejected']:,} rejected, {facts['truncated']:,} truncated"
    )
    layer = "" if identity["layer"] is None else f" of layer {identity['layer']}"
    output.text(
        f"  model {identity['model']['name']}, {identity['site']}{layer}, {identity['dtype']} on "
        f"{identity['device']}, prompt from {identity['source']['prompt_column']!r}"
    )
    if facts["zero_vectors"]:
        output.text(f"  {output.zero_vector_sentence(facts['zero_vectors'])}")
    output.text(f"  {output.length_sentence(facts['spearman_length'])}")
    if facts["computed"]:
        listed = (f"{name} ({output.counted(c['rows'], 'row')})" for name, c in facts["computed"].items())
        output.text(f"  computed columns: {', '.join(listed)}")
    output.text()
    head = ["column", *("min" if q == 0 else "max" if q == 1 else f"{q:.0%}" for q in _QUANTILES)]
    lines = []
    for name, values in facts["distribution"].items():
        digits = 0 if name.endswith("tokens") else 4
        shown = [f"{v:.{digits}f}" for v in values] if values else ["-"] * len(_QUANTILES)
        lines.append([name, *shown])
    output.table(lines, head)
    output.text()
    _histogram(facts["histogram"])
    for name in ("top", "bottom"):
        if facts[name]:
            output.text()
            output.text(f"{name} by gc_angle" + (" (taught first)" if name == "top" else ""))
            lines = [
                [row["gc_id"], f"{row['gc_angle']:.4f}", str(row["gc_question_tokens"])]
                for row in facts[name]
            ]
            widths = [max(len(line[i]) for line in lines) for i in range(3)]
            for line, row in zip(lines, facts[name], strict=True):
                cells = "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
                output.text(f"  {cells} tokens  {output.plain(row['question'])[:80]}")


def _histogram(histogram: dict[str, Any]) -> None:
    counts, edges = histogram["counts"], histogram["edges"]
    most = max(counts, default=0)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "#" * round(40 * count / most)
        output.text(f"  {low:7.4f} to {high:7.4f}  {bar.ljust(40)}  {count:,}")

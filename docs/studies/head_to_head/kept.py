"""What of the study is kept with the docs: takes a finished comparison, writes it as small texts, reads them.

`setting.json` has the settings and what the model is, `evaluations.csv` the right answers of every held-out
prompt (a digit each, in base 36), `marks.csv` the costs, `steps.csv` each step of each training. Every figure
of docs/head-to-head.md can be made of these again. Paths are left out: folders stand there by their names.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import pyarrow as pa

from gaincurate.compare.results import (
    EVALUATIONS,
    FACTS,
    MARKS,
    RESULTS,
    SCHEMAS,
    STEPS,
    TASKS,
    Results,
    read_tables,
    results_of,
)
from gaincurate.core.files import write_atomic
from gaincurate.core.scored_set import ScoredSet

SETTING = "setting.json"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_KEY = ("arm", "seed", "mark")
_SCORES = ("gc_angle", "gc_nll", "gc_question_tokens")
Row = dict[str, Any]


def keep(compared: Path, folder: Path) -> None:
    """Write a comparison's results as texts."""
    tables = read_tables(compared / RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    setting = json.dumps(_setting(compared), indent=1) + "\n"
    write_atomic(folder / SETTING, setting.encode())
    _write(folder / f"{EVALUATIONS}.csv", _evaluations(tables[EVALUATIONS].to_pylist()))
    _write(folder / f"{MARKS}.csv", tables[MARKS].to_pylist())
    _write(folder / f"{STEPS}.csv", tables[STEPS].to_pylist())


def kept(folder: Path) -> tuple[Results, Row]:
    """The results, and what the model and the sets are."""
    setting = json.loads((folder / SETTING).read_bytes())
    names = setting["about"]["heldout_tasks"]
    rows: dict[str, list[Row]] = {
        EVALUATIONS: list(_prompts(_read(folder, EVALUATIONS))),
        MARKS: _typed(_read(folder, MARKS), SCHEMAS[MARKS]),
        STEPS: _typed(_read(folder, STEPS), SCHEMAS[STEPS]),
        TASKS: [{"gc_id": f"{place:06d}", "task": name} for place, name in enumerate(names)],
    }
    tables = {name: pa.Table.from_pylist(rows[name], SCHEMAS[name]) for name in SCHEMAS}
    return results_of(setting["facts"], tables, folder), setting["about"]


def _setting(compared: Path) -> Row:
    facts = json.loads((compared / FACTS).read_bytes())
    comparison, model = facts["comparison"], Path(facts["model"])
    sets = {name: ScoredSet(comparison[name]) for name in ("scored", "heldout")}
    made = model / "facts.json"
    about = {
        "prompts": {name: len(found) for name, found in sets.items()},
        "prompt_tokens": sum(sets["scored"].column("gc_prompt_tokens").to_pylist()),
        "model": json.loads(made.read_bytes()) if made.exists() else {},
        "scores": _by_task(sets["scored"]),
        "heldout_tasks": _heldout_tasks(sets["heldout"]),
        "between_tasks": _between_tasks(sets["scored"]),
        "mu": _last_mu(compared),
    }
    for name in ("scored", "heldout", "model"):
        comparison[name] = comparison[name] and Path(comparison[name]).name
    return {"facts": {**facts, "model": model.name}, "about": about}


def _tasks(scored: ScoredSet) -> dict[str, dict[str, list[float]]]:
    """Scores of each task and level; empty where the set does not have both."""
    if not {"source", "level", *_SCORES} <= set(scored.schema.names):
        return {}
    columns = [scored.column(name).to_pylist() for name in ("source", "level", *_SCORES)]
    found: dict[str, dict[str, list[float]]] = {}
    for source, level, *values in zip(*columns, strict=True):
        each = found.setdefault(f"{source} {level}", {name: [] for name in _SCORES})
        for name, value in zip(_SCORES, values, strict=True):
            each[name].append(float(value))
    return found


def _heldout_tasks(heldout: ScoredSet) -> list[str]:
    """The task and level of each held-out prompt, in the order of `evaluations.csv`; empty without them."""
    if not {"source", "level"} <= set(heldout.schema.names):
        return []
    columns = [heldout.column(name).to_pylist() for name in ("gc_id", "source", "level")]
    return [f"{source} {level}" for _, source, level in sorted(zip(*columns, strict=True))]


def _by_task(scored: ScoredSet) -> dict[str, dict[str, float]]:
    return {
        task: {name: fmean(values) for name, values in each.items()} for task, each in _tasks(scored).items()
    }


def _between_tasks(scored: ScoredSet) -> dict[str, float]:
    """Of each score the share of its variance that lies between tasks."""
    tasks = _tasks(scored).values()
    found = {}
    for name in _SCORES if tasks else ():
        everything = [value for each in tasks for value in each[name]]
        inside = fmean(pvariance(each[name]) for each in tasks for _ in each[name])
        found[name] = 1 - inside / pvariance(everything)
    return found


def _last_mu(compared: Path) -> dict[str, float]:
    """Where the mean of the ranks ended, of the arms that have one, mean over seeds."""
    found: dict[str, list[float]] = {}
    for job in sorted((compared / "jobs").glob("*/seed-*")):
        plans = sorted((job / "run" / "rounds").glob("*/plan.json"))
        if plans and (mu := json.loads(plans[-1].read_bytes())["mu"]) is not None:
            found.setdefault(job.parent.name, []).append(mu)
    return {arm: fmean(values) for arm, values in found.items()}


def _evaluations(rows: list[Row]) -> Iterable[Row]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _KEY), []).append(row)
    for key, each in found.items():
        each.sort(key=lambda row: str(row["gc_id"]))
        yield {
            **dict(zip(_KEY, key, strict=True)),
            "tokens": sum(row["tokens"] for row in each),
            "right": "".join(DIGITS[row["right"]] for row in each),
            "samples": "".join(DIGITS[row["samples"]] for row in each),
        }


def _prompts(rows: list[dict[str, str]]) -> Iterable[Row]:
    """A row for each prompt again; the tokens of all stand at the first one."""
    for row in rows:
        for place, (right, samples) in enumerate(zip(row["right"], row["samples"], strict=True)):
            yield {
                "arm": row["arm"],
                "seed": int(row["seed"]),
                "mark": int(row["mark"]),
                "gc_id": f"{place:06d}",
                "right": DIGITS.index(right),
                "samples": DIGITS.index(samples),
                "tokens": int(row["tokens"]) if place == 0 else 0,
            }


def _write(path: Path, rows: Iterable[Row]) -> None:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
    write_atomic(path, text.getvalue().encode())


def _read(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text())))


def _typed(rows: list[dict[str, str]], schema: pa.Schema) -> list[Row]:
    kinds = {
        f.name: str if f.type == pa.string() else float if f.type == pa.float64() else int for f in schema
    }
    return [{name: None if v == "" else kinds[name](v) for name, v in row.items()} for row in rows]

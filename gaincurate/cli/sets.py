"""`gaincurate example`, `show`, `ls`, `derive` and `hygiene`: a set to begin with, and what sets hold.

`show` sorts the rows of a scored set as GAIN-RL teaches them, so the top is what a run begins with, and the
prompts of a rollout set by their pass rate. `ls` reads only the small JSON files of each folder and checks no
shard, so it answers at once. `derive` writes computed columns; no command here changes other files of a set.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.output import counted, excerpt, short_id
from gaincurate.core.options import Option
from gaincurate.core.store import Remote, located
from gaincurate.errors import GaincurateError, InputError, OutputError, storage_error

if TYPE_CHECKING:
    from gaincurate.core.scored_set import ScoredSet
    from gaincurate.difficulty.rollout_set import RolloutSet
    from gaincurate.hygiene.options import HygieneConfig
    from gaincurate.hygiene.rows import CheckSummary

Json = dict[str, Any]
FILES = Path(__file__).with_name("example_files")
TRAIN = (
    "python train.py --data {data} --round {round} --model {checkpoint} --outcomes {outcomes} "
    "--output {output}"
)
_COMMANDS = (
    "gaincurate score prompts.jsonl --model demo --out scored",
    "gaincurate report scored -o report.html",
    "gaincurate schedule start scored --run run --strategy posterior --budget 32 --rounds 3",
    f"gaincurate schedule run run -- {TRAIN}",
)
_COLUMNS = ("gc_angle", "gc_angle_intra", "gc_angle_inter", "gc_angle_intra_offdiag", "gc_question_tokens")
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LEAST, _USUAL = 20, 120  # columns of a line that shows a text
_BESIDE = 32  # columns of a line that shows a question and its scores
_DEPTH = 3  # folders below the one that `ls` lists


@configured()
def example(
    folder: Annotated[Path, Option(metavar="FOLDER", argument=True)] = Path("."),
) -> None:
    """Write a small prompt set with answers, a reward function and a TRL script to try everything on.

    prompts.jsonl has 240 questions of six tasks in up to three levels. reward.py judges completions. train.py
    trains one round with TRL, as `gaincurate schedule run` calls it. Files that are there with other content
    are not overwritten.

    Example: gaincurate example

    Options:
        folder: Where to write it. Default: here.
    """
    from gaincurate.core.files import make_folder, reading, write_atomic

    contents = {folder / path.name: path.read_bytes() for path in sorted(FILES.glob("*.*"))}
    for path, content in contents.items():
        with reading(path, "write"):
            if path.exists() and path.read_bytes() != content:
                raise InputError(
                    f"{path} exists with other content: give another folder, such as "
                    "`gaincurate example demo`."
                )
    make_folder(folder)
    for path, content in contents.items():
        write_atomic(path, content)
    change = [] if folder == Path(".") else [f"cd {shlex.quote(str(folder))}"]
    output.text(
        f"{folder / 'prompts.jsonl'}: 240 questions with answers, of six tasks",
        f"{folder / 'reward.py'}: a reward function, for TRL and for --verifier reward:correct",
        f"{folder / 'train.py'}: trains one round with TRL",
        *("next:", *(f"  {command}" for command in (*change, *_COMMANDS))),
    )


@configured(stores=True)
def show(
    folder: Annotated[Path, Option(metavar="DIR", argument=True, stores=True)],
    rows: Annotated[int, Option(ge=0)] = 5,
    as_json: AsJson = False,
) -> None:
    """Show a scored set: manifest, distribution, top and bottom rows; or a rollout set: completions, rewards.

    Of a rollout set it shows the prompts with the lowest and the highest mean rewards, each with its worst
    and its best completion. --json has all completions of these prompts, and whole ids.

    Example: gaincurate show scored

    Options:
        folder: A finished scored set or rollout set.
        rows: Rows or prompts to show from each end.
    """
    from gaincurate.core.scored_set import open_scores
    from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set

    if is_rollout_set(folder):
        output.result(describe_rollouts(RolloutSet(folder), rows), as_json, partial(_print_rollouts, folder))
    else:
        output.result(describe(open_scores(folder), rows), as_json, partial(_print_set, folder))


def describe(scored: ScoredSet, rows: int) -> Json:
    """Everything that `show` prints of a scored set, as plain values."""
    import numpy as np
    import pyarrow.types as pt

    from gaincurate.core.prompts import questions
    from gaincurate.core.schema import LIKELIHOODS
    from gaincurate.core.stats import spearman

    manifest, computed = scored.manifest, scored.computed_columns()
    kinds = {name: scored.column(name).type for name in computed}
    numeric = [name for name, kind in kinds.items() if pt.is_integer(kind) or pt.is_floating(kind)]
    columns = [*_COLUMNS, *(name for name in LIKELIHOODS if name in scored.schema.names)]
    distribution: dict[str, list[float] | None] = {}
    for name in (*columns, *numeric):
        values = scored.column(name).drop_null().to_numpy().astype(float)
        values = values[np.isfinite(values)]  # a computed column may have NaN and infinity
        distribution[name] = np.quantile(values, _QUANTILES).tolist() if len(values) else None
    # Doubles have numbers between two floats that are next to each other.
    angle = scored.column("gc_angle").to_numpy().astype(float)
    # Highest first, ties by id: the order in which GAIN-RL teaches.
    ids = scored.column("gc_id").to_pylist()
    falling = np.where(np.isnan(angle), np.inf, -angle).tolist()  # without a score last
    order = sorted(range(len(ids)), key=lambda i: (falling[i], ids[i]))

    def shown(places: list[int]) -> list[Json]:
        table = scored.rows([ids[i] for i in places])
        asked = questions(table, scored.identity)
        scores = table.select(["gc_id", *columns]).to_pylist()
        return [{**row, "question": question} for row, question in zip(scores, asked, strict=True)]

    return {
        **{key: value for key, value in manifest.items() if key not in ("identity", "shards")},
        "shards": len(manifest["shards"]),
        "identity": manifest["identity"],
        "quantiles": list(_QUANTILES),
        "distribution": distribution,
        "computed": {
            name: {"rows": len(ids) - scored.column(name).null_count, "how": description.get("how")}
            for name, description in computed.items()
        },
        "spearman_length": spearman(angle, scored.column("gc_question_tokens").to_numpy()),
        "top": shown(order[:rows]),
        "bottom": shown(order[max(rows, len(order) - rows) :]),
    }


def _print_set(folder: Path, facts: Json) -> None:
    identity = facts["identity"]
    output.fitted(
        f"{folder}: {counted(facts['rows'], 'row')} in {counted(facts['shards'], 'shard')}, "
        f"{facts['rejected']:,} rejected, {facts['truncated']:,} truncated"
    )
    layer = "" if identity["layer"] is None else f" of layer {identity['layer']}"
    output.fitted(
        f"  model {identity['model']['name']}, {identity['site']}{layer}, {identity['dtype']} on "
        f"{identity['device']}, prompt from {identity['source']['prompt_column']!r}"
    )
    if facts["zero_vectors"]:
        output.fitted(f"  {output.zero_vector_sentence(facts['zero_vectors'])}")
    output.fitted(f"  {output.length_sentence(facts['spearman_length'])}")
    if facts["computed"]:
        listed = (f"{name} ({counted(each['rows'], 'row')})" for name, each in facts["computed"].items())
        output.fitted(f"  computed columns: {', '.join(listed)}")
    output.text("")
    head = ["column", *("min" if q == 0 else "max" if q == 1 else f"{q:.0%}" for q in _QUANTILES)]
    lines = []
    for name, values in facts["distribution"].items():
        form = ".0f" if name.endswith("tokens") else ".4f"
        lines.append([name, *(output.number(value, form) for value in values or [None] * len(_QUANTILES))])
    output.table(lines, head)
    room = max(_LEAST, (output.terminal_width() or _USUAL) - _BESIDE)
    cells: dict[str, output.Cell] = {
        "gc_id": lambda row: short_id(row["gc_id"]),
        "gc_angle": ("gc_angle", ".4f"),
        "tokens": "gc_question_tokens",
        "question": lambda row: excerpt(row["question"], room),
    }
    for name, more in (("top", " (taught first)"), ("bottom", "")):
        if facts[name]:
            output.text("", f"{name} by gc_angle{more}")
            output.records(facts[name], cells, left=("question",))


def describe_rollouts(rollouts: RolloutSet, prompts: int) -> Json:
    """Everything that `show` prints of a rollout set, as plain values; `worst` and `best` are prompts."""
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
    completions: dict[str, list[Json]] = {}
    for table in rollouts.tables(["gc_id", "sample", "completion", "reward", "reason"]):
        for row in table.filter(pc.is_in(table["gc_id"], pa.array(chosen, pa.string()))).to_pylist():
            completions.setdefault(row.pop("gc_id"), []).append(row)

    def shown(gc_id: str) -> Json:
        rows = [row for row in completions[gc_id] if row["reward"] is not None]
        rows.sort(key=lambda row: (row["reward"], row["sample"]))
        rows += [row for row in completions[gc_id] if row["reward"] is None]
        facts = {"gc_id": gc_id, "question": asked.get(gc_id), "mean_reward": means[gc_id]}
        return {**facts, "completions": rows}

    return {
        **{key: value for key, value in rollouts.manifest.items() if key not in ("identity", "shards")},
        "mean_reward": sum(means.values()) / len(means) if means else None,
        "differ": sum(len(set(rewards)) > 1 for rewards in judged.values()),
        "warning": unmarked(rollouts),
        **{name: [shown(gc_id) for gc_id in ids] for name, ids in ends.items()},
    }


def _asked(rollouts: RolloutSet, ids: list[str]) -> dict[str, str]:
    """The questions of these ids; empty if the scored set was moved or changed, or is in an object store."""
    from gaincurate.core.artifact import EXECUTION
    from gaincurate.core.files import log_lines
    from gaincurate.core.prompts import questions
    from gaincurate.core.scored_set import open_scores

    try:
        folder = [line["scored"] for line in log_lines(rollouts.folder / EXECUTION)][-1]
        if isinstance(located(folder), Remote):
            return {}  # not worth a download
        scored = open_scores(folder)
        if scored.manifest_hash != rollouts.manifest["identity"]["source"]["manifest"]:
            return {}
        return dict(zip(ids, questions(scored.rows(ids), scored.identity), strict=True))
    except (GaincurateError, LookupError):  # the completions are still shown
        return {}


def _print_rollouts(folder: Path, facts: Json) -> None:
    width = output.terminal_width() or _USUAL
    prompts, rate = counted(facts["prompts"], "prompt"), output.number(facts["mean_reward"], ".3f")
    output.fitted(
        f"{folder}: {counted(facts['rollouts'], 'rollout')} of {prompts}, {facts['unjudged']:,} not judged; "
        f"mean reward {rate}"
    )
    output.fitted(f"  rewards differ in {facts['differ']:,} of {prompts}")
    if facts["warning"] is not None:
        output.fitted(f"  warning: {facts['warning']}")
    for name, title in (("worst", "lowest mean rewards"), ("best", "highest mean rewards")):
        if facts[name]:
            output.text("", title)
        for prompt in facts[name]:
            head = f"  {short_id(prompt['gc_id'])}  {prompt['mean_reward']:.3f}  "
            output.text(head + excerpt(prompt["question"] or "", max(_LEAST, width - len(head))))
            rows = [row for row in prompt["completions"] if row["reward"] is not None]
            for row in rows[:1] if rows[0]["reward"] == rows[-1]["reward"] else (rows[0], rows[-1]):
                begin = f"    {row['reward']:g}: "
                output.text(begin + excerpt(row["completion"], max(_LEAST, width - len(begin))))


@configured()
def ls(
    folder: Annotated[Path, Option(metavar="FOLDER", argument=True)] = Path("."), as_json: AsJson = False
) -> None:
    """List scored sets, rollout sets and runs below a folder: kind, rows, model and state.

    Example: gaincurate ls

    Options:
        folder: Where to look, and three folders deep. Default: here.
    """
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder.")
        next(folder.iterdir(), None)
    except OSError as error:
        raise storage_error(folder, error, "read") from error
    listed = [entry for path in _folders(folder, _DEPTH) if (entry := described(path))]
    if as_json:
        output.as_json(listed)
    elif not listed:
        output.text(f"{folder}: no scored set, rollout set or run here, down to {_DEPTH} folders below")
    else:
        columns: dict[str, output.Cell] = {name: name for name in listed[0]}
        output.records(listed, columns | {"rows": ("rows", ",")}, left=("kind", "model", "state"))


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and the folders below it, sorted by name; the inside of sets and runs is left out."""
    try:
        is_one = (folder / "identity.json").exists() or (folder / "run.json").exists()
        paths = [] if is_one or not depth else sorted(folder.iterdir())
        inside = [path for path in paths if not path.is_symlink() and path.is_dir()]
    except OSError:  # another user's, or deleted in the meantime
        return
    yield folder
    for path in inside:
        if not path.name.startswith("."):
            yield from _folders(path, depth - 1)


def described(folder: Path) -> Json | None:
    """The facts of a folder that `ls` lists, or None for other folders."""
    run, identity = _read(folder / "run.json"), _read(folder / "identity.json")
    if isinstance(config := run.get("config"), dict):
        from gaincurate.schedule.run import newest_round

        round_ = newest_round(folder)
        states = (folder / "state.json", folder / "rounds" / f"{round_:05d}" / "state.json")
        state = f"round {round_} of {config.get('rounds')} is planned" if round_ >= 0 else "no round yet"
        if round_ >= 0 and any(_read(path).get("finished") for path in states):
            state = f"finished, {counted(round_ + 1, 'round')}"
        kind, rows = f"run, {config.get('strategy')}", run.get("kept", run.get("rows"))
        model = Path(str(config.get("model"))).name if config.get("model") else None
    elif "format" not in identity:
        return None
    else:
        manifest, rollouts = _read(folder / "manifest.json"), identity.get("kind") == "rollouts"
        kind, counts = ("rollout set", "rollouts") if rollouts else ("scored set", "rows")
        engine = identity.get("engine") if rollouts else identity
        model = engine.get("model") if isinstance(engine, dict) else None
        model, rows = model.get("name") if isinstance(model, dict) else model, manifest.get(counts)
        shards = sum(1 for _ in folder.glob("shard-*.arrow"))
        state = "finished" if manifest else f"not finished, {counted(shards, 'shard')}"
    return {"folder": str(folder), "kind": kind, "rows": rows, "model": model, "state": state}


def _read(path: Path) -> Json:
    from gaincurate.core.foreign import json_file

    try:
        value = json_file(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@configured()
def derive(
    folder: Annotated[Path, Option(metavar="DIR", argument=True)],
    signal: Annotated[str, Option(metavar="COLUMN")],
    length_free: Literal["residual", "rank-in-bin"],
    bins: Annotated[int | None, Option(ge=1)] = None,
    name: Annotated[str | None, Option(metavar="NAME")] = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Write a length-free variant of a score as a computed column, for `--by`.

    Example: gaincurate derive scored --signal gc_angle --length-free residual

    Options:
        folder: A finished scored set.
        signal: The number column to free of length.
        length_free: residual: less its usual value at that length, a spline on log length (needs scipy).
            rank-in-bin: its rank among rows of about the same length.
        bins: For rank-in-bin: length bins of about equally many rows. Default: 20.
        name: Of the new column. Default: COLUMN_residual or COLUMN_rank_in_bin.
        overwrite: Replace a column of that name that was made in another way.
    """
    from gaincurate.core.scored_set import open_scores
    from gaincurate.report.length_free import derive as make

    column = make(open_scores(folder), signal, length_free, bins=bins, name=name, overwrite=overwrite)
    done = "is there already, made in this way" if column.kept else "written"
    of, verb = counted(column.rows, "row"), "has" if column.values == 1 else "have"
    before, after = (output.number(rho, "+.3f") for rho in (column.before, column.after))
    lines = (
        f"{folder}: {column.name} {done}, {column.values:,} of {of} {verb} a value",
        f"  Spearman with question length: {signal} {before}, {column.name} {after}",
        f"  next: --by {column.name}, with `gaincurate schedule start` or `gaincurate export`",
    )
    output.result(column, as_json, lambda _: output.text(*lines))


@configured("gaincurate.hygiene.options:HygieneConfig", stores=True)
def hygiene(
    config: HygieneConfig,
    folder: Annotated[Path, Option(metavar="DIR", argument=True, stores=True)],
    checks: Annotated[str | None, Option(metavar="LIST")] = None,
    examples: Annotated[int, Option(ge=0)] = 3,
    list_to: Annotated[Path | None, Option(names=("--list",), metavar="FILE")] = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, overlong prompts, unusable answers and evaluation questions in a set; change nothing.

    Example: gaincurate hygiene scored --eval gsm8k_test.parquet --max-prompt-tokens 1024

    `gaincurate export --drop LIST` leaves what it finds out of a trainer's file.

    Options:
        folder: A finished scored set.
        checks: Of overlong, sentinel-gold, word-gold, broken-gold, conflicting-gold, contaminated, duplicates
            and near-duplicates, with commas between them. Default: all that the options below allow.
        examples: Rows to show of each check.
        list_to: Write the flagged rows to this file, as JSON lines.
        overwrite: Replace the --list file.
    """
    if overwrite and list_to is None:
        raise InputError("--overwrite goes with --list FILE.")
    from gaincurate.core.files import write_lines
    from gaincurate.core.scored_set import open_scores
    from gaincurate.hygiene.checks import lines, search, summarized

    options = config.options(checks)
    if not options.chosen():
        raise InputError("--checks names no check; name one, such as duplicates.")
    if list_to is not None and list_to.exists() and not overwrite:
        raise OutputError(f"--list {list_to} exists; give another file, or --overwrite to replace it.")
    scored = open_scores(folder)
    results = search(scored, options, tell=lambda check: output.note(f"looking for {check}"))
    if list_to is not None:
        count = write_lines(list_to, lines(scored, results))
        output.note(f"{list_to}: {counted(count, 'line')}")
    findings = [summarized(scored, result, examples) for result in results]
    facts = {"rows": len(scored), "findings": findings}
    output.result(facts, as_json, lambda _: _print_findings(folder, len(scored), findings))


def _print_findings(folder: Path, rows: int, findings: list[CheckSummary]) -> None:
    output.text(f"{folder}: {counted(rows, 'row')}")
    output.records(findings, {"check": "check", "rows": ("rows", ","), "share": ("share", ".2%")})
    for each in findings:
        if not each.rows and not each.note:
            continue
        output.text("", f"{each.check}: {each.note}" if each.note else each.check)
        for row in each.examples:
            shown, other = excerpt(row["text"], output.WIDTH), excerpt(row["with"], 2 * output.WIDTH)
            output.text(f"  {row['gc_id']}  {shown}", f"    {other}")
    if names := ",".join(each.check for each in findings if each.rows):
        output.text("")
        output.fitted(
            "  next: look at the rows (`--list FILE` writes all of them); then, with the same options,"
        )
        output.text(f"  `gaincurate export {shlex.quote(str(folder))} --drop {names}` leaves them out")

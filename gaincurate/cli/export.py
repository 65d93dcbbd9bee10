"""`gaincurate export`: the file that a trainer reads, and the settings that make it read it as it is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from gaincurate.cli import output
from gaincurate.cli.hygiene_options import (
    AnyNumbers,
    EvalColumn,
    Evals,
    GoldAs,
    MaxTokens,
    Near,
    Ngram,
    Overlap,
    Verifier,
    hygiene_options,
)
from gaincurate.errors import InputError


def export(
    source: Annotated[Path, typer.Argument(metavar="DIR|RUN", help="A finished scored set, or a run.")],
    trainer: Annotated[
        str,
        typer.Option(
            help="trl, verl, openrlhf, nemo-rl, skyrl, slime, prime-rl, trinity, areal, roll, open-instruct."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="F", help="The file: .parquet or .jsonl.")],
    by: Annotated[
        str | None, typer.Option(help="Score column of the order, high first. Default: the set's order.")
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="With --by: low values first.")] = False,
    round_: Annotated[
        int | None, typer.Option("--round", min=0, help="Of a run. Default: the newest.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first rows only.")] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Leave the scoring run's system message and examples out.")
    ] = False,
    with_scores: Annotated[bool, typer.Option("--with-scores", help="Put all gc_ columns in.")] = False,
    answer_column: Annotated[
        str | None, typer.Option(help="Column with the answer. Default: the scoring run's.")
    ] = None,
    id_in_answer: Annotated[
        bool | None,
        typer.Option(
            "--id-in-answer/--plain-answer",
            help='The answer as JSON {"gc_id", "answer"}. Default: for openrlhf, where nothing else arrives.',
        ),
    ] = None,
    data_source: Annotated[
        str | None,
        typer.Option(
            help="What picks the reward function: verl's data_source, open-instruct's dataset, roll's tag "
            "and so on. Default: the source's column of that name."
        ),
    ] = None,
    env_class: Annotated[str | None, typer.Option(help="skyrl: the environment of every row.")] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Leave out what `gaincurate hygiene` finds: of overlong,broken-gold,conflicting-gold,"
            "contaminated,duplicates,near-duplicates.",
        ),
    ] = None,
    dropped: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lists them. Default: F with .dropped.jsonl.")
    ] = None,
    near: Near = None,
    any_numbers: AnyNumbers = False,
    max_prompt_tokens: MaxTokens = None,
    verifier: Verifier = None,
    gold_as: GoldAs = None,
    evals: Evals = None,
    eval_column: EvalColumn = None,
    ngram: Ngram = None,
    overlap: Overlap = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the exact view that a trainer reads, and print the settings that make it read it as it is.

    Example: gaincurate export scored --trainer verl --data-source openai/gsm8k --out train.parquet
    """
    again = f"Run the same command again: {shlex.join(['gaincurate', *sys.argv[1:]])}"
    with output.reporting(again):
        from gaincurate.trainers.columns import ViewOptions
        from gaincurate.trainers.export import Drop, Pick
        from gaincurate.trainers.export import export as write

        options = ViewOptions(bare, with_scores, answer_column, id_in_answer, data_source, env_class)
        pick = Pick(by, ascending, round_, limit)
        asked = hygiene_options(
            drop or "",
            near=near,
            any_numbers=any_numbers,
            max_prompt_tokens=max_prompt_tokens,
            verifier=verifier,
            gold_as=gold_as,
            answer_column=answer_column,
            evals=evals,
            eval_column=eval_column,
            ngram=ngram,
            overlap=overlap,
        )
        _check_drop(drop, dropped, asked.chosen())
        left_out = None if drop is None else Drop(asked, dropped)
        found = write(source, trainer, out, options, pick, drop=left_out, overwrite=overwrite)
        for line in [*found.notes, *found.launch.hints]:
            output.note(line)
        of = f", round {found.facts['round']} of {source}" if found.facts.get("round") is not None else ""
        output.note(
            f"{out}: {output.counted(found.rows, 'row')} for {trainer} {found.view.profile.version}{of}"
        )
        if found.dropped_file is not None:
            each = ", ".join(f"{check} {count:,}" for check, count in found.dropped.items())
            rows = output.counted(sum(found.dropped.values()), "row")
            output.note(f"{found.dropped_file}: {rows} dropped ({each})")
        if as_json:
            launch = found.launch
            told = {"file": str(out), "rows": found.rows, "columns": found.view.schema.names}
            told |= {"form": launch.form, "settings": launch.settings, "hints": launch.hints}
            if found.dropped_file is not None:
                told |= {"dropped": found.dropped, "dropped_file": str(found.dropped_file)}
            output.as_json({**told, "notes": found.notes, "made": found.facts})
        else:
            for line in found.launch.text.split("\n"):
                output.text(line)


def _check_drop(drop: str | None, dropped: Path | None, checks: list[str]) -> None:
    """An option that would do nothing is refused."""
    if drop is not None and not checks:
        raise InputError("--drop names no check; name one, such as duplicates.")
    if drop is None and dropped is not None:
        raise InputError(f"--dropped {dropped} goes with --drop LIST.")

"""`gaincurate export`: the file that a trainer reads, and the settings to read it unchanged.

The settings go to stdout and all notes to stderr, so the output can be pasted into a launch script.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.cli.output import counted
from gaincurate.core.options import ADVANCED, CHECKS, CHOICE, Option
from gaincurate.errors import InputError
from gaincurate.trainers.names import TRAINERS

if TYPE_CHECKING:
    from gaincurate.hygiene.options import HygieneConfig


@configured("gaincurate.hygiene.options:HygieneConfig", resumes=True, stores=True)
def export(
    config: HygieneConfig,
    source: Annotated[Path, Option(metavar="DIR|RUN", argument=True, stores=True)],
    trainer: Annotated[str, Option(f"{', '.join(TRAINERS)}.", metavar="T")],
    out: Annotated[Path, Option(metavar="F")],
    by: Annotated[str | None, Option(metavar="NAME")] = None,
    ascending: bool = False,
    round_: Annotated[int | None, Option(names=("--round",), ge=0)] = None,
    limit: Annotated[int | None, Option(ge=1)] = None,
    bare: Annotated[bool, Option(names=("--without-system",))] = False,
    with_scores: bool = False,
    id_in_answer: Annotated[
        bool | None, Option(panel=ADVANCED, names=("--id-in-answer/--plain-answer",))
    ] = None,
    data_source: Annotated[str | None, Option(metavar="NAME")] = None,
    env_class: Annotated[str | None, Option(panel=ADVANCED, metavar="NAME")] = None,
    where: Annotated[str | None, Option(panel=CHOICE, metavar="CONDITION")] = None,
    rollouts: Annotated[Path | None, Option(panel=CHOICE)] = None,
    drop: Annotated[str | None, Option(panel=CHECKS, metavar="LIST")] = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Write the rows as a trainer reads them, and print the settings with which it reads them unchanged.

    Example: gaincurate export scored --trainer verl --data-source openai/gsm8k --out train.parquet

    Options:
        source: A finished scored set, or a run.
        out: The file: .parquet or .jsonl.
        by: Score column of the order, high first. Default: the set's order.
        ascending: With --by: low values first.
        round_: Of a run. Default: the newest.
        limit: Take the first rows only.
        bare: Leave the scoring run's system message and examples out.
        with_scores: Put all gc_ columns in.
        id_in_answer: Write the answer as JSON {"gc_id", "answer"}. Default: only for openrlhf, whose reward
            function gets no other column.
        data_source: Value that selects the reward function: verl's data_source, open-instruct's dataset,
            roll's tag and so on. Default: the source's column of that name.
        env_class: skyrl: the environment of every row.
        where: Take the rows that meet this condition: "0.2 < pass_rate < 0.8 and source != 'web'".
        rollouts: A rollout set or pass rates: adds pass_rate and samples to --where.
        drop: Leave out what `gaincurate hygiene` finds: of overlong, sentinel-gold, word-gold, broken-gold,
            conflicting-gold, contaminated, duplicates and near-duplicates, with commas between them.
        overwrite: Replace the file.
    """
    from gaincurate.trainers.columns import ViewOptions
    from gaincurate.trainers.export import Pick
    from gaincurate.trainers.export import export as write

    options = ViewOptions(bare, with_scores, config.answer_column, id_in_answer, data_source, env_class)
    pick = Pick(by, ascending, round_, limit, where, rollouts)
    asked = config.options(drop or "")
    if drop is not None and not asked.chosen():
        raise InputError("--drop names no check; name one, such as duplicates.")
    dropping = None if drop is None else asked
    exported = write(
        source, trainer, out, options, pick, drop=dropping, overwrite=overwrite, note=output.note
    )
    for line in [*exported.notes, *exported.launch.hints]:
        output.note(line)
    round_of = exported.facts.get("round")
    of = "" if round_of is None else f", round {round_of} of {source}"
    rows = counted(exported.rows, "row")
    output.note(f"{out}: {rows} for {trainer} {exported.view.profile.version}{of}")
    summary = {"file": out, "rows": exported.rows, "columns": exported.view.schema.names}
    summary |= asdict(exported.launch)
    if exported.dropped_file is not None:
        checks = ", ".join(f"{check} {count:,}" for check, count in exported.dropped.items())
        rows = counted(sum(exported.dropped.values()), "row")
        output.note(f"{exported.dropped_file}: {rows} dropped ({checks})")
        summary |= {"dropped": exported.dropped, "dropped_file": exported.dropped_file}
    summary |= {"notes": exported.notes, "made": exported.facts}
    output.result(summary, as_json, lambda _: output.text(*exported.launch.text.split("\n")))

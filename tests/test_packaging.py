from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_checkout_has_nothing_else_at_its_top() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = subprocess.run(listed, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    tops = {path.split("/")[0] for path in paths}
    ours = (
        "pyproject.toml gaincurate kernels tests docs Makefile README.md CHANGELOG.md LICENSE constraints.txt"
    )
    assert {top for top in tops if not top.startswith(".")} == set(ours.split())


@pytest.mark.slow
def test_the_wheel_has_both_packages_and_nothing_that_shadows_another_project(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"gaincurate", "gaincurate_kernels"}
    assert {"gaincurate/py.typed", "gaincurate_kernels/py.typed"} <= set(names)
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "gaincurate").rglob("*.py")}
    assert modules <= set(names)
    templates = {str(p.relative_to(ROOT)) for p in (ROOT / "gaincurate/report/templates").iterdir()}
    assert templates
    assert templates <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    wanted = [r for r in wanted if not r.startswith("gaincurate[")]  # `all` is other extras
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].replace("_", "-").lower() for line in lines if "==" in line}
    names = {re.split(r"[\[>]", r)[0] for r in wanted}
    assert {name.replace("_", "-").lower() for name in names} <= pinned

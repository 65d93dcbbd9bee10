from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import budgets
import gaincurate

ROOT = Path(__file__).parent.parent

# Each package imports only packages of the rows below its own.
LAYERS = [
    {"cli"},
    {"compare"},
    {"report", "trainers"},
    {"schedule", "hygiene"},
    {"difficulty"},
    {"scoring", "replay"},
    {"core"},
    {"kernels"},
]
RANK = {package: rank for rank, row in enumerate(LAYERS) for package in row}
SOURCES = sorted([*(ROOT / "gaincurate").rglob("*.py"), *(ROOT / "kernels/gaincurate_kernels").rglob("*.py")])
LONGEST = 600  # lines; over 500 needs a reason


def module(path: Path) -> str:
    base = ROOT / "kernels" if "kernels" in path.relative_to(ROOT).parts else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def package_of(name: str) -> str | None:
    """The package that a module of ours is in; None for the front door (`gaincurate`, `gaincurate.__main__`)."""
    root, _, rest = name.partition(".")
    if root == "gaincurate_kernels":
        return "kernels"
    first = rest.partition(".")[0]
    return first if root == "gaincurate" and first in RANK else None


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports when it runs (not for type checkers alone)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in {"gaincurate", "gaincurate_kernels"}}


@pytest.mark.parametrize("package", sorted(RANK))
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    upward = {
        (module(path), name)
        for path in SOURCES
        if package_of(module(path)) == package
        for name in imports(path)
        if (other := package_of(name)) not in (None, package) and RANK[other or ""] <= RANK[package]
    }
    assert not upward


def test_every_module_is_in_a_package() -> None:
    outside = {module(path) for path in SOURCES if package_of(module(path)) is None}
    # What users import and catch.
    assert outside == {"gaincurate", "gaincurate.__main__", "gaincurate.errors"}


def test_a_file_can_be_read_in_one_sitting_and_says_what_it_is_for() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= LONGEST, path
        assert ast.get_docstring(ast.parse(text)), path


def test_kernels_is_no_package() -> None:
    assert not (ROOT / "kernels/__init__.py").exists()


# Who parses a text, reads a file whole or opens an Arrow file: the two borders for foreign files, and few others.
ARROW = {"pa.ipc.open_file", "pa.ipc.open_stream", "pa.memory_map", "pq.ParquetFile", "pq.read_table"}
READERS = ARROW | {
    "pyarrow.ipc.open_file", "pyarrow.ipc.open_stream", "pq.read_schema", "pq.read_metadata", "pq.ParquetDataset",
    "pj.read_json", "json.load", "json.loads", "json.JSONDecoder", "yaml.load", "yaml.safe_load", "yaml.load_all",
    "yaml.safe_load_all", "tomllib.load", "tomllib.loads",
}  # fmt: skip
MAY = {
    "gaincurate.core.foreign": {"json.JSONDecoder", "tomllib.loads", "yaml.load"},
    "gaincurate.core.arrow": ARROW,
    "gaincurate.core.sealed": {"json.loads"},  # files of ours, each with a digest
    "gaincurate.cli.sets": {"read_bytes"},  # of `example`: our own files, and those that it is about to write
    "gaincurate.cli.example_files.train": {
        "json.loads",
        "read_text",
    },  # the user's, which imports nothing of ours
    "gaincurate.report.explore": {"read_text"},  # a script of the package
}


def test_only_the_borders_read_foreign_files() -> None:
    for path in SOURCES:
        used = set[str]()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in ("json", "yaml", "tomllib"):
                used.add(node.module)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                used |= {ast.unparse(node.func)} & READERS | {node.func.attr} & {"read_bytes", "read_text"}
        assert used <= MAY.get(module(path), set()), path


def loaded(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import gaincurate",
        "from typer.testing import CliRunner\nfrom gaincurate.cli.app import app\n"
        "for command in ('', 'score', 'export', 'difficulty rollout', 'schedule next'):\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0",
    ],
    ids=["import", "help"],
)
def test_importing_and_helping_load_nothing_heavy(code: str) -> None:
    heavy = {"torch", "transformers", "pyarrow", "numpy", "datasets", "triton", "obstore", "ray"}
    assert not loaded(code) & heavy


def test_reading_a_set_and_the_kernels_load_no_more_than_they_need() -> None:
    read = loaded("import gaincurate\ngaincurate.open_scores")
    assert not read & {"torch", "transformers", "datasets", "obstore"}
    assert not loaded("import gaincurate_kernels") & {"gaincurate", "triton", "transformers"}


def test_scheduling_and_replay_need_no_torch() -> None:
    names = [module(path) for path in SOURCES if package_of(module(path)) in ("schedule", "replay")]
    modules = loaded("import " + ", ".join(names))
    assert not modules & {"torch", "transformers", "datasets", "triton"}


def test_the_public_names_are_there() -> None:
    assert len(gaincurate.__all__) <= 10
    assert sorted(dir(gaincurate)) == sorted([*gaincurate.__all__, "__version__"])
    assert all(getattr(gaincurate, name) is not None for name in gaincurate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gaincurate.nonsense


def test_no_budget_is_exceeded() -> None:
    program = Path(budgets.__file__)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert budgets.over(json.loads(done.stdout), json.loads(budgets.BUDGETS.read_text())) == []

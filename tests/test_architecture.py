from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gaincurate

ROOT = Path(__file__).parent.parent

# Each module may import only what stands after it.
LAYERS = [
    "gaincurate.__main__",
    "gaincurate.cli.app",
    "gaincurate.cli.bench",
    "gaincurate.cli.compare",
    "gaincurate.cli.compare_progress",
    "gaincurate.cli.compare_text",
    "gaincurate.cli.difficulty",
    "gaincurate.cli.rollout_progress",
    "gaincurate.cli.schedule",
    "gaincurate.cli.schedule_start",
    "gaincurate.cli.schedule_options",
    "gaincurate.cli.rescoring",
    "gaincurate.cli.recipe",
    "gaincurate.cli.rounds",
    "gaincurate.cli.dots_status",
    "gaincurate.cli.export",
    "gaincurate.cli.hygiene",
    "gaincurate.cli.score",
    "gaincurate.cli.show",
    "gaincurate.cli.derive",
    "gaincurate.cli.report",
    "gaincurate.cli.report_text",
    "gaincurate.cli.hygiene_options",
    "gaincurate.cli.difficulty_fit",
    "gaincurate.cli.doctor",
    "gaincurate.cli.score_summary",
    "gaincurate.cli.progress",
    "gaincurate.cli.options",
    "gaincurate.cli.config_file",
    "gaincurate.cli.output",
    "gaincurate.compare.page",
    "gaincurate.compare.charts",
    "gaincurate.compare.measures",
    "gaincurate.compare.sentences",
    "gaincurate.compare.training",
    "gaincurate.compare.results",
    "gaincurate.compare.harness",
    "gaincurate.compare.tables",
    "gaincurate.compare.job",
    "gaincurate.compare.config",
    "gaincurate.compare.verdict",
    "gaincurate.compare.resample",
    "gaincurate.trainers.trl_arm",
    "gaincurate.trainers.trl_arm_marks",
    "gaincurate.trainers.arm_costs",
    "gaincurate.trainers.arm",
    "gaincurate.trainers.trl",
    "gaincurate.trainers.trl_replay",
    "gaincurate.trainers.trl_replay_notes",
    "gaincurate.trainers.trl_replay_logps",
    "gaincurate.trainers.trl_replay_rows",
    "gaincurate.trainers.trl_replay_shape",
    "gaincurate.trainers.trl_resume",
    "gaincurate.trainers.trl_rows",
    "gaincurate.trainers.trl_outcomes",
    "gaincurate.trainers.trl_shape",
    "gaincurate.trainers.trl_together",
    "gaincurate.trainers.replay_loss",
    "gaincurate.trainers.trinity",
    "gaincurate.trainers.slime",
    "gaincurate.trainers.slime_samples",
    "gaincurate.trainers.nemo_rl",
    "gaincurate.trainers.nemo_rl_outcomes",
    "gaincurate.trainers.prime_rl",
    "gaincurate.trainers.verl_replay",
    "gaincurate.trainers.verl_replay_rows",
    "gaincurate.trainers.verl_replay_settings",
    "gaincurate.trainers.verl",
    "gaincurate.trainers.verl_sampler",
    "gaincurate.trainers.verl_run",
    "gaincurate.trainers.verl_settings",
    "gaincurate.trainers.shared",
    "gaincurate.trainers.registry",
    "gaincurate.trainers.base",
    "gaincurate.trainers.place",
    "gaincurate.trainers.finder",
    "gaincurate.trainers.hold",
    "gaincurate.trainers.watch",
    "gaincurate.trainers.merge",
    "gaincurate.trainers.checkpoints",
    "gaincurate.trainers.layouts",
    "gaincurate.trainers.markers",
    "gaincurate.trainers.recipes",
    "gaincurate.trainers.recipe_scripts",
    "gaincurate.trainers.doctor.examine",
    "gaincurate.trainers.doctor.trl",
    "gaincurate.trainers.doctor.verl",
    "gaincurate.trainers.doctor.openrlhf",
    "gaincurate.trainers.doctor.nemo_rl",
    "gaincurate.trainers.doctor.skyrl",
    "gaincurate.trainers.doctor.slime",
    "gaincurate.trainers.doctor.prime_rl",
    "gaincurate.trainers.doctor.trinity",
    "gaincurate.trainers.doctor.areal",
    "gaincurate.trainers.doctor.trl_batches",
    "gaincurate.trainers.doctor.live",
    "gaincurate.trainers.doctor.common",
    "gaincurate.trainers.doctor.sizes",
    "gaincurate.trainers.doctor.tokens",
    "gaincurate.trainers.doctor.facts",
    "gaincurate.trainers.doctor.findings",
    "gaincurate.trainers.doctor.read",
    "gaincurate.trainers.doctor.launch",
    "gaincurate.trainers.doctor.settings",
    "gaincurate.trainers.export",
    "gaincurate.trainers.logs",
    "gaincurate.trainers.logs_join",
    "gaincurate.trainers.logs_files",
    "gaincurate.trainers.logs_formats",
    "gaincurate.trainers.views_launch",
    "gaincurate.trainers.views",
    "gaincurate.trainers.views_parts",
    "gaincurate.trainers.names",
    "gaincurate.replay.metrics",
    "gaincurate.replay.ledger",
    "gaincurate.replay.segments",
    "gaincurate.replay.state",
    "gaincurate.replay.buffer",
    "gaincurate.replay.counts",
    "gaincurate.replay.config",
    "gaincurate.replay.rows",
    "gaincurate.replay.group",
    "gaincurate.derive.column",
    "gaincurate.derive.length_free",
    "gaincurate.report.page",
    "gaincurate.report.pictures",
    "gaincurate.report.run_charts",
    "gaincurate.report.charts",
    "gaincurate.report.drawing",
    "gaincurate.report.advice",
    "gaincurate.report.words",
    "gaincurate.report.build",
    "gaincurate.report.methods",
    "gaincurate.report.sentences",
    "gaincurate.report.verdict",
    "gaincurate.report.story",
    "gaincurate.report.against",
    "gaincurate.report.checks",
    "gaincurate.report.prompts",
    "gaincurate.report.worth",
    "gaincurate.report.observed",
    "gaincurate.report.relations",
    "gaincurate.report.samples",
    "gaincurate.report.spread",
    "gaincurate.report.table",
    "gaincurate.report.fields",
    "gaincurate.report.ranked",
    "gaincurate.report.intervals",
    "gaincurate.report.document",
    "gaincurate.report.sections",
    "gaincurate.report.figures",
    "gaincurate.hygiene.examine",
    "gaincurate.hygiene.options",
    "gaincurate.hygiene.contaminated",
    "gaincurate.hygiene.evaluation",
    "gaincurate.hygiene.near",
    "gaincurate.hygiene.sketch",
    "gaincurate.hygiene.gold",
    "gaincurate.hygiene.duplicates",
    "gaincurate.hygiene.rows",
    "gaincurate.hygiene.text",
    "gaincurate.hygiene.config",
    "gaincurate.hygiene.findings",
    "gaincurate.hygiene.lines",
    "gaincurate.difficulty.predict",
    "gaincurate.difficulty.methods",
    "gaincurate.difficulty.fitting",
    "gaincurate.difficulty.fit",
    "gaincurate.difficulty.store",
    "gaincurate.difficulty.predictor",
    "gaincurate.difficulty.whitened",
    "gaincurate.difficulty.rollout",
    "gaincurate.difficulty.shard_work",
    "gaincurate.difficulty.generate_server",
    "gaincurate.difficulty.generate_local",
    "gaincurate.difficulty.decode",
    "gaincurate.difficulty.shared_prefill",
    "gaincurate.difficulty.sampler",
    "gaincurate.difficulty.gold",
    "gaincurate.difficulty.journal",
    "gaincurate.difficulty.interval",
    "gaincurate.difficulty.tasks",
    "gaincurate.difficulty.watch",
    "gaincurate.schedule.api",
    "gaincurate.schedule.story",
    "gaincurate.schedule.driver",
    "gaincurate.schedule.rounds",
    "gaincurate.schedule.check",
    "gaincurate.schedule.foresight",
    "gaincurate.schedule.calibration",
    "gaincurate.schedule.references",
    "gaincurate.difficulty.embeddings",
    "gaincurate.difficulty.pass_rates",
    "gaincurate.difficulty.rate_tables",
    "gaincurate.difficulty.quality",
    "gaincurate.difficulty.rollout_set",
    "gaincurate.difficulty.engine",
    "gaincurate.difficulty.prompts",
    "gaincurate.difficulty.verify",
    "gaincurate.difficulty.verify_worker",
    "gaincurate.difficulty.config",
    "gaincurate.schedule.observed",
    "gaincurate.schedule.rescore",
    "gaincurate.schedule.trainer",
    "gaincurate.schedule.keeper",
    "gaincurate.schedule.checkpoints",
    "gaincurate.schedule.rows",
    "gaincurate.schedule.back",
    "gaincurate.schedule.run",
    "gaincurate.schedule.orders",
    "gaincurate.schedule.order",
    "gaincurate.schedule.outcomes",
    "gaincurate.schedule.lines",
    "gaincurate.schedule.uniform",
    "gaincurate.schedule.gaussian",
    "gaincurate.schedule.variance",
    "gaincurate.schedule.dots",
    "gaincurate.schedule.base",
    "gaincurate.schedule.noise",
    "gaincurate.schedule.config",
    "gaincurate.scoring.crew",
    "gaincurate.scoring.rates",
    "gaincurate.scoring.pipeline",
    "gaincurate.scoring.workers",
    "gaincurate.scoring.worker",
    "gaincurate.scoring.shard",
    "gaincurate.scoring.signals",
    "gaincurate.scoring.likelihood",
    "gaincurate.scoring.plan",
    "gaincurate.scoring.identity",
    "gaincurate.scoring.head",
    "gaincurate.scoring.angle",
    "gaincurate.scoring.embedding",
    "gaincurate.scoring.packed",
    "gaincurate.scoring.products",
    "gaincurate.scoring.attention",
    "gaincurate.scoring.prefill",
    "gaincurate.scoring.processes",
    "gaincurate.scoring.norms",
    "gaincurate.scoring.model",
    "gaincurate.scoring.broken",
    "gaincurate.scoring.pack",
    "gaincurate.scoring.segment",
    "gaincurate.scoring.offsets",
    "gaincurate.scoring.ids",
    "gaincurate.scoring.columns",
    "gaincurate.scoring.read",
    "gaincurate.scoring.from_datasets",
    "gaincurate.scoring.formats",
    "gaincurate.scoring.csv_rows",
    "gaincurate.scoring.json_rows",
    "gaincurate.scoring.parts",
    "gaincurate.scoring.watch",
    "gaincurate.scoring.ahead",
    "gaincurate.scoring.allocator",
    "gaincurate.scored_set",
    "gaincurate.shards",
    "gaincurate.schema",
    "gaincurate.config",
    "gaincurate.options",
    "gaincurate.locks",
    "gaincurate.files",
    "gaincurate.stats",
    "gaincurate.ctrl_c",
    "gaincurate.errors",
    "gaincurate",
    "gaincurate_kernels.bench",
    "gaincurate_kernels.selftest",
    "gaincurate_kernels",
    "gaincurate_kernels.angle",
    "gaincurate_kernels.launch",
    "gaincurate_kernels.angle_kernels",
    "gaincurate_kernels.reference",
    "gaincurate_kernels.values",
]
PACKAGES = {
    "gaincurate.cli",
    "gaincurate.schedule",
    "gaincurate.scoring",
    "gaincurate.trainers",
    "gaincurate.trainers.doctor",
    "gaincurate.difficulty",
    "gaincurate.replay",
    "gaincurate.derive",
    "gaincurate.hygiene",
    "gaincurate.report",
    "gaincurate.compare",
}
SOURCES = sorted([*(ROOT / "gaincurate").rglob("*.py"), *(ROOT / "kernels/gaincurate_kernels").rglob("*.py")])


def module(path: Path) -> str:
    base = ROOT / "kernels" if "kernels" in path.relative_to(ROOT).parts else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports when it runs (not for type checkers alone)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & set(LAYERS)
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in {"gaincurate", "gaincurate_kernels"}}


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_imports_point_down_the_layers(path: Path) -> None:
    name = module(path)
    if name in PACKAGES:
        assert not imports(path)
        return
    below = LAYERS[LAYERS.index(name) + 1 :]
    assert imports(path) - PACKAGES <= set(below)


def test_the_layers_name_every_module_once() -> None:
    actual = {module(path) for path in SOURCES} - PACKAGES
    assert set(LAYERS) == actual
    assert len(LAYERS) == len(actual)


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_file_can_be_read_in_one_sitting_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text))


def test_kernels_is_no_package() -> None:
    assert not (ROOT / "kernels/__init__.py").exists()


def loaded(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import gaincurate",
        "from typer.testing import CliRunner\nfrom gaincurate.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "import sys\nassert 'pydantic' not in sys.modules",
        "from typer.testing import CliRunner\nfrom gaincurate.cli.app import app\n"
        "for command in ('score', 'export', 'hygiene', 'report', 'derive', 'show', 'doctor', 'compare', "
        "'schedule start', 'schedule next', 'schedule run', 'difficulty rollout', 'difficulty verify', "
        "'difficulty fit', 'difficulty predict', 'bench score', 'bench kernel'):\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0",
    ],
    ids=["import", "help", "helps"],
)
def test_importing_and_helping_load_nothing_heavy(code: str) -> None:
    assert not loaded(code) & {"torch", "transformers", "pyarrow", "numpy", "datasets", "triton"}


def test_reading_a_set_and_the_kernels_load_no_more_than_they_need() -> None:
    assert not loaded("import gaincurate\ngaincurate.open_scores") & {"torch", "transformers", "datasets"}
    assert not loaded("import gaincurate_kernels") & {"gaincurate", "triton", "transformers"}


def test_scheduling_and_replay_need_no_torch() -> None:
    names = [name for name in LAYERS if name.startswith(("gaincurate.schedule", "gaincurate.replay"))]
    found = loaded("import " + ", ".join([*names, "gaincurate.cli.rounds"]))
    assert not found & {"torch", "transformers", "datasets", "triton"}


def test_the_public_names_are_there() -> None:
    assert len(gaincurate.__all__) <= 8
    assert all(getattr(gaincurate, name) is not None for name in gaincurate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gaincurate.nonsense

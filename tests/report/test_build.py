"""The whole document: pass rates and runs beside the set, other sets, and the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

import dots_runs
import runs
from column_sets import column_set, ids, rates_file
from command import run as gaincurate
from gaincurate.core.artifact import Artifact
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import rollout_set
from gaincurate.difficulty.metrics import COLUMNS
from gaincurate.difficulty.pass_rates import read_pass_rates
from gaincurate.difficulty.prompts import Completion
from gaincurate.errors import InputError, OutcomeError, OutputError
from gaincurate.report.build import report
from gaincurate.report.document import Document, from_json, to_json
from gaincurate.report.length_free import derive
from gaincurate.report.parts import number
from gaincurate.schedule.rounds import advance
from gaincurate.schedule.run import Run

ROWS = 150
COLUMN = COLUMNS["difficulty"]


def world(folder: Path, rows: int = ROWS, seed: int = 0) -> tuple[Path, np.ndarray]:
    """A set of two signals, one with gaps, in three groups with levels; and each prompt's true rate."""
    random = np.random.default_rng(seed)
    length = random.integers(5, 120, rows)
    rate = random.random(rows)
    gaps = np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows))
    scores = {"gc_angle": rate + random.normal(size=rows), "gc_angle_inter": pa.array(gaps, from_pandas=True)}
    scores["gc_angle_inter"] = scores["gc_angle_inter"].cast(pa.float32())
    source = {
        "task": pa.array([f"t{k}" for k in random.integers(0, 3, rows)]),
        "level": pa.array([f"Level {k}" for k in np.round(5 * rate).astype(int)]),
    }
    return column_set(folder / "set", length, scores, source), rate


def test_every_correlation_is_scipys_over_the_rows_that_have_both(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    document = report(folder, rollouts=[rates_file(tmp_path / "r.parquet", rate[:90])])
    table = pa.concat_tables(ScoredSet(folder).tables())
    rates = pq.read_table(tmp_path / "r.parquet")
    share = np.full(ROWS, np.nan)
    share[:90] = rates.column("wins").to_numpy() / 8
    names = ("gc_angle", "gc_angle_inter", "gc_question_tokens")
    columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in names}
    columns["level"] = np.array([int(text[-1]) for text in table.column("level").to_pylist()])
    columns |= {"pass rate (r.parquet)": share, "p(1-p) (r.parquet)": share * (1 - share) * 8 / 7}
    assert [column.name for column in document.columns] == list(columns)
    assert len(document.relations) == 6
    length = "gc_question_tokens"
    pairs = [(v.signal, length, v.length, v.length.rows) for v in document.verdicts]
    pairs += [(r.signal, r.target, r.overall, r.overall.rows) for r in document.relations]
    pairs += [
        (length, r.target, r.length, r.overall.rows) for r in document.relations if r.signal == "gc_angle"
    ]
    for first, second, correlation, rows in pairs:
        a, b = columns[first], columns[second]
        both = ~(np.isnan(a) | np.isnan(b))
        expected = stats.spearmanr(a[both], b[both]).statistic
        assert correlation.value == pytest.approx(expected, abs=1e-9)
        assert correlation.rows == rows == both.sum()
    for each in document.relations:  # all figures of a relation rest on the same rows
        inner = (each.within_groups, each.given_length_within_groups, each.within_length_bins_and_groups)
        figures = (each.given_length, each.within_length_bins, *inner)
        assert {figure.rows for figure in figures if figure is not None} == {each.overall.rows}
        assert None not in inner
    assert (document.about.group_column, document.about.groups) == ("task", 3)


def test_an_outcome_says_what_it_rests_on(tmp_path: Path) -> None:
    folder, _ = world(tmp_path)
    names = ["id00000", "id00001", "id00002", "id00003", "elsewhere"]
    path = tmp_path / "o.parquet"
    pq.write_table(pa.table({"gc_id": names, "wins": [4, 0, 2, 1, 1], "losses": [0, 4, 2, 0, 1]}), path)
    (found,) = report(folder, rollouts=[path]).outcomes
    assert (found.name, found.learnability) == ("pass rate (o.parquet)", "p(1-p) (o.parquet)")
    assert (found.prompts, found.unknown, found.rollouts) == (4, 1, 13)
    assert found.mean == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert (found.always, found.never) == (0.5, 0.25)
    assert found.mean_variance.value == pytest.approx((0 + 0 + 0.5 * 0.5 * 4 / 3) / 3)
    assert found.notes[0] == "Prompts with one rollout, which have no p (1 - p): 1."
    assert found.notes[1].startswith("Prompts have different numbers of rollouts.")


def rollouts_of(out: Path, rewards: dict[str, list[float | None]], *, finished: bool = True) -> Path:
    out.mkdir()
    identity = {"kind": rollout_set.KIND, "format": rollout_set.ROLLOUTS.format}
    (out / "identity.json").write_text(json.dumps(identity))
    judged: list[rollout_set.Judged] = [
        (Completion(gc_id, sample, "text", "stop", 1, 1), reward, None)
        for gc_id, some in rewards.items()
        for sample, reward in enumerate(some)
    ]
    rollout_set.write_shard(out, 0, identity, judged, [])
    if finished:
        Artifact(out, rollout_set.ROLLOUTS).finish(identity, 1)
    return out


def test_a_rollout_set_is_read_and_an_unfinished_one_is_not(tmp_path: Path) -> None:
    folder, _ = world(tmp_path)
    rewards: dict[str, list[float | None]]
    rewards = {"id00001": [1.0, 0.0], "id00002": [1.0, None], "id00003": [None, None]}
    with pytest.raises(OutputError, match="is not finished"):
        report(folder, rollouts=[rollouts_of(tmp_path / "unfinished", rewards, finished=False)])
    (found,) = report(folder, rollouts=[rollouts_of(tmp_path / "rollouts", rewards)]).outcomes
    assert (found.name, found.prompts, found.rollouts) == ("pass rate (rollouts)", 2, 3)


def test_rewards_between_are_right_or_wrong_where_it_is_said_from_which_on(tmp_path: Path) -> None:
    folder, _ = world(tmp_path)
    out = rollouts_of(tmp_path / "rollouts", {"id00001": [1.0, 0.01], "id00002": [0.5, 0.01]})
    means = [report(folder, rollouts=[out], success=s).outcomes[0].mean for s in (None, 1.0, 0.5)]
    assert means == pytest.approx([(1.01 + 0.51) / 4, 0.25, 0.5])


def test_each_group_has_its_observed_rates_by_a_plain_loop(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    path = rates_file(tmp_path / "rates.parquet", rate[:100], samples=4)  # of the first 100 prompts
    document = report(folder, rollouts=[path])
    counts = pq.read_table(path).to_pylist()
    tasks = dict(zip(ids(len(rate)), ScoredSet(folder).column("task").to_pylist(), strict=True))
    largest_first = sorted({*tasks.values()}, key=lambda task: (-list(tasks.values()).count(task), task))
    assert [r.group for r in document.group_rates] == largest_first
    for found in document.group_rates:
        wins = [row["wins"] for row in counts if tasks[row["gc_id"]] == found.group]
        assert found.prompts == len(wins)
        assert found.mean == pytest.approx(sum(wins) / 4 / len(wins))
        assert found.teaches == pytest.approx(sum(0 < w < 4 for w in wins) / len(wins))
        assert found.variance == pytest.approx(sum(w * (4 - w) / (4 * 3) for w in wins) / len(wins))
    assert report(folder).group_rates == []


def test_rates_of_unknown_numbers_have_no_variance_and_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    paths = [tmp_path / name / "p.parquet" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        pq.write_table(pa.table({"gc_id": ids(ROWS), "pass_rate": rate}), path)
    document = report(folder, rollouts=paths)
    assert document.lifts == []
    assert [each.name for each in document.outcomes] == ["pass rate (p.parquet)", "pass rate (p.parquet) 2"]
    for each in document.outcomes:
        assert (each.learnability, each.rollouts, each.ceiling) == (None, None, None)
        assert each.notes == [
            "The numbers of rollouts are not known, so p (1 - p) and the ceiling cannot be estimated."
        ]


def test_pass_rates_of_another_set_are_refused(tmp_path: Path) -> None:
    folder, _ = world(tmp_path)
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"gc_id": ["x", "y"], "wins": [1, 2], "losses": [1, 0]}), path)
    with pytest.raises(InputError, match=f"^{path}: none of its 2 prompts is in {folder}; is it of another"):
        report(folder, rollouts=[path])


def test_a_run_brings_its_rounds_and_its_outcomes(tmp_path: Path) -> None:
    run = runs.begin(tmp_path, rounds=3)
    empty = report(tmp_path / "set", run=run.folder)
    assert empty.outcomes == []
    assert f"{run.folder} has no outcomes yet." in empty.notes
    assert empty.unknown is not None
    for _ in range(2):
        runs.report(run)
        advance(run)
    document = report(tmp_path / "set", run=run.folder)
    assert document.run is not None
    assert (document.run["strategy"], document.run["planned_rounds"]) == ("gain-rl", 3)
    first, second, third = document.run["rounds"]
    assert (first["accuracy"], first["effective"], first["rollouts"]) == (0.5, 1.0, 16)
    assert second["mu"] is not None
    assert first["completion_tokens"] is None  # nobody logged them
    assert (third["accuracy"], third["rollouts"]) == (None, None)
    (outcome,) = document.outcomes
    distinct = len({*run.ids(0), *run.ids(1)})
    assert (outcome.source, outcome.prompts, outcome.rollouts, outcome.mean) == ("run", distinct, 32, 0.5)
    assert outcome.notes[0] == "Rounds 0 to 1 together: the policy changed while it was observed."
    assert "drawn by gain-rl" in outcome.notes[1]
    other = runs.some_set(tmp_path / "other", seed=5)
    notes = report(other, run=run.folder).notes
    assert any(f"{run.folder} goes by another scored set than {other}" in note for note in notes)


def test_order_of_rows_and_shards_changes_no_correlation(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    length, angle, level = random.integers(5, 90, 200), random.normal(size=200), random.integers(1, 6, 200)
    order = random.permutation(200)
    documents = []
    for name, rows, shards in (("a", np.arange(200), 1), ("b", order, 7)):
        source = {"level": pa.array(level[rows])}
        folder = column_set(tmp_path / name, length[rows], {"gc_angle": angle[rows]}, source, shards=shards)
        documents.append(report(folder))
    (one,), (other,) = (document.relations for document in documents)
    for name in ("overall", "given_length", "within_length_bins"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)
    assert documents[0].verdicts[0].verdict == documents[1].verdicts[0].verdict


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 10, 29, 30])
def test_any_number_of_rows_makes_a_document(tmp_path: Path, rows: int) -> None:
    folder, rate = world(tmp_path, rows, seed=rows)
    document, again = (report(folder, rollouts=[rates_file(tmp_path / "r.parquet", rate)]) for _ in range(2))
    written = json.dumps(to_json(document), allow_nan=False)
    assert from_json(json.loads(written)) == document
    assert json.dumps(to_json(again)) == written
    assert document.about.rows == rows
    assert (document.wasted is None) == (rows < 30)
    if rows < 30:
        assert {verdict.verdict for verdict in document.verdicts} == {"not-enough-rows"}


def observed_column(folder: Path, rates: Path) -> str:
    """Write the failure rates of a file as the column of difficulty, as `difficulty predict` does."""
    (made_of,) = read_pass_rates(rates)
    how = {"made_by": "a test", "outcomes": made_of.source}
    ScoredSet(folder).add_column(COLUMN, made_of.ids, pa.array(made_of.failure, pa.float32()), how)
    return COLUMN


def judged_by(document: Document, *signals: str) -> set[str]:
    return {r.target for r in document.relations if r.signal in signals}


def test_a_column_is_not_judged_by_its_own_pass_rates_nor_is_one_made_from_it(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    own = rates_file(tmp_path / "own.parquet", rate)
    fresh = rates_file(tmp_path / "new.parquet", rate, seed=2)
    observed_column(folder, own)
    first = derive(ScoredSet(folder), COLUMN, "rank-in-bin").name
    second = derive(ScoredSet(folder), first, "rank-in-bin").name
    document = report(folder, rollouts=[own, fresh])
    for name in (COLUMN, first, second):
        assert judged_by(document, name) == {"level", "pass rate (new.parquet)", "p(1-p) (new.parquet)"}
        assert f"{name} was made from pass rate (own.parquet) and is not judged by it." in document.notes


def test_nor_by_a_later_state_of_the_same_file(tmp_path: Path) -> None:
    folder, rate = world(tmp_path)
    own = rates_file(tmp_path / "own.parquet", rate[:100])
    observed_column(folder, own)
    document = report(folder, rollouts=[rates_file(own, rate)])
    assert judged_by(document, COLUMN) == {"level"}
    assert any("made from another state of pass rate (own.parquet)" in note for note in document.notes)


def test_signals_that_only_the_same_rates_could_judge_are_not_said_to_tell_nothing(tmp_path: Path) -> None:
    folder = column_set(tmp_path / "set", np.arange(5, 105), {})
    own = rates_file(tmp_path / "own.parquet", np.linspace(0, 1, 100))
    observed_column(folder, own)
    said = report(folder, rollouts=[own]).headline
    assert said.endswith("there is nothing to judge it by but the pass rates that it was made from.")


def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """One round of DOTS, its references and its outcomes observed."""
    dots_runs.in_process(monkeypatch)
    run = dots_runs.begin(folder, temperature=0.2, rounds=1, budget=20)
    with pytest.raises(OutcomeError):
        advance(run)
    dots_runs.answer(run, 0)
    advance(Run(run.folder))
    run = Run(run.folder)
    runs.write(run, 0, dots_runs.lines(run.ids(0), 0, round=0, tokens=5))
    advance(Run(run.folder))
    return Run(run.folder)


def test_a_report_shows_what_a_runs_predictions_were_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, monkeypatch)
    status = json.loads(gaincurate("schedule", "status", run.folder, "--json").stdout)["difficulty"]
    page = tmp_path / "report.html"
    done = gaincurate("report", tmp_path / "set", "--run", run.folder, "--json", "-o", page)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"]["predictions"] == status
    shown = " ".join(gaincurate("report", tmp_path / "set", "--run", run.folder).stdout.split())
    pearson, brier = (status["newest"][name]["value"] for name in ("pearson", "brier"))
    assert "aims at a failure rate of 0.5, predicted by group-mean. Its references: 60 rollouts" in shown
    assert f"of drawn prompts 20 {pearson:+.2f}" in shown
    assert number(brier) in shown
    assert "a correlation over them says little of the predictor" in shown
    html = page.read_text()
    assert "What its predictions were worth" in html
    assert html.count(": predicted failure rate against the observed one in ") == 2

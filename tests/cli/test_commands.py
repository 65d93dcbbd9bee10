from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

import gaincurate
import runs
import tiny
from command import run, tree
from gaincurate.errors import ModelError
from gaincurate.scoring.segment import Segmenter
from sets import make_set, scored_row


@pytest.fixture
def out(tmp_path: Path, tiny_model: Path) -> Path:
    rows = [*tiny.questions(12), {"question": "\x1b[31mred\x07 text\nover lines", "answer": "1", "level": 0}]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    result = run("score", data, "-m", tiny_model, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["rows"] == 13
    assert "prompt from column 'question', answer from column 'answer'" in result.stderr
    return tmp_path / "out"


def test_show_orders_by_angle_and_counts_what_is_there(out: Path) -> None:
    found = json.loads(run("show", out, "--json", "--rows", "3").stdout)
    table = [row for part in gaincurate.open_scores(out).tables() for row in part.to_pylist()]
    order = [row["gc_id"] for row in sorted(table, key=lambda row: (-row["gc_angle"], row["gc_id"]))]
    assert [row["gc_id"] for row in found["top"]] == order[:3]
    assert [row["gc_id"] for row in found["bottom"]] == order[-3:]
    angles = sorted(row["gc_angle"] for row in table)
    assert found["distribution"]["gc_angle"][0] == pytest.approx(angles[0])
    assert found["distribution"]["gc_angle"][-1] == pytest.approx(angles[-1])


def test_show_of_rows_without_a_score_has_them_last_by_id(tmp_path: Path) -> None:
    table = [{**scored_row("c"), "gc_angle": None}, scored_row("b"), {**scored_row("a"), "gc_angle": None}]
    for rows, last in ((table, "c"), (table[2:], "a")):
        folder = make_set(tmp_path / last, [rows])
        found = json.loads(run("show", folder, "--json").stdout)
        assert found["top"][-1]["gc_id"] == last
        assert run("show", folder).exit_code == 0


def test_show_prints_short_ids_and_no_terminal_escapes(out: Path) -> None:
    result = run("show", out, "--rows", "13")
    assert result.exit_code == 0
    assert not {"\x1b", "\x07"} & set(result.stdout)
    for name in gaincurate.open_scores(out).column("gc_id").to_pylist():
        assert f" {name[:8]} " in result.stdout
        assert name not in result.stdout


def test_show_lists_the_computed_columns(out: Path) -> None:
    scored = gaincurate.open_scores(out)
    ids = scored.column("gc_id").to_pylist()[:4]
    scored.add_column("gc_difficulty", ids, pa.array([0.25, 0.5, 1.0, float("nan")]), {"method": "by hand"})
    scored.add_column("gc_kind", ids, pa.array(["a", "b", None, None]), {})
    found = json.loads(run("show", out, "--json").stdout)
    assert found["computed"] == {
        "gc_difficulty": {"rows": 4, "how": {"method": "by hand"}},
        "gc_kind": {"rows": 2, "how": {}},
    }
    assert found["distribution"]["gc_difficulty"][3] == 0.5
    shown = run("show", out).stdout
    assert "computed columns: gc_difficulty (4 rows), gc_kind (2 rows)" in shown


def test_show_refuses_what_is_no_set_and_says_what_it_is(tmp_path: Path) -> None:
    begun = runs.begin(tmp_path / "of a run").folder
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(2))
    status = f"it is a run. `gaincurate schedule status {begun}` shows it, and `gaincurate report SET --run"
    for path, what in {
        begun: status,
        rows: f"it is a file. `gaincurate score {rows} --model M --out scored` makes a set of it.",
        tmp_path: "it has no manifest.json",
        tmp_path / "none": "it does not exist. `gaincurate score",
    }.items():
        result = run("show", path)
        assert result.exit_code == 2
        assert f"{path} is no scored set: {what}" in result.stderr


def test_doctor_checks_the_angle_code_and_fails_where_a_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("doctor", "--json")
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["ok"], len(facts["checks"]) >= 4) == (0, True, True)
    assert facts["packages"]["torch"]
    assert all(check["ok"] for check in facts["checks"])
    monkeypatch.setattr("gaincurate_kernels.selftest.TOLERANCE", -1.0)
    result = run("doctor")
    assert result.exit_code == 1
    assert "FAIL cpu" in result.stdout


def test_every_row_rejected_is_no_success_also_the_second_time(tmp_path: Path, tiny_model: Path) -> None:
    questions = [" ", "one two three four five six seven", "one two three four five six seven eight nine"]
    said = "all 3 were rejected, 2 of them like this: the prompt has 61 tokens and the limit is 16"
    data = tiny.write_jsonl(tmp_path / "a.jsonl", [{"prompt": text} for text in questions])
    out = tmp_path / "out"
    command = ("score", data, "-m", tiny_model, "-o", out, "--on-error", "skip", "--on-overlong", "skip")
    sentence = (
        f"error: no row was scored: {said}. {out}/rejected.jsonl has the reason of every row. Change the "
        "rows, the model or the options, and start over in a new --out or with --overwrite."
    )
    for state in ("complete", "already complete, nothing was left to score"):
        result = run(*command, "--max-length", "16")
        assert result.exit_code == 2
        assert result.stdout == f"{out} is {state}: 0 rows, {len(questions)} rejected\n"
        assert result.stderr.splitlines()[-1] == sentence
        assert len((out / "rejected.jsonl").read_text().splitlines()) == len(questions)
    told = run(*command, "--max-length", "16", "--json")
    assert (told.exit_code, json.loads(told.stdout)["rows"]) == (2, 0)
    assert told.stderr.splitlines()[-1] == sentence
    tiny.write_jsonl(data, [{"prompt": "one"}])
    mended = run(*command, "--max-length", "50", "--overwrite")
    assert (mended.exit_code, f"{out} is complete: 1 row, 0 rejected\n" in mended.stdout) == (0, True)


def test_a_model_with_nan_in_its_weights_is_no_success(tmp_path: Path, tiny_model: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"].fill_(float("nan"))
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    data, out = tiny.write_jsonl(tmp_path / "a.jsonl", tiny.questions(3)), tmp_path / "out"
    result = run("score", data, "-m", model, "-o", out, "--on-error", "skip")
    assert result.exit_code == 2
    assert "all 3 were rejected, each like this: its hidden states are not finite." in result.stderr


def test_a_debugger_gets_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINCURATE_DEBUG", "1")
    failed = run("score", tmp_path / "no_file.jsonl", "-m", "demo", "-o", tmp_path / "o")
    assert "no_file" in str(failed.exception)


def test_version_and_help() -> None:
    assert run("--version").stdout == f"gaincurate {gaincurate.__version__}\n"
    for words in (["score"], ["difficulty", "rollout"], []):
        assert run("help", *words).stdout == run(*words, "--help").stdout != ""


def test_one_row_is_said_as_one_row(tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", template="{{ messages[0].content }}")
    data, out = tiny.write_jsonl(tmp_path / "a.jsonl", tiny.questions(1)), tmp_path / "out"
    result = run("score", data, "-m", model, "-o", out)
    assert result.stderr.startswith(f"{data}: 1 row; prompt from column 'question'")
    assert "shard 1 of 1: 1 of 1 row, " in result.stderr
    told = result.stdout.splitlines()
    assert told[0].startswith("scored 1 row, ")
    assert f"{out} is complete: 1 row, 0 rejected" in told
    assert "  1 row has no token before the question: gc_angle is its intra term only" in told
    assert run("show", out).stdout.startswith(f"{out}: 1 row in 1 shard, 0 rejected, 0 truncated\n")
    assert run("hygiene", out, "--checks", "duplicates").stdout.startswith(f"{out}: 1 row\n")


GOOD = [{"prompt": "how many apples?", "id": 1}, {"prompt": "how many pears?", "id": 1}]
OWN_SYSTEM = [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (OWN_SYSTEM, ["--system", "x"], "the row has a system message of its own and --system"),
        (GOOD, ["--shard", "1/2", "--overwrite"], "--overwrite and --shard do not go together"),
        (GOOD, ["--layer", "1", "--site", "final_norm"], "--layer 1 goes with --site mlp_input"),
        (GOOD, ["--max-length", "9000"], "--max-length 9000 is over the 512 positions"),
        (GOOD, ["--template-kwargs", "yes"], "--template-kwargs 'yes': expected a JSON object"),
        (GOOD, ["--template-kwargs", '{"a": [NaN]}'], "it holds NaN or infinity"),
        ([*GOOD[:1], {"prompt": None}], [], "the prompt is null. Fix the row, or add --on-error skip"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_set(
    rows: list[dict[str, Any]], options: list[str], sentence: str, tmp_path: Path, tiny_model: Path
) -> None:
    path = tiny.write_jsonl(tmp_path / "a.jsonl", rows)
    result = run("score", path, "-m", tiny_model, "-o", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert not [name for name in tree(tmp_path / "out") if name == "manifest.json" or "shard-" in name]


def test_a_file_of_an_unknown_kind_and_a_template_that_writes_no_text_are_refused(
    tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "a.txt").write_text("x")
    result = run("score", tmp_path / "a.txt", "-m", tiny_model, "-o", tmp_path / "out")
    assert "cannot tell the format from its name; the endings read are .json, .jsonl, " in result.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="the chat template writes half of a surrogate pair"):
        Segmenter(tiny.tokenizer("{{ '\\ud800' }}{{ messages[-1].content }}"))

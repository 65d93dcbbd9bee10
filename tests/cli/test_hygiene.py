from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import exports
import sets
from command import run as gaincurate
from command import tree

LONG = "a farmer has seventeen sheep and all but nine of them run away how many are left to him now"
ALL = "overlong,sentinel-gold,word-gold,broken-gold,conflicting-gold,contaminated,duplicates,near-duplicates"


def some_set(folder: Path) -> tuple[Path, list[str | Path | int]]:
    """A set with a row for each check, and the options for all of them."""
    questions = {
        "fine": LONG, "again": LONG.upper(), "near": LONG + " please", "long": "so many tokens",
        "leaked": "What is 2+2?", "broken": "which one?", "other": "how far?",
    }  # fmt: skip
    rows = []
    for k, (gc_id, question) in enumerate(questions.items()):
        row = sets.scored_row(gc_id, question, angle=k / 10, tokens=50 if gc_id == "long" else 3)
        rows.append(row | {"answer": None if gc_id == "broken" else "4"})
    (folder / "eval.jsonl").write_text(json.dumps({"question": "what is 2 + 2"}) + "\n")
    scored = sets.make_set(folder / "set", [rows[:4], rows[4:]], answer="answer")
    return scored, ["--max-prompt-tokens", 40, "--verifier", "exact", "--eval", folder / "eval.jsonl"]


def ids(file: Path) -> list[str]:
    if file.suffix == ".jsonl":
        return [json.loads(line)["gc_id"] for line in file.read_text().splitlines()]
    return list(pq.read_table(file).column("gc_id").to_pylist())


def test_the_command_lists_what_it_finds_and_changes_nothing(tmp_path: Path) -> None:
    scored, options = some_set(tmp_path)
    before = tree(scored)
    result = gaincurate("hygiene", scored, *options, "--list", tmp_path / "found.jsonl")
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()
    assert told[0] == f"{scored}: 7 rows"
    assert [line.split() for line in told[2:10]] == [
        [check, *(["0", "0.00%"] if check in ("word-gold", "conflicting-gold") else ["1", "14.29%"])]
        for check in ALL.split(",")
    ]
    drop = ALL.replace("conflicting-gold,", "").replace("word-gold,", "")
    assert told[-1] == f"  `gaincurate export {scored} --drop {drop}` leaves them out"
    listed = tmp_path / "found.jsonl"
    assert ids(listed) == ["again", "near", "long", "leaked", "broken", "broken"]
    assert tree(scored) == before
    again = gaincurate("hygiene", scored, "--list", listed)
    sentence = f"error: --list {listed} is there already; give another, or --overwrite.\n"
    assert (again.exit_code, again.stderr) == (2, sentence)
    assert gaincurate("hygiene", scored, "--list", listed, "--overwrite").exit_code == 0
    assert ids(listed) == ["again", "near", "broken"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--checks", "duplicates", "--ngram", "5"], "--ngram 5 goes with --eval FILE."),
        (["--overlap", "0.5"], "--overlap 0.5 goes with --eval FILE."),
        (["--overwrite"], "--overwrite goes with --list FILE."),
        (["--checks", " ,"], "--checks names no check; name one, such as duplicates."),
        (
            ["--checks", "duplicates", "--ngram", "5", "--eval", "e.jsonl"],
            "--eval is for the check contaminated: name that too, or leave --eval out.",
        ),
        (
            ["--checks", "duplicates", "--near", "0.9"],
            "--near is for the check near-duplicates: name that too, or leave --near out.",
        ),
    ],
)
def test_an_option_without_what_it_goes_with_is_refused(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    result = gaincurate("hygiene", some_set(tmp_path)[0], *options)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {sentence}\n")


def test_options_of_checks_that_are_made_are_taken(tmp_path: Path) -> None:
    scored, _ = some_set(tmp_path)
    both = ["--eval", tmp_path / "eval.jsonl", "--ngram", 2, "--overlap", 1, "--near", 0.9]
    for options in (both, [*both, "--checks", "near-duplicates,contaminated"]):
        result = gaincurate("hygiene", scored, *options)
        assert result.exit_code == 0, result.output


def test_json_has_the_findings_as_plain_values(tmp_path: Path) -> None:
    scored, options = some_set(tmp_path)
    told = json.loads(gaincurate("hygiene", scored, *options, "--json", "--examples", 1).stdout)
    assert told["rows"] == 7
    assert [set(one) for one in told["findings"]] == [{"check", "rows", "share", "examples", "note"}] * 8
    keys = {key for one in told["findings"] for row in one["examples"] for key in row}
    assert keys == {"gc_id", "text", "with"}


def test_an_export_leaves_out_what_is_named_and_lists_it(tmp_path: Path) -> None:
    scored, options = some_set(tmp_path)
    file = tmp_path / "train.parquet"
    export = ("export", scored, "--trainer", "trl", "--out", file)
    result = gaincurate(*export, "--drop", ALL, *options, "--by", "gc_angle", "--json")
    assert result.exit_code == 0, result.output
    assert ids(file) == ["other", "fine"], "in the order of --by"
    listed = ids(tmp_path / "train.dropped.jsonl")
    assert sorted(listed) == sorted(["again", "near", "long", "leaked", "broken"])
    told = json.loads(result.stdout)
    assert told["rows"] == 2
    none = dict.fromkeys(["word-gold", "broken-gold", "conflicting-gold"], 0)
    assert told["dropped"] == dict.fromkeys(ALL.split(","), 1) | none
    counts = ", ".join(f"{check} {count}" for check, count in told["dropped"].items())
    assert f"{tmp_path}/train.dropped.jsonl: 5 rows dropped ({counts})" in result.stderr
    assert told["made"]["drop"]["max_prompt_tokens"] == 40
    plain = tmp_path / "plain.parquet"
    assert gaincurate("export", scored, "--trainer", "trl", "--out", plain).exit_code == 0
    assert len(ids(plain)) == 7
    assert not (tmp_path / "plain.dropped.jsonl").exists()


def test_the_limit_counts_rows_that_stay(tmp_path: Path) -> None:
    scored, _ = some_set(tmp_path)
    file = tmp_path / "train.parquet"
    options = ("--out", file, "--drop", "duplicates", "--limit", 3)
    result = gaincurate("export", scored, "--trainer", "trl", *options)
    assert result.exit_code == 0, result.output
    assert ids(file) == ["fine", "near", "long"]
    assert ids(tmp_path / "train.dropped.jsonl") == ["again"]


def test_trinity_reads_a_whole_folder_so_the_list_goes_beside_it(tmp_path: Path) -> None:
    scored = exports.make_set(tmp_path / "set", [*exports.sums(3), *exports.sums(3)])
    file = tmp_path / "taskset/train.jsonl"
    result = gaincurate("export", scored, "--trainer", "trinity", "--out", file, "--drop", "duplicates")
    assert result.exit_code == 0, result.output
    assert [path.name for path in file.parent.iterdir()] == ["train.jsonl"]
    assert len((tmp_path / "taskset.dropped.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--drop", "doubles"], "there is no check 'doubles'; there are overlong, sentinel-gold, "),
        (["--drop", "overlong"], "overlong needs --max-prompt-tokens N, the trainer's limit."),
        (["--drop", " , "], "--drop names no check; name one, such as duplicates."),
        (["--gold-as", "{answer}"], "--gold-as '{answer}' goes with --verifier NAME."),
        (["--eval-column", "q"], "--eval-column q goes with --eval FILE."),
        (["--drop", "contaminated", "--eval", "e.jsonl"], "--eval e.jsonl: e.jsonl does not exist."),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, options: list[str], sentence: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    scored = exports.make_set(tmp_path / "set", exports.sums())
    result = gaincurate("export", scored, "--trainer", "trl", "--out", tmp_path / "t.parquet", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {sentence}")
    assert not (tmp_path / "t.parquet").exists()


def test_files_and_runs_that_are_refused(tmp_path: Path) -> None:
    run = exports.begin(tmp_path)
    export = ("export", "--trainer", "trl", "--drop", "duplicates", "--out", tmp_path / "t.parquet")
    sentence = f"error: --drop is for a scored set; {run.folder} is a run, whose plan says which rows.\n"
    assert gaincurate(*export, run.folder).stderr == sentence
    (tmp_path / "t.dropped.jsonl").write_text("mine\n")
    there = gaincurate(*export, tmp_path / "set")
    sentence = f"error: {tmp_path}/t.dropped.jsonl is there already; give another --out, or --overwrite to "
    assert (there.exit_code, there.stderr) == (2, f"{sentence}replace it.\n")
    assert (tmp_path / "t.dropped.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "t.parquet").exists()

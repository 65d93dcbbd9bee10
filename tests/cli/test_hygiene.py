from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import exports
import questions
from command import run as gaincurate
from command import tree
from gaincurate.hygiene.options import CHECKS

ALL = ",".join(CHECKS)


def some_set(folder: Path) -> tuple[Path, list[str | Path | int]]:
    """A set with a row for each check, and the options for all of them."""
    scored, _ = questions.one_of_each(folder)
    return scored.folder, ["--max-prompt-tokens", 40, "--verifier", "exact", "--eval", folder / "eval.jsonl"]


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
    assert told[0] == f"{scored}: 10 rows"
    twice = ("conflicting-gold", "duplicates")
    assert [line.split() for line in told[2:10]] == [
        [check, *(["2", "20.00%"] if check in twice else ["1", "10.00%"])] for check in CHECKS
    ]
    assert told[-1] == f"  `gaincurate export {scored} --drop {ALL}` leaves them out"
    listed = tmp_path / "found.jsonl"
    alone = ["again", "near", "long", "leaked", "sentinel", "word", "broken"]
    assert ids(listed) == [*alone, "one", "two", "two"]
    assert tree(scored) == before
    again = gaincurate("hygiene", scored, "--list", listed)
    sentence = f"error: --list {listed} exists; give another file, or --overwrite to replace it.\n"
    assert (again.exit_code, again.stderr) == (2, sentence)
    assert gaincurate("hygiene", scored, "--list", listed, "--overwrite").exit_code == 0
    assert ids(listed) == ["again", "near", "sentinel", "word", "two"]


def test_json_has_the_findings_as_plain_values(tmp_path: Path) -> None:
    scored, options = some_set(tmp_path)
    told = json.loads(gaincurate("hygiene", scored, *options, "--json", "--examples", 1).stdout)
    assert told["rows"] == 10
    assert [set(one) for one in told["findings"]] == [{"check", "rows", "share", "examples", "note"}] * 8
    keys = {key for one in told["findings"] for row in one["examples"] for key in row}
    assert keys == {"gc_id", "text", "with"}


def test_an_export_leaves_out_what_is_named_and_lists_it(tmp_path: Path) -> None:
    scored, options = some_set(tmp_path)
    file = tmp_path / "train.parquet"
    export = ("export", scored, "--trainer", "trl", "--out", file)
    result = gaincurate(*export, "--drop", ALL, *options, "--json")
    assert result.exit_code == 0, result.output
    assert ids(file) == ["fine"]
    listed = ids(tmp_path / "train.dropped.jsonl")
    assert listed == ["again", "near", "long", "leaked", "sentinel", "word", "broken", "one", "two"]
    told = json.loads(result.stdout)
    assert told["rows"] == 1
    assert told["dropped"] == dict.fromkeys(CHECKS, 1) | {"conflicting-gold": 2}
    counts = ", ".join(f"{check} {count}" for check, count in told["dropped"].items())
    assert f"{tmp_path}/train.dropped.jsonl: 9 rows dropped ({counts})" in result.stderr
    assert told["made"]["drop"]["max_prompt_tokens"] == 40
    limits = {"seconds": 10.0, "memory": 4096, "workers": 2, "gold_as": None}
    assert told["made"]["drop"]["verifier"] == {"verifier": "exact", **limits}
    plain = tmp_path / "plain.parquet"
    assert gaincurate("export", scored, "--trainer", "trl", "--out", plain).exit_code == 0
    assert len(ids(plain)) == 10
    assert not (tmp_path / "plain.dropped.jsonl").exists()


def test_the_limit_counts_rows_that_stay(tmp_path: Path) -> None:
    scored, _ = some_set(tmp_path)
    file = tmp_path / "train.parquet"
    options = ("--out", file, "--drop", "duplicates", "--limit", 3)
    result = gaincurate("export", scored, "--trainer", "trl", *options)
    assert result.exit_code == 0, result.output
    assert ids(file) == ["fine", "near", "long"]
    assert ids(tmp_path / "train.dropped.jsonl") == ["again", "two"]


def test_trinity_reads_a_whole_folder_so_the_list_goes_beside_it(tmp_path: Path) -> None:
    scored = exports.make_set(tmp_path / "set", [*exports.sums(3), *exports.sums(3)])
    file = tmp_path / "taskset/train.jsonl"
    result = gaincurate("export", scored, "--trainer", "trinity", "--out", file, "--drop", "duplicates")
    assert result.exit_code == 0, result.output
    assert [path.name for path in file.parent.iterdir()] == ["train.jsonl"]
    assert len((tmp_path / "taskset.dropped.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("hygiene", ["--overwrite"], "--overwrite goes with --list FILE.\n"),
        ("hygiene", ["--checks", " ,"], "--checks names no check; name one, such as duplicates.\n"),
        ("export", ["--drop", " , "], "--drop names no check; name one, such as duplicates.\n"),
        ("export", ["--near", "0.9"], "--near is for the check near-duplicates: name that too, or "),
        ("export", ["--drop", "contaminated", "--eval", "e"], "--eval e: e does not exist."),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, command: str, options: list[str], sentence: str
) -> None:
    words = ["--trainer", "trl", "--out", tmp_path / "t.parquet"] if command == "export" else []
    result = gaincurate(command, exports.make_set(tmp_path / "set", exports.sums()), *words, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {sentence}")
    assert not (tmp_path / "t.parquet").exists()


def test_a_list_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    export = ("export", "--trainer", "trl", "--drop", "duplicates", "--out", tmp_path / "t.parquet")
    (tmp_path / "t.dropped.jsonl").write_text("mine\n")
    there = gaincurate(*export, exports.make_set(tmp_path / "set", exports.sums()))
    sentence = f"error: {tmp_path}/t.dropped.jsonl exists; give another --out, or --overwrite."
    assert (there.exit_code, there.stderr) == (2, f"{sentence}\n")
    assert (tmp_path / "t.dropped.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "t.parquet").exists()

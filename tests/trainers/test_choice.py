"""Which rows of a set an export takes: conditions, so many of each group, parts by a hash of the id."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exports
from command import run as gaincurate
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.selection import first_of_groups, matching, part_of, read_parts

SOURCES = ["web", "books", None, "web", "code", "web", "books", "code", "web", None]
RATES = [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, None, 0.5, 0.5, 0.25]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Ten rows `id0000` to `id0009` with a source, a level in a struct and a computed column."""
    rows = [
        {"question": f"What is {k}?", "answer": str(k), "source": source, "extra": {"level": k % 4}}
        for k, source in enumerate(SOURCES)
    ]
    folder = exports.make_set(tmp_path / "set", rows)
    opened = ScoredSet(folder)
    opened.add_column(
        "gc_difficulty", [f"id{k:04d}" for k in range(5)], pa.array([k / 4 for k in range(5)]), {}
    )
    return folder


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    """Pass rates of four rollouts each, and none for row 6."""
    path = tmp_path / "rates.parquet"
    rows = [(f"id{k:04d}", rate, 4) for k, rate in enumerate(RATES) if rate is not None]
    ids, rates, samples = zip(*rows, strict=True)
    pq.write_table(pa.table({"gc_id": ids, "pass_rate": rates, "samples": samples}), path)
    return path


def export(scored: Path, *options: object, out: str = "x.parquet") -> Any:
    return gaincurate("export", scored, "--trainer", "trl", "--out", scored.parent / out, *options)


def ids(file: Path) -> list[int]:
    return [int(gc_id[2:]) for gc_id in pq.read_table(file).column("gc_id").to_pylist()]


def test_a_condition_over_source_score_computed_and_rollout_columns(scored: Path, rollouts: Path) -> None:
    where = "0.2 < pass_rate < 0.8 and source != 'code' and extra.level > 0 and gc_angle < 1 and samples == 4"
    result = export(scored, "--where", where, "--rollouts", rollouts)
    assert result.exit_code == 0, result.stderr
    expected = [
        k
        for k, (source, rate) in enumerate(zip(SOURCES, RATES, strict=True))
        if rate is not None
        and 0.2 < rate < 0.8
        and source is not None
        and source != "code"
        and k % 4
        and k > 0
    ]
    assert ids(scored.parent / "x.parquet") == expected
    counts = "3 of 10 rows are taken, left out are 7 by --where (3 of them for want of a value)\n"
    assert result.stderr.startswith(counts)
    result = export(scored, "--where", "gc_difficulty >= .5", "--overwrite")
    assert ids(scored.parent / "x.parquet") == [2, 3, 4]
    assert "left out are 7 by --where (5 of them for want of a value)\n" in result.stderr


def test_what_was_chosen_is_in_the_file_and_in_json(scored: Path) -> None:
    result = export(
        scored, "--where", "source == 'web'", "--per-group", 1, "--group-column", "source", "--json"
    )
    chosen = json.loads(result.stdout)["made"]["chosen"]
    assert chosen == {
        "where": "source == 'web'", "rollouts": None, "per_group": 1, "group_column": "source", "parts": {},
        "random": None, "seed": None,
    }  # fmt: skip
    stored = pq.read_schema(scored.parent / "x.parquet").metadata[b"gaincurate"]
    assert json.loads(stored)["chosen"] == chosen


def test_reasons_are_counted_in_turn_each_row_once(scored: Path) -> None:
    options = ["--by", "gc_angle", "--ascending", "--where", "source != 'code'", "--limit", 3]
    result = export(scored, *options, "--per-group", 2, "--group-column", "source")
    assert ids(scored.parent / "x.parquet") == [8, 6, 5]
    assert result.stderr.startswith(
        "3 of 10 rows are taken, left out are 4 by --where (2 of them for want of a value), 2 over "
        "--per-group 2, 1 after --limit 3\n"
    )


@given(
    groups=st.lists(st.none() | st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12),
    count=st.integers(1, 4),
    data=st.data(),
)
def test_the_first_of_each_group_are_those_that_counting_finds(
    groups: list[str | None], count: int, data: st.DataObject
) -> None:
    class Set:
        folder = Path("set")
        schema = pa.schema([("g", pa.string())])

        def column(self, name: str) -> pa.ChunkedArray:
            return pa.chunked_array([groups[:3], groups[3:]], pa.string())

        def __len__(self) -> int:
            return len(groups)

    rows = data.draw(st.lists(st.integers(0, len(groups) - 1), unique=True))
    seen: Counter[str | None] = Counter()
    expected = []
    for row in rows:
        seen[groups[row]] += 1
        expected.append(seen[groups[row]] <= count)
    scored: Any = Set()
    assert first_of_groups(scored, "g", count, pa.array(rows, pa.int64()).to_numpy()).tolist() == expected


def test_parts_are_files_that_have_every_row_once(scored: Path) -> None:
    result = export(scored, "--split", "train=.7,val=.3", "--json", out="d/{split}.parquet")
    assert result.exit_code == 0, result.stderr
    parts = [ids(scored.parent / f"d/{name}.parquet") for name in ("train", "val")]
    assert sorted([*parts[0], *parts[1]]) == list(range(10))
    assert f"10 of 10 rows are taken (train {len(parts[0])}, val {len(parts[1])})\n" in result.stderr
    shown = json.loads(result.stdout)
    assert {name: rows for name, (_, rows) in shown["parts"].items()} == {
        "train": len(parts[0]), "val": len(parts[1])
    }  # fmt: skip
    assert shown["file"] == str(scored.parent / "d/train.parquet")
    assert "d/train.parquet" in " ".join(shown["settings"])
    again = export(
        scored,
        "--split",
        "train=.7,val=.3",
        "--where",
        "gc_angle < 1",
        "--by",
        "gc_angle",
        out="e/{split}.parquet",
    )
    assert again.exit_code == 0, again.stderr
    for name, part in zip(("train", "val"), parts, strict=True):  # other rows, another order, the same part
        assert set(ids(scored.parent / f"e/{name}.parquet")) <= set(part)


@given(
    st.lists(st.text(), max_size=20),
    st.sampled_from([{"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 0.9, "b": 0.1}]),
)
def test_an_ids_part_is_where_its_hash_lies_among_the_shares(
    names: list[str], parts: dict[str, float]
) -> None:
    for name, place in zip(
        names, part_of([n.encode(errors="replace").decode() for n in names], parts), strict=True
    ):
        digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).hexdigest()
        fraction = int(digest, 16) / 2**64
        below = 0.0
        for share in [*parts.values()][:place]:
            below += share
        assert below - 1e-9 <= fraction <= below + [*parts.values()][place] + 1e-9


def test_parts_have_about_their_shares_and_moving_a_border_moves_no_other_row() -> None:
    names = [f"prompt {number}" for number in range(20_000)]
    places = part_of(names, {"train": 0.9, "val": 0.1})
    assert abs((places == 1).mean() - 0.1) < 4 * (0.09 / len(names)) ** 0.5
    more = part_of(names, {"train": 0.8, "test": 0.1, "val": 0.1})
    assert ((more == 2) == (places == 1)).all()


def test_copies_of_a_row_fall_together() -> None:
    hashes = [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(100)]
    parts = {"train": 0.5, "val": 0.5}
    first = part_of(hashes, parts)
    assert 20 < first.sum() < 80
    for copy in (1, 12):
        assert (part_of([f"{name}-{copy}" for name in hashes], parts) == first).all()
    assert part_of(["q-1", "q-2", "q-3", "q-4", "q-5", "q-6"], parts).std() > 0  # ids of one's own


@pytest.mark.parametrize(
    "text", ["train", "train=1", "a=.5,a=.5", "a=.5,b=x", "a=.5,b=.4", "a=0,b=1", "a b=.5,c=.5", "a=.,b=.5"]
)
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(InputError, match=r"^--split .*train=\.9,val=\.1\.$"):
        read_parts(text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--where", "pass_rate > .5"], "has no column 'pass_rate'; --rollouts PATH adds it."),
        (["--where", "sorce == 'web'"], "there is no column 'sorce'; near it there is source."),
        (["--where", "gc_angle > 9"], "no row is left: 0 of 10 rows are taken, left out are 10 by --where"),
        (["--where", "source == 3"], "column 'source' of texts cannot be compared with the number 3.0."),
        (["--rollouts", "x"], "--rollouts x goes with --where."),
        (["--where", "gc_angle > 0", "--rollouts", "nowhere"], "nowhere does not exist."),
        (["--per-group", "2"], "--per-group N and --group-column NAME go together."),
        (["--group-column", "source"], "--per-group N and --group-column NAME go together."),
        (["--per-group", "2", "--group-column", "sorce"], "has no such column; near it there is source."),
        (["--per-group", "2", "--group-column", "gc_angle"], "--group-column gc_angle: it holds float, not names"),
        (["--split", "train=.9,val=.1"], "with --split its name has {split} where the parts' names go"),
        (["--split", "train=.9,val=.2"], "shares that sum to 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_is_one_sentence(scored: Path, options: list[str], sentence: str) -> None:
    result = export(scored, *options)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not (scored.parent / "x.parquet").exists()


def test_a_part_without_a_row_is_refused_before_anything_is_written(scored: Path) -> None:
    result = export(scored, "--where", "gc_angle > .995", "--split", "train=.5,val=.5", out="{split}.parquet")
    assert result.exit_code == 2
    assert "no row is left for " in result.stderr
    assert not list(scored.parent.glob("*.parquet"))


def test_a_run_says_itself_which_rows(tmp_path: Path) -> None:
    run = exports.begin(tmp_path)
    result = export(run.folder, "--where", "level > 1")
    assert result.exit_code == 2
    assert f"--where is for a scored set; {run.folder} is a run, whose plan says which rows." in result.stderr


def test_a_name_of_both_is_refused_and_two_policies_too(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "1", "pass_rate": 0.5}]
    opened = ScoredSet(exports.make_set(tmp_path / "set", rows, shards=1))
    file = tmp_path / "rates.jsonl"
    file.write_text('{"gc_id": "id0000", "pass_rate": 0.25, "samples": 4}\n')
    assert matching(opened, "pass_rate == .5").rows.tolist() == [True]
    assert matching(opened, "samples == 4", file).rows.tolist() == [True]
    with pytest.raises(InputError, match="pass_rate is a column of .* and of --rollouts .*; leave"):
        matching(opened, "pass_rate == .5", file)


def test_a_control_has_as_many_rows_at_random_and_the_same_columns(scored: Path) -> None:
    folder = scored.parent
    band = ("--where", "source == 'web'", "--overwrite")
    drawn = Counter[int]()
    for seed in range(60):
        result = export(scored, *band, "--random", "same", "--seed", seed)
        control = ids(folder / "x.random.parquet")
        assert len(control) == len(ids(folder / "x.parquet")) == 4
        assert control == sorted(set(control))  # in the order of the set, each once
        drawn.update(control)
    said = "The random control has 4 rows beside the 4 of --where, drawn uniformly from 10 with seed 59\n"
    assert said in result.stderr
    schemas = [pq.read_schema(folder / name) for name in ("x.random.parquet", "x.parquet")]
    assert schemas[0].equals(schemas[1])
    # Each row is in a control with chance .4: binomial, standard deviation 3.8.
    assert set(drawn) == set(range(10))
    assert all(abs(count - 24) < 4 * 3.8 for count in drawn.values())
    before = (folder / "x.random.parquet").read_bytes()
    export(scored, *band, "--random", 4, "--seed", 59, "--by", "gc_angle", "--ascending")
    assert ids(folder / "x.random.parquet") == control[::-1]  # the same rows, in the order of the band
    export(scored, *band, "--random", "same", "--seed", 59)
    assert (folder / "x.random.parquet").read_bytes() == before


def test_a_control_is_drawn_from_what_drop_leaves_whatever_the_limit(scored: Path) -> None:
    options = ("--where", "extra.level == 1", "--limit", 2, "--random", 10, "--json")
    told = json.loads(export(scored, *options).stdout)
    control = scored.parent / "x.random.parquet"
    assert (told["rows"], told["random"]) == (2, [str(control), 10])
    assert ids(control) == list(range(10))
    made = json.loads(pq.read_schema(control).metadata[b"gaincurate"])
    assert (made["part"], made["chosen"]["random"]) == ("random", 10)
    exports.make_set(scored.parent / "twice", [{"question": "What is 1?", "answer": "1"}] * 3)
    result = export(
        scored.parent / "twice",
        "--where",
        "answer == '1'",
        "--drop",
        "duplicates",
        "--random",
        2,
        out="y.parquet",
    )
    assert result.exit_code == 2
    assert "error: --random 2: there are 1 rows to draw from; give that many at most." in result.stderr


def test_a_trainer_that_reads_folders_gets_its_control_in_another(scored: Path) -> None:
    options = ("--trainer", "trinity", "--where", "source == 'web'", "--random", "same")
    result = gaincurate("export", scored, *options, "--out", scored.parent / "band/x.jsonl")
    assert result.exit_code == 0, result.stderr
    assert [len(p.read_text().splitlines()) for p in sorted(scored.parent.glob("band*/*"))] == [4, 4]
    assert (scored.parent / "band.random/x.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--random", "same"], "--random same writes a control beside the rows of --where: give --where"),
        (["--where", "source == 'web'", "--seed", "1"], "--seed 1 goes with --random N."),
        (
            ["--where", "source == 'web'", "--random", "0"],
            "--random 0: expected a number of rows from 1, or same.",
        ),
        (["--where", "source == 'web'", "--random", "11"], "--random 11: there are 10 rows to draw from"),
        (["--where", "source == 'no'", "--random", "same"], "no row is left"),
    ],
)
def test_a_control_that_cannot_be_is_refused(scored: Path, options: list[str], sentence: str) -> None:
    result = export(scored, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(scored.parent.glob("x*"))

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from command import tree
from gaincurate.core.artifact import Artifact, Kind, encode_shard, open_table, parse_info, shard_name
from gaincurate.core.files import digest_file
from gaincurate.core.locks import Split
from gaincurate.core.scored_set import SCORES
from gaincurate.errors import InputError, OutputError
from sets import IDENTITY_OF_SETS, make_set, scored_row

TABLE = pa.table({"gc_id": ["a", "b"], "x": pa.array([1.5, None])})
INFO: dict[str, Any] = {
    "identity": {"format": 1},
    "shard": 0,
    "rows": 2,
    "note": "ä\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
}


@given(place=st.integers(0), flip=st.integers(0, 255))
def test_any_changed_byte_and_any_cut_is_noticed(place: int, flip: int) -> None:
    whole = encode_shard(TABLE, INFO)
    data = bytearray(whole)
    data[place % len(data)] ^= flip
    for bad in ([bytes(data)] if flip else []) + [whole[: place % len(whole)]]:
        with pytest.raises(OutputError, match=r"x is damaged: .*Delete that file and run the same"):
            parse_info(bad, Path("x"))


def test_another_identity_is_refused_with_at_most_six_keys(tmp_path: Path) -> None:
    Artifact(tmp_path, SCORES).refuse_other({"a": {"b": 1}}, {"a": {"b": 1}})
    with pytest.raises(OutputError) as caught:
        Artifact(tmp_path, SCORES).refuse_other({"a": {"b": 1}, "z": "x"}, {"a": {"b": 2}, "z": None})
    assert str(caught.value) == (
        f"{tmp_path} holds scores of another run: a.b was 1 and is now 2; z was 'x' and is now None. Give "
        "another --out, repeat the first run's options, or start over with --overwrite."
    )
    assert caught.value.data["keys"] == ["a.b", "z"]
    with pytest.raises(OutputError, match="; and 3 more. Give another --out"):
        Artifact(tmp_path, SCORES).refuse_other({}, {str(i): i for i in range(9)})


def test_present_shards_are_those_that_are_whole_and_ours(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[scored_row("a")], [scored_row("b")], [scored_row("c")]])
    (folder / shard_name(1)).unlink()
    assert Artifact(folder, SCORES).present(IDENTITY_OF_SETS, 3) == {0, 2}
    with pytest.raises(OutputError, match=r"shard-00000.arrow holds scores of another run: dtype was"):
        Artifact(folder, SCORES).present({**IDENTITY_OF_SETS, "dtype": "bfloat16"}, 3)


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[scored_row("a")], [scored_row("b")]])
    (folder / shard_name(1)).write_bytes((folder / shard_name(0)).read_bytes())
    with pytest.raises(OutputError, match=r"shard-00001.arrow is shard-00000.arrow under another name"):
        Artifact(folder, SCORES).present(IDENTITY_OF_SETS, 2)


def test_the_manifest_counts_and_names_every_shard(tmp_path: Path) -> None:
    made = Artifact(tmp_path, SCORES)
    facts = {"truncated": 1, "without_prefix": 2, "rows": 2, "zero_vectors": 3, "norm_was_fused": True}
    for index, rejected in enumerate([[{"row": 3, "reason": "é"}], []]):
        made.write_part(index, IDENTITY_OF_SETS, TABLE, {**facts, "prefill": "packed", "rejected": rejected})
    manifest = made.finish(IDENTITY_OF_SETS, 2)
    assert made.read_manifest() == manifest
    counts = {"rows": 4, "rejected": 1, "truncated": 2, "rows_without_prefix": 4, "zero_vectors": 6}
    shards = [
        {"file": path.name, "rows": 2, "bytes": path.stat().st_size, "hash": digest_file(path)}
        for path in (made.part(0), made.part(1))
    ]
    expected = {"format": 1, **counts, "norm_was_fused": True, "prefill": "packed", "shards": shards}
    assert manifest == {**expected, "identity": IDENTITY_OF_SETS}
    assert (tmp_path / "rejected.jsonl").read_text("utf-8") == '{"reason": "é", "row": 3}\n'


def test_an_identity_is_found_absent_or_refused(tmp_path: Path) -> None:
    assert Artifact(tmp_path, SCORES).read_identity() is None
    assert Artifact(tmp_path / "none", SCORES).read_identity() is None
    (tmp_path / ".work").mkdir()
    assert Artifact(tmp_path, SCORES).read_identity() is None
    folder = make_set(tmp_path / "set", [[scored_row("a")]])
    assert Artifact(folder, SCORES).read_identity() == IDENTITY_OF_SETS
    for text in ("{", "[]", "3", "{}", "null"):
        (folder / "identity.json").write_text(text)
        with pytest.raises(OutputError, match="is damaged, so what made"):
            Artifact(folder, SCORES).read_identity()
    with pytest.raises(OutputError, match="already holds 'set' and is no scored set"):
        Artifact(tmp_path, SCORES).read_identity()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(OutputError, match=f"{name} is no folder"):
            Artifact(tmp_path / name, SCORES).read_identity()


def test_removing_a_set_keeps_its_identity_and_what_is_not_ours(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[scored_row("a")], [scored_row("b")]])
    (folder / "columns").mkdir()
    (folder / "columns/gc_x.json").write_text("{}")
    (folder / "rejected.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text("mine")
    (folder / "shard-notes.txt").write_text("mine")
    Artifact(folder, SCORES).remove()
    assert tree(folder).keys() == {"identity.json", "notes.txt", "shard-notes.txt"}
    assert json.loads((folder / "identity.json").read_text()) == IDENTITY_OF_SETS


COINS = Kind(
    name="coin set",
    holds="coins",
    format=7,
    command="toss coins",
    example="N",
    totals=lambda parts, lost: {"kind": "coins", "tosses": sum(p["tosses"] for p in parts), "lost": lost},
    part_facts=("tosses",),
    more_facts=("edge",),
    subfolders=("pictures",),
    before=("doubts.txt",),
    work="*.bin",
    hints={"table": " (is it level?)"},
)
"""A third use, which no command has."""


def test_any_kind_is_made_lost_in_part_and_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    made, identity = Artifact(tmp_path / "coins", COINS), {"format": 7, "kind": "coins", "table": 1}
    facts: list[dict[str, Any]] = [
        {"tosses": 2, "rejected": []},
        {"tosses": 3, "rejected": [{"why": "rolled away"}], "edge": 1},
    ]
    with made.writing():
        assert made.read_identity() is None
        made.begin(identity)
        for index, told in enumerate(facts):
            made.write_part(index, identity, TABLE, told)
        assert made.present(identity, 3) == {0, 1}
        with pytest.raises(OutputError, match="is not finished: .*Run the same `toss coins` command again"):
            made.read_manifest()
        manifest = made.finish(identity, 2)
    assert list(manifest) == ["format", "kind", "tosses", "lost", "identity", "shards"]
    assert (manifest["tosses"], manifest["lost"]) == (5, 1)
    assert [list(entry)[:2] for entry in manifest["shards"]] == [["file", "tosses"]] * 2
    assert [entry.get("edge") for entry in manifest["shards"]] == [None, 1]
    whole = tree(made.folder)
    assert whole.keys() == {
        "identity.json", "manifest.json", "rejected.jsonl", "shard-00000.arrow", "shard-00001.arrow",
    }  # fmt: skip
    made.part(1).unlink()
    with pytest.raises(OutputError, match=r"shard-00001.arrow does not match the manifest"):
        made.check(manifest["shards"][1])
    with made.writing():
        assert made.read_identity() == identity
        assert made.present(identity, 2) == {0}
        made.reopen()
        made.write_part(1, identity, TABLE, facts[1])
        made.finish(identity, 2)
    assert tree(made.folder) == whole
    assert open_table(made.check(made.read_manifest()["shards"][1])).equals(TABLE)


def test_a_worker_joins_a_folder_that_it_sees_with_the_same_identity(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "set", SCORES)
    with pytest.raises(InputError, match=f"^{tmp_path / 'set'} is not on .*, where a worker runs"):
        artifact.join({"device": "H200"}, {"device": "H200"})
    (tmp_path / "set").mkdir()
    artifact.begin({"format": 1, "device": "H200"})
    artifact.join({"device": "H200"}, {"device": "H200"})
    with pytest.raises(InputError, match="not give the same results: device was 'H200' and is now 'A100'"):
        artifact.join({"device": "H200"}, {"device": "A100"})


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", [[scored_row("a")]])
    coins = Artifact(folder, COINS)
    for read in (coins.read_identity, coins.read_manifest):
        with pytest.raises(OutputError, match=f"^{folder} is no coin set: it holds scores; give another"):
            read()
    with pytest.raises(OutputError, match=r"table was 1 and is now 2 \(is it level\?\)\. Give another --out"):
        coins.refuse_other({"table": 1}, {"table": 2})


def test_a_false_start_leaves_nothing_and_what_came_before_the_identity_stays(tmp_path: Path) -> None:
    coins = Artifact(tmp_path / "a/b", COINS)
    for _ in range(2):
        with coins.writing():
            assert (coins.folder / ".work/lock").exists()
        assert list(tmp_path.iterdir()) == []
    with coins.writing():
        (coins.folder / "doubts.txt").write_text("")
        assert coins.read_identity() is None
    assert (coins.folder / ".work").exists()
    of_a_part = Artifact(tmp_path / "c", COINS)
    with of_a_part.writing(Split(1, 2)):
        assert of_a_part.read_identity() is None
    assert (of_a_part.folder / ".work").exists()  # the other part may be about to begin

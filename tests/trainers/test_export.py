"""Exports read back by pyarrow and json alone, against what each trainer's source says that it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exports
from gaincurate.core.prompts import write_rows
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError, OutputError, StorageError
from gaincurate.schedule.rounds import advance
from gaincurate.trainers import export as module
from gaincurate.trainers.columns import ViewOptions
from gaincurate.trainers.export import Exported, Pick, export
from gaincurate.trainers.profile import TRAINERS, profiles

ADDED = {"system": exports.SYSTEM, "shots": exports.SHOTS}
ONE_TURN = {"system": exports.SYSTEM}
# Trainers that take a prompt as one question, with `Parts.question`; their sets have no examples.
ONE_QUESTION = ("nemo-rl", "trinity")
NEEDS = {"verl": "math", "roll": "math", "open-instruct": "math"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


MADE = {"prompt", "answer", "tools", "segmentation", "shards", "chat_text"}
PICKED = {"by", "ascending", "round", "limit"}


def write(folder: Path, trainer: str, rows: Any = None, suffix: str = "", **options: Any) -> Exported:
    """Export a set of `rows` to `folder/out/train.*`."""
    made = {key: options.pop(key) for key in MADE & options.keys()}
    pick = Pick(**{key: options.pop(key) for key in PICKED & options.keys()})
    if not (folder / "set").exists():
        made.setdefault("segmentation", ONE_TURN if trainer in ONE_QUESTION else ADDED)
        exports.make_set(folder / "set", exports.sums() if rows is None else rows, **made)
    options.setdefault("data_source", NEEDS.get(trainer))
    return export(folder / "set", trainer, out(folder, trainer, suffix), ViewOptions(**options), pick)


def out(folder: Path, trainer: str, suffix: str = "") -> Path:
    return folder / "out" / f"train{suffix or profiles()[trainer].suffixes[0]}"


FULL = exports.full("What is 3 plus 3?")
TEXT = "What is 3 plus 3?"
VIEWS: dict[str, dict[str, Any]] = {
    "trl": {"prompt": FULL, "question": TEXT, "answer": "6"},
    "verl": {"prompt": FULL, "data_source": "math", "reward_model": {"style": "rule", "ground_truth": "6"},
             "extra_info": {"index": 3, "gc_id": "id0003"}, "question": TEXT, "answer": "6"},
    "openrlhf": {"prompt": FULL, "label": '{"gc_id": "id0003", "answer": "6"}', "question": TEXT},
    "nemo-rl": {"input": TEXT, "output": "6"},
    "skyrl": {"prompt": FULL, "reward_spec": {"method": "rule", "ground_truth": "6"}},
    "slime": {"prompt": FULL, "label": "6", "metadata": {"gc_id": "id0003"}},
    "prime-rl": {"idx": 3, "name": "id0003", "prompt": FULL[1:], "system_prompt": exports.SYSTEM, "answer": "6"},
    "trinity": {"prompt": TEXT, "answer": "6"},
    "areal": {"messages": FULL, "answer": "6"},
    "ms-swift": {"messages": FULL, "solution": "6", "question": TEXT},
    "roll": {"id": "id0003", "messages": json.dumps(FULL), "ground_truth": "6", "tag": "math"},
    "open-instruct": {"messages": FULL, "ground_truth": "6", "dataset": "math"},
}  # fmt: skip


def answers(view: dict[str, Any], row: dict[str, Any]) -> Iterator[Any]:
    """The values of a row in the places where a view of `VIEWS` has the answer 6."""
    for name in view.keys() & row.keys():
        if isinstance(view[name], dict):
            yield from answers(view[name], row[name])
        elif view[name] in ("6", '{"gc_id": "id0003", "answer": "6"}'):
            yield row[name]


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_row_is_what_the_trainer_reads(tmp_path: Path, trainer: str, suffix: str) -> None:
    suffixes = profiles()[trainer].suffixes
    if suffix not in suffixes:
        sentence = f"for {trainer} its name must end in {' or '.join(suffixes)}"
        with pytest.raises(InputError, match=re.escape(sentence)):
            write(tmp_path, trainer, suffix=suffix)
        return
    found = write(tmp_path, trainer, suffix=suffix)
    rows = rows_of(out(tmp_path, trainer, suffix))
    assert [row["gc_id"] for row in rows] == [f"id{k:04d}" for k in range(6)]
    expected = {"gc_id": "id0003", "level": 3, **VIEWS[trainer]}
    assert {key: rows[3][key] for key in expected} == expected
    left = {"question", "answer"} - expected.keys()
    assert rows[3].keys() - left == expected.keys()
    assert found.rows == 6
    assert not any(name.startswith("gc_") and name != "gc_id" for name in rows[3])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_without_an_answer_a_trainer_gets_the_id_or_the_set_is_refused(tmp_path: Path, trainer: str) -> None:
    rows = [{"question": row["question"]} for row in exports.sums()]
    if profiles()[trainer].answer_needed:
        sentence = f"{trainer} cannot read rows without an answer.*of question; or"
        with pytest.raises(InputError, match=sentence):
            write(tmp_path, trainer, rows, answer=None)
        assert not (tmp_path / "out").exists()
    else:
        found = write(tmp_path, trainer, rows, answer=None)
        warning = (
            f"warning: {tmp_path}/set was scored without an answer column: no answer in 6 of 6 rows, and a reward "
            "function that compares with one cannot judge them; name one with --answer-column, of question"
        )
        # The others leave the column away.
        assert found.notes == ([warning] if trainer in ("verl", "openrlhf") else [])
        out(tmp_path, trainer).unlink()
    assert write(tmp_path, trainer, id_in_answer=True).notes == [], "the id alone was asked for"
    row = rows_of(out(tmp_path, trainer))[1]
    (text,) = answers(VIEWS[trainer], row)
    assert json.loads(text) == {"gc_id": "id0001", "answer": None}


def test_rows_whose_answer_is_null_are_told(tmp_path: Path) -> None:
    rows = [{**row, "answer": None if k in (1, 4) else row["answer"]} for k, row in enumerate(exports.sums())]
    (note,) = write(tmp_path / "all", "skyrl", rows).notes
    assert note.startswith("warning: column 'answer' has no answer in 2 of 6 rows, and a reward function")
    (note,) = write(tmp_path / "four", "skyrl", rows, limit=4).notes  # one row of the second shard
    assert "no answer in 1 of 4 rows" in note, "only rows that are written count"


def test_structs_of_the_source_keep_what_they_have(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {k}?", "name": None if k else "ann"}],
            "data_source": "gsm",
            "reward_model": {"style": "model", "ground_truth": str(k), "weight": 0.5},
            "extra_info": {"index": 70 + k, "split": "train"} if k else None,
            "ability": "math",
        }
        for k in range(4)
    ]
    answer = "reward_model.ground_truth"
    found = write(tmp_path, "verl", rows, prompt="prompt", answer=answer, data_source=None, segmentation={})
    first, second, *_ = rows_of(out(tmp_path, "verl"))
    assert first["prompt"] == [{"role": "user", "content": "What is 0?", "name": "ann"}]
    assert second["reward_model"] == {"style": "model", "ground_truth": "1", "weight": 0.5}
    assert first["extra_info"] == {"index": 0, "split": None, "gc_id": "id0000"}
    assert second["extra_info"] == {"index": 71, "split": "train", "gc_id": "id0001"}
    assert (second["data_source"], second["ability"]) == ("gsm", "math")
    assert found.notes == []


def test_a_column_that_parquet_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    null_among = pa.DictionaryArray.from_arrays([0, 1, 0, 1], pa.array(["x", None]))
    table = pa.table({"question": ["a", "b", "c", "d"], "answer": ["1"] * 4, "kind": null_among})
    with pytest.raises(InputError, match=r"train.parquet cannot hold a column of the set \(.*\). Score"):
        write(tmp_path, "trl", table)
    assert not out(tmp_path, "trl").exists()
    with pytest.raises(InputError, match=r"data.parquet cannot hold a column of the set"):
        write_rows(tmp_path / "data.parquet", table)


def test_a_null_field_gets_verls_default_and_an_index_that_is_no_number_another_name(tmp_path: Path) -> None:
    row = {"question": "What is 1?", "answer": "1", "reward_model": {"style": None, "ground_truth": "1"}}
    write(tmp_path, "verl", [{**row, "extra_info": {"index": f"a-{k}"}} for k in range(4)])
    second = rows_of(out(tmp_path, "verl"))[1]
    assert second["reward_model"]["style"] == "rule"
    assert second["extra_info"] == {"source_index": "a-1", "index": 1, "gc_id": "id0001"}


def test_source_columns_keep_values_and_types(tmp_path: Path) -> None:
    table = pa.table({
        "question": ["a?", "b?"],
        "answer": pa.array([1.5, None], pa.float32()),
        "day": pa.array([date(2026, 1, 2), None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "deep": pa.array([[{"k": 1}], []], pa.list_(pa.struct([("k", pa.int16())]))),
    })  # fmt: skip
    write(tmp_path, "verl", table)
    shown = pq.read_table(out(tmp_path, "verl")).select(table.column_names)
    assert shown.schema.types == table.schema.types
    assert shown.to_pylist() == table.to_pylist()
    with pytest.raises(InputError, match="row id0000 holds a value that JSON cannot .*parquet"):
        write(tmp_path, "verl", suffix=".jsonl")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.parquet"]
    with pytest.raises(InputError, match="row id0000 holds a value that JSON cannot .*not JSON compliant"):
        write(tmp_path / "nan", "trl", [{"question": "a?", "answer": float("nan")}], suffix=".jsonl")


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        (pa.array([7, -2, None]), ["7", "-2", None]),
        (pa.array([2**53 + 1, 0, 10**15]), ["9007199254740993", "0", "1000000000000000"]),
        (pa.array([7.0, 2.5, None]), ["7", "2.5", None]),  # pandas: integers beside a null
        (pa.array([1.1, 7, 0.25], pa.float32()), ["1.1", "7", "0.25"]),
        (pa.array([7, 12, None], pa.uint8()).dictionary_encode(), ["7", "12", None]),
        (pa.array([True, False, None]), [True, False, None]),
        (pa.array([[7], [1, 2], None]), [[7], [1, 2], None]),
    ],
)
def test_golds_that_are_numbers_are_text_in_verls_file(tmp_path: Path, numbers: Any, texts: Any) -> None:
    rows = pa.table({"question": ["a?", "b?", "c?"], "answer": numbers})
    notes = write(tmp_path, "verl", rows).notes
    assert [row["reward_model"]["ground_truth"] for row in rows_of(out(tmp_path, "verl"))] == texts
    line = "the numbers of column 'answer' are written as text, because scorers compare text"
    assert notes.count(line) == any(isinstance(text, str) for text in texts)


def test_a_list_is_json_by_itself_and_a_list_beside_the_id(tmp_path: Path) -> None:
    for trainer, answer in (
        ("openrlhf", {"label": '{"gc_id": "id0000", "answer": [7]}'}),
        ("nemo-rl", {"output": "[7]"}),
    ):
        write(tmp_path / trainer, trainer, [{"question": "a?", "answer": [7]}], shards=1)
        assert answer.items() <= rows_of(out(tmp_path / trainer, trainer))[0].items()


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("with_id", [False, True])
def test_golds_that_are_numbers_are_text_for_scorers(tmp_path: Path, trainer: str, with_id: bool) -> None:
    rows = [{**row, "answer": float(row["answer"])} for row in exports.sums()]
    if trainer == "trl":
        for column in (None, "answer"):
            assert write(tmp_path / str(column), "trl", rows, answer_column=column).notes == []
            assert rows_of(out(tmp_path / str(column), "trl"))[3]["answer"] == 6
        return
    notes = write(tmp_path, trainer, rows, id_in_answer=with_id).notes
    row = rows_of(out(tmp_path, trainer))[3]
    # verl's file has the source column beside it, which stays as it is.
    (text,) = (value for value in answers(VIEWS[trainer], row) if isinstance(value, str))
    assert (json.loads(text)["answer"] if with_id else text) == "6"
    assert any("are written as text" in note for note in notes)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_goldsthat_arrow_reads_as_extensions_are_written(tmp_path: Path, suffix: str) -> None:
    """Arrow makes them of a Parquet file whose writer calls a text JSON, as DuckDB does."""
    coded = pa.StructArray.from_arrays([pa.array([1, None], pa.float16()).dictionary_encode()], ["half"])
    answers = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["6", "six"]))
    rows = pa.table({"question": ["a?", "b?"], "answer": answers, "extra_info": coded})
    write(tmp_path, "verl", rows, suffix)
    shown = rows_of(out(tmp_path, "verl", suffix))
    assert [row["reward_model"]["ground_truth"] for row in shown] == ["6", "six"]
    assert [row["extra_info"].get("half") for row in shown] == [1, None]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_columns_whose_names_a_trainer_needs_are_renamed_and_told(tmp_path: Path, trainer: str) -> None:
    taken = sorted({*profiles()[trainer].reserved, "prompt", "label", "metadata", "id"})
    rows = [{**row, **dict.fromkeys(taken, "theirs")} for row in exports.sums()]
    found = write(tmp_path, trainer, rows)
    row = rows_of(out(tmp_path, trainer))[0]
    told = {note.split("'")[1]: note.split("'")[3] for note in found.notes}
    for name in taken:
        assert row[told.get(name, name)] == "theirs"
        assert (name in told) == (name in profiles()[trainer].reserved or name in found.view.columns)
    assert profiles()[trainer].reserved & set(row) <= set(found.view.columns)


@pytest.mark.parametrize("trainer", ["trl", "verl", "trinity"])
def test_bare_and_scores(tmp_path: Path, trainer: str) -> None:
    found = write(tmp_path, trainer, bare=True, with_scores=True, segmentation=ADDED)
    table = pq.read_table(out(tmp_path, trainer))
    question = "What is 2 plus 2?"
    bare = question if trainer == "trinity" else [{"role": "user", "content": question}]
    assert table.column("prompt").to_pylist()[2] == bare
    assert table.schema.field("gc_angle").type == pa.float32()
    assert table.column("gc_prompt_tokens").to_pylist() == [9] * 6
    assert found.view.system is None


def test_rows_come_by_a_score_or_in_the_sets_order(tmp_path: Path) -> None:
    write(tmp_path, "trl", by="level", limit=4)
    assert [row["level"] for row in rows_of(out(tmp_path, "trl"))] == [5, 4, 3, 2]
    write(tmp_path, "verl", by="level", ascending=True, suffix=".jsonl")
    shown = rows_of(out(tmp_path, "verl", ".jsonl"))
    assert [row["level"] for row in shown] == [0, 1, 2, 3, 4, 5]
    assert [row["extra_info"]["index"] for row in shown] == list(range(6))


def test_a_round_of_a_run_is_exported_as_it_is_planned(tmp_path: Path) -> None:
    run = exports.begin(tmp_path, segmentation=ADDED, bare=True)
    ids = run.ids(0)
    lines = [{"gc_id": gc_id, "reward": 1, "round": 0} for gc_id in ids]
    run.outcomes(0).write_text("".join(json.dumps(line) + "\n" for line in lines))
    advance(run)
    file = tmp_path / "x.parquet"
    for round_, pick in ((1, Pick()), (0, Pick(round=0)), (0, Pick(round=0, limit=3))):
        found = export(run.folder, "trl", file, ViewOptions(), pick, overwrite=True)
        rows, data = rows_of(file), pq.read_table(run.data(round_)).to_pylist()
        assert [row["gc_id"] for row in rows] == run.ids(round_)[: pick.limit]
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in data][: pick.limit]
        assert {len(row["prompt"]) for row in rows} == {1}  # bare, as the run is
        assert found.facts["round"] == round_
    with pytest.raises(InputError, match="--round 2 is not planned in .*; the newest is 1"):
        export(run.folder, "trl", file, ViewOptions(), Pick(round=2), overwrite=True)
    with pytest.raises(InputError, match="--by and --ascending are for scored sets"):
        export(run.folder, "trl", file, ViewOptions(), Pick(by="level"), overwrite=True)


def test_group_sizes_of_a_round_go_to_the_trainer_that_reads_them(tmp_path: Path) -> None:
    run = exports.begin(tmp_path, strategy="posterior", options={"group_sizes": "2,16"}, budget=8, rows=20)
    view = ViewOptions(data_source="math")
    export(run.folder, "verl", tmp_path / "x.parquet", view, Pick())
    assert [row["__rollout_n__"] for row in rows_of(tmp_path / "x.parquet")] == run.rollouts(0)
    with pytest.raises(InputError, match="give each prompt a group size, and trl has one size for all"):
        export(run.folder, "trl", tmp_path / "y.parquet", ViewOptions(), Pick())
    export(run.scored.folder, "verl", tmp_path / "z.parquet", view)
    assert "__rollout_n__" not in rows_of(tmp_path / "z.parquet")[0]


def test_the_file_says_what_it_was_made_of(tmp_path: Path) -> None:
    found = write(tmp_path, "verl", by="gc_angle")
    facts = json.loads(pq.read_schema(out(tmp_path, "verl")).metadata[b"gaincurate"])
    assert facts == found.facts
    assert facts["manifest"] == ScoredSet(tmp_path / "set").manifest_hash
    assert (facts["trainer"], facts["read"]) == ("verl", "0.9.1")
    assert facts["options"]["data_source"] == "math"
    assert facts["pick"]["by"] == "gc_angle"


def test_a_file_is_never_replaced_or_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "trl")
    before = out(tmp_path, "trl").read_bytes()
    with pytest.raises(OutputError, match="exists; give another --out, or --overwrite"):
        write(tmp_path, "trl")
    # The third row is broken, and rows come one by one: two are written when it is found.
    monkeypatch.setattr(module, "_CHUNK", 1)
    rows: list[dict[str, Any]] = exports.sums()
    rows[2] = {**rows[2], "question": None}
    exports.make_set(tmp_path / "broken", rows)
    with pytest.raises(OutputError, match="row id0002 of the scored set: the prompt is null"):
        export(tmp_path / "broken", "trl", out(tmp_path, "trl"), ViewOptions(), Pick(), overwrite=True)
    assert out(tmp_path, "trl").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.parquet"]
    with pytest.raises(StorageError, match="cannot write"):
        export(tmp_path / "set", "trl", out(tmp_path, "trl") / "x.parquet", ViewOptions(), Pick())


@pytest.mark.parametrize("trainer", ONE_QUESTION)
def test_a_prompt_that_is_no_single_question_is_refused_by_its_id(tmp_path: Path, trainer: str) -> None:
    with pytest.raises(InputError, match=f"{trainer} reads a prompt as one user message.*'id0000' is user,"):
        write(tmp_path, trainer, segmentation=ADDED)
    systems = ({"role": "system", "content": text} for text in ("one", "one", "two"))
    rows = [{"messages": [system, {"role": "user", "content": "?"}], "answer": "a"} for system in systems]
    exports.make_set(tmp_path / "two", rows, prompt="messages", segmentation={})
    with pytest.raises(InputError, match="one system message in its settings, and that of 'id0002' is not"):
        export(tmp_path / "two", trainer, out(tmp_path / "t", trainer), ViewOptions(), Pick())


def test_the_system_message_goes_where_the_trainer_has_it(tmp_path: Path) -> None:
    found = write(tmp_path / "n", "nemo-rl")
    system = tmp_path / "n/out/train.system.txt"
    assert system.read_text() == exports.SYSTEM
    assert f"++data.default.system_prompt_file={system}" in found.launch.settings
    system.rename(tmp_path / "kept")
    out(tmp_path / "n", "nemo-rl").unlink()
    system.write_text("mine")
    with pytest.raises(OutputError, match=r"train\.system\.txt exists"):
        write(tmp_path / "n", "nemo-rl")
    found = write(tmp_path / "t", "trinity")
    line = next(line for line in found.launch.settings if "format" in line)
    assert json.loads(line.partition(":")[2])["system_prompt"] == exports.SYSTEM
    with pytest.raises(OutputError, match="holds 'train.parquet', and trinity reads whole folders"):
        write(tmp_path / "t", "trinity", suffix=".jsonl")


def test_messages_as_json_text_have_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1)
    prompts = [[{"role": "user", "content": f"{k}?"} | ({"weight": k} if k == 2 else {})] for k in range(4)]
    rows = [{"messages": json.dumps(prompt), "answer": "a"} for prompt in prompts]
    write(tmp_path, "areal", rows, prompt="messages", segmentation={})
    shown = [row["messages"][0] for row in rows_of(out(tmp_path, "areal"))]
    assert [message["weight"] for message in shown] == [None, None, 2, None]
    other = '[{"role": "user", "content": "?", "weight": "w"}]'
    mixed = [rows[0], {**rows[1], "messages": other}, rows[2]]
    exports.make_set(tmp_path / "mixed", mixed, prompt="messages")
    with pytest.raises(InputError, match="the key 'weight' of chat messages has type"):
        export(tmp_path / "mixed", "areal", tmp_path / "m.parquet", ViewOptions(), Pick())


def test_prompts_that_the_assistant_begins_are_told(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "So"}]
    rows = [{"messages": turns[:many], "answer": "a"} for many in (1, 2, 2)]
    found = write(tmp_path, "verl", rows, prompt="messages", segmentation={})
    assert found.notes[-1].startswith("warning: 2 prompts end with words of the assistant")


@pytest.mark.parametrize(
    ("trainer", "options", "sentence"),
    [
        ("trlx", {}, "--trainer trlx: it must be one of trl, verl, openrlhf,"),
        ("verl", {"data_source": None}, "picks a row's reward function by the column 'data_source', and the"),
        ("trl", {"data_source": "x"}, "--data-source x: trl has nothing of that kind"),
        ("verl", {"env_class": "x"}, "--env-class x: verl has nothing of that kind"),
        ("verl", {"answer_column": "no"}, "there is no column 'no' (--answer-column); the columns are: quest"),
        ("openrlhf", {"suffix": "a,b.parquet"}, "openrlhf cuts names at ',' and '@'"),
        ("prime-rl", {"with_scores": True}, "every new scoring would make new tasks of them"),
        ("trl", {"ascending": True}, "--ascending goes with --by COLUMN"),
        ("trl", {"round": 0}, "--round 0 is for a run"),
        ("verl", {"rows": [{"question": "?", "answer": "1", "uid": "i", "source_uid": "j"}]}, "'uid' a meaning of its own, and the set has both that column and"),
    ],
)  # fmt: skip
def test_bad_options_are_one_sentence(tmp_path: Path, trainer: str, options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        write(tmp_path, trainer, **{"suffix": ".parquet"} | options)


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
TEXTS = st.text(CHARACTERS, min_size=1).filter(str.strip)


@given(
    rows=st.lists(st.tuples(TEXTS, st.none() | TEXTS), min_size=1, max_size=6),
    trainer=st.sampled_from(["verl", "openrlhf", "slime", "skyrl"]),
    suffix=st.sampled_from([".parquet", ".jsonl"]),
)
def test_any_text_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None]], trainer: str, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    golds = pa.array([a for _, a in rows], pa.string())
    table = pa.table({"question": [q for q, _ in rows], "answer": golds})
    write(folder, trainer, table, suffix, segmentation={}, shards=1)
    shown = rows_of(out(folder, trainer, suffix))
    assert [row["prompt"] for row in shown] == [[{"role": "user", "content": q}] for q, _ in rows]
    reads: dict[str, Callable[[Any], Any]] = {
        "verl": lambda row: row["reward_model"]["ground_truth"],
        "openrlhf": lambda row: json.loads(row["label"])["answer"],
        "slime": lambda row: row["label"],
        "skyrl": lambda row: row["reward_spec"]["ground_truth"],
    }
    assert [reads[trainer](row) for row in shown] == [a for _, a in rows]


def schema(name: str, *parameters: str, **more: Any) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}, **more}}


UNLIKE = [[schema("mul", "a", "b")], [schema("weather", "city"), schema("add", "x")]]
CALLS = [
    [{"function": {"name": "mul", "arguments": {"a": 1}}}],
    [{"function": {"name": "f", "arguments": {"c": "d"}}}],
]
TURNS = [
    [
        {"role": "user", "content": "Multiply."},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "4"},
    ]
    for calls in CALLS
]
FLAT = [[{"type": "function", **tool["function"]} for tool in tools] for tools in UNLIKE]
NESTED = [{"responses_create_params": {"input": TURNS[k], "tools": FLAT[k]}} for k in (0, 1)]


@pytest.mark.parametrize(
    ("rows", "options", "tools"),
    [
        ([{"prompt": "a", "tools": UNLIKE[0]}, {"prompt": "b", "tools": UNLIKE[1]}], {}, UNLIKE),
        ([{"prompt": "a", "tools": None}, {"prompt": "b", "tools": UNLIKE[1]}], {}, [[], UNLIKE[1]]),
        ([{"prompt": "a", "tools": []}, {"prompt": "b", "tools": UNLIKE[0]}], {}, [[], UNLIKE[0]]),
        ([{"prompt": "a", "tools": json.dumps(tools)} for tools in UNLIKE], {}, list(map(json.dumps, UNLIKE))),
        ([{"prompt": "a", "functions": tools} for tools in UNLIKE], {"tools": "functions"}, UNLIKE),
        ([{"prompt": "a", "tools": json.dumps([schema("f", strict=None)])}], {"shards": 1}, [json.dumps([schema("f", strict=None)])]),
        (NESTED, {"prompt": "responses_create_params.input", "tools": "responses_create_params.tools"}, list(map(json.dumps, UNLIKE))),
    ],
)  # fmt: skip
def test_slime_gets_the_tools_that_were_scored(tmp_path: Path, rows: Any, options: Any, tools: Any) -> None:
    given = {"prompt": "prompt", "answer": None, "tools": "tools", "segmentation": {}, **options}
    made = write(tmp_path, "slime", rows, ".jsonl", **given)
    flags = made.launch.settings
    assert flags[flags.index("--tool-key") + 1] == "tools"
    assert [row["tools"] for row in rows_of(out(tmp_path, "slime", ".jsonl"))] == tools
    assert not [note for note in made.notes if "tools" in note]


@pytest.mark.parametrize(
    ("rows", "column", "expected"),
    [
        ([{"prompt": turns} for turns in TURNS], "prompt", TURNS),
        ([{"prompt": json.dumps(turns)} for turns in TURNS], "prompt", TURNS),
        ([{"prompt": "a", "meta": {"x": 1}}, {"prompt": "b", "meta": {"y": [{"z": 1}, {"w": 2}]}}], "meta",
         [{"x": 1}, {"y": [{"z": 1}, {"w": 2}]}]),
        ([{"prompt": "a", "meta": None}, {"prompt": "b", "meta": {"y": [None, 1]}}], "meta", [None, {"y": [None, 1]}]),
        ([{"prompt": "a", "meta": '{"x": null}'}], "meta", ['{"x": null}']),
        ([{"prompt": "a", "metadata": {"x": 1}}, {"prompt": "b", "metadata": {"y": 2}}], "metadata",
         [{"x": 1, "gc_id": "id0000"}, {"y": 2, "gc_id": "id0001"}]),
        ([{"prompt": "a", "metadata": {"gc_id": "old"}}], "metadata", [{"gc_id": "id0000"}]),
        ([{"prompt": "a", "answer": {"x": 1}}, {"prompt": "b", "answer": {"y": 2}}], "label", [{"x": 1}, {"y": 2}]),
    ],
)  # fmt: skip
def test_lines_of_json_have_no_nulls(tmp_path: Path, rows: Any, column: str, expected: list[Any]) -> None:
    answer = "answer" if "answer" in rows[0] else None
    made: dict[str, Any] = {"chat_text": rows[0]["prompt"][0] == "[", "shards": 1, "segmentation": {}}
    write(tmp_path, "slime", rows, ".jsonl", prompt="prompt", answer=answer, **made)
    assert [row[column] for row in rows_of(out(tmp_path, "slime", ".jsonl"))] == expected


@pytest.mark.parametrize(
    ("trainer", "suffix", "rows", "warned"),
    [
        ("verl", ".parquet", [{"prompt": turns} for turns in TURNS], "store them as JSON text"),
        ("verl", ".jsonl", [{"prompt": turns} for turns in TURNS], "store them as JSON text"),
        ("trl", ".jsonl", [{"prompt": turns} for turns in TURNS], "store them as JSON text"),
        ("slime", ".parquet", [{"prompt": turns} for turns in TURNS], "ends in .jsonl"),
        ("slime", ".jsonl", [{"prompt": turns} for turns in TURNS], None),
        ("slime", ".parquet", [{"prompt": "a", "tools": tools} for tools in UNLIKE], "ends in .jsonl"),
        ("verl", ".parquet", [{"prompt": TURNS[0]}, {"prompt": TURNS[0]}], None),
        ("roll", ".jsonl", [{"prompt": turns, "answer": "1"} for turns in TURNS], None),
    ],
)
def test_rendered_nulls_are_a_warning(
    tmp_path: Path, trainer: str, suffix: str, rows: Any, warned: str | None
) -> None:
    answer = "answer" if "answer" in rows[0] else None
    tools = "tools" if "tools" in rows[0] else None
    options: dict[str, Any] = {"prompt": "prompt", "answer": answer, "tools": tools, "segmentation": {}}
    made = write(tmp_path, trainer, rows, suffix, **options)
    notes = [note for note in made.notes if "unlike keys" in note]
    assert len(notes) == (warned is not None)
    assert not warned or notes[0].endswith(warned)


@pytest.mark.parametrize(
    ("trainer", "columns", "segmentation", "note"),
    [
        ("verl", {"tools": UNLIKE[0]}, {}, "the tools of column 'tools'; verl renders no tools of a row"),
        ("trl", {"tools": UNLIKE[0]}, {}, "the tools of column 'tools'; trl renders no tools of a row"),
        ("prime-rl", {"tools": UNLIKE[0]}, {}, "whether the taskset of the environment renders them is not known"),
        ("verl", {"images": ["a.png"]}, {}, "verl adds 'images' to the prompts; scores are of the text only"),
        ("trl", {"image": "a.png"}, {}, "trl adds 'image' to the prompts; scores are of the text only"),
        ("openrlhf", {"images": ["a.png"]}, {}, "openrlhf adds 'images' to the prompts"),
        ("verl", {}, {"template_kwargs": {"enable_thinking": False}}, '{"enable_thinking": false}; verl takes them from data.app'),
        ("openrlhf", {}, {"template_kwargs": {"a": 1}}, "openrlhf takes them from nothing"),
    ],
)  # fmt: skip
def test_prompts_that_differ_are_noted(
    tmp_path: Path, trainer: str, columns: Any, segmentation: Any, note: str
) -> None:
    tools = "tools" if "tools" in columns else None
    rows = [{**row, **columns} for row in exports.sums()]
    made = write(tmp_path, trainer, rows, tools=tools, segmentation=segmentation)
    assert any(note in one for one in made.notes)
    assert not any("is written as" in one for one in made.notes if "answer" not in one)
    row, kept = rows_of(out(tmp_path, trainer))[0], columns.keys() - {"tools"}
    assert {name: row[name] for name in kept} == {name: columns[name] for name in kept}


def test_slime_names_the_columns_of_pictures_and_hides_tools_that_were_not_scored(tmp_path: Path) -> None:
    rows = [{**row, "images": ["a.png"], "tools": UNLIKE[0]} for row in exports.sums()]
    made = write(tmp_path, "slime", rows, ".jsonl")
    flags = made.launch.settings
    assert flags[flags.index("--multimodal-keys") + 1] == '{"image": "images"}'
    assert "--tool-key" not in flags
    assert "column 'tools' is written as 'source_tools': slime needs that name" in made.notes

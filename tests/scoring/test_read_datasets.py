from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from gaincurate.errors import SourceError
from gaincurate.scoring.readers.source import Source, open_source

FEATURES = datasets.Features(
    {
        "prompt": datasets.Value("string"),
        "kind": datasets.ClassLabel(names=["easy", "hard"]),
        "tags": datasets.List(datasets.Value("int16")),
    }
)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def made(rows: int, name: str = "q") -> Any:
    columns = {
        "prompt": [f"{name}{i}" for i in range(rows)],
        "kind": [i % 2 for i in range(rows)],
        "tags": [[i] * (i % 3) for i in range(rows)],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def table(source: Source, start: int = 0) -> pa.Table:
    return pa.Table.from_batches(list(source.batches(start)), source.schema)


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, revision: str | None) -> Any:
        asked.append((name, config, revision))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_saved_data_set_comes_with_its_types_features_and_rows(tmp_path: Path) -> None:
    made(2500).save_to_disk(tmp_path / "set", num_shards=3)
    source = open_source(str(tmp_path / "set"))
    assert source.rows == 2500
    assert source.schema.equals(FEATURES.arrow_schema, check_metadata=True)
    for start in (0, 1, 900, 2499):
        assert table(source, start).to_pylist() == list(made(2500))[start:]


def test_an_index_mapping_is_followed_from_any_row_on(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = made(3000).shuffle(seed=5).select(range(100, 2600, 2))
    assert changed._indices is not None
    hub(monkeypatch, changed)
    source = open_source("owner/name")
    assert source.rows == 1250
    for start in (0, 1, 1024, 1249):
        assert table(source, start).column("prompt").to_pylist() == list(changed["prompt"])[start:]
    assert table(open_source("owner/name", limit=1030)).num_rows == 1030


def test_a_saved_data_set_dict_asks_for_a_split(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": made(30, "t"), "test": made(3, "e")})
    splits.save_to_disk(tmp_path / "set")
    with pytest.raises(SourceError, match="has several splits; choose one with --split: train, test"):
        open_source(str(tmp_path / "set"))
    with pytest.raises(SourceError, match="has no split 'dev'; choose one with --split: train, test"):
        open_source(str(tmp_path / "set"), split="dev")
    train = open_source(str(tmp_path / "set"), split="train")
    test = open_source(str(tmp_path / "set"), split="test")
    assert (train.rows, test.rows) == (30, 3)
    assert train.fingerprint != test.fingerprint
    assert table(test).column("prompt").to_pylist() == ["e0", "e1", "e2"]


def test_the_fingerprint_of_a_saved_set_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    made(10).save_to_disk(tmp_path / "a")
    first = open_source(str(tmp_path / "a")).fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_source(str(tmp_path / "b")).fingerprint == first
    made(11).save_to_disk(tmp_path / "c")
    assert open_source(str(tmp_path / "c")).fingerprint != first


def test_a_saved_set_whose_data_file_is_cut_is_a_sentence(tmp_path: Path) -> None:
    made(50).save_to_disk(tmp_path / "set")
    (data,) = (tmp_path / "set").glob("*.arrow")
    data.write_bytes(data.read_bytes()[:-600])
    with pytest.raises(SourceError, match="looks like a folder of `save_to_disk` and cannot be loaded"):
        open_source(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name:main", ("owner/name", "main", None)),
        ("owner/na-me.v2:conf@abc123", ("owner/na-me.v2", "conf", "abc123")),
        ("owner/name@v1.0", ("owner/name", None, "v1.0")),
    ],
)
def test_a_hub_id_is_taken_apart_and_a_single_split_is_taken(
    data: str, asked: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = hub(monkeypatch, datasets.DatasetDict({"train": made(5)}))
    source = open_source(data)
    assert calls == [asked]
    assert source.schema.equals(FEATURES.arrow_schema, check_metadata=True)
    assert table(source).to_pylist() == list(made(5))


def test_a_path_comes_before_a_hub_id_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    calls = hub(monkeypatch, made(5))
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/a.jsonl").write_text(json.dumps({"prompt": "local"}))
    assert table(open_source("owner/name")).to_pylist() == [{"prompt": "local"}]
    assert not calls


@pytest.mark.parametrize("data", ["a/b/c", "owner/name.jsonl", "./name", "name.parquet", "name"])
def test_a_path_is_not_asked_of_the_hub(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    calls = hub(monkeypatch, made(5))
    with pytest.raises(SourceError, match="does not exist"):
        open_source(data)
    assert not calls


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist"),
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_datasets_says_of_an_id_is_passed_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, error)
    with pytest.raises(SourceError) as caught:
        open_source("owner/name")
    assert str(caught.value) == (
        f"owner/name is no file or folder here, and as a data set on the Hub it cannot be loaded: {error}"
    )

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from gaincurate.errors import SourceError
from gaincurate.scoring.readers.source import Source, open_source

KIND, TAGS = datasets.ClassLabel(names=["easy", "hard"]), datasets.List(datasets.Value("int16"))
FEATURES = datasets.Features({"prompt": datasets.Value("string"), "kind": KIND, "tags": TAGS})


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def made(rows: int, name: str = "q") -> Any:
    made = [{"prompt": f"{name}{i}", "kind": i % 2, "tags": [i] * (i % 3)} for i in range(rows)]
    return datasets.Dataset.from_list(made, features=FEATURES)


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


def test_the_fingerprint_of_a_saved_set_is_of_its_bytes_and_a_cut_file_is_a_sentence(tmp_path: Path) -> None:
    made(50).save_to_disk(tmp_path / "a")
    first = open_source(str(tmp_path / "a")).fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_source(str(tmp_path / "b")).fingerprint == first
    made(51).save_to_disk(tmp_path / "c")
    assert open_source(str(tmp_path / "c")).fingerprint != first
    (data,) = (tmp_path / "b").glob("*.arrow")
    data.write_bytes(data.read_bytes()[:-600])
    with pytest.raises(SourceError, match="looks like a folder of `save_to_disk` and cannot be loaded"):
        open_source(str(tmp_path / "b"))


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


def test_a_path_is_not_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    calls = hub(monkeypatch, made(5))
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/a.jsonl").write_text(json.dumps({"prompt": "local"}))
    assert table(open_source("owner/name")).to_pylist() == [{"prompt": "local"}]
    for data in ("a/b/c", "owner/other.jsonl", "./name", "name.parquet", "name"):
        with pytest.raises(SourceError, match="does not exist"):
            open_source(data)
    assert not calls


GONE = datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist")


@pytest.mark.parametrize("error", [GONE, RuntimeError("Dataset scripts are no longer supported")], ids=str)
def test_what_datasets_says_of_an_id_is_passed_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, error)
    sentence = "owner/name is no file or folder here, and as a data set on the Hub it cannot be loaded: "
    with pytest.raises(SourceError, match=f"^{re.escape(f'{sentence}{error}')}$"):
        open_source("owner/name")

"""A folder whose run ended before its first shard: other options begin anew in it, and nothing is mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gaincurate
import tiny
from command import tree
from gaincurate.core.locks import Split
from gaincurate.errors import InputError, OutputError

OTHER: dict[str, Any] = {"layer": 0, "limit": 30, "shard_rows": 4}


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = tiny.questions(40)
    rows[5]["question"] = " "
    return str(tiny.write_jsonl(tmp_path / "rows.jsonl", rows))


def score(data: str, model: Path, out: Path, **options: Any) -> Any:
    return gaincurate.score(data, str(model), out, **{"shard_rows": 8, "on_error": "skip", **options})


def begin(data: str, model: Path, out: Path) -> dict[str, Any]:
    """Fail at a row of the first shard; the identity that is left."""
    with pytest.raises(InputError, match="row 5"):
        score(data, model, out, on_error="stop")
    assert sorted(path.name for path in out.iterdir()) == [".work", "identity.json"]
    identity: dict[str, Any] = json.loads((out / "identity.json").read_text())
    return identity


def test_other_options_begin_anew_where_nothing_was_scored(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    begin(data, tiny_model, tmp_path / "out")
    score(data, tiny_model, tmp_path / "whole", **OTHER)
    assert score(data, tiny_model, tmp_path / "out", **OTHER).complete
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_is_wrong_with_the_new_options_leaves_the_beginning_as_it_was(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    begin(data, tiny_model, out)
    before = tree(out)
    with pytest.raises(InputError, match="id column 'level' has the same value"):
        score(data, tiny_model, out, id_column="level")
    assert tree(out) == before


@pytest.mark.parametrize("left", ["shard-00009.arrow", "columns/gc_x.json", "rejected.jsonl"])
def test_where_anything_of_a_set_is_left_other_options_are_refused(
    left: str, tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    begin(data, tiny_model, out)
    (out / left).parent.mkdir(exist_ok=True)
    (out / left).touch()
    before = tree(out)
    with pytest.raises(OutputError, match="^another layer "):
        score(data, tiny_model, out, layer=0)
    assert tree(out) == before


def test_a_beginning_of_parts_or_of_another_kind_of_set_is_not_taken_over(
    tmp_path: Path, tiny_model: Path, data: str
) -> None:
    out = tmp_path / "out"
    identity = begin(data, tiny_model, out)
    with pytest.raises(OutputError, match="^another layer "):
        score(data, tiny_model, out, layer=0, split_run=Split(1, 2))
    (out / "identity.json").write_text(json.dumps({**identity, "kind": "rollouts"}))
    with pytest.raises(OutputError, match="is no scored set: it holds rollouts; give another folder"):
        score(data, tiny_model, out)


class Killed(BaseException):
    """No error that anything catches."""


def test_killed_at_any_change_while_it_begins_anew_either_run_can_go_on(
    tmp_path: Path, tiny_model: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[dict[str, Any]] = [{}, OTHER]
    for number, then in enumerate(options):
        score(data, tiny_model, tmp_path / f"whole{number}", **then)
    identities = set()
    for place in range(8):
        out, left = tmp_path / f"out{place}", place
        number = place % 2  # whose run goes on
        begin(data, tiny_model, out)

        def dying(real: Any, out: Path = out) -> Any:
            def change(path: Path, *rest: Any, **more: Any) -> Any:
                nonlocal left
                if out in path.parents:
                    left -= 1
                    if left < 0:
                        raise Killed
                return real(path, *rest, **more)

            return change

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(Path, "unlink", dying(Path.unlink))
            with pytest.raises(Killed):
                score(data, tiny_model, out, **OTHER)
        identities.add(json.loads((out / "identity.json").read_text())["layer"])
        assert not list(out.glob("shard-*"))
        assert score(data, tiny_model, out, **options[number]).complete
        assert tree(out) == tree(tmp_path / f"whole{number}")
    assert len(identities) == 2, "the identity was written between two of the places"

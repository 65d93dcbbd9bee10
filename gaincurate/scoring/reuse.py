"""Scores that a run takes from finished sets (`score --reuse`) in place of computing them.

A row takes its scores if a set has a row with its id and its prompt, and if all that makes a score is equal.
The values are copied bit by bit. They can differ in the last bits from what this run would compute, because a
prompt's neighbours in a batch change the rounding. So the run's identity names the sets by their manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.artifact import Json, read_info
from gaincurate.core.files import differing_keys
from gaincurate.core.progress import Progress
from gaincurate.core.prompts import Columns
from gaincurate.core.schema import EMBEDDING, ID, PREFIX, SCORE_FIELDS, Score, signal_fields, take
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.scoring.differences import differences

# Which rows there are, and how they lie in shards; signals are compared one by one.
_ROWS = {"source", "shard_rows", "signals", "reuse"}


def open_reused(places: Sequence[str]) -> list[ScoredSet]:
    """The sets that `--reuse` names.

    Raises:
        OutputError: a folder is no finished set, or a file of it is missing or cut short.
    """
    return [ScoredSet(place) for place in places]


class Reused:
    """The scores of finished sets, by id and prompt. A row that several sets have is the first one's.

    Args:
        sets: opened.
        identity: of the run.
        columns: of the run's source.
        progress: hears which set lacks a signal. The rows of such a set are scored again.

    Raises:
        InputError: a set was made by another model, prompt rendering, dtype or other option.
    """

    def __init__(
        self, sets: Iterable[ScoredSet], identity: Json, columns: Columns, progress: Progress
    ) -> None:
        self._columns = columns
        fields = (*SCORE_FIELDS[1:], *signal_fields(identity["signals"], 1))
        self._names = [field.name for field in fields]
        self._sets: list[tuple[ScoredSet, pa.Array]] = []
        self.prefills: set[str] = set()
        """The forwards that made the scores, by name."""
        self.norm_was_fused = False
        for scored in sets:
            _refuse_other(scored, identity)
            lacking = [name for name in identity["signals"] if name not in scored.identity["signals"]]
            if lacking:
                lacked = " and no ".join(lacking)
                progress.note(
                    f"--reuse {scored.place}: the set has no {lacked}, so its rows are scored again"
                )
                continue
            self._sets.append((scored, _ids(scored)))
            self.prefills |= set(scored.manifest["prefill"].split("+"))
            self.norm_was_fused |= scored.manifest["norm_was_fused"]

    def of(self, table: pa.Table, ids: Sequence[str], places: Iterable[int]) -> dict[int, Score]:
        """The scores of the rows that the sets have, by place.

        Args:
            table: rows of the source.
            ids: of all rows of the table.
            places: the rows to look for.
        """
        scores: dict[int, Score] = {}
        wanted = pa.array(ids, pa.string())
        for scored, its_ids in self._sets:
            matches = pc.index_in(wanted, value_set=its_ids).to_pylist()
            here = [place for place in places if place not in scores and matches[place] is not None]
            if not here:
                continue
            old = scored.take([matches[place] for place in here])
            chats = self._columns.chats(take(table, pa.array(here, pa.int64())))
            old_chats = Columns.of(scored.identity).chats(old)
            for place, chat, old_chat, score in zip(here, chats, old_chats, self._scores(old), strict=True):
                if chat == old_chat:  # an id of a column says nothing of the text
                    scores[place] = score
        return scores

    def _scores(self, rows: pa.Table) -> Iterator[Score]:
        columns: dict[str, Any] = {}
        for name in self._names:
            if name == EMBEDDING:
                vectors = rows.column(name).combine_chunks().flatten().to_numpy()
                columns["embedding"] = vectors.reshape(len(rows), -1)
            else:
                columns[name.removeprefix(PREFIX)] = rows.column(name).to_pylist()
        for values in zip(*columns.values(), strict=True):
            yield Score(**dict(zip(columns, values, strict=True)))


def _ids(scored: ScoredSet) -> pa.Array:
    """The ids of the rows; null in a shard with zero vectors, which are counted by shard and not by row."""
    parts = []
    for entry, table in zip(scored.manifest["shards"], scored.tables([ID]), strict=True):
        counted = scored.manifest["zero_vectors"] and read_info(scored.folder / entry["file"])["zero_vectors"]
        ids = table.column(ID).combine_chunks()
        parts.append(pa.nulls(len(ids), ids.type) if counted else ids)
    return pa.concat_arrays(parts)


def _refuse_other(scored: ScoredSet, identity: Json) -> None:
    old, new = scored.identity, identity
    left_out = _ROWS if "logits_memory" in old and "logits_memory" in new else {*_ROWS, "logits_memory"}

    def settings(facts: Json) -> Json:
        kept = {key: value for key, value in facts.items() if key not in left_out}
        return kept | {"model": facts["model"]["weights"]}  # a model that was moved or renamed is the same

    if changes := list(differing_keys(settings(old), settings(new))):
        raise InputError(
            f"{differences(changes)}: this run would not give the scores of --reuse {scored.place}. Repeat "
            "the options of that set, or leave --reuse out and score every row.",
            keys=[key for key, _, _ in changes],
            details=changes,
        )

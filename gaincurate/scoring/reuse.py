"""The differences of two runs' identities in words, and the scores of finished sets for equal rows.

With `--reuse`, a row takes its scores from a finished set that has a row with the same id and prompt, if all
settings that change a score are equal. Values are copied bit by bit. They can differ in the last bits from
those that this run would compute, because a prompt's neighbours in a batch change the rounding. So the run's
identity has the hashes of the sets' manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

_ROWS = {"source", "shard_rows", "signals", "reuse", "logits_memory"}
"""Keys that choose rows and their order in shards and chunks. Signals are compared one by one."""
_WORDS = {
    "source.rows": "another number of rows",
    "source.fingerprint": "other data",
    "source.prompt_column": "another prompt column",
    "source.answer_column": "another answer column",
    "source.id_column": "another id column",
    "source.tools_column": "another tools column",
    "source": "another reading of the data",
    "model": "another model",
    "model.name": "another name of the model",
    "tokenizer.chat_template": "another chat template",
    "tokenizer": "another tokenizer",
    "segmentation.system": "another system message",
    "segmentation.shots": "other examples",
    "segmentation.template_kwargs": "other template variables",
    "segmentation.max_length": "another longest prompt",
    "segmentation": "another prompt rendering",
    "dtype": "another dtype",
    "signals": "other signals",
    "layer": "another layer",
    "site": "another scored tensor",
    "reuse": "other --reuse sets",
    "device": "another kind of processor",
    "versions": "other library versions",
    "threads": "another number of threads",
    "batch_tokens": "another batch size",
    "shard_rows": "shards of another size",
}
"""By an identity's key or its first parts, in the order in which a refusal names the differences."""


def differences(changes: Sequence[tuple[str, Any, Any]]) -> str:
    """The differences of two scored sets' identities (`differing_keys`) in words, each once.

    Implied differences are left out: of the data if the number of rows differs, of the model's name if the
    weights differ, and of the rendering if an option of the prompt differs.
    """
    keys = {key for key, _, _ in changes}
    implied = {"source.fingerprint"} if "source.rows" in keys else set()
    if "model.weights" in keys:
        implied |= {"model.name", "model.revision"}
    if any(key.startswith(("tokenizer", "segmentation.")) for key in keys - {"segmentation.rendering"}):
        implied.add("segmentation.rendering")
    order, words = list(_WORDS), dict[int, str]()
    for key, was, now in changes:
        parts = key.split(".")
        name = next((n for n in (".".join(parts[:k]) for k in (3, 2, 1)) if n in _WORDS), None)
        word = _WORDS[name] if name else f"another {key}"
        if key == "source.rows" and isinstance(was, int) and isinstance(now, int):
            count = abs(now - was)
            word = f"{count:,} row{'s' * (count != 1)} {'more' if now > was else 'fewer'}"
        elif name == key and key in ("dtype", "source.prompt_column", "site", "layer"):
            word += f" ({was} before, {now} now)"
        if key not in implied:
            words.setdefault(order.index(name) if name else len(order) + len(words), word)
    return ", ".join(word for _, word in sorted(words.items()))


class Reused:
    """The scores of finished sets, by id and prompt. The first set that has a row gives its scores.

    A set without one of the run's signals is noted in `progress` and not used.

    Raises:
        InputError: a set was made with another model, prompt rendering, dtype or other option than the run.
    """

    def __init__(
        self, sets: Iterable[ScoredSet], identity: Json, columns: Columns, progress: Progress
    ) -> None:
        self._columns = columns
        self._names = [f.name for f in (*SCORE_FIELDS[1:], *signal_fields(identity["signals"], 1))]
        self._sets: list[tuple[ScoredSet, pa.Array]] = []
        self.prefills: set[str] = set()  # names of the forwards that computed the scores
        self.norm_was_fused = False
        for scored in sets:
            old, new = (
                {key: value for key, value in each.items() if key not in _ROWS}
                | {"model": each["model"]["weights"]}  # a model that was moved or renamed is the same
                for each in (scored.identity, identity)
            )
            if changes := list(differing_keys(old, new)):
                raise InputError(
                    f"{differences(changes)}: this run would not give the scores of --reuse {scored.place}. "
                    "Repeat the options of that set, or leave --reuse out and score every row.",
                    keys=[key for key, _, _ in changes],
                    details=changes,
                )
            lacking = [name for name in identity["signals"] if name not in scored.identity["signals"]]
            if lacking:
                signals = " and no ".join(lacking)
                progress.note(f"--reuse {scored.place}: it has no {signals}, so its rows are scored again")
                continue
            # Null in a shard with zero vectors, because these are counted by shard and not by row.
            parts = []
            for entry, table in zip(scored.manifest["shards"], scored.tables([ID]), strict=True):
                ids, zeros = table.column(ID).combine_chunks(), scored.manifest["zero_vectors"]
                counted = zeros and read_info(scored.folder / entry["file"])["zero_vectors"]
                parts.append(pa.nulls(len(ids), ids.type) if counted else ids)
            self._sets.append((scored, pa.concat_arrays(parts)))
            self.prefills |= set(scored.manifest["prefill"].split("+"))
            self.norm_was_fused |= scored.manifest["norm_was_fused"]

    def of(self, table: pa.Table, ids: Sequence[str], places: Iterable[int]) -> dict[int, Score]:
        """The scores in the sets, by place, for rows at `places` of `table`, whose ids are `ids`."""
        scores, keywords = dict[int, Score](), [name.removeprefix(PREFIX) for name in self._names]
        for scored, set_ids in self._sets:
            matches = pc.index_in(pa.array(ids, pa.string()), value_set=set_ids).to_pylist()
            here = [place for place in places if place not in scores and matches[place] is not None]
            if not here:
                continue
            old = scored.take([matches[place] for place in here])
            chats = self._columns.chats(take(table, pa.array(here, pa.int64())))
            old_chats = Columns.of(scored.identity).chats(old)
            columns: list[Any] = []
            for name, column in zip(self._names, map(old.column, self._names), strict=True):
                if name == EMBEDDING:
                    columns.append(column.combine_chunks().flatten().to_numpy().reshape(len(old), -1))
                else:
                    columns.append(column.to_pylist())
            for place, chat, old_chat, *values in zip(here, chats, old_chats, *columns, strict=True):
                if chat == old_chat:  # the id of an id column does not depend on the text
                    scores[place] = Score(**dict(zip(keywords, values, strict=True)))
        return scores

"""Observed pass rates: wins and losses by id, from tables, outcome lines, rollout sets or NeMo Gym.

Policies and rounds stay apart, because a pass rate is of one policy. A prompt without a judged rollout
has no rate and is left out, which is not the same as a rate of 0.

NeMo Gym's rollouts and reward profiles are lines of JSON with `_ng_task_index` (NVIDIA-NeMo/Gym 07d6b0d0).
A line is matched to a prompt by its messages, because NeMo Gym gives equal rows one index, and by the index
only where it has no messages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gaincurate.core.arrow import Refuse, read_json_lines, read_parquet, refusing
from gaincurate.core.artifact import IDENTITY, MANIFEST, open_table
from gaincurate.core.columns import as_texts, is_text
from gaincurate.core.files import digest_files, json_lines
from gaincurate.core.outcomes import Line, Rules, has_rounds, read_any_round
from gaincurate.core.prompts import Message, PromptProblem, chats_of, to_messages
from gaincurate.core.rng import Floats, Ints
from gaincurate.core.schema import ID
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty.metrics import Target, pass_variance
from gaincurate.difficulty.rollout_set import RolloutSet, is_rollout_set, pass_rates
from gaincurate.errors import InputError, OutcomeError

TASK = "_ng_task_index"
_COLUMNS = (ID, "model", "reward", "wins", "losses", "pass_rate", "samples")
_MOST = 2.0**53  # rollouts of a prompt; beyond it floats do not count
_NONE = 1e-9  # rollouts of a prompt that are none: the noise of a rate with a smaller weight may be infinite
_WANTED = (
    "gc_id and one of: reward (a row for each rollout), wins and losses, pass_rate (and samples, of how many "
    "rollouts)"
)


@dataclass(frozen=True, slots=True)
class PassRates:
    """One policy's observations. `wins[i]` and `losses[i]` belong to `ids[i]`, each id once, sorted.

    If `counted`, wins + losses are rollouts; else their sum is 1, and the number of rollouts is not known.
    `round` is the round of a run. `source` has the file's name and hash, and the range of its rewards.
    """

    name: str
    ids: list[str]
    wins: Floats
    losses: Floats
    counted: bool = True
    round: int | None = None
    source: dict[str, Any] | None = None

    @property
    def failure(self) -> Floats:
        """The failure rate d in [0, 1] of each prompt, `[prompts]`: 0 where every rollout succeeded."""
        rates: Floats = self.losses / (self.wins + self.losses)
        return rates

    def observed(self, target: Target) -> Floats:
        """The target of each prompt, `[prompts]`: its failure rate, or an unbiased p (1 - p).

        Raises `InputError` for p (1 - p) if the numbers of rollouts are not known.
        """
        if target == "difficulty":
            return self.failure
        if not self.counted:
            raise InputError(
                f"{self.name}: p (1 - p) cannot be computed from rates of unknown numbers of rollouts; give "
                "the file a column samples, or wins and losses."
            )
        return pass_variance(self.wins, self.losses)

    def at(self, places: Ints) -> PassRates:
        """The observations of some prompts, by their places."""
        ids = [self.ids[i] for i in places.tolist()]
        return replace(self, ids=ids, wins=self.wins[places], losses=self.losses[places])


def read_pass_rates(
    path: Path,
    rules: Rules | None = None,
    *,
    files: Sequence[Path] | None = None,
    scored: ScoredSet | None = None,
) -> list[PassRates]:
    """The pass rates of every policy in a file or folder, in order of rounds or names.

    `rules` has the range of rewards, by default 0 to 1. `files` are the outcomes round by round of a run with
    the folder `path`. `scored`, the set of the prompts, gives ids to rollouts of NeMo Gym.

    Raises `InputError` if nothing is there, columns are missing, a value is no rate or no prompt is judged;
    `OutcomeError` for an invalid line of outcomes, and `OutputError` for an unfinished or damaged set.
    """
    rules = rules or Rules()
    if not path.exists():
        raise InputError(f"{path} does not exist.", path=str(path))
    paths: Sequence[Path] = [path] if files is None else files
    if files is None and path.is_dir():
        paths = sorted([*path.rglob("*.arrow"), *path.rglob("*.parquet")])
        folders = {file.parent for name in (MANIFEST, IDENTITY) for file in path.rglob(name)}
        for folder in sorted(folders):  # also those whose shards are all gone
            for _ in RolloutSet(folder).tables() if is_rollout_set(folder) else ():
                pass  # they are all there and whole
        if not paths:
            raise InputError(f"{path} has no .arrow or .parquet file and is no run.")
        tables = [_of_use(read_table(file, scored)) for file in paths]
        with refusing(path, _refuse(path)):  # one wrote numbers as int64 and one as double
            table = pa.concat_tables(tables, promote_options="permissive")
        policies = of_table(table, path, rules)
    elif files is not None or (path.suffix == ".jsonl" and has_rounds(path)):
        policies = _of_lines([line for file in paths for line in read_any_round(file, rules)], path)
    elif path.suffix == ".jsonl" and TASK in (next(json_lines(path), (0, None))[1] or {}):
        if scored is None:
            raise InputError(
                f"{path} has rollouts of NeMo Gym, which have no gc_id; give them to a command that "
                "is also given the scored set or the run of their prompts.",
                path=str(path),
            )
        policies = of_table(_of_nemo_gym(path, scored), path, rules)
    else:
        policies = of_table(read_table(path, scored), path, rules)
    if not policies:
        raise InputError(f"{path} has no rollout that could be judged.", path=str(path))
    source = {"file": path.name, "hash": digest_files(paths), "reward_range": [rules.low, rules.high]}
    return [replace(rates, source=source) for rates in policies]


def of_rollouts(folder: Path, success: float | None) -> PassRates:
    """Pass rates of a rollout set's judged prompts, in its order; `success` as for `pass_rates`."""
    table = pass_rates(folder, success=success)
    table = table.filter(pc.greater(table.column("samples"), 0))
    wins, losses = (table.column(name).to_numpy() for name in ("wins", "losses"))
    return PassRates(folder.name, table.column(ID).to_pylist(), wins, losses)


def pooled(rates: Sequence[PassRates]) -> PassRates:
    """The pass rates of several files about one policy, added up.

    Raises `InputError` if a prompt has two rates without numbers of rollouts.
    """
    counted = all(policy.counted for policy in rates)
    ids = pa.array([gc_id for policy in rates for gc_id in policy.ids], pa.string())
    wins, losses = (
        np.concatenate([getattr(policy, name) for policy in rates]) for name in ("wins", "losses")
    )
    merged = _summed(rates[0].name, ids, wins, losses, counted)
    if not counted and len(merged.ids) < len(ids):
        raise InputError(
            f"{_twice(ids)!r} has two rates without numbers of rollouts; give the files a column samples."
        )
    return replace(merged, source={"files": [policy.source for policy in rates]})


def _of_lines(lines: Iterable[Line], path: Path) -> list[PassRates]:
    rounds: dict[int, list[Line]] = {}
    for line in lines:
        if line.success is not None:
            rounds.setdefault(line.round, []).append(line)
    policies = []
    for round_, judged in sorted(rounds.items()):
        ids, success = [line.gc_id for line in judged], np.array([line.success for line in judged], float)
        summed = _summed(f"{path.name}, round {round_}", pa.array(ids, pa.string()), success, 1 - success)
        policies.append(replace(summed, round=round_))
    return policies


def read_table(path: Path, scored: ScoredSet | None = None) -> pa.Table:
    """A file as a table. Rows without gc_id get the id of the prompt in the set that has their text.

    Raises `InputError` for another kind of file or a damaged one, `StorageError` if it cannot be read.
    """
    prompt: Any = None if scored is None else scored.identity["source"]["prompt_column"]
    readers: dict[str, Callable[[Path, Refuse], pa.Table]] = {
        ".parquet": read_parquet,
        ".arrow": open_table,
        ".jsonl": partial(read_json_lines, columns=(*_COLUMNS, prompt) if prompt else _COLUMNS),
    }
    if path.suffix not in readers:
        expected = "expected .jsonl, .parquet or .arrow, a folder of them, or a run"
        raise InputError(f"{path}: {expected}.", path=str(path))
    table = readers[path.suffix](path, _refuse(path))
    if scored is None or ID in table.column_names:
        return table
    both = (table, scored)
    if not all(prompt in each.schema.names and is_text(each.schema.field(prompt).type) for each in both):
        return table
    texts, prompts = (as_texts(each.column(prompt)) for each in both)
    places = pc.index_in(texts, value_set=prompts.combine_chunks())
    table = table.append_column(ID, scored.column(ID).take(places))
    table = table.filter(pc.is_valid(table.column(ID)))
    if not len(table):
        where = f"{scored.folder}, by gc_id or by text"
        raise InputError(f"{path}: none of its prompts is in {where}.", path=str(path))
    return table


def _refuse(path: Path) -> Refuse:
    return lambda why: InputError(f"{path} cannot be read: {why}.", path=str(path))


def _of_use(table: pa.Table) -> pa.Table:
    """The columns with observations. The files of one folder may differ in the other columns."""
    return table.select([name for name in table.column_names if name in _COLUMNS])


def of_table(table: pa.Table, path: Path, rules: Rules) -> list[PassRates]:
    """The pass rates of every policy in a table that has a judged rollout, by name.

    The columns are as in `pass_rates`, `path` is the file of the table, and `rules` has the range of rewards.
    Raises `InputError` for missing columns, no id, or an id twice without numbers of rollouts, and
    `OutcomeError` for a value out of its range.
    """
    names = set(table.column_names)
    if ID not in names or not (names >= {"wins", "losses"} or names & {"pass_rate", "reward"}):
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; needed are {_WANTED}.", path=str(path)
        )
    table = _of_use(table)
    with refusing(path, _refuse(path)):  # an id or a model that is a list, say
        for name in names & {ID, "model"}:
            texts = as_texts(table.column(name))
            table = table.set_column(table.column_names.index(name), name, texts)
    parts = [(path.name, table)]
    if "model" in names:
        models = table.column("model")
        named = sorted(models.unique().drop_null().to_pylist())
        parts = [(model, table.filter(pc.equal(models, model))) for model in named]
    policies = [_of_policy(part, name, path, rules) for name, part in parts]
    return [policy for policy in policies if policy.ids]


def _of_policy(table: pa.Table, name: str, path: Path, rules: Rules) -> PassRates:
    """One policy's rows."""
    names = set(table.column_names)
    ids = pa.concat_arrays([pa.array([], pa.string()), *table.column(ID).chunks])
    if names >= {"wins", "losses"}:
        wins, losses = _numbers(table, "wins"), _numbers(table, "losses")
        _check_rows(ids, {"wins": (wins, 0.0, _MOST), "losses": (losses, 0.0, _MOST)}, path)
        return _summed(name, ids, wins, losses)
    column = "reward" if "reward" in names else "pass_rate"
    low, high = (rules.low, rules.high) if column == "reward" else (0.0, 1.0)
    counted = column == "reward" or "samples" in names
    values = _numbers(table, column)
    weights = _numbers(table, "samples") if column != "reward" and counted else np.ones(len(values))
    rows = np.flatnonzero(~np.isnan(values) & (weights != 0))  # the others could not be judged
    ids, values, weights = ids.take(rows), values[rows], weights[rows]
    asked = {column: (values, low, high), "samples": (weights, 0.0, _MOST)}
    _check_rows(ids, asked, path, once=not counted)
    success = (values - low) / (high - low)
    return _summed(name, ids, success * weights, (1 - success) * weights, counted)


def _summed(name: str, ids: pa.Array, wins: Floats, losses: Floats, counted: bool = True) -> PassRates:
    """Rows added up by id, in their order, without ids that have no rollout."""
    coded = ids.dictionary_encode()
    codes, count = coded.indices.to_numpy(), len(coded.dictionary)
    won, lost = (np.bincount(codes, values, count) for values in (wins, losses))
    order = pc.array_sort_indices(coded.dictionary).to_numpy()
    order = order[(won + lost)[order] > _NONE]
    return PassRates(name, coded.dictionary.take(order).to_pylist(), won[order], lost[order], counted)


def _numbers(table: pa.Table, name: str) -> Floats:
    """A column as numbers, `[rows]`; null becomes NaN."""
    column, kind = table.column(name), table.column(name).type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        column = column.cast(pa.float64(), safe=False)
    elif not pa.types.is_floating(kind):  # halves have no cast of their own in older versions; numpy has
        raise InputError(f"the column {name} has type {kind}, not numbers.")
    numbers: Floats = column.to_numpy().astype(np.float64)
    return numbers


def _check_rows(
    ids: pa.Array, columns: dict[str, tuple[Floats, float, float]], path: Path, *, once: bool = False
) -> None:
    """Refuse a row that has no id, a value out of its range, or (`once`) another row's id."""
    if ids.null_count:
        raise InputError(f"{path}: a row has no gc_id.")
    for name, (values, low, high) in columns.items():
        outside = np.flatnonzero(~((values >= low) & (values <= high)))
        if len(outside):
            gc_id, value = ids[int(outside[0])].as_py(), values[outside[0]]
            raise OutcomeError(
                f"{path}: {name} of {gc_id!r} is {value:g}, outside {low:g} to {high:g}.", gc_id=gc_id
            )
    if once and len(ids.unique()) < len(ids):
        raise InputError(f"{path}: {_twice(ids)!r} occurs twice, and the file has no column samples.")


def _twice(ids: pa.Array) -> str:
    """The first of the ids that occur most often."""
    return str(Counter(ids.to_pylist()).most_common(1)[0][0])


def _rollouts(path: Path) -> Iterator[tuple[int, float | None, dict[str, Any]]]:
    """Each rollout's task index, its reward (None: not judged), and what the line has of its prompt."""
    for number, row in json_lines(path):
        where = f"{path}, line {number}"
        if row is None or type(row.get(TASK)) is not int or row[TASK] < 0:
            raise OutcomeError(f"{where}: there is no {TASK}, so NeMo Gym did not write it.", line=number)
        sample = (row.get("sample") if "rollout_infos" in row else row) or {}
        try:
            for info in row.get("rollout_infos", [row]):  # of a reward profile, else the line is one rollout
                value = info["reward"] if "_ng_failure_class" not in info else info.get("reward")
                yield row[TASK], None if value is None or value != value else float(value), {**sample}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise OutcomeError(
                f"{where} is no rollout or reward profile of NeMo Gym ({type(error).__name__}: {error}); its "
                "inputs have no reward.",
                line=number,
            ) from error


def _messages(sample: dict[str, Any]) -> list[Message] | None:
    params = sample.get("responses_create_params")
    if not isinstance(params, dict):
        return None
    try:
        messages = to_messages(params.get("input"))
    except PromptProblem:
        return None
    system = params.get("instructions")
    return [{"role": "system", "content": system}, *messages] if isinstance(system, str) else messages


def prompt_key(messages: Sequence[Message]) -> str:
    """Roles and contents as a text that can be compared."""
    return json.dumps([[message.get("role"), message.get("content")] for message in messages], default=str)


def _of_nemo_gym(path: Path, scored: ScoredSet) -> pa.Table:
    """The id and reward of each judged rollout whose prompt is in a scored set."""
    ids = scored.column(ID).to_pylist()
    # Where the set has each row of its source, an index means a row.
    ids_of_set, whole, first = set(ids), not scored.manifest.get("rejected"), 0
    places: dict[str, list[int]] = {}
    for table in scored.tables():
        for bare in (True, False):  # NeMo Gym was given the source's rows, or exported ones
            for place, chat in enumerate(chats_of(table, scored.identity, bare=bare), first):
                of_prompt = places.setdefault(prompt_key(chat.messages), [])
                of_prompt += [place] if place not in of_prompt else []
        first += table.num_rows
    judged, rewards, last = list[str](), list[float](), ""
    for task, reward, sample in _rollouts(path):
        last = f"; the last is of task {task}"
        gc_id, messages = sample.get(ID), _messages(sample)
        if not isinstance(gc_id, str) or gc_id not in ids_of_set:
            equal = places.get(prompt_key(messages), []) if messages is not None else []
            by_index = task < len(ids) if messages is None and whole else task in equal
            gc_id = ids[equal[0]] if len(equal) == 1 else ids[task] if by_index else None
        if gc_id is not None and reward is not None:
            judged.append(gc_id)
            rewards.append(reward)
    if not rewards:
        raise OutcomeError(
            f"{path}: no judged rollout of NeMo Gym is of a prompt of {scored.folder}{last}. Give the file "
            "of this set's prompts.",
            path=str(path),
        )
    return pa.table({ID: judged, "reward": pa.array(rewards, pa.float64())})

"""The view that each trainer reads: takes rows of a scored set, yields a table with that trainer's columns.

Names and nesting are the trainer's, the id stands where the trainer carries it back, and what the source has
besides goes along untouched. A source column whose name the trainer needs or reserves is renamed, which is
said. Knows nothing of files and of the order of rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from gaincurate.core.artifact import Json
from gaincurate.errors import InputError
from gaincurate.schedule.rows import prompts_of
from gaincurate.schema import ID, PREFIX
from gaincurate.scoring.columns import column_values
from gaincurate.trainers.names import Trainer, find_trainer
from gaincurate.trainers.views_parts import Own, Parts, Rows, ViewOptions, column_type

Columns = dict[str, Own]


def _trl(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.messages()}
    # Every column reaches the reward function under its own name; only one inside a struct would not.
    if parts.id_in_answer or (parts.answer and (options.answer_column or "." in parts.answer)):
        columns["answer"] = parts.answer_as_it_is()
    return columns


def _verl(parts: Parts, options: ViewOptions) -> Columns:
    reward = {"ground_truth": parts.answer_as_it_is()}
    return {
        "prompt": parts.messages(),
        "reward_model": parts.struct("reward_model", reward, {"style": "rule"}),
        "extra_info": parts.struct("extra_info", {"index": parts.places(), ID: parts.ids()}),
    }


def _openrlhf(parts: Parts, options: ViewOptions) -> Columns:
    return {"prompt": parts.messages()} | ({"label": parts.answer_text()} if parts.has_answer else {})


def _nemo_rl(parts: Parts, options: ViewOptions) -> Columns:
    return {"input": parts.question(), "output": parts.answer_text()}


def _skyrl(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.messages()}
    if options.env_class is not None:
        columns["env_class"] = parts.same(options.env_class)
    elif "env_class" in parts.schema.names:
        columns["env_class"] = parts.column("env_class")
    if parts.has_answer:
        reward = {"ground_truth": parts.answer_as_it_is()}
        columns["reward_spec"] = parts.struct("reward_spec", reward, {"method": "rule"})
    return columns


def _slime(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.messages()}
    if parts.has_answer:
        columns["label"] = parts.answer_as_it_is()
    return columns | {"metadata": parts.struct("metadata", {ID: parts.ids()})}


def _prime_rl(parts: Parts, options: ViewOptions) -> Columns:
    columns = {
        "idx": parts.places(),
        "name": parts.ids(),
        "prompt": parts.after_system(),
        "system_prompt": parts.system_text(),
    }
    return columns | ({"answer": parts.answer_as_it_is()} if parts.has_answer else {})


def _trinity(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"prompt": parts.question()}
    return columns | ({"answer": parts.answer_as_it_is()} if parts.has_answer else {})


def _areal(parts: Parts, options: ViewOptions) -> Columns:
    columns = {"messages": parts.messages()}
    return columns | ({"answer": parts.answer_as_it_is()} if parts.has_answer else {})


def _roll(parts: Parts, options: ViewOptions) -> Columns:
    return {"id": parts.ids(), "messages": parts.messages_json(), "ground_truth": parts.answer_text()}


def _open_instruct(parts: Parts, options: ViewOptions) -> Columns:
    return {"messages": parts.messages(), "ground_truth": parts.answer_text()}


COLUMNS: dict[str, Callable[[Parts, ViewOptions], Columns]] = {
    "trl": _trl,
    "verl": _verl,
    "openrlhf": _openrlhf,
    "nemo-rl": _nemo_rl,
    "skyrl": _skyrl,
    "slime": _slime,
    "prime-rl": _prime_rl,
    "trinity": _trinity,
    "areal": _areal,
    "roll": _roll,
    "open-instruct": _open_instruct,
}


class View:
    """One trainer's columns for one scored set.

    Args:
        trainer: its name, of `TRAINERS`.
        schema: the scored set's.
        identity: the scored set's, which says where prompt and answer are.
        chat: the type of its message lists (`chat_type`).
        options: what was asked for.

    Raises:
        InputError: no such trainer or column, or the trainer cannot do without something that is not there.
    """

    def __init__(
        self, trainer: str, schema: pa.Schema, identity: Json, chat: pa.DataType, options: ViewOptions
    ) -> None:
        self.trainer, self.facts, self.options = trainer, find_trainer(trainer), options
        self._identity = identity
        source = identity["source"]
        answer = options.answer_column or source.get("answer_column")
        if answer is not None:
            column_type(schema, answer)
        with_id = self.facts.id_in_answer if options.id_in_answer is None else options.id_in_answer
        self.parts = Parts(trainer, schema, source["prompt_column"], answer, chat, with_id)
        _check(trainer, self.facts, self.parts, options)
        self.own = COLUMNS[trainer](self.parts, options) | self._judge() | {ID: self.parts.ids()}
        self.notes: list[str] = []
        """What a person should know: which columns got another name."""
        self.open_ended = 0
        """Prompts so far that end with the assistant's words."""
        self.without_answer = 0
        """Rows so far whose answer is null where the trainer finds one."""
        # Where there is no column, --id-in-answer asks for the id alone: nothing is missing.
        null_unasked = self.parts.writes_answers and options.id_in_answer is not True
        self._counts_answers = answer is not None or null_unasked
        self._kept = self._source_columns(schema)
        fields = [pa.field(name, one.type) for name, one in self.own.items()]
        fields += [pa.field(name, schema.field(old).type) for name, old in self._kept.items()]
        self.schema = pa.schema(fields)

    def table(self, rows: pa.Table, first: int) -> pa.Table:
        """The view of some rows.

        Args:
            rows: of the scored set.
            first: how many rows of the file came before them.

        Raises:
            InputError: a prompt that this trainer cannot read.
            OutputError: a row's prompt cannot be read, so the set is not what its identity says.
        """
        answer = self.parts.answer
        answers = column_values(rows, answer) if answer else [None] * rows.num_rows
        batch = Rows(rows, prompts_of(rows, self._identity, bare=self.options.bare), answers, first)
        self.open_ended += sum(messages[-1]["role"] == "assistant" for messages in batch.messages)
        if self._counts_answers:
            self.without_answer += sum(one is None for one in answers)
        columns = [_array(one, batch) for one in self.own.values()]
        columns += [rows.column(old) for old in self._kept.values()]
        return pa.table(columns, schema=self.schema)

    def _judge(self) -> Columns:
        """The column by which the trainer picks a reward function."""
        name, given = self.facts.judge, self.options.data_source
        if name is None:
            return {}
        if given is not None:
            return {name: self.parts.same(given)}
        return {name: self.parts.column(name)} if name in self.parts.schema.names else {}

    def _source_columns(self, schema: pa.Schema) -> dict[str, str]:
        """The source columns that go along: the name in the file to the name in the set."""
        scores = [n for n in schema.names if n.startswith(PREFIX) and n != ID and self.options.with_scores]
        kept: dict[str, str] = {}
        names = [name for name in schema.names if not name.startswith(PREFIX)]
        for name in names:
            own = self.own.get(name)
            if own is not None and own.stands_for == name:
                continue
            new = name if own is None and name not in self.facts.reserved else f"source_{name}"
            if new != name:
                if new in names or new in self.own:
                    raise InputError(
                        f"{self.trainer} gives {name!r} a meaning of its own, and the set has both that "
                        f"column and {new!r}; rename one of them in the data.",
                        column=name,
                    )
                self.notes.append(f"column {name!r} is written as {new!r}: {self.trainer} needs that name")
            kept[new] = name
        return kept | {name: name for name in scores}


def _array(own: Own, batch: Rows) -> pa.Array | pa.ChunkedArray:
    values = own.values(batch)
    return values if isinstance(values, pa.ChunkedArray) else pa.array(values, own.type)


def _check(trainer: str, facts: Trainer, parts: Parts, options: ViewOptions) -> None:
    """Refuse what a trainer cannot do without, and options that mean nothing to it."""
    columns = ", ".join(name for name in parts.schema.names if not name.startswith(PREFIX))
    if facts.answer_needed and not parts.has_answer:
        raise InputError(
            f"{trainer} cannot read rows without an answer, and this set names no answer column. Give "
            f"--answer-column, of {columns}; or --id-in-answer, where a reward function of yours needs only "
            "the id."
        )
    if options.data_source is not None and facts.judge is None:
        raise InputError(f"--data-source {options.data_source}: {trainer} has nothing of that kind.")
    if facts.judge_needed and options.data_source is None and facts.judge not in parts.schema.names:
        raise InputError(
            f"{trainer} picks a row's reward function by the column {facts.judge!r}, and the set has none. "
            "Give --data-source NAME: a name that it knows, or one of your own for a reward function of "
            "your own."
        )
    if options.env_class is not None and trainer != "skyrl":
        raise InputError(f"--env-class {options.env_class} is for skyrl; {trainer} has nothing of that kind.")
    if options.with_scores and trainer == "prime-rl":
        raise InputError(
            "--with-scores: prime-rl tells tasks apart by a hash of all their fields, so every new scoring "
            "would make new tasks of them. Leave it out."
        )

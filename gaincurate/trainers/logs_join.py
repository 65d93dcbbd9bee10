"""Whose rollout is it: takes what a log says of a prompt, yields the id of a round's prompt.

By the id where the log has it, else by the prompt's messages, which must be the same, else by its rendered
text, in which all messages must stand in their order. Knows nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gaincurate.schedule.rows import prompts_of
from gaincurate.schedule.run import Run
from gaincurate.scoring.columns import Message, column_values
from gaincurate.trainers.logs_formats import Entry


class Unknown(Exception):
    """Why an entry belongs to no prompt of the round."""


class Joiner:
    """Finds the prompts of one round.

    Args:
        run: the run.
        round_: the round.
    """

    def __init__(self, run: Run, round_: int) -> None:
        self._run, self.round = run, round_
        self.ids = frozenset(run.ids(round_))
        self._prompts: list[tuple[str, list[str], Any]] = []
        self._by_messages: dict[str, list[int]] = {}
        self._texts: dict[str, list[int]] = {}

    def find(self, entry: Entry) -> str:
        """The id of the prompt that an entry is of.

        Raises:
            Unknown: there is none, or several could be.
        """
        if entry.gc_id is not None:
            if entry.gc_id not in self.ids:
                raise Unknown(f"the id is not among the prompts of round {self.round}")
            return entry.gc_id
        if entry.name in self.ids:
            return entry.name
        if not self._prompts:
            self._load()
        if entry.messages:
            places = self._by_messages.get(_key(entry.messages), [])
        else:
            places = next((found for text in entry.texts if (found := self._in_text(text))), [])
        if len(places) > 1:
            same = [place for place in places if _same(self._prompts[place][2], entry.answer)]
            places = same or places
        if not places:
            raise Unknown(f"the prompt is none of round {self.round}")
        if len(places) > 1:
            raise Unknown("several prompts of the round have this text, and there is no id")
        return self._prompts[places[0]][0]

    def _load(self) -> None:
        run, round_ = self._run, self.round
        identity = run.scored.identity
        table = run.scored.take(run.rows(round_))
        prompts = prompts_of(table, identity, bare=run.config.bare)
        answer = identity["source"].get("answer_column")
        answers = column_values(table, answer) if answer else [None] * len(prompts)
        for place, (gc_id, messages) in enumerate(zip(run.ids(round_), prompts, strict=True)):
            contents = [_squeezed(m["content"]) for m in messages if m["content"]]
            self._prompts.append((gc_id, contents, answers[place]))
            self._by_messages.setdefault(_key(messages), []).append(place)

    def _in_text(self, text: str) -> list[int]:
        """The prompts whose messages stand in a text in their order; of these, those with the most words.

        A question that is a part of another stands in that one's text too, so the longest is the one.
        """
        if text not in self._texts:
            squeezed = _squeezed(text)
            sizes = {
                place: sum(map(len, contents))
                for place, (_, contents, _) in enumerate(self._prompts)
                if _stand_in(contents, squeezed)
            }
            most = max(sizes.values(), default=0)
            self._texts[text] = [place for place, size in sizes.items() if size == most]
        return self._texts[text]


def _stand_in(contents: Sequence[str], text: str) -> bool:
    place = 0
    for content in contents:
        place = text.find(content, place)
        if place < 0:
            return False
        place += len(content)
    return bool(contents)


def _squeezed(text: str) -> str:
    """Without white space: templates trim, and tokenizers do not always give it back as it was."""
    return "".join(text.split())


def _key(messages: Sequence[Message]) -> str:
    return json.dumps([[message.get("role"), message.get("content")] for message in messages])


def _same(answer: Any, logged: Any) -> bool:
    return logged is not None and (answer == logged or json.dumps(answer, default=str) == logged)

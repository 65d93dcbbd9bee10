"""The prompts of a world with every way to spell their answers, and how likely a policy is to give them.

A world is a folder that `head_to_head/study.py` or `worlds.py` made: `model`, `scored` and `heldout`. The
verifier `exact` judges the stripped text of a completion, which several rows of tokens may spell, so an
accuracy is a sum over all of them. White space around an answer, special tokens in it and `<answer>` marks
are left out: of 6,434 right samples of the study's model 2 had them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from policy import Policy, Tensor, Trees, trees

from gaincurate.core.rng import Floats, Ints
from gaincurate.core.scored_set import ScoredSet

LONGEST = 10
"""Tokens of a completion at most, as in the study."""
_CHUNK = 128  # prompts of one pass: what it holds stays in the cache of a processor


class World:
    """What the arms choose from, what they are judged on, and the model that they begin with.

    Args:
        folder: of the world.
        every: take each so manieth prompt of the set that is chosen from.
    """

    def __init__(self, folder: Path, every: int = 1) -> None:
        self.folder, self.model = folder, folder / "model"
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.model)
        self.scored = ScoredSet(folder / "scored")
        heldout = ScoredSet(folder / "heldout")
        self.rows: Ints = np.arange(0, len(self.scored), every)
        """`[N]`: the rows of the scored set that are chosen from."""
        self.prompts = Prompts(self.scored, self.rows, self.tokenizer)
        self.heldout = Prompts(heldout, np.arange(len(heldout)), self.tokenizer)

    def policy(self) -> Policy:
        """The model at the start."""
        return Policy(self.model)


class Prompts:
    """Rows of a scored set as tokens.

    Args:
        scored: the set, with the columns `question`, `answer`, `source` and `level`.
        rows: `[N]`, which of its rows.
        tokenizer: with a chat template.
    """

    def __init__(self, scored: ScoredSet, rows: Ints, tokenizer: Any) -> None:
        self.tokenizer, taken = tokenizer, scored.take(rows)
        questions, self.answers = (taken.column(name).to_pylist() for name in ("question", "answer"))
        columns = (taken.column(name).to_pylist() for name in ("source", "level"))
        self.tasks = np.array([f"{source} {level}" for source, level in zip(*columns, strict=True)])
        """`[N]`: task and level."""
        self.tokens: list[list[int]] = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
            )
            for question in questions
        ]
        spell = Speller(tokenizer)
        self.spellings = [spell(answer) for answer in self.answers]
        self._trees: list[tuple[Ints, Trees, Tensor]] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def accuracies(self, policy: Policy) -> Floats:
        """`[N]`: the chance that a completion of each prompt is right."""
        found = np.zeros(len(self))
        with torch.no_grad():
            for places, values in self.chunks(policy):
                found[places] = values.double().numpy()
        return found

    def chunks(self, policy: Policy) -> Iterator[tuple[Ints, Tensor]]:
        """Places and their accuracies `[places]`, which gradients go through, in chunks of like length."""
        if not self._trees:
            sizes = [len(t) + sum(map(len, s)) for t, s in zip(self.tokens, self.spellings, strict=True)]
            order = np.argsort(sizes, kind="stable")
            for start in range(0, len(order), _CHUNK):
                places = order[start : start + _CHUNK]
                spellings = [self.spellings[place] for place in places]
                batch = trees([self.tokens[place] for place in places], spellings)
                owners = np.repeat(np.arange(len(places)), [len(each) for each in spellings])
                self._trees.append((places, batch, torch.from_numpy(owners)))
        for places, batch, owners in self._trees:
            scored = policy.log_probs(batch)
            likelihoods = scored.new_zeros(len(owners)).index_add(0, batch.branch, scored).exp()
            yield places, scored.new_zeros(len(places)).index_add(0, owners, likelihoods)


class Speller:
    """All rows of tokens whose text is an answer, with the end where there is room for it.

    Args:
        tokenizer: of byte pairs.
    """

    def __init__(self, tokenizer: Any) -> None:
        special = set(tokenizer.all_special_ids)
        texts = {i: tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in special}
        self._ids = {text: i for i, text in texts.items() if text.isascii()}
        self._widest = max(map(len, self._ids))
        self._end = tokenizer.eos_token_id

    def __call__(self, answer: str) -> list[list[int]]:
        """Each row has `LONGEST` tokens at most. None where an answer needs more.

        Raises:
            ValueError: the answer has characters that more than one token makes up.
        """
        if not answer.isascii():
            raise ValueError(f"the answer {answer!r} is not ASCII, and the loop spells no other")
        whole = [tokens for tokens in self._parts(answer) if len(tokens) <= LONGEST]
        return [tokens + [self._end] * (len(tokens) < LONGEST) for tokens in whole]

    def _parts(self, text: str) -> Iterator[list[int]]:
        if not text:
            yield []
        for width in range(1, min(len(text), self._widest) + 1):
            if (token := self._ids.get(text[:width])) is not None:
                for rest in self._parts(text[width:]):
                    yield [token, *rest]

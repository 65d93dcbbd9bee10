"""slime's samples: takes a row, yields its group as slime's own `Dataset` makes it; takes a generated group,
yields its outcomes. Knows nothing of which prompts are handed out.
"""

from __future__ import annotations

import copy
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.schema import ID
from gaincurate.trainers.base import ROUND
from gaincurate.trainers.shared import not_installed

try:
    from slime.utils.data import Dataset
    from slime.utils.processing_utils import load_processor, load_tokenizer
except ImportError as error:
    raise not_installed("slime", "624b824a8 (2026-08-21)", error) from error

_SAME = ("multimodal_keys", "metadata_key", "tool_key", "apply_chat_template", "apply_chat_template_kwargs")


class Samples:
    """The samples of one round at a time.

    Args:
        args: slime's.
        run: the run.
    """

    def __init__(self, args: Any, run: Run) -> None:
        self.args, self.run = args, run
        self._tokenizer = load_tokenizer(args.hf_checkpoint, trust_remote_code=True)
        self._processor = load_processor(args.hf_checkpoint, trust_remote_code=True)
        self._made: tuple[int, dict[str, Any]] = (-1, {})

    def group(self, row: Json, number: int) -> list[Any]:
        """Fresh samples of a row, `[n_samples_per_prompt]`, with `gc_id` and `gc_round` in their metadata.

        Raises:
            InputError: a key names no column.
        """
        if self._made[0] != row[ROUND]:
            self._made = (row[ROUND], self._make(row))
        size = self.args.n_samples_per_prompt
        group = [copy.deepcopy(self._made[1][row[ID]]) for _ in range(size)]
        for k, sample in enumerate(group):
            sample.group_index, sample.index = number, number * size + k
            sample.metadata = {**(sample.metadata or {}), ID: row[ID], ROUND: row[ROUND]}
        return group

    def _make(self, row: Json) -> dict[str, Any]:
        keys = {"--input-key": self.args.input_key, "--label-key": self.args.label_key}
        columns = [name for name in row if name != ROUND]
        for option, key in keys.items():
            if key is not None and key not in columns:
                raise InputError(f"{option} {key}: the run's rows have no such column; {', '.join(columns)}.")
        made = Dataset(
            str(self.run.data(row[ROUND])),
            self._tokenizer,
            self._processor,
            None,  # no longest prompt: what slime left out here would be missing in the round
            prompt_key=self.args.input_key,
            label_key=self.args.label_key,
            **{name: getattr(self.args, name) for name in _SAME},
        )
        return dict(zip(self.run.ids(row[ROUND]), made.samples, strict=True))


def outcomes(args: Any, group: list[Any], step: int) -> list[Json]:
    """A group's lines, one a sample; of a rollout that was split into many samples the last one counts."""
    lines = []
    for k, sample in enumerate(one[-1] if isinstance(one, list) else one for one in group):
        reward = None if sample.reward is None else float(sample.get_reward_value(args))
        head = {ID: sample.metadata[ID], "round": sample.metadata[ROUND], "step": step, "sample": k}
        lines.append({**head, "reward": reward, "tokens": sample.response_length})
    return lines

"""A rollout group: one prompt's rollouts by one policy, with everything needed to train on them later.

A trainer's arrays are checked and copied once, and are read-only afterwards. A group is stored, drawn and
dropped as a whole, because an advantage is relative to the other rollouts of its group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gaincurate.core.foreign import json_value
from gaincurate.errors import OutcomeError

Tokens = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Key = tuple[str, int, int]
"""The identity of a group: id, policy version, step."""
Convention = Literal["sampled", "tempered", "raw"]
"""The distribution of the log-probs: `sampled` is the one that was sampled, with temperature and top-p;
`tempered` has the temperature but not top-p; `raw` is the model's, at temperature 1."""

_SLACK = 1e-3  # a log-softmax in half precision may be slightly above 0


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """`G` rollouts of one prompt by one policy. Lengths are ragged: completion i has `L_i` tokens.

    All arrays are copied to the types below and are read-only, so that log-probs stay those of collection.

    Args:
        gc_id: the id of the prompt.
        prompt_ids: `[P]` int32, without padding.
        completion_ids: G arrays `[L_i]` int32, without padding.
        mask: G arrays `[L_i]` bool; False for a token that is not the policy's (a tool's answer) or is left
            out of the loss.
        logprobs: G arrays `[L_i]` float32, natural logarithms under the policy that generated; 0 if the mask
            is False and there is none.
        rewards: `[G]` float64, as the trainer has them, shaped or not.
        correct: `[G]` float64, raw correctness before any shaping, from 0 to 1, or booleans; only exact
            equality matters.
        advantages: `[G]` float64, as they were when the group was fresh.
        policy_version: the version of the weights that generated, from 0; it rises when they change.
        step: the trainer's step at which the group was generated, from 0.
        temperature: the sampling temperature, above 0.
        top_p: the sampling top-p, in (0, 1].
        logprobs_of: see `Convention`.
        extra: a mapping with further values that the trainer needs, of types that JSON has.

    Raises:
        OutcomeError: a value cannot be used; names the prompt, the rollout and the value.
    """

    gc_id: str
    prompt_ids: Tokens
    completion_ids: tuple[Tokens, ...]
    mask: tuple[Mask, ...]
    logprobs: tuple[Floats32, ...]
    rewards: Floats
    correct: Floats
    advantages: Floats
    policy_version: int
    step: int
    temperature: float = 1.0
    top_p: float = 1.0
    logprobs_of: Convention = "sampled"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.gc_id, str) or not self.gc_id:
            raise OutcomeError(f"a rollout group's gc_id is {self.gc_id!r}, not a text.")
        where = f"rollout group of prompt {self.gc_id!r}"
        put = partial(object.__setattr__, self)
        for name in ("policy_version", "step"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
                raise OutcomeError(f"{where}: {name} is {value!r}, not a whole number from 0.")
            put(name, int(value))
        try:
            put("extra", json_value(json.dumps(dict(self.extra), allow_nan=False, sort_keys=True)))
        except (TypeError, ValueError) as error:
            raise OutcomeError(f"{where}: extra is no JSON: {error}.") from error
        put("prompt_ids", _array(self.prompt_ids, np.int32, "prompt_ids", where))
        for name, kind in (("completion_ids", np.int32), ("mask", np.bool_), ("logprobs", np.float32)):
            values = enumerate(getattr(self, name))
            put(name, tuple(_array(each, kind, f"{name} of rollout {i}", where) for i, each in values))
        for name in ("rewards", "correct", "advantages"):
            put(name, _array(getattr(self, name), np.float64, name, where))
        for fault in _faults(self):
            raise OutcomeError(f"{where}{fault}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling must call the constructor, or the arrays of the copy would be writable.
        return type(self), tuple(getattr(self, field_.name) for field_ in fields(self))

    @property
    def size(self) -> int:
        """The number of rollouts, G."""
        return len(self.rewards)

    @property
    def rollouts(self) -> Iterator[tuple[Tokens, Mask, Floats32]]:
        """Token ids, mask and log-probs of each rollout."""
        return zip(self.completion_ids, self.mask, self.logprobs, strict=True)

    @property
    def key(self) -> Key:
        """The identity of the group; see `Key`."""
        return (self.gc_id, self.policy_version, self.step)

    @property
    def informative(self) -> bool:
        """Whether the rollouts differ in raw correctness, compared exactly."""
        return bool((self.correct != self.correct[0]).any())

    @property
    def tokens(self) -> int:
        """Completion tokens of all rollouts, masked ones included."""
        return sum(map(len, self.completion_ids))

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take: 9 per completion token, 4 per prompt token, 24 per rollout."""
        arrays = [*self.completion_ids, *self.mask, *self.logprobs, self.prompt_ids]
        return sum(array.nbytes for array in [*arrays, self.rewards, self.correct, self.advantages])


def _array(values: Any, kind: type[np.generic], name: str, where: str) -> npt.NDArray[Any]:
    """A read-only copy with one dimension; raises OutcomeError for other shapes, and floats as token ids."""
    array = np.asarray(values)
    casting: Any = "unsafe" if kind is np.bool_ or not array.size else "same_kind"
    if array.ndim != 1 or not np.can_cast(array.dtype, kind, casting):
        raise OutcomeError(f"{where}: {name} is {array.dtype} {array.shape}, not 1-D {kind.__name__}.")
    with np.errstate(over="ignore"):  # a log-prob too small for float32 is refused as an infinity
        copied = array.astype(kind)
    copied.flags.writeable = False
    return copied


def _faults(group: RolloutGroup) -> Iterator[str]:
    """The reasons why a loss cannot use the group's values, each as the end of a sentence about the group."""
    if not (math.isfinite(group.temperature) and group.temperature > 0):
        yield f": temperature is {group.temperature!r}; it must be above 0 (greedy has no log-probs)."
    if group.size < 2:
        yield f" has {group.size} rollouts; without two there is nothing to compare."
    if not len(group.prompt_ids):
        yield " has an empty prompt."
    for name in ("completion_ids", "mask", "logprobs", "correct", "advantages"):
        if (count := len(getattr(group, name))) != group.size:
            yield (
                f" has {group.size} rewards and {count} {name}: a group is stored whole or not at all. Where "
                "processes share a group, gather it first."
            )
    for index, (ids, mask, logprobs) in enumerate(group.rollouts):
        if not len(ids) == len(mask) == len(logprobs):
            yield f": rollout {index}: {len(ids)} completion_ids, {len(mask)} mask, {len(logprobs)} logprobs."
        if not (np.isfinite(logprobs) & (logprobs <= _SLACK)).all():
            why = f": logprobs of rollout {index} has a value that is not finite or above 0."
            yield f"{why} Put 0 for a token without one, and set its mask to False."
    if min(int(ids.min(initial=0)) for ids in (group.prompt_ids, *group.completion_ids)) < 0:
        yield " has token ids below 0: remove the padding first."
    for name in ("rewards", "correct", "advantages"):
        if not np.isfinite(getattr(group, name)).all():
            yield f": {name} has a value that is not finite. Leave out a group that could not be judged."
    if not (group.correct.min() >= 0 and group.correct.max() <= 1):
        yield ": correct has values outside 0 to 1; give it before any shaping."

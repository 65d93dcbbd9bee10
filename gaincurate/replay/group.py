"""A rollout group: one prompt's rollouts by one policy, with all that is needed to train on them later.

What a trainer hands in, as arrays of any kind, is checked and copied once and cannot be changed after. The
group is the unit of everything here: it is stored, drawn and dropped whole, because an advantage is relative
to the other rollouts of its group.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from gaincurate.core.foreign import json_value
from gaincurate.errors import OutcomeError

Tokens = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Key = tuple[str, int, int]
"""What makes two groups the same: id, policy version, step."""
Convention = Literal["sampled", "tempered", "raw"]
"""Of which distribution the log-probs are: `sampled` is the one that was drawn from, temperature and top-p
applied; `tempered` has the temperature and not top-p; `raw` is the model's own, at temperature 1."""

_SLACK = 1e-3  # a log-softmax in half precision may come out a little above 0


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """`G` rollouts of one prompt by one policy. Lengths are ragged: `L_i` tokens in completion i.

    Whatever comes in is copied to the types below and is read-only from then on: a log-prob of the behaviour
    policy is what it was at collection, always.

    Args:
        gc_id: of the prompt.
        prompt_ids: `[P]` int32, without padding.
        completion_ids: G arrays `[L_i]` int32, without padding.
        mask: G arrays `[L_i]` bool; False where a token is not the policy's (a tool's answer) or is left out
            of the loss.
        logprobs: G arrays `[L_i]` float32, natural logarithms under the policy that generated; 0 where the
            mask is False and there is none.
        rewards: `[G]` float64, as the trainer has them, shaped or not.
        correct: `[G]` float64, raw correctness before any shaping, from 0 to 1 (booleans are); only whether
            they are exactly equal counts.
        advantages: `[G]` float64, as they were when the group was fresh.
        policy_version: of the weights that generated, from 0, rising as they change.
        step: the trainer's, at which the group was generated, from 0.
        temperature: that was sampled with, above 0.
        top_p: that was sampled with, in (0, 1].
        logprobs_of: see `Convention`.
        extra: what a trainer needs besides, in JSON.

    Raises:
        OutcomeError: a value that cannot be used; names the prompt, the rollout and the value.
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
        _settings(self, where)
        put = object.__setattr__
        put(self, "policy_version", _whole(self.policy_version, "policy_version", where))
        put(self, "step", _whole(self.step, "step", where))
        put(self, "extra", _json(self.extra, where))
        put(self, "prompt_ids", _tokens(self.prompt_ids, "prompt_ids", where))
        put(self, "completion_ids", _each(self.completion_ids, "completion_ids", where, _tokens))
        put(self, "mask", _each(self.mask, "mask", where, _mask))
        put(self, "logprobs", _each(self.logprobs, "logprobs", where, _logprobs))
        for name in ("rewards", "correct", "advantages"):
            put(self, name, _numbers(getattr(self, name), name, where))
        _shapes(self, where)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, or the arrays of a copy sent to another process could be written to.
        return type(self), tuple(getattr(self, field_.name) for field_ in fields(self))

    @property
    def size(self) -> int:
        """Rollouts, G."""
        return len(self.rewards)

    @property
    def key(self) -> Key:
        """See `Key`."""
        return (self.gc_id, self.policy_version, self.step)

    @property
    def informative(self) -> bool:
        """Whether the rollouts' raw correctness differs, compared exactly."""
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

    def digest(self) -> str:
        """BLAKE2b-128 of all that the group holds, lower-case hex; equal groups have equal ones."""
        state = hashlib.blake2b(digest_size=16)
        lengths = [len(ids) for ids in self.completion_ids]
        about = [*self.key, self.temperature, self.top_p, self.logprobs_of, lengths, self.extra]
        state.update(json.dumps(about, sort_keys=True, ensure_ascii=False).encode())
        numbers = (self.rewards, self.correct, self.advantages)
        for arrays in ((self.prompt_ids,), numbers, self.completion_ids, self.mask, self.logprobs):
            for array in arrays:
                state.update(array.tobytes())
        return state.hexdigest()


def _whole(value: Any, name: str, where: str) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise OutcomeError(f"{where}: {name} is {value!r}, not a whole number from 0.")
    return int(value)


def _settings(group: RolloutGroup, where: str) -> None:
    if not (math.isfinite(group.temperature) and group.temperature > 0):
        raise OutcomeError(
            f"{where}: temperature is {group.temperature!r}; it is above 0, because a greedy rollout has no "
            "log-probs to compare with."
        )
    if not 0 < group.top_p <= 1:
        raise OutcomeError(f"{where}: top_p is {group.top_p!r}; it is above 0 and at most 1.")
    if group.logprobs_of not in get_args(Convention):
        conventions = ", ".join(get_args(Convention))
        raise OutcomeError(f"{where}: logprobs_of is {group.logprobs_of!r}; it is one of {conventions}.")


def _json(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy, as it comes back from a file."""
    try:
        copied: dict[str, Any] = json_value(json.dumps(dict(values), allow_nan=False, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise OutcomeError(f"{where}: extra is no JSON: {error}.") from error
    return copied


def _each(values: Sequence[Any], name: str, where: str, check: Any) -> tuple[Any, ...]:
    return tuple(check(value, f"{name} of rollout {index}", where) for index, value in enumerate(values))


def _read_only_copy(array: npt.NDArray[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
    """A copy that cannot be written to."""
    copied = np.array(array, kind, order="C", copy=True)
    copied.flags.writeable = False
    return copied


def _flat(values: Any, name: str, where: str) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise OutcomeError(f"{where}: {name} has shape {list(array.shape)}, not one dimension.")
    return array


def _tokens(values: Any, name: str, where: str) -> Tokens:
    array = _flat(values, name, where)
    if array.size and array.dtype.kind not in "iu":
        raise OutcomeError(f"{where}: {name} has {array.dtype} in it, not token ids.")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**31:
        raise OutcomeError(
            f"{where}: {name} has {int(array.min())} to {int(array.max())} in it; token ids are from 0 to "
            "2^31 - 1, so take the padding off first."
        )
    return _read_only_copy(array, np.int32)


def _mask(values: Any, name: str, where: str) -> Mask:
    array = _flat(values, name, where)
    if array.dtype != np.bool_ and array.size and not ((array == 0) | (array == 1)).all():
        raise OutcomeError(f"{where}: {name} has other values than 0 and 1.")
    return _read_only_copy(array, np.bool_)


def _numbers(values: Any, name: str, where: str) -> Floats:
    array = _flat(values, name, where)
    if array.dtype.kind not in "biuf":
        raise OutcomeError(f"{where}: {name} has {array.dtype} in it, not numbers.")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise OutcomeError(
            f"{where}: {name} of rollout {place} is {numbers[place]}. A rollout that could not be judged has "
            "no place in a group: leave its group out.",
            rollout=place,
        )
    return _read_only_copy(numbers, np.float64)


def _logprobs(values: Any, name: str, where: str) -> Floats32:
    array = _flat(values, name, where)
    if array.size and array.dtype.kind != "f":
        raise OutcomeError(f"{where}: {name} has {array.dtype} in it, not log-probs.")
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):  # what is too small for the type is caught as an infinity
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise OutcomeError(
            f"{where}: {name} has {array[place]} at token {place}; put 0 where the mask is False and there "
            "is none.",
            token=place,
        )
    if array.size and float(array.max()) > _SLACK:
        raise OutcomeError(
            f"{where}: {name} has {float(array.max()):g} in it, and a log-prob is 0 at most; are these "
            "probabilities, or negated?"
        )
    return _read_only_copy(array, np.float32)


def _shapes(group: RolloutGroup, where: str) -> None:
    size = group.size
    if size < 2:
        raise OutcomeError(f"{where} has {size} rollouts; without two there is nothing to compare.")
    if not len(group.prompt_ids):
        raise OutcomeError(f"{where} has an empty prompt.")
    for name in ("completion_ids", "mask", "logprobs", "correct", "advantages"):
        if (count := len(getattr(group, name))) != size:
            raise OutcomeError(
                f"{where} has {size} rewards and {count} {name}: a group is stored whole or not at all. "
                "Where processes share a group, gather it first."
            )
    low, high = float(group.correct.min()), float(group.correct.max())
    if low < 0 or high > 1:
        raise OutcomeError(
            f"{where}: correct is from {low:g} to {high:g}; it is from 0 to 1, before any shaping."
        )
    for index, ids in enumerate(group.completion_ids):
        for name in ("mask", "logprobs"):
            if (count := len(getattr(group, name)[index])) != len(ids):
                raise OutcomeError(
                    f"{where}: rollout {index} has {len(ids)} completion_ids and {count} {name}.",
                    rollout=index,
                )

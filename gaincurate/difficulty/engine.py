"""Generation engines and their completions.

The types are in a module of their own, so that neither engine loads the packages of the other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gaincurate.difficulty.prompts import Prompt

Key = tuple[str, int]
"""A prompt's id and the number of the sample, from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion. `tokens` and `prompt_tokens` are counts; None where the engine does not report them.

    `logprobs` is `[tokens]`, float32, natural logarithms; `token_ids` is `[tokens]`, int32.
    """

    gc_id: str
    sample: int
    text: str
    finish_reason: str | None
    tokens: int | None
    prompt_tokens: int | None
    logprobs: npt.NDArray[np.float32] | None = None
    token_ids: npt.NDArray[np.int32] | None = None

    @property
    def key(self) -> Key:
        """Which completion it is."""
        return self.gc_id, self.sample


@dataclass(frozen=True, slots=True)
class Refused:
    """A prompt that the engine cannot take, and why."""

    gc_id: str
    reason: str


class Engine(Protocol):
    """Generates; `identity` is all of it that can change a completion."""

    identity: dict[str, Any]

    def generate(
        self, prompts: Sequence[Prompt], done: frozenset[Key]
    ) -> Generator[list[Completion | Refused]]:
        """All samples of the prompts but those in `done`, in parts, as they get finished.

        Whatever was yielded is final. All prompts of a shard are given, also those that are done: what an
        engine makes of the rest may depend on how they are put together, not on when a run was killed.
        """

    def close(self) -> None:
        """Free what it holds."""


def request_seed(seed: int, gc_id: str, sample: int) -> int:
    """A seed of 31 bits for one completion, which every server takes."""
    text = f"{seed}\n{sample}\n{gc_id}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "little") >> 1

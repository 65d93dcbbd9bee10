"""From packed final states to each prompt's embedding; knows nothing of models or files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Embedding = npt.NDArray[np.float16]


def embeddings(final: Tensor, questions: Tensor) -> list[Embedding | None]:
    """Each prompt's mean final state over its question, `[width]`; None where it is not finite.

    Args:
        final: `[tokens, width]`, the output of the norm behind the last layer, in the model's dtype.
        questions: `[prompts, 2]`, the rows of each prompt's question.

    The mean is taken in float32 and stored in float16, so one beyond 65,504 counts as not finite.
    """
    with np.errstate(over="ignore"):
        found = means(final, questions).cpu().numpy().astype(np.float16)
    return [row if np.isfinite(row).all() else None for row in found]


def means(final: Tensor, questions: Tensor) -> Tensor:
    """The same before they are stored: `[prompts, width]` in float32."""
    return torch.stack([final[begin:end].float().mean(0) for begin, end in questions.tolist()])

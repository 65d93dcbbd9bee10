"""Speed on a CPU: matrix products with weights laid out once, and freed memory kept.

oneDNN multiplies from a layout of its own. torch converts weights to it at every product, and we do it once
per model. glibc gives freed memory back to the system, and a pass would ask for it again a million times.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 1024  # that a layout is chosen for; any other number of rows runs from it too
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST = 32 * 2**20  # that may come from the heap at all; larger ones still go back at once
_KEPT_FREE = 256 * 2**20  # free at the heap's end before that is cut
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_PRODUCTS = "128"  # a batch of 1,024 tokens has 44 lengths at most, of two products each, and the layers' own


def settle_memory() -> bool:
    """Let the process keep what it frees, and oneDNN few products. What the environment says goes first.

    Returns:
        Whether freed memory is kept: the C library is glibc, and nothing else was asked of it.
    """
    for name in _CACHES:
        os.environ.setdefault(name, _PRODUCTS)
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _MALLOC_VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _KEPT_FREE))


class LaidOut:
    """The linear layers of a model, exchanged for ones that multiply from oneDNN's layout; for inference.

    Weights that another module uses too are left alone, and so is whatever is not just an `nn.Linear`. There
    are none where it was never measured: on another device, in another dtype than float32 and bfloat16, on a
    processor without AVX.
    """

    def __init__(self, model: nn.Module) -> None:
        uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
        # A forward of a layer's own, as hooks set it, reads the weight as it was.
        plain = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
        self._layers: list[Any] = [m for m in plain if uses[id(m.weight)] == 1 and _can_be_laid_out(m.weight)]

    def __len__(self) -> int:
        """How many layers are exchanged, or can be."""
        return len(self._layers)

    def take(self) -> None:
        """Lay all weights out, one after the other, so that only one of them is there twice."""
        for layer in self._layers:
            if not layer.weight.is_mkldnn:
                weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)
                layer.weight = nn.Parameter(weight, requires_grad=False)
                layer.__class__ = _Linear

    def give_back(self) -> None:
        """The layers as they were, with the same bits, in parameters that are not trained."""
        for layer in self._layers:
            if layer.weight.is_mkldnn:
                layer.weight = nn.Parameter(layer.weight.detach().to_dense(), requires_grad=False)
                layer.__class__ = nn.Linear


class _Linear(nn.Linear):
    """A linear layer whose weight is in oneDNN's layout; for inference."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def _can_be_laid_out(weight: Tensor) -> bool:
    """Whether this weight can be laid out here. torch compiles its own graphs to these two operators."""
    operators: Any = torch.ops.mkldnn
    of_the_kind = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    if not (weight.numel() and of_the_kind and torch.backends.cpu.get_cpu_capability().startswith("AVX")):
        return False
    try:
        operators._reorder_linear_weight(torch.zeros(1, 1, dtype=weight.dtype), _ROWS)
    except (AttributeError, RuntimeError):  # an older torch, or a dtype that this processor does not multiply
        return False
    return hasattr(operators, "_linear_pointwise")

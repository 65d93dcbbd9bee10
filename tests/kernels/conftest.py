"""What the kernels' tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was not written holds NaN, or for integers the least number."""
    empty = torch.empty

    def poison(*shape: Any, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        return made.fill_(torch.nan if made.is_floating_point() else torch.iinfo(made.dtype).min)

    monkeypatch.setattr(torch, "empty", poison)

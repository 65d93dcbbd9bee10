from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import tiny
from architectures import ARCHITECTURES, Architecture, in_tiers, plain_states
from gaincurate.errors import ModelError
from gaincurate.scoring.model import find_model, load_config, load_model
from gaincurate.scoring.prefill import Prefill, Site
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels.reference import normalised

SHAPES = [(0, 7), (5, 1), (4, 23), (11, 12), (1, 40)]  # prefix and question; the window is 8
TAIL = 3


@dataclass(frozen=True)
class Pair:
    """The whole model as a trainer has it, and the same weights as scoring loads them."""

    architecture: Architecture
    whole: Any
    loaded: Any

    def layer(self, index: int) -> Any:
        return self.loaded.get_submodule(self.architecture.layers)[index]


@pytest.fixture(scope="module", params=in_tiers(ARCHITECTURES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    whole = tiny.model(request.param.config())
    whole.save_pretrained(folder)
    files = find_model(str(folder))
    return Pair(request.param, whole, load_model(files, load_config(files), device="cpu", dtype="float32"))


def prompts(seed: int = 0) -> list[Segmented]:
    random = np.random.default_rng(seed)
    return [Segmented(random.integers(3, 500, p + q + TAIL).astype(np.int32), p, p + q) for p, q in SHAPES]


def plain(pair: Pair, rows: list[Segmented], site: Site, layer: int = -1, side: str = "left") -> list[Tensor]:
    """Hooked at the norm that feeds the block, or at the one behind the last layer."""
    base = pair.whole.base_model
    norm = base.get_submodule(pair.architecture.final)
    if site == "mlp_input":
        norm = base.get_submodule(pair.architecture.layers)[layer].get_submodule(pair.architecture.norm)
    return plain_states(base, norm, rows, side)


def rows_of(prefill: Prefill, rows: list[Segmented]) -> list[Tensor]:
    states = prefill(rows)
    hidden = states.hidden if states.norm is None else normalised(states.hidden, states.norm)
    assert states.prefixes[:, 1].tolist() == states.questions[:, 0].tolist()
    assert states.prefixes.diff().flatten().tolist() == [row.prefix for row in rows]
    assert states.questions.diff().flatten().tolist() == [row.question_tokens for row in rows]
    ends = states.questions[:, 1].tolist()
    assert ends[-1] == len(hidden)
    return [hidden[begin:end] for begin, end in zip(states.prefixes[:, 0].tolist(), ends, strict=True)]


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference, relative to the largest value."""
    scale = max(float(t.abs().max()) for t in a)
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / scale


@pytest.mark.parametrize(
    ("site", "layer", "side", "fuse"),
    [
        ("mlp_input", -1, "left", True),
        ("mlp_input", -1, "right", False),
        ("mlp_input", 0, "left", True),
        ("final_norm", -1, "left", False),
        ("final_norm", -1, "right", True),
    ],
)
def test_states_equal_a_plain_forwards(
    pair: Pair, site: Site, layer: int, side: str, fuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fuse:
        monkeypatch.setattr("gaincurate.scoring.prefill.norm_before", lambda model, run: None)
    prefill = Prefill(pair.loaded, layer=layer, site=site)
    assert (prefill.norm is not None) == (fuse and pair.architecture.has_rms_norm)
    found = rows_of(prefill, prompts())
    expected = plain(pair, prompts(), site, layer, side)
    assert gap(expected, found) < 1e-5
    assert gap(expected, plain(pair, prompts(1), site, layer, side)) > 0.1


@pytest.mark.parametrize("layer", [-1, 1])
def test_nothing_behind_the_site_is_computed(pair: Pair, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = Prefill(pair.loaded, layer=layer)
    expected = rows_of(prefill, prompts())

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed for nothing")

    block = pair.layer(layer).get_submodule(pair.architecture.block)
    parts = [block, pair.loaded.get_submodule(pair.architecture.final)]
    if layer == 1:
        parts.append(pair.layer(2))
    for part in parts:
        monkeypatch.setattr(part, "forward", never)
    assert gap(expected, rows_of(prefill, prompts())) == 0
    with pytest.raises(AssertionError, match="computed for nothing"):
        Prefill(pair.loaded, site="final_norm")
    assert not [name for name, _ in pair.loaded.named_modules() if name.endswith(("lm_head", "embed_out"))]


def test_the_tail_is_neither_computed_nor_felt(pair: Pair) -> None:
    prefill, rows = Prefill(pair.loaded), prompts()
    tails = [np.append(row.token_ids[: row.end], [9, 8]).astype(np.int32) for row in rows]
    others = [Segmented(ids, row.prefix, row.end) for ids, row in zip(tails, rows, strict=True)]
    assert gap(rows_of(prefill, rows), rows_of(prefill, others)) == 0
    assert [len(states) for states in rows_of(prefill, rows)] == [row.end for row in rows]


@pytest.mark.parametrize("site", ["mlp_input", "final_norm"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_model_that_looks_ahead_is_refused(kind: str, site: Site) -> None:
    made = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **tiny.COMMON)).eval()
    with pytest.raises(ModelError, match=f"{kind} is not causal"):
        Prefill(made, site=site)


def test_a_model_without_feed_forward_blocks_is_refused_and_told_the_other_site() -> None:
    made = transformers.AutoModel.from_config(transformers.MambaConfig(**tiny.COMMON, state_size=4)).eval()
    with pytest.raises(ModelError, match=r"feed-forward block in layer 2 of mamba.*use --site final_norm"):
        Prefill(made)
    states = rows_of(Prefill(made, site="final_norm"), prompts())
    assert list(map(len, states)) == [row.end for row in prompts()]

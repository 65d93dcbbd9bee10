"""The output head run apart from the layers, so that logits exist for a few tokens at a time.

A model's own forward makes the logits, with its decoder's result put in its place. So soft caps, scales and
tied embeddings are the model's own, and no architecture is listed. That it works is tried on real prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaincurate.errors import InputError, ModelError
from gaincurate.scoring.prefill import Prefill
from gaincurate.scoring.segment import Segmented

ENTRY_BYTES = 12
"""What an entry of the logits may take at a time: itself, a copy that a soft cap makes of it, and room for
what is made of a part of them, each as a float32."""
_MIB = 2**20
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float64: 1e-5}
_TRIAL_COPIES = 4  # of the logits that a trial holds


class Head:
    """A model's own way from final states to logits.

    Args:
        whole: a transformers decoder with its head.
        memory: MiB that the logits of a chunk, and what is made of them, may take.

    Raises:
        ModelError: the model gives no logits, or how it comes to them is not understood.
        InputError: the logits of one token take more than `memory`.
    """

    def __init__(self, whole: nn.Module, memory: int) -> None:
        self._whole: Any = whole
        self._device = next(whole.parameters()).device
        self.decoder: Any = self._whole.base_model
        """The model without its head."""
        if self.decoder is whole:
            raise self._refused("it has no decoder of its own")
        self._answerer, self._result, logits = self._probe()
        self.rows = chunk_rows(memory, logits.shape[-1])
        """The most tokens in a chunk."""

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """`[tokens, vocabulary]` for final states `[tokens, width]`; the caller may overwrite them."""
        result = type(self._result)(**{**self._result, "last_hidden_state": states[None]})
        ids = torch.zeros(1, len(states), dtype=torch.long, device=self._device)
        with _answering(self._answerer, result):
            logits: Tensor = self._whole(input_ids=ids, use_cache=False).logits
        return logits[0]

    @torch.inference_mode()
    def try_on(self, prefill: Prefill, prompts: Sequence[Segmented]) -> None:
        """Compare with the model's own plain forward.

        Args:
            prefill: the same model's, with final states and its own attention.
            prompts: a few real ones; their first tokens are tried, as many as the memory allows.

        Raises:
            ModelError: the logits differ by more than rounding, or the head cannot be run like this.
        """
        for prompt in prompts:
            tokens = prompt.token_ids[: min(prompt.end, max(1, self.rows // _TRIAL_COPIES))]
            ids = torch.from_numpy(tokens).long()[None].to(self._device)
            expected = self._whole(input_ids=ids, use_cache=False).logits[0]
            try:
                _, final = prefill.both(ids)
                assert final is not None
                logits = self.logits(final[0])
            except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise self._refused(f"{type(error).__name__}: {error}") from error
            off = _gap(logits, expected)
            if not off <= _TOLERANCES[expected.dtype]:
                raise self._refused(f"logits differ from a plain forward's by {off:.1e}")

    @torch.inference_mode()
    def _probe(self) -> tuple[nn.Module, Any, Tensor]:
        """The module whose result the head is given (not always the decoder itself), one such result, and
        the logits of two tokens.
        """
        answers: list[tuple[nn.Module, Any]] = []

        def note(module: nn.Module, _: Any, result: Any) -> None:
            if isinstance(getattr(result, "last_hidden_state", None), Tensor):
                answers.append((module, result))

        inner = [module for module in self._whole.modules() if module is not self._whole]
        handles = [module.register_forward_hook(note) for module in inner]
        try:
            result = self._whole(input_ids=torch.tensor([[0, 1]], device=self._device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        logits = getattr(result, "logits", None)
        if not answers or not isinstance(logits, Tensor):
            raise self._refused("it does not say where its layers end")
        # The outermost one answers last.
        return *answers[-1], logits

    def _refused(self, reason: str) -> ModelError:
        return ModelError(
            f"the output head of {self._whole.config.model_type} cannot be run apart from its layers: "
            f"{reason}. Leave nll and entropy out of --signals."
        )


def chunk_rows(memory: int, vocabulary: int) -> int:
    """How many tokens' logits may be there at a time.

    Args:
        memory: MiB.
        vocabulary: entries of one token's logits.

    Raises:
        InputError: not even one token's.
    """
    rows = memory * _MIB // (vocabulary * ENTRY_BYTES)
    if rows < 1:
        least = -(-vocabulary * ENTRY_BYTES // _MIB)
        raise InputError(
            f"--logits-memory {memory}: one token's logits over {vocabulary:,} entries take {least} MiB; "
            f"give --logits-memory {least} or more."
        )
    return rows


@contextmanager
def _answering(module: nn.Module, result: Any) -> Iterator[None]:
    """The module answers with `result`, whatever it is asked."""
    module.forward = lambda *args, **kwargs: result
    try:
        yield
    finally:
        del module.forward


def _gap(logits: Tensor, expected: Tensor) -> float:
    """The largest difference of a token's logits, as a share of their length.

    Both may have the same that is not finite: a row's fault, and not of how it is run.
    """
    if logits.shape != expected.shape:
        return float("inf")
    got, wanted = logits.float(), expected.float()
    alike = (got == wanted) | (got.isnan() & wanted.isnan())
    length = wanted.nan_to_num(0.0, 0.0, 0.0).norm(dim=-1).clamp(min=1e-30)
    return float((torch.where(alike, 0.0, got - wanted).norm(dim=-1) / length).max())

"""All signals of a batch: angles, NLL and entropy of the question, and its mean embedding.

A prefix that prompts share is summed once for all of them; sharing changes scores only by rounding. The head
runs apart from the layers, on a few tokens at a time, because the logits of a whole batch would be larger
than the model. The model's own forward computes the logits, with the decoder replaced by its stored result,
so soft caps, scales and tied embeddings are the model's own and no list of architectures is needed. This is
tried on real prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gaincurate.core.schema import Score
from gaincurate.errors import ModelError
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.prefill import PackedStates, Prefill, SharedPrefix, hooked
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import Backend, UnitSums, angle_concentration, segment_unit_sums

LOGITS_MEMORY = 512
"""MiB for the logits of a chunk and the tensors computed from them."""
ENTRY_BYTES = 12
"""Memory for one logit: itself, its copy by a soft cap, and a value computed from it, each in float32."""
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3, torch.float64: 1e-5}
_TRIAL_COPIES = 4  # of the logits that a trial holds
_PARTS = 8  # of a chunk's logits, measured one after the other
_LEAST = -1e30  # in place of minus infinity
_NOT_FINITE = "its hidden states are not finite"


class Head:
    """Computes logits from final states as the model's own forward does.

    `whole` is a transformers decoder with its head. The logits of a chunk and the tensors computed from them
    take at most `memory` MiB.

    Raises:
        ModelError: the decoder cannot be separated from the head.
    """

    def __init__(self, whole: nn.Module, memory: int = LOGITS_MEMORY) -> None:
        self._whole: Any = whole
        self._device = next(whole.parameters()).device
        self.decoder: Any = self._whole.base_model  # without its head
        if self.decoder is whole:
            raise self._refused("it has no decoder of its own")
        answers: list[tuple[nn.Module, Any]] = []

        def note(module: nn.Module, _: Any, result: Any) -> None:
            if isinstance(getattr(result, "last_hidden_state", None), Tensor):
                answers.append((module, result))

        inner = (module for module in whole.modules() if module is not whole)
        with torch.inference_mode(), hooked(module.register_forward_hook(note) for module in inner):
            result = whole(input_ids=torch.tensor([[0, 1]], device=self._device), use_cache=False)
        logits = getattr(result, "logits", None)
        if not answers or not isinstance(logits, Tensor):
            raise self._refused("it does not say where its layers end")
        # The head reads the result of the outermost module, which ends last and is not always the decoder.
        self._answerer, self._result = answers[-1]
        self.rows = max(1, memory * 2**20 // (logits.shape[-1] * ENTRY_BYTES))  # the most tokens in a chunk

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """`[tokens, vocabulary]` for final states `[tokens, width]`; the caller may overwrite them."""
        result = type(self._result)(**{**self._result, "last_hidden_state": states[None]})
        ids = torch.zeros(1, len(states), dtype=torch.long, device=self._device)
        self._answerer.forward = lambda *args, **kwargs: result
        try:
            logits: Tensor = self._whole(input_ids=ids, use_cache=False).logits
        finally:
            del self._answerer.forward
        return logits[0]

    @torch.inference_mode()
    def try_on(self, prefill: Prefill, prompts: Sequence[Segmented]) -> None:
        """Compare with the model's own plain forward, on as many first tokens as fit into the memory.

        `prefill` runs the same model, with final states and its own attention.

        Raises:
            ModelError: the logits differ by more than rounding.
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

    def _refused(self, reason: str) -> ModelError:
        return ModelError(
            f"the output head of {self._whole.config.model_type} cannot be run apart from its layers: "
            f"{reason}. Leave nll and entropy out of --signals."
        )


def _gap(logits: Tensor, expected: Tensor) -> float:
    """The largest relative difference of a token's logits; equal entries that are not finite are ignored."""
    if logits.shape != expected.shape:
        return float("inf")
    got, wanted = logits.float(), expected.float()
    alike = (got == wanted) | (got.isnan() & wanted.isnan())
    length = wanted.nan_to_num(0.0, 0.0, 0.0).norm(dim=-1).clamp(min=1e-30)
    return float((torch.where(alike, 0.0, got - wanted).norm(dim=-1) / length).max())


def angle_scores(
    states: PackedStates,
    prompts: Sequence[Segmented],
    *,
    inter_weight: float = 1.0,
    backend: Backend = "auto",
) -> list[tuple[Score | None, int]]:
    """Per prompt of a batch: its score (None if its hidden states are not finite) and its zero vectors.

    `angle` = `angle_intra` + `inter_weight` * `angle_inter` (GAIN-RL, arXiv 2506.02281: weight 1). Without a
    prefix there is no inter term and `angle` = `angle_intra`. A zero vector counts as a token and adds 0.
    """
    count = len(prompts)
    bounds = torch.cat([states.questions, states.prefixes])  # [2 * prompts, 2]
    sums = segment_unit_sums(states.hidden, bounds, norm=states.norm, backend=backend)
    # The prompts' own prefixes, then the shared ones; `rows` is the row of each prompt's prefix.
    prefixes, row_of = [sums.rows(count, 2 * count)], dict[SharedPrefix | None, int]()
    for prefix in dict.fromkeys(prefix for prefix in states.shared if prefix is not None):
        row_of[prefix] = count + len(row_of)
        if prefix.hidden is not None:
            whole = torch.tensor([[0, prefix.tokens]])
            prefix.sums = segment_unit_sums(prefix.hidden, whole, norm=states.norm, backend=backend)
            prefix.hidden = None
        assert prefix.sums is not None
        prefixes.append(prefix.sums)
    rows = torch.tensor([row_of.get(prefix, place) for place, prefix in enumerate(states.shared)])
    joined = UnitSums(
        *(torch.cat([getattr(p, name) for p in prefixes]) for name in ("sums", "counts", "zeros"))
    )
    angles = angle_concentration(sums.rows(0, count), joined, rows, backend=backend)
    zeros = sums.zeros[:count] + joined.zeros[rows.to(joined.zeros.device)]
    # One table, so that the GPU is synchronized once.
    table = torch.stack([angles.intra, angles.inter, angles.intra_offdiag, zeros.double()], 1).tolist()
    scores: list[tuple[Score | None, int]] = []
    for prompt, (intra, inter, offdiag, zero) in zip(prompts, table, strict=True):
        has_prefix = prompt.prefix > 0
        score = None
        if math.isfinite(intra) and (not has_prefix or math.isfinite(inter)):
            score = Score(
                prompt_tokens=len(prompt.token_ids),
                prefix_tokens=prompt.prefix,
                question_tokens=prompt.question_tokens,
                angle=intra + inter_weight * inter if has_prefix else intra,
                angle_intra=intra,
                angle_inter=inter if has_prefix else None,
                angle_intra_offdiag=offdiag if prompt.question_tokens > 1 else None,
            )
        scores.append((score, int(zero)))
    return scores


def embeddings(final: Tensor, questions: Tensor) -> list[npt.NDArray[np.float16] | None]:
    """The mean final state over each question, `[width]`; None if it is not finite.

    `final` `[tokens, width]` is the output of the norm after the last layer, and `questions` `[prompts, 2]`
    has each question's rows. Means are computed in float32 and stored in float16, whose maximum is 65,504.
    """
    means = torch.stack([final[begin:end].float().mean(0) for begin, end in questions.tolist()])
    with np.errstate(over="ignore"):
        vectors = means.cpu().numpy().astype(np.float16)
    return [row if np.isfinite(row).all() else None for row in vectors]


class Likelihood(NamedTuple):
    """NLL and entropies of one prompt, in nats; None if not requested or not defined.

    `nll` and `entropy` are means over the question's tokens, each read at the token before it, where the
    model predicts it; the first token of a sequence is left out. `last_entropy` is read at the last token of
    the whole prompt, where the first token would be generated.
    """

    nll: float | None
    entropy: float | None
    last_entropy: float | None


@torch.inference_mode()
def likelihoods(
    states: PackedStates, prompts: Sequence[Segmented], head: Head, *, nll: bool, entropy: bool
) -> list[Likelihood | None]:
    """`nll` and `entropy` of a batch, where requested; None for a prompt where one of them is not finite.

    `states` have final states, and tails for `entropy`; `head` belongs to the same model.
    """
    # Logits are read for each prompt's question tokens in turn, then for each prompt's last token. `rows` are
    # rows of the final states, or -1 - b for the last token of the prefix that prompt b shares. `tokens` are
    # the tokens predicted there (any token at a prompt's last one).
    parts, predicted_tokens, counts = [], [], []
    for place, (prompt, first) in enumerate(zip(prompts, states.questions[:, 0].tolist(), strict=True)):
        predicted = np.arange(max(prompt.prefix, 1), prompt.end)  # places in the prompt
        before = first + predicted - prompt.prefix - 1  # the row before each, where it is predicted
        if states.shared[place] is not None:
            before[0] = -1 - place
        parts.append(before)
        predicted_tokens.append(prompt.token_ids[predicted].astype(np.int64))
        counts.append(len(predicted))
    if entropy:
        parts.append(states.ends.numpy() - 1)
        predicted_tokens.append(np.zeros(len(prompts), np.int64))
    rows, tokens = np.concatenate(parts), np.concatenate(predicted_tokens)
    assert states.final is not None
    device = states.final.device
    measured = torch.zeros(2, len(rows), dtype=torch.float64, device=device)  # NLL and entropy
    in_batch, in_prefix = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
    prefixes = [states.shared[-1 - row] for row in rows[in_prefix].tolist()]
    lasts = [prefix.last for prefix in prefixes if prefix is not None and prefix.last is not None]
    sources = [(states.final, in_batch, rows[in_batch])]
    if lasts:
        sources.append((torch.stack(lasts), in_prefix, np.arange(len(lasts))))
    for source, positions, source_rows in sources:
        for begin in range(0, len(positions), head.rows):
            chunk = slice(begin, begin + head.rows)
            here = torch.from_numpy(positions[chunk]).to(device)
            final = source.index_select(0, torch.from_numpy(source_rows[chunk]).to(device))  # [here, width]
            targets = torch.from_numpy(tokens[positions[chunk]]).to(device)
            measured[:, here] = _measured(head.logits(final), targets, entropy)
    losses, entropies = measured.cpu().numpy()
    ends = np.cumsum(counts).tolist()
    results: list[Likelihood | None] = []
    for place, (end, count) in enumerate(zip(ends, counts, strict=True)):
        question = slice(end - count, end)
        values = (
            float(losses[question].mean()) if nll and count else None,
            float(entropies[question].mean()) if entropy and count else None,
            float(entropies[ends[-1] + place]) if entropy else None,
        )
        finite = all(value is None or np.isfinite(value) for value in values)
        results.append(Likelihood(*values) if finite else None)
    return results


def _measured(logits: Tensor, tokens: Tensor, entropy: bool) -> Tensor:
    """NLL of `tokens` and entropy, `[2, positions]` float64; overwrites `logits` `[positions, vocabulary]`.

    With z the logits minus their maximum and S = sum e^z, the NLL is log S - z[token] and the entropy
    log S - (sum z e^z) / S. No z is above 0, so neither result is below 0.
    """
    size = -(-len(logits) // _PARTS)  # bounds the memory of the tensors computed from logits
    parts = []
    for part, wanted in zip(logits.split(size), tokens.split(size), strict=True):
        shifted = part.float()
        shifted -= shifted.amax(-1, keepdim=True)
        chosen = shifted.gather(-1, wanted[:, None])[:, 0].double()  # [positions of the part]
        if entropy:
            # A logit of minus infinity adds nothing to the entropy, but 0 times infinity is NaN.
            weights = shifted.clamp_(min=_LEAST).exp()
            total = weights.sum(-1).double()
            mean = weights.mul_(shifted).sum(-1).double() / total
            parts.append(torch.stack([total.log() - chosen, total.log() - mean]))
        else:
            loss = shifted.exp_().sum(-1).double().log() - chosen
            parts.append(torch.stack([loss, torch.zeros_like(loss)]))
    return torch.cat(parts, 1)


def measure(
    config: ScoreConfig,
    backend: Backend,
    head: Head | None,
    states: PackedStates,
    prompts: Sequence[Segmented],
) -> list[tuple[Score | str, int]]:
    """Per prompt of a batch: its signals, or the reason why it has none; and its zero vectors."""
    angles = angle_scores(states, prompts, inter_weight=config.inter_weight, backend=backend)
    others: list[list[dict[str, Any] | str]] = []  # by signal and prompt: its values, or why it has none
    if "embedding" in config.signals:
        assert states.final is not None
        vectors = embeddings(states.final, states.questions)
        others.append([_NOT_FINITE if vector is None else {"embedding": vector} for vector in vectors])
    if head is not None:
        nll, entropy = "nll" in config.signals, "entropy" in config.signals
        values = likelihoods(states, prompts, head, nll=nll, entropy=entropy)
        others.append([value._asdict() if value else "its NLL or entropy is not finite" for value in values])
    measured: list[tuple[Score | str, int]] = []
    for (score, zeros), *added in zip(angles, *others, strict=True):
        result: Score | str = score or _NOT_FINITE
        for each in added:
            if isinstance(result, Score):
                result = each if isinstance(each, str) else replace(result, **each)
        measured.append((result, zeros))
    return measured

"""The forward without padding: a batch is one row of tokens, and a shared prefix is computed once.

There is no list of architectures. The forward is compared with the model's own on real prompts, and a model
that differs runs in padded batches.

On a CPU, weights are converted once to oneDNN's layout; otherwise torch converts them for every product.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from gaincurate.scoring import packed_attention
from gaincurate.scoring.packed_attention import KeysAndValues, Packing, UnsupportedAttention
from gaincurate.scoring.prefill import Batch, PackedStates, Prefill, SharedPrefix, batches_of
from gaincurate.scoring.segment import Segmented

_CACHED_TOKENS = 16384  # of shared prefixes in the cache, or in one batch
# Relative to a state's norm, on average over a prompt's tokens; one token may differ by ten times as much.
# SmolLM2-135M: 6e-7 in float32, 1.4e-2 in bfloat16 with a largest of 5e-2.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
_LAYERS = {"full_attention", "sliding_attention"}
_LAYOUT_ROWS = 1024  # that the layout is optimised for; it works for any number of rows
# The errors that an architecture without this forward may raise.
_FOREIGN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)


class PackedPrefill:
    """Runs the prompts of a batch as one row.

    Replaces the attention of the padded forward's model, and on a CPU its linear layers. A few real `prompts`
    must get the states of the model's own forward, with shared prefixes and without.

    Raises:
        UnsupportedAttention: the states differ, or a layer is not supported; the model is restored.
    """

    def __init__(self, prefill: Prefill, prompts: Sequence[Segmented]) -> None:
        self.name = "packed"
        self.norm, self.stop = prefill.norm, prefill.stop
        self._prefill = prefill
        self._model: Any = prefill.model
        self._cached: OrderedDict[bytes, SharedPrefix] = OrderedDict()
        self._prefix_tokens = 0
        config: Any = prefill.model.config
        self._before = config._attn_implementation
        self._layers: list[Any] = []  # the linear layers with laid-out weights
        # A few short prompts would not reveal these.
        others = sorted(set(getattr(prefill.config, "layer_types", None) or ()) - _LAYERS)
        if others:
            raise UnsupportedAttention(f"it has layers of {', '.join(others)}")
        if getattr(prefill.config, "attention_chunk_size", None):
            raise UnsupportedAttention("it attends in chunks")
        # transformers has no mask function of this name, so it makes no mask.
        AttentionInterface.register(packed_attention.NAME, packed_attention.attend)
        plain = [prefill([prompt]) for prompt in prompts]
        if not any(states.hidden.isfinite().all() for states in plain):
            raise UnsupportedAttention(
                "its own hidden states are not finite; do its weights hold NaN, or numbers too large for "
                f"{str(plain[0].hidden.dtype).removeprefix('torch.')}?"
            )
        try:
            self.take()
            self._try(prompts, plain)
            if layers := layers_to_lay_out(prefill.model):
                self._layers = layers
                try:
                    lay_out(layers)
                    self._try(prompts, plain)
                except (UnsupportedAttention, *_FOREIGN):  # the model reads its weights elsewhere too
                    take_back(layers)
                    self._layers, self.name = [], "packed, plain products"
        except BaseException as error:
            self.give_back()
            if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, _FOREIGN):
                raise
            # After any other error the model runs as its authors wrote it.
            raise UnsupportedAttention(f"{type(error).__name__}: {error}") from error

    def run(self, prompts: Sequence[Segmented], budget: int) -> Iterator[Batch]:
        """Run all prompts, long ones last, in batches of up to `budget` tokens; shared prefixes run once."""
        long = list(map(self._prefill.is_long, prompts))
        shared = shared_prefixes(p for p, is_long in zip(prompts, long, strict=True) if not is_long)
        lengths = [self.stop(p) - (p.prefix if self._shares(p, shared) else 0) for p in prompts]
        for batch in batches_of(lengths, budget, long):
            for places in self._parts(batch, prompts, shared):
                before = self._prefix_tokens
                states = self([prompts[place] for place in places], shared)
                yield Batch(places, states, len(states.hidden) + self._prefix_tokens - before)

    def _parts(
        self, batch: list[int], prompts: Sequence[Segmented], shared: Set[bytes]
    ) -> Iterator[list[int]]:
        """Parts of a batch with up to `_CACHED_TOKENS` tokens of shared prefixes, or with a longer one."""
        part: list[int] = []
        held: dict[bytes, int] = {}
        for place in batch:
            if self._shares(prompt := prompts[place], shared):
                name = prefix_of(prompt)
                if part and name not in held and sum(held.values()) + prompt.prefix > _CACHED_TOKENS:
                    yield part
                    part, held = [], {}
                held[name] = prompt.prefix
            part.append(place)
        yield part

    def take(self) -> None:
        """Replace the model's attention, and the linear layers that passed the trial."""
        self._model.set_attn_implementation(packed_attention.NAME)
        if self._model.config._attn_implementation != packed_attention.NAME:
            raise UnsupportedAttention("it does not let its attention be exchanged")
        lay_out(self._layers)

    def give_back(self) -> None:
        """Restore the model."""
        self._model.set_attn_implementation(self._before)
        take_back(self._layers)

    def _try(self, prompts: Sequence[Segmented], plain: Sequence[PackedStates]) -> None:
        long = list(map(self._prefill.is_long, prompts))
        try:
            for shared in (set(), {prefix_of(prompt) for prompt in prompts}):
                for places in batches_of([0] * len(prompts), 0, long):
                    batch = [prompts[place] for place in places]
                    _compare([plain[place] for place in places], self(batch, shared))
        finally:
            self._cached.clear()

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Segmented], shared: Set[bytes] = frozenset()) -> PackedStates:
        """Hidden states of a batch. `shared` prefixes (`prefix_of`) are computed separately, once.

        Raises:
            UnsupportedAttention: not every layer called the attention as expected.
        """
        prefixes = [self._run_prefix(p) if self._shares(p, shared) else None for p in prompts]
        begins = [0 if before is None else before.tokens for before in prefixes]
        parts = list(zip(prompts, begins, map(self.stop, prompts), strict=True))
        borders = [0, *accumulate(stop - begin for _, begin, stop in parts)]
        packing = Packing(borders, [None if before is None else before.attended for before in prefixes])
        hidden, final = self._run(parts, packing)
        _check_layers(self._prefill.config, packing, self._prefill.depth)
        lengths = torch.tensor(borders).diff()
        return PackedStates.of(hidden, prompts, self.norm, final, lengths, prefixes)

    def _shares(self, prompt: Segmented, shared: Set[bytes]) -> bool:
        """Whether its prefix runs separately. A long prompt's does not: LongRoPE rotates all of it alike."""
        return bool(prompt.prefix) and prefix_of(prompt) in shared and not self._prefill.is_long(prompt)

    def _run(
        self, parts: Sequence[tuple[Segmented, int, int]], packing: Packing
    ) -> tuple[Tensor, Tensor | None]:
        """States `[tokens, hidden]` and `[tokens, width]` of parts of prompts: prompt, first token, end."""
        device = self._prefill.device
        ids = torch.cat([torch.from_numpy(prompt.token_ids[begin:stop]) for prompt, begin, stop in parts])
        positions = torch.cat([torch.arange(begin, stop) for _, begin, stop in parts])
        options = {"position_ids": positions[None].to(device), packed_attention.KEYWORD: packing}
        states, final = self._prefill.both(ids.long()[None].to(device), **options)
        return states[0], None if final is None else final[0]

    def _run_prefix(self, prompt: Segmented) -> SharedPrefix:
        name = prefix_of(prompt)
        if name not in self._cached:
            keep: dict[nn.Module, KeysAndValues] = {}
            packing = Packing([0, prompt.prefix], [None], keep)
            hidden, final = self._run([(prompt, 0, prompt.prefix)], packing)
            self._prefix_tokens += prompt.prefix
            # A copy, so that the memory of the other states is freed.
            last = None if final is None else final[-1].clone()
            self._cached[name] = SharedPrefix(prompt.prefix, hidden, last, keep)
            while len(self._cached) > 1 and sum(k.tokens for k in self._cached.values()) > _CACHED_TOKENS:
                self._cached.popitem(last=False)
        self._cached.move_to_end(name)
        return self._cached[name]


def _compare(plain: Sequence[PackedStates], packed: PackedStates) -> None:
    rows = zip(plain, packed.prefixes[:, 0].tolist(), packed.ends.tolist(), packed.shared, strict=True)
    for expected, begin, stop, prefix in rows:
        pairs = [(packed.hidden[begin:stop], expected.hidden)]  # without a shared prefix
        if packed.final is not None and expected.final is not None:
            final = packed.final[begin:stop]
            if (
                prefix is not None and prefix.last is not None
            ):  # where the question's first token is predicted
                final = torch.cat([prefix.last[None], final])
            pairs.append((final, expected.final))
        for got, whole in pairs:
            wanted = whole[len(whole) - len(got) :].float()
            gaps = (got.float() - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-30)  # [tokens]
            off, most = float(gaps.mean()), _TOLERANCES[got.dtype]
            if not (off <= most and float(gaps.max()) <= 10 * most):
                raise UnsupportedAttention(f"its states differ from a plain forward's by {off:.1e}")


def prefix_of(prompt: Segmented) -> bytes:
    """The bytes of a prefix's tokens, its name."""
    return prompt.token_ids[: prompt.prefix].tobytes()


def shared_prefixes(prompts: Iterable[Segmented]) -> set[bytes]:
    """The prefixes of at least two prompts."""
    counts = Counter(prefix_of(prompt) for prompt in prompts if prompt.prefix)
    return {name for name, count in counts.items() if count > 1}


def _check_layers(config: Any, packing: Packing, depth: int) -> None:
    """Refuse a model unless each layer called the attention, once and with the layer's window."""
    windows = list(packing.windows.values())
    if len(windows) != depth:
        raise UnsupportedAttention(f"{len(windows)} of {depth} layers called the attention")
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        everywhere = bool(window) and getattr(config, "use_sliding_window", True) is not False
        kinds = ["sliding_attention" if everywhere else "full_attention"] * depth
    expected = [kind == "sliding_attention" and window is not None for kind in kinds[:depth]]
    if [seen is not None for seen in windows] != expected:
        raise UnsupportedAttention("it does not say which layers have a sliding window")


def layers_to_lay_out(model: nn.Module) -> list[Any]:
    """The linear layers of a model that can multiply from oneDNN's layout, for inference.

    Subclasses of `nn.Linear` and weights that another module uses too are left out. So are all layers on
    other devices, in other dtypes than float32 and bfloat16, and on processors without AVX: not measured.
    """
    operators: Any = torch.ops.mkldnn  # two operators that torch's own compiler uses
    dtypes = set[torch.dtype]()  # that have a layout here
    if torch.backends.cpu.get_cpu_capability().startswith("AVX") and hasattr(operators, "_linear_pointwise"):
        for dtype in (torch.float32, torch.bfloat16):
            with suppress(AttributeError, RuntimeError):  # an older torch, or a processor without this dtype
                operators._reorder_linear_weight(torch.zeros(1, 1, dtype=dtype), _LAYOUT_ROWS)
                dtypes.add(dtype)
    uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    # A layer with its own `forward`, as some hooks set it, needs the weight's plain layout.
    plain = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    single = [m for m in plain if uses[id(m.weight)] == 1 and m.weight.numel()]
    return [m for m in single if m.weight.device.type == "cpu" and m.weight.dtype in dtypes]


def lay_out(layers: Iterable[Any]) -> None:
    """Convert the weights one by one, so that only one of them is in memory twice."""
    for layer in layers:
        if not layer.weight.is_mkldnn:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _LAYOUT_ROWS)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.__class__ = _Linear


def take_back(layers: Iterable[Any]) -> None:
    """Restore the layers, with the same bits, in parameters that are not trained."""
    for layer in layers:
        if layer.weight.is_mkldnn:
            layer.weight = nn.Parameter(layer.weight.detach().to_dense(), requires_grad=False)
            layer.__class__ = nn.Linear


class _Linear(nn.Linear):
    """A linear layer with its weight in oneDNN's layout, for inference."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product

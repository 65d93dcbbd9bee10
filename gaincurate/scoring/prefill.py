"""The forward over padded batches, stopped at the scored tensor, and the packed layout of its states.

The scored tensor is found by running two tokens and noting which child of a layer is called last, so no list
of architectures is needed. If the module before it is an RMS norm, the kernel applies it: it reads the tensor
once either way. Every model can run this forward, and `packed_prefill` is compared with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gaincurate.errors import ModelError
from gaincurate.scoring.packed_attention import KeysAndValues
from gaincurate.scoring.segment import Segmented
from gaincurate_kernels import RMSNorm, UnitSums
from gaincurate_kernels.reference import normalised

_EPS_NAMES = ("variance_epsilon", "eps", "epsilon")
_TOLERANCE = 2e-6  # of float32 against float64
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float64: 1e-5}

Site = Literal["mlp_input", "final_norm"]


@dataclass(eq=False, slots=True)
class SharedPrefix:
    """A prefix of `tokens` tokens that several prompts share, and its `hidden` states `[tokens, hidden]`.

    Scoring the first of these prompts replaces `hidden` by its `sums` (one segment). `last` is the last
    token's state after the last norm, `[width]`, if final states were requested. `attended` has the keys and
    values of each attention module.
    """

    tokens: int
    hidden: Tensor | None
    last: Tensor | None = None
    attended: dict[nn.Module, KeysAndValues] | None = None
    sums: UnitSums | None = None


@dataclass(frozen=True, slots=True)
class PackedStates:
    """Hidden states of a batch without padding.

    `hidden` is `[tokens, hidden]` in the model's dtype. `questions` and `prefixes`, `[prompts, 2]`, are the
    rows of each prompt's question and prefix; the latter are empty if `shared[b]` holds prompt b's prefix.
    `ends`, `[prompts]`, are the rows after each prompt's last computed token, which may be one of its tail.
    All three are int64 on the CPU. With `norm`, `hidden` is its input, and its output is scored. `final`,
    `[tokens, width]`, are the same tokens after the last norm, if requested.
    """

    hidden: Tensor
    questions: Tensor
    prefixes: Tensor
    shared: tuple[SharedPrefix | None, ...]
    ends: Tensor
    norm: RMSNorm | None = None
    final: Tensor | None = None

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        prompts: Sequence[Segmented],
        norm: RMSNorm | None = None,
        final: Tensor | None = None,
        lengths: Tensor | None = None,
        shared: Sequence[SharedPrefix | None] | None = None,
    ) -> PackedStates:
        """For prompts one after the other, each with `lengths` tokens or with its prefix and question."""
        shared = tuple(shared or [None] * len(prompts))
        # All of these are [prompts]. A shared prefix has no rows.
        prefixes = [0 if before else p.prefix for p, before in zip(prompts, shared, strict=True)]
        questions = torch.tensor([prompt.question_tokens for prompt in prompts])
        lengths = torch.tensor(prefixes) + questions if lengths is None else lengths
        ends = lengths.cumsum(0)
        starts = ends - lengths
        middles = starts + torch.tensor(prefixes)
        bounds = (torch.stack([middles, middles + questions], 1), torch.stack([starts, middles], 1))
        return cls(hidden, *bounds, shared, ends, norm, final)


class Batch(NamedTuple):
    """Prompts that ran together: `places` in `run`'s argument; `tokens` computed, a shared prefix once."""

    places: list[int]
    states: PackedStates
    tokens: int


def batches_of(
    lengths: Sequence[int], budget: int, long: Sequence[bool] = (), *, padded: bool = False
) -> list[list[int]]:
    """Group places so that a batch has at most `budget` tokens; a longer row is a batch of its own.

    Without padding, rows keep their order and a batch has the sum of its lengths. A padded batch has its
    longest row's tokens in each row, so rows are sorted by length. `long` rows come last, in batches of their
    own. The grouping depends only on the arguments.
    """
    kinds = long or [False] * len(lengths)
    batches: list[list[int]] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: (kinds[place], padded and lengths[place])):
        batch = batches[-1] if batches else []
        # Sorted by length, the newest row is the longest of its batch.
        tokens = (len(batch) + 1) * lengths[place] if padded else tokens + lengths[place]
        if batch and kinds[batch[0]] == kinds[place] and tokens <= budget:
            batch.append(place)
        else:
            batches.append([place])
            tokens = lengths[place]
    return batches


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks of modules on exit."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


class _SiteReached(Exception):
    """Ends a forward at the scored tensor, so that nothing after it is computed."""


class Prefill:
    """Runs a model to the scored tensor.

    Args:
        model: a transformers decoder without its head.
        layer: the decoder layer, from 0 or from the end (-1), one that there is; for `mlp_input` only.
        site: `mlp_input`, the input of that layer's feed-forward block (GAIN-RL's tensor: the output of
            the norm after attention), or `final_norm`, the output of the norm after the last layer.
        final: continue after the site, and return the output of the norm after the last layer too.
        tails: compute each prompt's tail too; else a prompt ends with its question.

    Raises:
        ModelError: the feed-forward block is not found, or the model is not causal.
    """

    name = "padded"

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: int = -1,
        site: Site = "mlp_input",
        final: bool = False,
        tails: bool = False,
    ) -> None:
        self.model, self.tails = model, tails
        self.device = next(model.parameters()).device
        config: Any = model.config
        self.config = config.get_text_config(decoder=True)
        self._site: nn.Module | None = None
        self.norm: RMSNorm | None = None  # not applied: the angle code does
        self.depth: int = self.config.num_hidden_layers  # layers whose attention runs
        self.width: int | None = None  # of a final state; None without final states
        rope = getattr(self.config, "rope_parameters", None) or {}
        kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # by kind of layer
        turns = [k["original_max_position_embeddings"] for k in kinds if k.get("rope_type") == "longrope"]
        # The tokens up to which LongRoPE uses its short factors; None without LongRoPE.
        self._turn: int | None = min(turns, default=None)
        if site == "mlp_input":
            self._site, self.depth = _feed_forward(model, layer), layer % self.depth + 1
        two = torch.tensor([[0, 1]], device=self.device)
        if before_site := norm_before(model, lambda: self.both(two)[0]):
            self._site, self.norm = before_site
        if final:
            self.depth = self.config.num_hidden_layers
            with torch.inference_mode():
                self.width = int(model(input_ids=two, use_cache=False).last_hidden_state.shape[-1])
        # A token must not change the states before it: prefixes and padding without a mask rely on this.
        ids = torch.tensor([[2, 3, 4], [2, 3, 5]], device=self.device)
        outputs = self.both(ids.clamp(max=self.config.vocab_size - 1))
        for states in (output[:, :2].float() for output in outputs if output is not None):
            # Both rows run through the same products, so those of a causal model agree to the last bits.
            # Tokens are compared one by one, so that one huge state does not hide another's difference.
            gap, scale = (states[0] - states[1]).abs().amax(-1), states.abs().amax((0, 2))
            if (gap > 1e-4 * scale).any():
                raise ModelError(
                    f"{self.config.model_type} is not causal: a token changes the states before it. A "
                    "score is defined for decoder-only language models."
                )

    def stop(self, prompt: Segmented) -> int:
        """The number of a prompt's tokens that are computed."""
        # The model must see enough tokens of a prompt that only its tail makes long.
        long_by_its_tail = self.is_long(prompt) and prompt.end <= (self._turn or 0)
        return len(prompt.token_ids) if self.tails or long_by_its_tail else prompt.end

    def is_long(self, prompt: Segmented) -> bool:
        """Whether LongRoPE uses its long factors for this prompt. A call uses one kind, so it runs apart."""
        return self._turn is not None and len(prompt.token_ids) > self._turn

    def run(self, prompts: Sequence[Segmented], budget: int) -> Iterator[Batch]:
        """Run all prompts in batches of at most `budget` tokens, including padding."""
        lengths, long = list(map(self.stop, prompts)), list(map(self.is_long, prompts))
        for places in batches_of(lengths, budget, long, padded=True):
            states = self([prompts[place] for place in places])
            yield Batch(places, states, len(states.hidden))

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Segmented]) -> PackedStates:
        """Hidden states of prefixes and questions, and of tails if these are computed.

        Prompts are padded on the right. In a causal model no token attends to a pad after it, so no mask is
        needed and a row depends on its neighbours only by rounding. All or none of the prompts are long.
        """
        rows = [torch.from_numpy(prompt.token_ids[: self.stop(prompt)]).long() for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        # Padded by the last token: some models warn of a padding token without a mask.
        ids = torch.stack([torch.cat([row, row[-1].expand(longest - len(row))]) for row in rows])
        states, final = self.both(ids.to(self.device))
        # Which rows of [prompts * longest] are tokens and not padding.
        token_rows = (torch.arange(longest) < lengths[:, None]).reshape(-1).nonzero()[:, 0].to(self.device)
        packed = states.flatten(0, 1).index_select(0, token_rows)
        last = None if final is None else final.flatten(0, 1).index_select(0, token_rows)
        return PackedStates.of(packed, prompts, self.norm, last, lengths)

    @torch.inference_mode()
    def both(self, ids: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Run the model on `ids` `[rows, tokens]`; `options` are passed to its forward.

        Returns:
            The states at the site, or before its norm, `[rows, tokens, hidden]`; and those after the last
            norm, `[rows, tokens, width]`, or None without final states.
        """
        at_site: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            at_site.append(_tensors(args, kwargs)[0])
            if self.width is None:
                raise _SiteReached
            at_site[-1] = at_site[-1].clone()  # a layer may add to its states in place

        hooks = [site.register_forward_pre_hook(take, with_kwargs=True) for site in [self._site] if site]
        final: Tensor | None = None
        with hooked(hooks), suppress(_SiteReached):
            final = self.model(input_ids=ids, use_cache=False, **options).last_hidden_state
        wanted = None if self.width is None else final
        if self._site is None:
            assert final is not None
            return final, wanted
        # Some layers flatten all rows to one list of tokens for their feed-forward block.
        return at_site[0].reshape(*ids.shape, -1), wanted


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


@torch.inference_mode()
def _feed_forward(model: nn.Module, layer: int) -> nn.Module:
    """The feed-forward (MLP or MoE) block of a layer.

    It is the last child that the layer calls on hidden states, that has weight matrices and children, and
    that is no attention. Norms have no matrices, and gates after the block (Gemma-3n, Gemma-4) no children.
    If the layer itself holds the block's two matrices (OPT), the block is the first of them. The layers are
    the outermost list of as many modules as the configuration has layers.
    """
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    width, depth = text.hidden_size, text.num_hidden_layers
    named = [
        (name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth
    ]
    if not named:
        raise ModelError(f"cannot find {depth} decoder layers in {config.model_type}; use --site final_norm.")
    block = min(named, key=lambda entry: entry[0].count("."))[1][layer]
    called: list[nn.Module] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = _tensors(args, kwargs)
        if tensors and tensors[0].shape[-1] == width:
            called.append(module)

    matrices = [child for child in block.children() if any(p.dim() >= 2 for p in child.parameters())]
    ids = torch.tensor([[0, 1]], device=next(model.parameters()).device)
    with hooked(m.register_forward_pre_hook(note, with_kwargs=True) for m in matrices):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    others = [module for module in called if "att" not in type(module).__name__.lower()]
    if len(called) < 2 or not others:
        raise ModelError(
            f"cannot find the feed-forward block in layer {layer % depth} of {config.model_type} (children: "
            f"{', '.join(name for name, _ in block.named_children())}); use --site final_norm."
        )
    composed = [module for module in others if next(module.children(), None) is not None]
    return composed[-1] if composed else others[0]


def norm_before(model: nn.Module, run: Callable[[], Tensor]) -> tuple[nn.Module, RMSNorm] | None:
    """The module that computes a tensor, and its RMS norm; `run` is a forward that returns the tensor.

    None if no RMS norm of the model computes it, or one that is called more than once.
    """
    calls: list[tuple[nn.Module, list[Tensor], Tensor]] = []  # modules, copies of their inputs, outputs
    inputs: dict[nn.Module, list[Tensor]] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[module] = [value.clone() for value in _tensors(args, kwargs)]  # a module may overwrite them

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):  # holding it keeps its memory from being reused
            calls.append((module, inputs[module], output))

    single = [module for module in model.modules() if [p.dim() for p in module.parameters()] == [1]]
    before_each = (module.register_forward_pre_hook(before, with_kwargs=True) for module in single)
    with hooked(before_each), hooked(module.register_forward_hook(after) for module in single):
        target = run()
    place = (target.data_ptr(), target.numel())
    makers = {module for module, _, output in calls if (output.data_ptr(), output.numel()) == place}
    made = [(module, given) for module, given, _ in calls if module in makers]
    if len(made) != 1:
        return None
    [(maker, given)] = made
    norm = as_rms_norm(maker)
    if norm is None or len(given) != 1:
        return None
    # The tensor need not be the module's own output: it may be changed in place, gated or summed.
    width = target.shape[-1]
    computed = normalised(given[0].reshape(-1, width), norm)
    if not _close(computed.double(), target.reshape(-1, width).double(), _ROUNDING[target.dtype]):
        return None
    return maker, norm


def as_rms_norm(module: nn.Module) -> RMSNorm | None:
    """The parameters of an RMS norm, x / sqrt(mean(x^2) + eps) * (weight + 0 or 1); None for any other."""
    parameters = list(module.parameters())
    eps = next((getattr(module, name) for name in _EPS_NAMES if hasattr(module, name)), None)
    if len(parameters) != 1 or parameters[0].dim() != 1 or not isinstance(eps, float):
        return None
    weight = parameters[0].detach()
    generator = torch.Generator().manual_seed(0)
    # Small rows too, where eps matters, and a nonzero mean, which a layer norm would subtract.
    states = torch.randn(12, len(weight), generator=generator) + 0.5
    states *= torch.logspace(-4, 4, 12)[:, None]
    exact = states.double()
    scaled = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt()
    with torch.inference_mode():
        computed = copy.deepcopy(module).float().cpu()(states).double()
    for offset in (0.0, 1.0):
        expected = scaled * (weight.double().cpu() + offset)
        if computed.shape == expected.shape and _close(computed, expected, _TOLERANCE):
            return RMSNorm(weight, offset, eps)
    return None


def _close(values: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool(((values - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all())

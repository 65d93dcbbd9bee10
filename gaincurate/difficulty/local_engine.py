"""Generation in this process with transformers, batch by batch and token by token.

Each token is drawn by inverting the distribution function at one uniform number, which belongs to the seed,
the prompt's id, the sample and the token's place. So the neighbours in a batch and the order of the work do
not change the draw, and a killed run goes on to the same texts. They do change the logits, by rounding, so a
batch of which anything is missing is generated again as a whole.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicLayer

from gaincurate.core.rng import uniforms
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.engine import Completion, Key, Refused
from gaincurate.difficulty.prompts import Prompt
from gaincurate.errors import InputError, ModelError
from gaincurate.scoring.config import MachineConfig
from gaincurate.scoring.model import (
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    tokenizer_fingerprint,
)
from gaincurate.scoring.plan import LIBRARIES, model_max_length, resolve_machine
from gaincurate.scoring.segment import Segmenter, Unusable

_CPU_BATCH_TOKENS = 8192
PIECE = 8
"""Tokens after which rows that have ended leave."""
_LIKELY = 1024  # tokens among which the nucleus mostly is


@dataclass(frozen=True, slots=True)
class Ready:
    """A completion that is wanted, and its rendered prompt's token ids, `[prompt tokens]`."""

    gc_id: str
    sample: int
    token_ids: npt.NDArray[np.int32]


class LocalEngine:
    """A model of this process.

    Args:
        config: of the rollouts; `model` is set.
        template_kwargs: extra variables for the chat template, as when the set was scored.

    Raises:
        ModelError: the model cannot be used.
        InputError: the device or the dtype cannot.
    """

    def __init__(self, config: RolloutConfig, template_kwargs: dict[str, Any]) -> None:
        assert config.model is not None
        self._config = config
        files = find_model(
            config.model, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
        )
        self._machine = resolve_machine(
            MachineConfig(device=config.device, dtype=config.dtype, threads=config.threads, workers=1)
        )
        model_config = load_config(files)
        self._limit = model_max_length(model_config)
        self._tokenizer = load_tokenizer(files)
        self._vocabulary = model_config.get_text_config(decoder=True).vocab_size
        self._segmenter = Segmenter(
            self._tokenizer, template_kwargs=template_kwargs, vocab_size=self._vocabulary, tails=True
        )
        self._files, self._model_config = files, model_config
        self._batch_tokens = config.batch_tokens or _batch_tokens(self._machine.devices[0], model_config)
        self.identity: dict[str, Any] = {
            "kind": "transformers",
            "sampler": "inverse-cdf/1",
            "prefill": "once-a-prompt/1",
            "piece": PIECE,
            "logprobs": "of the distribution sampled from: after temperature and top-p",
            "model": files.fingerprint(),
            "tokenizer": tokenizer_fingerprint(self._tokenizer, files),
            "rendering": self._segmenter.fingerprint,
            "dtype": self._machine.dtype,
            "device": self._machine.kind,
            "threads": self._machine.threads,
            "batch_tokens": self._batch_tokens,
            "versions": {name: version(name).partition("+")[0] for name in LIBRARIES},
        }

    def generate(
        self, prompts: Sequence[Prompt], done: frozenset[Key]
    ) -> Generator[list[Completion | Refused]]:
        """See `Engine`. A batch of which anything is missing is made whole again."""
        ready, refused = self._prepare(prompts)
        if refused:
            yield list(refused)
        for batch in batches(ready, self._config.max_tokens, self._batch_tokens):
            if any((item.gc_id, item.sample) not in done for item in batch):
                yield [completion for completion in self._batch(batch) if completion.key not in done]

    def close(self) -> None:
        """Let go of the weights."""
        self.__dict__.pop("_model", None)

    def _prepare(self, prompts: Sequence[Prompt]) -> tuple[list[Ready], list[Refused]]:
        """Render each prompt once, however many of its samples are wanted."""
        ready, refused, room = list[Ready](), list[Refused](), self._config.max_tokens
        segmenting = self._segmenter([p.messages for p in prompts], [p.tools for p in prompts])
        for prompt, segmented in zip(prompts, segmenting, strict=True):
            if isinstance(segmented, Unusable):
                refused.append(Refused(prompt.gc_id, segmented.reason))
            elif self._limit and len(segmented.token_ids) + room > self._limit:
                reason = (
                    f"the prompt has {len(segmented.token_ids)} tokens, and {room} more (--max-tokens) are "
                    f"past the model's {self._limit}"
                )
                refused.append(Refused(prompt.gc_id, reason))
            else:
                samples = range(self._config.samples)
                ready += [Ready(prompt.gc_id, sample, segmented.token_ids) for sample in samples]
        return ready, refused

    @cached_property
    def _model(self) -> Any:
        """The model with its head, loaded when the first batch needs it."""
        machine, auto = self._machine, transformers.AutoModelForCausalLM
        if machine.threads is not None:
            torch.set_num_threads(machine.threads)
        device, dtype = machine.devices[0], machine.dtype
        return load_model(self._files, self._model_config, device=device, dtype=dtype, auto=auto)

    def _batch(self, batch: list[Ready]) -> list[Completion]:
        model = self._model
        ends = end_tokens(model, self._tokenizer)
        # A pad token that was added to the tokenizer alone has no embedding; nothing attends to it.
        pads = (self._tokenizer.pad_token_id, *ends)
        pad = next((token for token in pads if token is not None and 0 <= token < self._vocabulary), 0)
        device = self._machine.devices[0]
        prompts = padded(batch, pad, device)
        noise = torch.from_numpy(np.stack([self._uniforms(item) for item in batch])).to(device)
        # The model's own defaults (top-k, penalties) would change the distribution that is written down.
        model.generation_config = transformers.GenerationConfig(
            max_new_tokens=self._config.max_tokens,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=pad,
        )
        try:
            with torch.inference_mode():
                tokens, logprobs = self._decode(model, prompts, noise, ends)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the device has no memory for a batch of {len(batch)} completions (--batch-tokens "
                f"{self._batch_tokens}). Give a smaller --batch-tokens and start over with --overwrite: what "
                "is in a batch changes completions."
            ) from error
        drawn, chances = tokens.cpu().numpy(), logprobs.float().cpu().numpy()
        return [self._completion(item, drawn[row], chances[row], ends) for row, item in enumerate(batch)]

    def _decode(
        self, model: Any, prompts: Prompts, noise: torch.Tensor, ends: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and log-probabilities, `[completions, max tokens]`; after an end token they mean nothing.

        Args:
            model: with its head; its `generation_config` is set.
            prompts: of the batch.
            noise: `[completions, max tokens]`, float64, uniform inside (0, 1).
            ends: tokens that end a completion.
        """
        count, limit = noise.shape
        tokens = torch.zeros((count, limit), dtype=torch.long, device=noise.device)
        logprobs = torch.zeros((count, limit), dtype=torch.float64, device=noise.device)
        going, done = torch.arange(count, device=noise.device), 0
        cache = prefilled(model, prompts)
        ids, mask = prompts.ids[prompts.rows], prompts.mask[prompts.rows]
        while len(going) and done < limit:
            piece = min(PIECE, limit - done) if cache else limit
            sampler = Sampler(noise[going, done : done + piece], self._config.temperature, self._config.top_p)
            ids = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=piece,
                logits_processor=transformers.LogitsProcessorList([sampler]),
                **cache,
            )
            drawn = ids[:, mask.shape[1] :]  # [going, tokens of this piece]
            tokens[going, done : done + drawn.shape[1]] = drawn
            logprobs[going, done : done + drawn.shape[1]] = torch.stack(sampler.logprobs, 1)
            done += piece
            ended = torch.isin(drawn, torch.tensor(ends, device=drawn.device)).any(1)
            left = (~ended).nonzero()[:, 0]
            ids, mask = ids[left], torch.nn.functional.pad(mask[left], (0, drawn.shape[1]), value=1)
            for each in cache.values() if len(left) < len(going) else ():
                each.batch_select_indices(left)
            going = going[left]
        return tokens, logprobs

    def _completion(
        self, item: Ready, tokens: npt.NDArray[np.int64], logprobs: npt.NDArray[np.float32], ends: list[int]
    ) -> Completion:
        """Cut one row at its end token, which counts as a token of the completion."""
        places = np.flatnonzero(np.isin(tokens, ends))
        count = int(places[0]) + 1 if len(places) else len(tokens)
        if not np.isfinite(logprobs[:count]).all():
            raise ModelError(
                f"{self._files.name} gave numbers that are not finite for prompt {item.gc_id}. Try "
                "--dtype float32 or bfloat16."
            )
        return Completion(
            item.gc_id,
            item.sample,
            self._tokenizer.decode(tokens[:count].tolist(), skip_special_tokens=True),
            "stop" if len(places) else "length",
            count,
            len(item.token_ids),
            logprobs[:count].copy(),
            tokens[:count].astype(np.int32),
        )

    def _uniforms(self, item: Ready) -> npt.NDArray[np.float64]:
        """One random number for each token of a completion, independent of other completions."""
        stream = int.from_bytes(blake2b(item.gc_id.encode(), digest_size=8).digest(), "little")
        return uniforms(self._config.seed, stream, item.sample, 0, self._config.max_tokens)


def batches(ready: Sequence[Ready], max_tokens: int, budget: int) -> Iterator[list[Ready]]:
    """Prompts of like length together; rows times (longest prompt + max tokens) within the budget.

    Batches depend on the prompts alone. A prompt above the budget is a batch by itself.
    """
    batch: list[Ready] = []
    for item in sorted(ready, key=lambda item: (len(item.token_ids), item.gc_id, item.sample)):
        if batch and (len(batch) + 1) * (len(item.token_ids) + max_tokens) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def padded(batch: Sequence[Ready], pad: int, device: str) -> Prompts:
    """A batch's prompts, each once, padded on the left."""
    texts = {item.gc_id: item.token_ids for item in batch}
    pads = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = pads([torch.from_numpy(text.astype(np.int64)) for text in texts.values()], padding_value=pad)
    mask = pads([torch.ones(len(text), dtype=torch.long) for text in texts.values()])
    places = {gc_id: row for row, gc_id in enumerate(texts)}
    rows = torch.tensor([places[item.gc_id] for item in batch])
    return Prompts(ids.to(device), mask.to(device), rows.to(device))


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the configuration's, the generation defaults', the tokenizer's."""
    values = (
        model.config.get_text_config(decoder=True).eos_token_id,
        getattr(model.generation_config, "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    listed = [value if isinstance(value, list) else [value] for value in values]
    return sorted({token for tokens in listed for token in tokens if token is not None})


def _batch_tokens(device: str, model_config: Any) -> int:
    """On a GPU a quarter of its whole memory for keys and values in 16 bits; a power of two."""
    if device == "cpu":
        return _CPU_BATCH_TOKENS
    text = model_config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token: int = 2 * 2 * text.num_hidden_layers * heads * width
    room: int = torch.cuda.get_device_properties(device).total_memory // 4
    return min(max(1 << ((room // token).bit_length() - 1), _CPU_BATCH_TOKENS), 1 << 19)


class Sampler(transformers.LogitsProcessor):
    """Draws a token for each row and leaves the others no chance, so that a greedy search takes it.

    Args:
        noise: `[rows, max tokens]`, float64, uniform inside (0, 1).
        temperature: the logits are divided by it.
        top_p: the smallest set of most probable tokens that reaches this mass is drawn from.
    """

    def __init__(self, noise: torch.Tensor, temperature: float, top_p: float) -> None:
        self._noise, self._temperature, self._top_p = noise, temperature, top_p
        self.logprobs: list[torch.Tensor] = []
        """For each step, of the drawn tokens: `[rows]`, float64."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, vocabulary]` with 0 at the drawn token and minus infinity elsewhere."""
        chances = torch.softmax(scores.double() / self._temperature, -1)
        if self._top_p < 1:
            chances = nucleus(chances, self._top_p)
            chances /= chances.sum(-1, keepdim=True)
        mass = chances.cumsum(-1)  # [rows, vocabulary]
        whole = mass[:, -1:].contiguous()  # [rows, 1], which rounding may leave beside 1
        drawn = torch.searchsorted(mass, self._noise[:, len(self.logprobs), None] * whole, right=True)
        # Rounding must not carry the draw past the last token that has any mass.
        drawn = torch.minimum(drawn, torch.searchsorted(mass, whole)).clamp_max(mass.shape[-1] - 1)
        self.logprobs.append(chances.gather(-1, drawn)[:, 0].log())
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn, 0.0)


def nucleus(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """`chances` `[rows, vocabulary]`, 0 outside the fewest most probable tokens that reach `top_p`.

    Of equally probable tokens the first come first. The vocabulary is sorted only where it must be: that
    would take longer than all else about a draw.
    """
    best = chances.topk(min(_LIKELY, chances.shape[-1]), -1).values
    if (best.sum(-1) < top_p).any():
        best = chances.sort(dim=-1, descending=True).values
    # At least one, in a row of NaN too, whose draw is refused later.
    count = (best.cumsum(-1) - best < top_p).sum(-1, keepdim=True).clamp_(min=1)
    border = best.gather(-1, count - 1)
    above, equal = chances > border, chances == border
    room = count - above.sum(-1, keepdim=True)
    if (equal.sum(-1, keepdim=True) > room).any():
        equal &= equal.cumsum(-1) <= room
    return torch.where(above | equal, chances, 0.0)


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a batch: `ids` and `mask`, `[prompts, tokens]`, padded on the left.

    `rows`, `[completions]`, says which prompt each completion is of.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor


def prefilled(model: Any, prompts: Prompts) -> dict[str, Any]:
    """A cache with all but the last token of each prompt, a row a completion, by its name in `generate`.

    Empty where `generate` has to make it.

    The last token stays, because its logits begin a completion. `generate` gives each model the positions and
    masks that it wants; the token that it draws is not used.
    """
    if prompts.mask.sum(1).min() < 2:
        return {}
    ids, mask = prompts.ids[:, :-1], prompts.mask[:, :-1]
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=1, return_dict_in_generate=True, use_cache=True
    )
    name = "cache" if "cache" in output else "past_key_values"  # before transformers 5.24
    cache: Any = output.get(name)
    layers = getattr(cache, "layers", [])
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return {}
    cache.batch_select_indices(prompts.rows)
    return {name: cache}

"""Generation in this process with transformers, batch by batch and token by token.

Each token is drawn by inverting the distribution function at one uniform number, which depends on the seed,
the prompt's id, the sample and the token's place. So the neighbours in a batch and the order of the work do
not change the draw, and a killed run resumes with the same texts. They do change the logits, by rounding, so
a batch of which anything is missing is generated again as a whole.
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
from gaincurate.difficulty.prompts import Completion, Key, Prompt, Refused
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
PIECE = 8  # tokens after which rows that have ended leave
_LIKELY = 1024  # tokens among which the nucleus mostly is
Padded = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Ids and mask of prompts, `[prompts, tokens]`, and which prompt each completion is of, `[completions]`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A completion that is wanted, and its rendered prompt's token ids, `[prompt tokens]`."""

    gc_id: str
    sample: int
    token_ids: npt.NDArray[np.int32]


class LocalEngine:
    """A model of this process, named by the config's `model`; `template_kwargs` are those of the scored set.

    Raises `ModelError` or `InputError` if the model, the device or the dtype cannot be used.
    """

    def __init__(self, config: RolloutConfig, template_kwargs: dict[str, Any]) -> None:
        assert config.model is not None
        self._config = config
        files = self._files = find_model(
            config.model, allow_pickle=config.allow_pickle, trust_remote_code=config.trust_remote_code
        )
        self._machine = resolve_machine(
            MachineConfig(device=config.device, dtype=config.dtype, threads=config.threads, workers=1)
        )
        model_config = self._model_config = load_config(files)
        self._limit = model_max_length(model_config)
        self._tokenizer = load_tokenizer(files)
        self._vocabulary = model_config.get_text_config(decoder=True).vocab_size
        self._segmenter = Segmenter(
            self._tokenizer, template_kwargs=template_kwargs, vocab_size=self._vocabulary, tails=True
        )
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
        """See `prompts`. A batch of which anything is missing is generated again as a whole."""
        ready, refused, room = list[Ready](), list[Completion | Refused](), self._config.max_tokens
        segmenting = self._segmenter([p.messages for p in prompts], [p.tools for p in prompts])
        for prompt, segmented in zip(prompts, segmenting, strict=True):
            if isinstance(segmented, Unusable):
                refused.append(Refused(prompt.gc_id, segmented.reason))
            elif self._limit and (count := len(segmented.token_ids)) + room > self._limit:
                reason = f"the prompt has {count} tokens, and {room} more (--max-tokens) are past the model's"
                refused.append(Refused(prompt.gc_id, f"{reason} {self._limit}"))
            else:
                samples = range(self._config.samples)
                ready += [Ready(prompt.gc_id, sample, segmented.token_ids) for sample in samples]
        if refused:
            yield refused
        for batch in batches(ready, room, self._batch_tokens):
            if any((item.gc_id, item.sample) not in done for item in batch):
                yield [completion for completion in self._batch(batch) if completion.key not in done]

    def close(self) -> None:
        """Release the weights."""
        self.__dict__.pop("_model", None)

    @cached_property
    def _model(self) -> Any:
        """The model with its head, loaded when the first batch needs it."""
        machine, auto = self._machine, transformers.AutoModelForCausalLM
        if machine.threads is not None:
            torch.set_num_threads(machine.threads)
        device, dtype = machine.devices[0], machine.dtype
        return load_model(self._files, self._model_config, device=device, dtype=dtype, auto=auto)

    def _batch(self, batch: list[Ready]) -> list[Completion]:
        model, tokenizer = self._model, self._tokenizer
        text, defaults = model.config.get_text_config(decoder=True), model.generation_config
        named = text.eos_token_id, getattr(defaults, "eos_token_id", None), tokenizer.eos_token_id
        listed = [value if isinstance(value, list) else [value] for value in named]
        ends = sorted({token for tokens in listed for token in tokens if token is not None})
        # A pad token that was added to the tokenizer alone has no embedding; nothing attends to it.
        pads = (tokenizer.pad_token_id, *ends)
        pad = next((token for token in pads if token is not None and 0 <= token < self._vocabulary), 0)
        device, limit = self._machine.devices[0], self._config.max_tokens
        seed = self._config.seed
        noise = np.stack([uniforms(seed, _stream(item.gc_id), item.sample, 0, limit) for item in batch])
        # The model's own defaults (top-k, penalties) would change the distribution that is written down.
        model.generation_config = transformers.GenerationConfig(
            max_new_tokens=limit, do_sample=False, eos_token_id=ends or None, pad_token_id=pad
        )
        try:
            with torch.inference_mode():
                prompts = padded(batch, pad, device)
                tokens, logprobs = self._decode(model, prompts, torch.from_numpy(noise).to(device), ends)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the device has no memory for a batch of {len(batch)} completions (--batch-tokens "
                f"{self._batch_tokens}). Give a smaller --batch-tokens and start over with --overwrite: what "
                "is in a batch changes completions."
            ) from error
        drawn, chances = tokens.cpu().numpy(), logprobs.float().cpu().numpy()
        return [self._completion(item, drawn[row], chances[row], ends) for row, item in enumerate(batch)]

    def _decode(
        self, model: Any, prompts: Padded, noise: torch.Tensor, ends: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and log-probabilities by `noise` of the same shape; after an end token they mean nothing."""
        count, limit = noise.shape
        tokens = torch.zeros((count, limit), dtype=torch.long, device=noise.device)
        logprobs = torch.zeros((count, limit), dtype=torch.float64, device=noise.device)
        going, done = torch.arange(count, device=noise.device), 0
        cache = prefilled(model, prompts)
        ids, mask = (part[prompts[2]] for part in prompts[:2])
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


def _stream(gc_id: str) -> int:
    """The stream of a prompt's random numbers, so that they are independent of other prompts."""
    return int.from_bytes(blake2b(gc_id.encode(), digest_size=8).digest(), "little")


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


def padded(batch: Sequence[Ready], pad: int, device: str) -> Padded:
    """A batch's prompts, each once, padded on the left."""
    texts = {item.gc_id: item.token_ids for item in batch}
    pads = partial(pad_sequence, batch_first=True, padding_side="left")
    ids = pads([torch.from_numpy(text.astype(np.int64)) for text in texts.values()], padding_value=pad)
    mask = pads([torch.ones(len(text), dtype=torch.long) for text in texts.values()])
    places = {gc_id: row for row, gc_id in enumerate(texts)}
    rows = torch.tensor([places[item.gc_id] for item in batch])
    return ids.to(device), mask.to(device), rows.to(device)


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
    """Draws a token for each row and gives all others no chance, so that a greedy search takes it.

    `noise` is `[rows, max tokens]`, float64, uniform inside (0, 1). The logits are divided by `temperature`,
    and the smallest set of most probable tokens that reaches the mass `top_p` is drawn from.
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

    Of equally probable tokens the first ones are kept. The whole vocabulary is sorted only if necessary,
    because that takes longer than all other steps of a draw.
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


def prefilled(model: Any, prompts: Padded) -> dict[str, Any]:
    """A cache with all but the last token of each prompt, one row per completion, by its name in `generate`.

    Empty if `generate` has to make it. The last token stays, because its logits begin a completion. This
    calls `generate` because it passes each model its own positions and masks; the drawn token is not used.
    """
    ids, mask, rows = prompts
    if mask.sum(1).min() < 2:
        return {}
    given = {"attention_mask": mask[:, :-1], "return_dict_in_generate": True, "use_cache": True}
    output = model.generate(ids[:, :-1], max_new_tokens=1, **given)
    name = "cache" if "cache" in output else "past_key_values"  # before transformers 5.24
    cache: Any = output.get(name)
    layers = getattr(cache, "layers", [])
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return {}
    cache.batch_select_indices(rows)
    return {name: cache}

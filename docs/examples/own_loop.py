"""A GRPO loop in plain PyTorch that follows a run. docs/own-loop.md explains it.

Usage: own_loop.py MODEL SCORED RUN OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gaincurate

GROUP, PROMPTS_PER_STEP, NEW_TOKENS = 8, 2, 16


def reward_of(completion: str, row: dict[str, Any]) -> float:
    """Your verifier. An untrained model writes a digit now and then, and learns to."""
    return float(any(character.isdigit() for character in completion))


def generate(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[Any, Any, Any, list[str]]:
    """Token ids and attention mask, `[rows * GROUP, length]`, the mask of completions, and their texts."""
    chats = [row["prompt"] for row in rows for _ in range(GROUP)]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    with torch.no_grad():
        ids = model.generate(
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask,
            do_sample=True,
            max_new_tokens=NEW_TOKENS,
        )
    new = ids[:, prompt.input_ids.shape[1] :]
    ends = (new == tokenizer.eos_token_id).long()
    counted = (ends.cumsum(1) - ends == 0).long()  # up to the first end of the turn
    attention = torch.cat([prompt.attention_mask, counted], 1)
    return ids, attention, counted, tokenizer.batch_decode(new, skip_special_tokens=True)


def loss_of(model: Any, ids: Any, attention: Any, counted: Any, rewards: torch.Tensor) -> torch.Tensor:
    """The policy-gradient loss with advantages within groups: one update per rollout, so no ratio to clip."""
    groups = rewards.view(-1, GROUP)
    advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    length = counted.shape[1]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    log_p = logits.log_softmax(-1).gather(2, ids[:, -length:, None]).squeeze(2)
    return -(log_p * advantages.view(-1, 1) * counted).sum() / counted.sum()


def main(base: str, scored: str, run: Path, out: Path) -> None:
    """Train the rounds that are left."""
    if not run.exists():
        gaincurate.Schedule.start(scored, run, strategy="posterior", budget=6, rounds=3)
    schedule = gaincurate.Schedule(run)
    begin = out / f"round-{schedule.round - 1}" if schedule.round > 0 else Path(base)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(begin), AutoTokenizer.from_pretrained(begin)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if (begin / "optimizer.pt").exists():
        optimizer.load_state_dict(torch.load(begin / "optimizer.pt", weights_only=True))
    for round_ in schedule:
        torch.manual_seed(round_)  # a round that is trained again has the same rollouts
        rows = schedule.data().to_pylist()
        for first in range(0, len(rows), PROMPTS_PER_STEP):
            batch = rows[first : first + PROMPTS_PER_STEP]
            ids, attention, counted, texts = generate(model, tokenizer, batch)
            of_text = [row for row in batch for _ in range(GROUP)]
            rewards = [reward_of(text, row) for text, row in zip(texts, of_text, strict=True)]
            outcomes = zip(of_text, rewards, strict=True)
            schedule.report({"gc_id": row["gc_id"], "reward": reward} for row, reward in outcomes)
            loss_of(model, ids, attention, counted, torch.tensor(rewards)).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(out / f"round-{round_}")
        tokenizer.save_pretrained(out / f"round-{round_}")
        torch.save(optimizer.state_dict(), out / f"round-{round_}" / "optimizer.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))

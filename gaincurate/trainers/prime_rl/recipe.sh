#!/bin/bash
# One round of prime-rl 559b4477 (2026-08-21); read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer prime-rl --config round.sh --run run
# Optimizer: starts over every round; only resuming keeps it, which brings the place among the last round's tasks back.
# Learning rate: constant by default.
# KL reference: none of its own: the loss compares with the policy that sampled.
# Outcomes: the environment's reward, which appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
steps=4      # the budget * rollouts a prompt / samples a step
samples=256  # samples a step: prompts a step * rollouts a prompt

# rl.toml has the rest; its taskset reads $GAINCURATE_DATA, its reward appends to $GAINCURATE_OUTCOMES.
uv run rl @ rl.toml \
    --model.name "$checkpoint" \
    --max-steps "$steps" \
    --orchestrator.batch-size "$samples" \
    --orchestrator.group-size 16 \
    --orchestrator.concurrency.max-inflight "$samples" \
    --weight-broadcast.type filesystem \
    --output-dir "$output"

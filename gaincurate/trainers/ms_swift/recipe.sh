#!/bin/bash
# One round of ms-swift 4.6.0; read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer ms-swift --config round.sh --run run
# Optimizer: starts over every round.
# Learning rate: constant; any other schedule spans one process, warm-up included.
# KL reference: none (the term is off); with it, the model that the round starts from, which moves every round.
# Outcomes: the reward `mine` of reward.py, which is given gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
gaincurate export "$run" --round "$round" --trainer ms-swift --out "$output/data.jsonl"

# 64 rollouts a generation are 8 prompts: `schedule start --align-to 8`. NPROC_PER_NODE=N for N processes.
swift rlhf \
    --rlhf_type grpo \
    --model "$checkpoint" \
    --tuner_type full \
    --dataset "$output/data.jsonl" \
    --dataset_shuffle false \
    --external_plugins reward.py \
    --reward_funcs mine \
    --num_generations 8 \
    --generation_batch_size 64 \
    --num_train_epochs 1 \
    --lr_scheduler_type constant \
    --beta 0 \
    --add_version false \
    --output_dir "$output"

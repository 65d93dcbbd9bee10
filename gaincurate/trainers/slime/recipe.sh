#!/bin/bash
# One round of slime 624b824a (2026-08-21); read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer slime --config round.sh --run run
# Optimizer: starts over every round; kept only with --load of Megatron weights, which brings the last file's place back.
# Learning rate: constant; any other schedule spans one process, warm-up included.
# KL reference: --ref-load: the same model in all rounds.
# Outcomes: the reward function reward.reward, which is given sample.metadata['gc_id'] and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
base=/models/base_torch_dist   # the KL reference, as Megatron weights
gaincurate export "$run" --round "$round" --trainer slime --out "$output/data.jsonl"
. scripts/models/qwen3-4B.sh   # MODEL_ARGS

python3 train.py \
    "${MODEL_ARGS[@]}" \
    --hf-checkpoint "$checkpoint" \
    --load "$checkpoint" \
    --ref-load "$base" \
    --prompt-data "$output/data.jsonl" \
    --input-key prompt \
    --label-key label \
    --metadata-key metadata \
    --apply-chat-template \
    --custom-rm-path reward.reward \
    --num-epoch 1 \
    --rollout-batch-size "$batch" \
    --n-samples-per-prompt 8 \
    --rollout-max-response-len 2048 \
    --global-batch-size $((batch * 8)) \
    --advantage-estimator grpo \
    --lr 1e-6 \
    --lr-decay-style constant \
    --save "$output/megatron" \
    --save-interval 1000000 \
    --save-hf "$output/hf/{rollout_id}"

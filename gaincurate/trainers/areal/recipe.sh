#!/bin/bash
# One round of areal 4aef98d8 (2026-05-21); read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer areal --config round.sh --run run
# Optimizer: starts over every round; kept only by recover.mode, which brings the last file's place back.
# Learning rate: constant; any other schedule spans one process, warm-up included.
# KL reference: ref.path: the same model in all rounds.
# Outcomes: your workflow, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
base=/models/base              # the KL reference
gaincurate export "$run" --round "$round" --trainer areal --out "$output/data.parquet"

# A script as examples/math/gsm8k_rl.py that loads the Parquet file of train_dataset.path.
python3 train_rl.py --config grpo.yaml \
    actor.path="$checkpoint" \
    ref.path="$base" \
    train_dataset.path="$output/data.parquet" \
    train_dataset.shuffle=false \
    train_dataset.batch_size="$batch" \
    rollout.consumer_batch_size="$batch" \
    rollout.max_head_offpolicyness=0 \
    total_train_epochs=1 \
    recover.mode=disabled \
    saver.freq_epochs=1 \
    saver.fileroot="$output" \
    cluster.fileroot="$output"

# The weights lie deeper than the driver looks.
mv "$output"/checkpoints/*/*/*/default/epoch* "$output/hf"

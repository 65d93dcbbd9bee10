#!/bin/bash
# One round of nemo-rl 7ea279ab (2026-08-22); read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer nemo-rl --config round.sh --run run
# Optimizer: starts over every round; kept only in one checkpoint_dir, where the loader's offset comes back with it.
# Learning rate: the warm-up over 50 steps starts over every round; shorten policy.scheduler in a YAML of your own.
# KL reference: none (the term is off); with it, the model that the round starts from, which moves every round.
# Outcomes: an environment of yours (data.default.env_name), which appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer nemo-rl --out "$output/data.jsonl"
# It prints settings; with a system message, data.default.system_prompt_file is one of them.

uv run examples/run_grpo.py --config examples/configs/grpo_math_1B.yaml \
    policy.model_name="$checkpoint" \
    policy.max_total_sequence_length=4096 \
    policy.train_global_batch_size=$((batch * 16)) \
    data.shuffle=false \
    data.train.dataset_name=ResponseDataset \
    ++data.train.data_path="$output/data.jsonl" \
    data.train.split_validation_size=0 \
    data.default.prompt_file=null \
    grpo.num_prompts_per_step="$batch" \
    grpo.num_generations_per_prompt=16 \
    grpo.max_num_epochs=1 \
    grpo.val_period=0 \
    loss_fn.reference_policy_kl_penalty=0 \
    checkpointing.checkpoint_dir="$output" \
    checkpointing.metric_name=null \
    checkpointing.save_optimizer=false \
    checkpointing.save_consolidated=true

# The whole weights lie deeper than the driver looks.
mv "$(find "$output"/step_*/policy -type d -name consolidated | head -n 1)" "$output/hf"
cp -n "$output"/step_*/policy/tokenizer/* "$output/hf/"

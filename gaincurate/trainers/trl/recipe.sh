#!/bin/bash
# One round of trl 1.16.0; run on a CPU.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer trl --config round.sh --run run
# Optimizer: goes on, from checkpoint-N of the last round.
# Learning rate: goes on; constant here, because any other one ends with the round's last step.
# KL reference: none (beta 0); with beta, the model that the round starts from, which moves every round.
# Outcomes: the reward function reward.reward, which is given gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
steps=8      # optimizer steps a round: the budget / prompts a generation * steps a generation
mkdir -p "$output/rows"
cp "$data" "$output/rows/train.parquet"
# The last round's trainer state: in the checkpoint (`schedule run --trainer trl`), or below the final model.
last=$checkpoint
if [ ! -f "$last/trainer_state.json" ]; then
    last=$(ls -d "$checkpoint"/checkpoint-* 2>/dev/null | sort -V | tail -n 1 || true)
fi
if [ "$round" != 0 ] && [ -z "$last" ]; then
    echo "no trainer state in $checkpoint: the optimizer would start over" >&2
    exit 1
fi

trl grpo \
    --model_name_or_path "$checkpoint" ${last:+--resume_from_checkpoint "$last"} \
    --dataset_name "$output/rows" \
    --shuffle_dataset false \
    --ignore_data_skip true \
    --reward_funcs reward.reward \
    --num_generations 8 \
    --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 1 \
    --max_steps $((steps * (round + 1))) \
    --save_strategy steps \
    --save_steps "$steps" \
    --lr_scheduler_type constant \
    --learning_rate 1e-6 \
    --seed "$round" \
    --report_to none \
    --output_dir "$output"

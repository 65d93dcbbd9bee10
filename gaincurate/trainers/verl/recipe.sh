#!/bin/bash
# One round of verl 0.9.1; read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer verl --config round.sh --run run
# Optimizer: starts over every round; only resuming keeps it, which brings the last file's offset (data.pt) back.
# Learning rate: constant; any other schedule spans one process, warm-up included.
# KL reference: none (the term is off); with it, the model that the round starts from, which moves every round.
# Outcomes: compute_score in reward.py, which is given extra_info with gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer verl --data-source mine --out "$output/data.parquet"

python3 -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files="$output/data.parquet" \
    data.val_files="$output/data.parquet" \
    data.shuffle=false \
    data.train_batch_size="$batch" \
    data.max_prompt_length=2048 \
    data.max_response_length=2048 \
    data.filter_overlong_prompts=false \
    actor_rollout_ref.model.path="$checkpoint" \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.actor.ppo_mini_batch_size="$batch" \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.checkpoint.save_contents="[model,hf_model]" \
    reward.custom_reward_function.path=reward.py \
    trainer.total_epochs=1 \
    trainer.save_freq=1000000 \
    trainer.test_freq=-1 \
    trainer.val_before_train=false \
    trainer.resume_mode=disable \
    trainer.default_local_dir="$output"

#!/bin/bash
# One round of skyrl a9564572 (2026-08-21); read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer skyrl --config round.sh --run run
# Optimizer: starts over every round; only resuming keeps it, which brings the last file's offset (data.pt) back.
# Learning rate: constant; any other schedule spans one process, warm-up included.
# KL reference: none (the term is off); with it, the model that the round starts from, which moves every round.
# Outcomes: your environment, which is given the row's gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer skyrl --env-class mine --out "$output/data.parquet"

# An entry point as examples/train/multiply/main_multiply.py: it registers your environment.
uv run --isolated --extra fsdp -m main_gaincurate \
    data.train_data="['$output/data.parquet']" \
    data.val_data="['$output/data.parquet']" \
    environment.env_class=mine \
    trainer.policy.model.path="$checkpoint" \
    trainer.policy.optimizer_config.lr=1e-6 \
    trainer.algorithm.advantage_estimator=grpo \
    trainer.algorithm.use_kl_loss=false \
    trainer.epochs=1 \
    trainer.train_batch_size="$batch" \
    trainer.policy_mini_batch_size="$batch" \
    trainer.max_prompt_length=2048 \
    generator.n_samples_per_prompt=8 \
    trainer.eval_before_train=false \
    trainer.eval_interval=-1 \
    trainer.resume_mode=none \
    trainer.ckpt_interval=-1 \
    trainer.ckpt_path="$output/ckpt" \
    trainer.hf_save_interval=1000000 \
    trainer.export_path="$output/hf"

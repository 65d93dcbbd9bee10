#!/bin/bash
# One round of openrlhf 0.11.2; read, not run.
#   gaincurate schedule run run -- bash round.sh {data} {round} {checkpoint} {outcomes} {output}
#   gaincurate doctor --trainer openrlhf --config round.sh --run run
# Optimizer: starts over every round; kept only by --ckpt.load_enable, which brings the last file's place back.
# Learning rate: constant; the default warms up and decays within every round.
# KL reference: none (the term is off); with it, the model that the round starts from, which moves every round.
# Outcomes: reward_func in reward.py, which is given the label with gc_id and appends to $GAINCURATE_OUTCOMES.
set -eu
data=$1 round=$2 checkpoint=$3 outcomes=$4 output=$5
rm -rf "${output:?}"/*   # an attempt that was killed: a round starts from its beginning
run=${data%/rounds/*}   # the run's folder
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer openrlhf --out "$output/data.jsonl"

python3 -m openrlhf.cli.train_ppo_ray \
    --actor.model_name_or_path "$checkpoint" \
    --data.prompt_dataset "$output/data.jsonl" \
    --data.input_key prompt \
    --data.label_key label \
    --data.apply_chat_template \
    --data.max_len 4096 \
    --reward.remote_url reward.py \
    --rollout.batch_size "$batch" \
    --rollout.n_samples_per_prompt 8 \
    --rollout.max_new_tokens 2048 \
    --train.batch_size $((batch * 8)) \
    --train.num_episodes 1 \
    --algo.advantage.estimator group_norm \
    --algo.kl.init_coef 0 \
    --actor.adam.lr 1e-6 \
    --actor.lr_scheduler constant \
    --actor.lr_warmup_ratio 0 \
    --vllm.num_engines 8 \
    --ckpt.path "$output/ckpt" \
    --ckpt.output_dir "$output/model"

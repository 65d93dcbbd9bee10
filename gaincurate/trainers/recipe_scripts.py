"""The scripts of segment mode: one round of each trainer as one process, for `gaincurate schedule run`.

Text alone. Every key and flag is one of the version that is named in `gaincurate.trainers.recipes`.
"""

from __future__ import annotations

TRL = """\
steps=8      # optimizer steps a round: the budget / prompts a generation * steps a generation
mkdir -p "$output/rows"
cp "$data" "$output/rows/train.parquet"
# The last round's trainer state: in the checkpoint (`schedule run --trainer trl`), or below the final model.
last=$checkpoint
if [ ! -f "$last/trainer_state.json" ]; then
    last=$(ls -d "$checkpoint"/checkpoint-* 2>/dev/null | sort -V | tail -n 1 || true)
fi
if [ "$round" != 0 ] && [ -z "$last" ]; then
    echo "no trainer state in $checkpoint: the optimizer would begin anew" >&2
    exit 1
fi

trl grpo \\
    --model_name_or_path "$checkpoint" ${last:+--resume_from_checkpoint "$last"} \\
    --dataset_name "$output/rows" \\
    --shuffle_dataset false \\
    --ignore_data_skip true \\
    --reward_funcs reward.reward \\
    --num_generations 8 \\
    --per_device_train_batch_size 8 \\
    --gradient_accumulation_steps 1 \\
    --max_steps $((steps * (round + 1))) \\
    --save_strategy steps \\
    --save_steps "$steps" \\
    --lr_scheduler_type constant \\
    --learning_rate 1e-6 \\
    --seed "$round" \\
    --report_to none \\
    --output_dir "$output"
"""

VERL = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer verl --data-source mine --out "$output/data.parquet"

python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files="$output/data.parquet" \\
    data.val_files="$output/data.parquet" \\
    data.shuffle=false \\
    data.train_batch_size="$batch" \\
    data.max_prompt_length=2048 \\
    data.max_response_length=2048 \\
    data.filter_overlong_prompts=false \\
    actor_rollout_ref.model.path="$checkpoint" \\
    actor_rollout_ref.rollout.name=vllm \\
    actor_rollout_ref.rollout.n=8 \\
    actor_rollout_ref.actor.ppo_mini_batch_size="$batch" \\
    actor_rollout_ref.actor.optim.lr=1e-6 \\
    actor_rollout_ref.actor.checkpoint.save_contents="[model,hf_model]" \\
    reward.custom_reward_function.path=reward.py \\
    trainer.total_epochs=1 \\
    trainer.save_freq=1000000 \\
    trainer.test_freq=-1 \\
    trainer.val_before_train=false \\
    trainer.resume_mode=disable \\
    trainer.default_local_dir="$output"
"""

OPENRLHF = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer openrlhf --out "$output/data.jsonl"

python3 -m openrlhf.cli.train_ppo_ray \\
    --actor.model_name_or_path "$checkpoint" \\
    --data.prompt_dataset "$output/data.jsonl" \\
    --data.input_key prompt \\
    --data.label_key label \\
    --data.apply_chat_template \\
    --data.max_len 4096 \\
    --reward.remote_url reward.py \\
    --rollout.batch_size "$batch" \\
    --rollout.n_samples_per_prompt 8 \\
    --rollout.max_new_tokens 2048 \\
    --train.batch_size $((batch * 8)) \\
    --train.num_episodes 1 \\
    --algo.advantage.estimator group_norm \\
    --algo.kl.init_coef 0 \\
    --actor.adam.lr 1e-6 \\
    --actor.lr_scheduler constant \\
    --actor.lr_warmup_ratio 0 \\
    --vllm.num_engines 8 \\
    --ckpt.path "$output/ckpt" \\
    --ckpt.output_dir "$output/model"
"""

NEMO_RL = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer nemo-rl --out "$output/data.jsonl"
# It prints settings; with a system message, data.default.system_prompt_file is one of them.

uv run examples/run_grpo.py --config examples/configs/grpo_math_1B.yaml \\
    policy.model_name="$checkpoint" \\
    policy.max_total_sequence_length=4096 \\
    policy.train_global_batch_size=$((batch * 16)) \\
    data.shuffle=false \\
    data.train.dataset_name=ResponseDataset \\
    ++data.train.data_path="$output/data.jsonl" \\
    data.train.split_validation_size=0 \\
    data.default.prompt_file=null \\
    grpo.num_prompts_per_step="$batch" \\
    grpo.num_generations_per_prompt=16 \\
    grpo.max_num_epochs=1 \\
    grpo.val_period=0 \\
    loss_fn.reference_policy_kl_penalty=0 \\
    checkpointing.checkpoint_dir="$output" \\
    checkpointing.metric_name=null \\
    checkpointing.save_optimizer=false \\
    checkpointing.save_consolidated=true

# The whole weights lie deeper than the driver looks.
mv "$(find "$output"/step_*/policy -type d -name consolidated | head -n 1)" "$output/hf"
cp -n "$output"/step_*/policy/tokenizer/* "$output/hf/"
"""

SKYRL = """\
batch=64     # prompts a step: `schedule start --align-to 64`
gaincurate export "$run" --round "$round" --trainer skyrl --env-class mine --out "$output/data.parquet"

# An entry point as examples/train/multiply/main_multiply.py: it registers your environment.
uv run --isolated --extra fsdp -m main_gaincurate \\
    data.train_data="['$output/data.parquet']" \\
    data.val_data="['$output/data.parquet']" \\
    environment.env_class=mine \\
    trainer.policy.model.path="$checkpoint" \\
    trainer.policy.optimizer_config.lr=1e-6 \\
    trainer.algorithm.advantage_estimator=grpo \\
    trainer.algorithm.use_kl_loss=false \\
    trainer.epochs=1 \\
    trainer.train_batch_size="$batch" \\
    trainer.policy_mini_batch_size="$batch" \\
    trainer.max_prompt_length=2048 \\
    generator.n_samples_per_prompt=8 \\
    trainer.eval_before_train=false \\
    trainer.eval_interval=-1 \\
    trainer.resume_mode=none \\
    trainer.ckpt_interval=-1 \\
    trainer.ckpt_path="$output/ckpt" \\
    trainer.hf_save_interval=1000000 \\
    trainer.export_path="$output/hf"
"""

SLIME = """\
batch=64     # prompts a step: `schedule start --align-to 64`
base=/models/base_torch_dist   # the KL reference, as Megatron weights
gaincurate export "$run" --round "$round" --trainer slime --out "$output/data.jsonl"
. scripts/models/qwen3-4B.sh   # MODEL_ARGS

python3 train.py \\
    "${MODEL_ARGS[@]}" \\
    --hf-checkpoint "$checkpoint" \\
    --load "$checkpoint" \\
    --ref-load "$base" \\
    --prompt-data "$output/data.jsonl" \\
    --input-key prompt \\
    --label-key label \\
    --metadata-key metadata \\
    --apply-chat-template \\
    --custom-rm-path reward.reward \\
    --num-epoch 1 \\
    --rollout-batch-size "$batch" \\
    --n-samples-per-prompt 8 \\
    --rollout-max-response-len 2048 \\
    --global-batch-size $((batch * 8)) \\
    --advantage-estimator grpo \\
    --lr 1e-6 \\
    --lr-decay-style constant \\
    --save "$output/megatron" \\
    --save-interval 1000000 \\
    --save-hf "$output/hf/{rollout_id}"
"""

PRIME_RL = """\
steps=4      # the budget * rollouts a prompt / samples a step
samples=256  # samples a step: prompts a step * rollouts a prompt

# rl.toml has the rest; its taskset reads $GAINCURATE_DATA, its reward appends to $GAINCURATE_OUTCOMES.
uv run rl @ rl.toml \\
    --model.name "$checkpoint" \\
    --max-steps "$steps" \\
    --orchestrator.batch-size "$samples" \\
    --orchestrator.group-size 16 \\
    --orchestrator.concurrency.max-inflight "$samples" \\
    --weight-broadcast.type filesystem \\
    --output-dir "$output"
"""

AREAL = """\
batch=64     # prompts a step: `schedule start --align-to 64`
base=/models/base              # the KL reference
gaincurate export "$run" --round "$round" --trainer areal --out "$output/data.parquet"

# A script as examples/math/gsm8k_rl.py that loads the Parquet file of train_dataset.path.
python3 train_rl.py --config grpo.yaml \\
    actor.path="$checkpoint" \\
    ref.path="$base" \\
    train_dataset.path="$output/data.parquet" \\
    train_dataset.shuffle=false \\
    train_dataset.batch_size="$batch" \\
    rollout.consumer_batch_size="$batch" \\
    rollout.max_head_offpolicyness=0 \\
    total_train_epochs=1 \\
    recover.mode=disabled \\
    saver.freq_epochs=1 \\
    saver.fileroot="$output" \\
    cluster.fileroot="$output"

# The weights lie deeper than the driver looks.
mv "$output"/checkpoints/*/*/*/default/epoch* "$output/hf"
"""

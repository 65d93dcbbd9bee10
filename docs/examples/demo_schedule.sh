#!/bin/sh
# Score, start, run: GRPO with TRL on a tiny untrained model, three rounds, scored again at the first two
# checkpoints. Usage: demo_schedule.sh FOLDER, which holds prompts.jsonl.
set -eu
here=$(dirname "$0")
cd "$1"
case "$here" in /*) ;; *) here="$OLDPWD/$here" ;; esac

[ -d tiny ] || python "$here/demo_model.py" prompts.jsonl tiny
# Scored with the model that is trained: a score of another one says nothing about how this one drifts.
gaincurate score prompts.jsonl --model tiny --out tiny-scored
[ -d run ] || gaincurate schedule start tiny-scored --run run --strategy gain-rl --sigma 0.2N \
    --budget 16 --rounds 3 --align-to 2 --rescore window --rescore-every 2 --probe 64 --drift 0.999
gaincurate schedule run run -- python "$here/demo_train.py" --data {data} --round {round} \
    --checkpoint {checkpoint} --outcomes {outcomes} --output {output}

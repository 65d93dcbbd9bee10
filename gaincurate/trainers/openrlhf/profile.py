"""What is known of OpenRLHF: the columns that it reads, its settings for them, its checkpoints, logs and
recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Parts, ViewOptions
from gaincurate.trainers.markers import number_in, tokenizer_unfinished
from gaincurate.trainers.profile import (
    NO_REFERENCE,
    OPTIMIZER_LOST,
    SHUFFLES,
    Columns,
    Launch,
    Layout,
    Profile,
    Recipe,
    Rendering,
    Sharded,
)

if TYPE_CHECKING:
    from gaincurate.trainers.view import View


_SCRIPT = """\
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


def _columns(parts: Parts, options: ViewOptions) -> Columns:
    return {"prompt": parts.messages()} | ({"label": parts.answer_text()} if parts.has_answer else {})


def _launch(path: Path, view: View) -> Launch:
    flags = ["--data.prompt_dataset", str(path), "--data.prompt_split", "train"]
    flags += ["--data.input_key", "prompt", "--data.apply_chat_template"]
    flags += ["--data.label_key", "label"] if "label" in view.own else []
    hints = [SHUFFLES.format("OpenRLHF")]
    if view.parts.id_in_answer:
        hints.append(f'a label is JSON: {{"{ID}": ..., "answer": ...}}')
    return Launch("flags", flags, hints)


def _tokenizer_last(path: Path, step: int) -> str | None:
    """OpenRLHF: the tokenizer is saved after the weights. Of its DeepSpeed folders `latest` tells."""
    if not path.name.endswith("_hf"):
        file = path.parent / "latest"
        number = number_in(file, "global_step")
        return (
            None
            if number is not None and number >= step
            else f"{path} is not finished: {file} does not say so"
        )
    return tokenizer_unfinished(path)


PROFILE = Profile(
    name="openrlhf",
    version="0.11.2",
    judge="datasource",
    id_in_answer=True,
    refused_in_path=",@",
    columns=_columns,
    launch=_launch,
    rendering=Rendering(media=("images",), nulls="all"),
    layout=Layout(
        version="0.11.2",
        folders=("global_step*_hf", "*/global_step*_hf", "_actor/global_step*"),
        step=r"global_step(\d+)(?:_hf)?",
        marker="the tokenizer's files, written after the weights, can be read",
        unfinished=_tokenizer_last,
        weights=(".",),
        setting="--ckpt.save_hf",
        adapters=(".",),
        sharded=(Sharded("*_model_states.pt", None, apart=True),),
    ),
    recipe=Recipe(
        version="0.11.2",
        body=_SCRIPT,
        optimizer=f"{OPTIMIZER_LOST}; kept only by --ckpt.load_enable, which brings the last file's "
        "place back",
        rate="constant; the default warms up and decays within every round",
        reference=NO_REFERENCE,
        outcomes="reward_func in reward.py, which is given the label with gc_id and appends to "
        "$GAINCURATE_OUTCOMES",
    ),
)

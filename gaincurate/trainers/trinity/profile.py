"""Trinity-RFT: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import View
from gaincurate.trainers.markers import TRACKER, tracker
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded


def _launch(path: Path, view: View) -> Launch:
    form = {"prompt_key": "prompt"} | ({"response_key": "answer"} if "answer" in view.columns else {})
    if view.system is not None:
        form["system_prompt"] = view.system
    lines = [
        "buffer:",
        "  explorer_input:",
        "    tasksets:",
        "      - name: gaincurate",
        "        storage_type: file",
        f"        path: {json.dumps(str(path.parent), ensure_ascii=False)}",
        "        split: train",
        f"        format: {json.dumps(form, ensure_ascii=False)}",
        "        data_selector: {selector_type: sequential}",
    ]
    return Launch("yaml", lines, [f"a workflow gets the id as task.raw_task['{ID}']"])


def _trinity(path: Path, step: int) -> str | None:
    """Trinity: trackers are moved on when all writers are done; `.full_checkpoint` only says which one."""
    name = TRACKER if (path / ".full_checkpoint").is_file() else "latest_state_dict_iteration.txt"
    return tracker(name)(path, step)


PROFILE = Profile(
    name="trinity",
    version="0.6.0",
    reads_folder=True,
    columns=lambda view: {"prompt": view.question(), **view.answers("answer")},
    launch=_launch,
    rendering=Rendering(
        "model.enable_thinking",
        "enable_thinking",
        adds=("model.custom_chat_template", "model.chat_template_path"),
        code="the workflow",
    ),
    layout=Layout(
        folders=("global_step_*", "*/global_step_*", "*/*/global_step_*"),
        step=r"global_step_(\d+)",
        marker="with `.full_checkpoint` (written first) `latest_checkpointed_iteration.txt` has N or more, "
        "else `latest_state_dict_iteration.txt`",
        unfinished=_trinity,
        weights=("actor/huggingface", "actor/model/huggingface"),
        setting="trainer.save_hf_checkpoint",
        adapters=("actor/huggingface/lora_adapter", "actor/lora_adapter"),
        sharded=(
            Sharded("actor/model_world_size_*_rank_*.pt", "trinity convert --checkpoint-dir {checkpoint}"),
            Sharded("actor/model/dist_ckpt/*", "trinity convert --checkpoint-dir {checkpoint}"),
            Sharded("actor/dist_ckpt/*", "trinity convert --checkpoint-dir {checkpoint}"),
        ),
    ),
)

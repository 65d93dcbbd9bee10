"""slime: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from gaincurate.core.schema import ID
from gaincurate.trainers.columns import Column, View
from gaincurate.trainers.markers import TRACKER, tracker, unreadable
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded


def _columns(view: View) -> dict[str, Column]:
    tools = {"tools": view.row_tools()} if view.tools else {}
    metadata = view.struct("metadata", {ID: view.ids()})
    return {"prompt": view.messages(), **view.answers("label"), **tools, "metadata": metadata}


def _launch(path: Path, view: View) -> Launch:
    flags = ["--prompt-data", str(path), "--input-key", "prompt"]
    flags += ["--label-key", "label"] if "label" in view.columns else []
    flags += ["--metadata-key", "metadata", "--apply-chat-template"]
    flags += ["--tool-key", "tools"] if "tools" in view.columns else []
    media = {name[:-1]: name for name in ("images", "videos", "audios") if name in view.schema.names}
    flags += ["--multimodal-keys", json.dumps(media)] if media else []
    return Launch("flags", flags, ["leave --rollout-shuffle out", f"the id is in Sample.metadata['{ID}']"])


def _indexed(path: Path, step: int) -> str | None:
    """slime: `--save-hf` writes the index when all shards have their names; Megatron keeps a tracker."""
    if any(path.glob("*.distcp")):
        return tracker(TRACKER)(path, step)
    if (path / "model.safetensors").is_file():  # one file needs no index; its header tells
        return None
    return unreadable(path / "model.safetensors.index.json")


PROFILE = Profile(
    name="slime",
    version="624b824a (2026-08-21)",
    reserved=frozenset({"tools"}),
    columns=_columns,
    launch=_launch,
    rendering=Rendering(
        "apply_chat_template_kwargs",
        row_tools="tool_key",
        adds=("multimodal_keys", "custom_generate_function_path"),
        nulls="prompt_data",
    ),
    layout=Layout(
        folders=("*", "*/*"),
        step=r"(?:.*\D)?(\d+)",
        marker="`model.safetensors.index.json`, written last, and all files that it names",
        unfinished=_indexed,
        weights=(".", "hf"),
        any_name=True,
        setting="--save-hf PATH/{rollout_id}",
        sharded=(
            Sharded(
                "*.distcp",
                "python tools/convert_torch_dist_to_hf.py --input-dir {checkpoint} "
                "--output-dir {checkpoint}/hf --origin-hf-dir HF_CHECKPOINT",
                apart=True,
            ),
        ),
    ),
)

"""prime-rl: its columns, the settings that make it read a file, its prompts and checkpoints."""

from __future__ import annotations

from pathlib import Path

from gaincurate.trainers.columns import View
from gaincurate.trainers.profile import Launch, Layout, Profile, Rendering, Sharded, load_line, words


def _launch(path: Path, view: View) -> Launch:
    hint = "prime-rl reads no files: your verifiers taskset yields one task for each row. The id comes back "
    hint += "as the task's name"
    return Launch("python", [load_line(path)], [hint])


def _prime_rl(path: Path, step: int) -> str | None:
    """prime-rl: a marker file is made when the broadcast is on disk."""
    if (path / "trainer").is_dir() or any((path / name).is_file() for name in ("STABLE", ".finished")):
        return None
    return f"{path} is not finished: it has no STABLE"


PROFILE = Profile(
    name="prime-rl",
    version="559b4477 (2026-08-21)",
    reserved=words(
        "description image workdir agent_user skills network_allow network_block artifacts "
        "artifact_max_bytes timeout resources"
    ),
    scores_refused="prime-rl tells tasks apart by a hash of all their fields, so every new scoring "
    "would make new tasks of them",
    columns=lambda view: {
        "idx": view.places(),
        "name": view.ids(),
        "prompt": view.after_system(),
        "system_prompt": view.system_text(),
        **view.answers("answer"),
    },
    launch=_launch,
    rendering=Rendering(
        "orchestrator.train.sampling.extra_body.chat_template_kwargs",
        adds=tuple(f"{at}tokenizer.chat_template" for at in ("", "trainer.", "orchestrator.")),
        code="the taskset of the environment",
    ),
    layout=Layout(
        folders=("broadcasts/step_*", "step_*", "*/broadcasts/step_*", "checkpoints/step_*"),
        step=r"step_(\d+)",
        marker="`STABLE` is in `broadcasts/step_N` (later versions: `.finished`)",
        unfinished=_prime_rl,
        weights=(".",),
        setting='weight_broadcast.type = "filesystem"',
        adapters=(".",),
        sharded=(Sharded("trainer/*", None, apart=True),),
    ),
)

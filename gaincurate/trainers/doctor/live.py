"""What each live adapter is plugged in with: the settings by which a trainer finds it."""

from __future__ import annotations

from typing import Any

LIVE: dict[str, dict[str, Any]] = {
    "verl": {
        "data.custom_cls.path": "pkg://gaincurate.trainers.verl",
        "data.custom_cls.name": "PlannedDataset",
        "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl",
        "trainer.v1.sampler.custom_sampler.name": "OutcomeBuffer",
    },
    "nemo-rl": {
        "data.use_multiple_dataloader": True,
        "data.custom_dataloader": "gaincurate.trainers.nemo_rl.planned_batch",
    },
    "slime": {
        "data_source_path": "gaincurate.trainers.slime.PlannedSource",
        "rollout_all_samples_process_path": "gaincurate.trainers.slime.report",
    },
    "prime-rl": {"orchestrator.train.source.0.env.taskset.id": "gaincurate.trainers.prime_rl"},
    "trinity": {
        "buffer.explorer_input.taskset.data_selector.selector_type": (
            "gaincurate.trainers.trinity.PlannedSelector"
        ),
    },
}

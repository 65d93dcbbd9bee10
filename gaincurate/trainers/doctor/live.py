"""What each live adapter is plugged in with: the settings by which a trainer finds it."""

from __future__ import annotations

from typing import Any

LIVE: dict[str, dict[str, Any]] = {
    "verl": {
        "data.custom_cls.path": "pkg://gaincurate.trainers.verl",
        "data.custom_cls.name": "RunDataset",
        "trainer.v1.sampler.custom_sampler.path": "pkg://gaincurate.trainers.verl",
        "trainer.v1.sampler.custom_sampler.name": "RunReplayBuffer",
        "trainer.checkpoint_callback_class": "gaincurate.trainers.verl.RunCheckpoint",
    },
    "nemo-rl": {
        "data.use_multiple_dataloader": True,
        "data.custom_dataloader": "gaincurate.trainers.nemo_rl.next_batch",
    },
    "slime": {
        "data_source_path": "gaincurate.trainers.slime.RunDataSource",
        "rollout_all_samples_process_path": "gaincurate.trainers.slime.report",
    },
    "trinity": {"data_selector.selector_type": "gaincurate.trainers.trinity.RunSelector"},
}
"""By trainer; trinity's below its task set. prime-rl's is a package of your own that is given the run."""

"""The path that environments for NeMo-RL import `report` from."""

from gaincurate.trainers.nemo_rl.live import report as report

"""verl's settings name this path for rollout replay."""

from gaincurate.trainers.verl.replay import GroupReplayBuffer as GroupReplayBuffer
from gaincurate.trainers.verl.replay import ReplayCheckpoint as ReplayCheckpoint
from gaincurate.trainers.verl.replay import rows_in as rows_in

"""The path that training scripts import TRL's replay from."""

from gaincurate.trainers.trl.replay import Replay as Replay
from gaincurate.trainers.trl.replay import ReplayGRPOTrainer as ReplayGRPOTrainer
from gaincurate.trainers.trl.replay import Replays as Replays

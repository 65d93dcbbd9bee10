"""The path that documentation gives for verl's settings with replay."""

from gaincurate.trainers.verl.replay_settings import replay_overrides as replay_overrides

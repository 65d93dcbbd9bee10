"""The path that documentation gives for verl's settings."""

from gaincurate.trainers.verl.settings import overrides as overrides
from gaincurate.trainers.verl.settings import sampler_overrides as sampler_overrides

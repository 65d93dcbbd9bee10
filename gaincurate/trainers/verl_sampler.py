"""verl 0.5 to 0.7.1 name this path in `data.sampler.class_path`."""

from gaincurate.trainers.verl.sampler import RunSampler as RunSampler

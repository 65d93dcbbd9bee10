"""The trainers that gaincurate knows by name."""

TRAINERS = (
    "trl",
    "verl",
    "openrlhf",
    "nemo-rl",
    "skyrl",
    "slime",
    "prime-rl",
    "trinity",
    "areal",
    "roll",
    "open-instruct",
)

"""The path that `python -m` was given to merge an adapter."""

import sys

from gaincurate.trainers.lora import main as main
from gaincurate.trainers.lora import merge as merge
from gaincurate.trainers.lora import see_mergeable as see_mergeable

if __name__ == "__main__":
    sys.exit(main())

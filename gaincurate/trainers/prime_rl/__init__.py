"""prime-rl follows a run: the taskset that an environment package of yours hands on."""

from gaincurate.trainers.names import from_live

__getattr__ = from_live(
    __name__, "verifiers a60a606ec (2026-08-21)", "RunConfig", "RunData", "RunTask", "RunTaskset"
)

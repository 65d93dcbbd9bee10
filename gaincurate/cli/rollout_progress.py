"""What a person sees while rollouts go on; knows nothing of how they are made."""

from __future__ import annotations

import time
from types import TracebackType

from gaincurate.cli import output
from gaincurate.difficulty.watch import Watch


class RolloutView(Watch):
    """A bar over prompts where a person watches, else a line per shard; both on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("prompts  {task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", rate="") if self._console.is_terminal else None
        self._begin = time.perf_counter()
        self._completions = self._tokens = self._prompts = self._total = 0

    def __enter__(self) -> RolloutView:
        if self._task is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._bar.stop()

    def gold(self, checked: int, count: int) -> None:
        """See `Watch`."""
        if self._task is not None:
            self._bar.update(self._task, description="verifying gold", completed=checked, total=count)

    def start(self, prompts: int, done: int) -> None:
        """See `Watch`."""
        if done:
            verb = "is" if done == 1 else "are"
            of = output.counted(prompts, "prompt")
            output.note(f"{done:,} of {of} {verb} in finished shards and {verb} kept")
        self._begin, self._total, self._prompts = time.perf_counter(), prompts, done
        if self._task is not None:
            self._bar.update(self._task, description="rolling out", completed=done, total=prompts)

    def advance(self, completions: int, tokens: int) -> None:
        """See `Watch`."""
        self._completions += completions
        self._tokens += tokens
        if self._task is not None:
            self._bar.update(self._task, rate=self._rate())

    def shard(self, index: int, count: int, prompts: int) -> None:
        """See `Watch`."""
        self._prompts += prompts
        if self._task is not None:
            self._bar.update(self._task, completed=self._prompts)
        else:
            output.note(
                f"shard {index + 1} of {count}: {self._prompts:,} of "
                f"{output.counted(self._total, 'prompt')}, {self._rate()}"
            )

    def _rate(self) -> str:
        seconds = max(time.perf_counter() - self._begin, 1e-9)
        return f"{output.counted(self._completions, 'completion')}, {self._tokens / seconds:,.0f} tokens/s"

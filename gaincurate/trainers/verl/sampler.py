"""verl 0.5 to 0.7.1 follows a run through its curriculum sampler.

verl reads the whole set, exported with `extra_info.gc_id`, into its own `RLHFDataset`. The sampler picks
the rows of the plan, and is given each batch when its step is done. verl saves a checkpoint before that, so
what a kill between the two takes is reported as not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gaincurate.core.artifact import Json
from gaincurate.core.outcomes import read_outcomes
from gaincurate.core.schema import ID
from gaincurate.errors import InputError
from gaincurate.schedule.observations import rules_of
from gaincurate.trainers.session import followed, reward_of
from gaincurate.trainers.verl.settings import check_sampler, no_sampler_run, run_in

try:
    from omegaconf import DictConfig
    from verl.experimental.dataset.sampler import AbstractCurriculumSampler
except ModuleNotFoundError as error:
    raise InputError(
        f"there is no {error.name}: gaincurate.trainers.verl_sampler is for verl 0.5 to 0.7.1. From "
        "verl 0.9.1 on use "
        "gaincurate.trainers.verl; with 0.8 and 0.9.0, let `gaincurate schedule run` start verl each round."
    ) from error


class RunSampler(AbstractCurriculumSampler):  # type: ignore[misc]
    """The rows of a run's rounds, an epoch a round.

    Args:
        data_source: verl's dataset, with `gc_id` in each row's `extra_info`.
        data_config: verl's `data`; `sampler.run` in it is the run's folder.

    Raises:
        InputError: no run is given, or settings or rows under which verl would not train by the plan.
        LockedError: another trainer is at work on the run.
    """

    def __init__(self, data_source: Any, data_config: DictConfig) -> None:
        run = run_in(data_config.sampler.get("run"))
        if run is None:
            raise no_sampler_run(data_config.sampler.get("run"))
        self.live = followed(run, print)
        self.batch = data_config.get("gen_batch_size") or data_config.train_batch_size
        check_sampler(self.batch, data_config.get("dataloader_num_workers"), self.live.run)
        self._places = self._rows_by_id(data_source)
        self._begun = False
        self.live.close()  # of an earlier training of this process
        self.live.open()

    def _rows_by_id(self, data_source: Any) -> dict[str, int]:
        about = data_source.dataframe["extra_info"] if len(data_source) else []
        found = {extra[ID]: place for place, extra in enumerate(about) if extra and extra.get(ID)}
        scored = self.live.run.scored
        absent = [i for i in scored.column(ID).to_pylist() if i not in found]
        if absent:
            raise InputError(
                f"verl's data has {len(found):,} rows with extra_info.gc_id and lacks {len(absent):,} "
                f"prompts of {scored.folder}, {absent[0]} first: it is of another set, or "
                "data.filter_overlong_prompts dropped them. Write it with `gaincurate export "
                f"{scored.folder} --trainer verl`, and set data.filter_overlong_prompts=False."
            )
        return found

    def __len__(self) -> int:
        return self.live.budget

    def __iter__(self) -> Iterator[int]:
        live = self.live
        if not self._begun:
            live.begin_anew()
            self._begun = True
        if live.finished or (live.position >= live.budget and not live.turn()):
            raise InputError(
                f"all {live.rounds} rounds of {live.run.folder} are done and verl asks for more: set "
                f"trainer.total_epochs={live.rounds}."
            )
        ids = live.ids
        for position in range(live.position, live.budget):
            live.position = position + 1
            yield self._places[ids[position]]

    @property
    def step(self) -> int:
        """The step of verl that the prompts handed out so far make."""
        return int((self.live.round * self.live.budget + self.live.position) // self.batch)

    def update(self, batch: Any) -> None:
        """Report a step's rewards, before any KL penalty; after the last step the run is finished.

        Args:
            batch: verl's `DataProto`, a row a rollout.
        """
        scores = batch.batch["token_level_scores"].sum(-1).tolist()
        tokens = batch.batch["response_mask"].sum(-1).tolist()
        ids = [str(extra[ID]) for extra in batch.non_tensor_batch["extra_info"]]
        samples, lines = Counter[str](), []
        for gc_id, reward, count in zip(ids, scores, tokens, strict=True):
            line = {
                ID: gc_id,
                "round": self.live.round,
                "reward": reward_of(reward),
                "sample": samples[gc_id],
            }
            lines.append({**line, "tokens": int(count), "step": self.step})
            samples[gc_id] += 1
        self.live.report(lines)
        if self.live.position >= self.live.budget and self.live.round + 1 == self.live.rounds:
            self.live.turn()

    def state_dict(self) -> Json:
        """The place, which `StatefulDataLoader` puts into data.pt."""
        return self.live.save(self.step)

    def load_state_dict(self, state: Json) -> None:
        """Go back to a place; what was trained there and never reported could not be judged."""
        live = self.live
        live.restore(state, "the checkpoint's data.pt")
        self._begun = True
        trained, round_ = live.ids[: live.position], live.round
        if not trained:
            return
        seen: set[str] = set()
        if (path := live.run.outcomes(round_)).exists():
            found = read_outcomes(path, round_, live.run.ids, rules_of(live.run.config))
            seen = {gc_id for gc_id, tally in found.tallies.items() if tally.successes or tally.unjudged}
        lost = [
            {ID: i, "round": round_, "reward": None, "step": state["step"]} for i in trained if i not in seen
        ]
        live.report(lost)

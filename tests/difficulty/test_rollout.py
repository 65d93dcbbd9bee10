from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sets
from command import tree
from gaincurate.core.options import checked
from gaincurate.core.scored_set import ScoredSet
from gaincurate.difficulty import rollout
from gaincurate.difficulty.config import RolloutConfig
from gaincurate.difficulty.prompts import Completion, Key, Prompt, Refused, draw_references, read_prompts
from gaincurate.difficulty.rollout import roll_out
from gaincurate.difficulty.rollout_set import RolloutSet, pass_rates
from gaincurate.errors import InputError, OutputError, RowError
from gaincurate.scoring.pipeline import score
from server_rollouts import rows_of

TESTS = Path(__file__).parent.parent
ANSWER = "7"
EITHER = "give either --model, to generate here, or --server, to have it done there."


class FakeEngine:
    """Answers from a table of texts by prompt; counts what it is asked for."""

    def __init__(self) -> None:
        self.identity = {"kind": "fake", "model": "m"}
        self.texts: dict[str, list[str]] = {}
        self.asked: list[Key] = []
        self.samples = 2

    def generate(
        self, prompts: Sequence[Prompt], done: frozenset[Key]
    ) -> Generator[list[Completion | Refused]]:
        for gc_id, sample in ((prompt.gc_id, sample) for prompt in prompts for sample in range(self.samples)):
            if (gc_id, sample) not in done:
                self.asked.append((gc_id, sample))
                text = self.texts.get(gc_id, [ANSWER] * 64)[sample]
                if text == "!kill":
                    raise KeyboardInterrupt
                yield [Completion(gc_id, sample, text, "stop", 3, 5)]

    def close(self) -> None:
        pass


def make_scored(folder: Path, rows: int = 10, answers: dict[int, str | None] | None = None) -> Path:
    golds = [(answers or {}).get(i, ANSWER) for i in range(rows)]
    made = [sets.scored_row(f"id{i}", f"question {i}") | {"answer": gold} for i, gold in enumerate(golds)]
    return sets.make_set(folder, [made[: rows // 2], made[rows // 2 :]], answer="answer")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()

    def engine_of(config: RolloutConfig, scored: ScoredSet) -> FakeEngine:
        made.samples = config.samples
        return made

    monkeypatch.setattr(rollout, "_engine", engine_of)
    return made


def config(folder: Path, **options: Any) -> RolloutConfig:
    if not (folder / "scored").exists():
        make_scored(folder / "scored")
    given: dict[str, Any] = {"scored": folder / "scored", "out": folder / "out", "verifier": "exact"}
    return checked(RolloutConfig, {**given, "model": "m", "samples": 2, "verify_workers": 1, **options})


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6])
def test_killed_at_random_instants_and_run_again_the_bytes_are_those_of_an_uninterrupted_run(
    tmp_path: Path, tiny_model: Path, rows_file: Path, kills: int
) -> None:
    score(str(rows_file), str(tiny_model), tmp_path / "scored", threads=1)
    command = [sys.executable, str(TESTS / "kills.py"), "rollouts", str(tmp_path / "scored"), str(tiny_model)]
    done = subprocess.run(
        [*command, str(tmp_path), str(kills)], capture_output=True, text=True, check=True, cwd=TESTS
    )
    found = json.loads(done.stdout)
    assert found["finished"]
    assert found["files"] == ["identity.json", "manifest.json"] + [f"shard-0000{k}.arrow" for k in range(3)]
    assert found["kills"] >= kills
    assert max(found["left"]) > 0, "no kill came while a shard was being made"
    assert found["differing"] == []
    assert {0.0, 1.0} <= {row["reward"] for row in rows_of(tmp_path / "reference")}
    assert RolloutSet(tmp_path / "reference").manifest["prompts"] == 14


def test_references_are_drawn_by_the_seed_alone(tmp_path: Path, engine: FakeEngine) -> None:
    roll_out(config(tmp_path, reference=4, seed=7))
    drawn = [row["gc_id"] for row in rows_of(tmp_path / "out")][::2]
    assert drawn == [f"id{place}" for place in draw_references(10, 4, 7)]
    assert len(set(drawn)) == 4
    # Frozen: another machine or version must draw the same.
    assert draw_references(1000, 5, 0).tolist() == [366, 642, 44, 662, 528]
    drawn = [draw_references(1000, *given).tolist() for given in ((900, 0), (5, 1), (5, 0))]
    assert drawn[0][:5] == drawn[2]
    assert drawn[2] != drawn[1]
    seen = np.bincount(np.concatenate([draw_references(20, 5, seed) for seed in range(2000)]), minlength=20)
    # 500 expected each, standard deviation 19.
    assert abs(seen - 500).max() < 5 * 19.4


def test_an_unjudged_completion_stops_the_run_by_its_id_and_nothing_is_generated_again(
    tmp_path: Path, engine: FakeEngine
) -> None:
    engine.texts = {"id3": [ANSWER, "!exit"]}
    with pytest.raises(RowError) as caught:
        roll_out(config(tmp_path, verifier="bad_verifiers:check"))
    assert str(caught.value) == (
        "sample 1 of prompt id3 was not judged: the verifier's process ended without an answer (exit code 0). "
        "All completions are kept; add --on-error skip to give such ones no reward, and count them."
    )
    assert caught.value.data["gc_id"] == "id3"
    summary = roll_out(config(tmp_path, verifier="bad_verifiers:check", on_error="skip"))
    assert len(engine.asked) == len(set(engine.asked)) == 20
    (row,) = [row for row in rows_of(tmp_path / "out") if row["reward"] is None]
    assert (row["gc_id"], row["sample"]) == ("id3", 1)
    assert row["reason"] == "the verifier's process ended without an answer (exit code 0)"
    assert summary.unjudged == 1
    assert summary.pass_rate == 1.0


def test_broken_gold_answers_are_found_before_anything_is_generated(
    tmp_path: Path, engine: FakeEngine
) -> None:
    make_scored(tmp_path / "scored", answers={2: None, 8: " "})
    with pytest.raises(InputError) as caught:
        roll_out(config(tmp_path))
    assert str(caught.value) == (
        "2 of 10 rows are broken: their own answer does not get a reward of 1, such as id2: the gold answer is "
        f"null. All are listed in {tmp_path}/out/broken.jsonl. Fix them, see whether --answer-column, "
        "--verifier and --gold-as are right, or leave them out with --on-error skip."
    )
    lines = [json.loads(line) for line in (tmp_path / "out/broken.jsonl").read_text().splitlines()]
    reasons = {"id2": "the gold answer is null", "id8": "the gold answer is empty"}
    assert lines == [{"gc_id": gc_id, "reason": reason} for gc_id, reason in reasons.items()]
    assert engine.asked == []
    summary = roll_out(config(tmp_path, on_error="skip"))
    assert (summary.prompts, summary.rejected, summary.rollouts) == (8, 2, 16)
    left = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert left == lines


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, engine: FakeEngine) -> None:
    engine.texts = {"id6": [ANSWER, "!kill"]}
    with pytest.raises(KeyboardInterrupt):
        roll_out(config(tmp_path, shard_prompts=4))
    engine.texts = {}
    before = list(engine.asked[:-1])
    summary = roll_out(config(tmp_path, shard_prompts=4))
    made = tree(tmp_path / "out")
    assert roll_out(config(tmp_path, shard_prompts=4)).generated == 0
    assert tree(tmp_path / "out") == made
    assert sorted(engine.asked[len(before) + 1 :] + before) == sorted(set(engine.asked))
    assert summary.generated == 20 - len(before)
    names = ["execution.jsonl", "identity.json", "manifest.json", *(f"shard-0000{k}.arrow" for k in range(3))]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


@pytest.mark.parametrize(
    ("options", "key", "was", "now"),
    [
        ({"seed": 5}, "sampling.seed", 0, 5),
        ({"reference": 5}, "source.reference", None, 5),
        ({"verify_seconds": 5.0}, "verifier.seconds", 10.0, 5.0),
        ({"gold_as": "{answer}"}, "verifier.gold_as", None, "{answer}"),
    ],
)
def test_another_identity_is_refused_by_the_keys_that_differ(
    tmp_path: Path, engine: FakeEngine, options: dict[str, Any], key: str, was: Any, now: Any
) -> None:
    roll_out(config(tmp_path))
    before = tree(tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        roll_out(config(tmp_path, **options))
    assert caught.value.data["keys"] == [key]
    assert str(caught.value) == (
        f"{tmp_path}/out holds rollouts of another run: {key} was {was!r} and is now {now!r}. Give another "
        "--out, repeat the first run's options, or start over with --overwrite."
    )
    assert tree(tmp_path / "out") == before
    engine.identity = {"kind": "fake", "model": "other"}
    with pytest.raises(OutputError, match="engine.model was 'm' and is now 'other'"):
        roll_out(config(tmp_path))
    roll_out(config(tmp_path, **options, overwrite=True))
    assert json.loads((tmp_path / "out/identity.json").read_text()) != json.loads(before["identity.json"])


def test_a_shard_that_is_gone_is_named_and_made_again(tmp_path: Path, engine: FakeEngine) -> None:
    roll_out(config(tmp_path, shard_prompts=4))
    before = tree(tmp_path / "out")
    (tmp_path / "out/shard-00001.arrow").unlink()
    with pytest.raises(OutputError, match="shard-00001.arrow does not match the manifest"):
        pass_rates(tmp_path / "out")
    engine.asked.clear()
    roll_out(config(tmp_path, shard_prompts=4))
    assert {key[0] for key in engine.asked} == {"id4", "id5", "id6", "id7"}
    assert tree(tmp_path / "out") == before


def test_a_completion_whose_line_was_damaged_is_made_and_judged_again(
    tmp_path: Path, engine: FakeEngine
) -> None:
    engine.texts = {"id6": [ANSWER, "!kill"]}
    with pytest.raises(KeyboardInterrupt):
        roll_out(config(tmp_path))
    journal = tmp_path / "out/.work/completions-00000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    other = json.dumps(json.loads(lines[-1]) | {"gc_id": "other"}).encode()  # left out since
    journal.write_bytes(b"".join([b"[]\n", *lines[1:], other, b"\n"]))
    engine.texts = {"id0": ["wrong", "wrong"]}  # the second is in the journal
    assert roll_out(config(tmp_path)).prompts == 10
    first, second = rows_of(tmp_path / "out")[:2]
    assert (first["completion"], first["reward"]) == ("wrong", 0.0)
    assert (second["completion"], second["reward"]) == (ANSWER, 1.0)


def test_a_completion_is_on_the_disk_when_it_counts(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, synced, real = tmp_path / "out/.work/completions-00000.jsonl", list[bytes](), os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if journal.exists() and os.fstat(descriptor).st_ino == journal.stat().st_ino:
            synced.append(journal.read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    engine.texts = {"id6": [ANSWER, "!kill"]}
    with pytest.raises(KeyboardInterrupt):
        roll_out(config(tmp_path))
    assert [data.count(b"\n") for data in synced] == list(range(1, 14))
    assert synced[-1] == journal.read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": None}, EITHER),
        ({"server": "http://h"}, EITHER),
        ({"served_model": "x"}, "--served-model x goes with --server."),
        ({"temperature": 0.0}, "--temperature 0.0: it should be greater than 0."),
        ({"reference": 11}, "--reference 11: the set has 10 prompts; ask for at most that."),
        ({"verifier": "sum"}, None),
        ({"answer_column": "gold"}, None),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, engine: FakeEngine, options: dict[str, Any], said: str | None
) -> None:
    with pytest.raises(InputError) as caught:
        roll_out(config(tmp_path, **options))
    assert said is None or str(caught.value) == said
    assert not (tmp_path / "out").exists()


def test_a_set_without_an_answer_column(tmp_path: Path, engine: FakeEngine) -> None:
    sets.make_set(tmp_path / "scored", [[sets.scored_row("id0")]])
    with pytest.raises(InputError, match=r"scored without an answer column; .* The columns are: question\.$"):
        roll_out(config(tmp_path))
    roll_out(config(tmp_path, verifier="bad_verifiers:half"))  # an own function may need none
    assert [row["reward"] for row in rows_of(tmp_path / "out")] == [0.5, 0.5]


def test_prompts_are_those_of_the_scored_set_with_its_additions(tmp_path: Path) -> None:
    scored = ScoredSet(make_scored(tmp_path / "scored"))
    added = {"system": "Be brief.", "shots": [{"role": "user", "content": "a"}]}
    scored.manifest["identity"]["segmentation"] = added
    (prompt,) = read_prompts(scored, range(3, 4), "answer")
    assert [message["content"] for message in prompt.messages] == ["Be brief.", "a", "question 3"]
    assert (prompt.gc_id, prompt.answer, prompt.tokens) == ("id3", ANSWER, 5)
    assert prompt.row == {"question": "question 3", "answer": ANSWER, "gc_id": "id3"}


def test_overwrite_deletes_nothing_before_the_gold_answers_are_found_good(
    tmp_path: Path, engine: FakeEngine
) -> None:
    roll_out(config(tmp_path))
    before = tree(tmp_path / "out")
    with pytest.raises(InputError, match="10 of 10 rows are broken"):
        roll_out(config(tmp_path, verifier="bad_verifiers:half", overwrite=True))
    after = tree(tmp_path / "out")
    assert after.pop("broken.jsonl")
    assert after == before


def test_a_damaged_identity_is_refused_and_overwritten_when_asked(tmp_path: Path, engine: FakeEngine) -> None:
    roll_out(config(tmp_path))
    before = tree(tmp_path / "out")
    (tmp_path / "out/identity.json").write_text("{")
    with pytest.raises(OutputError, match="is damaged, so what made the rollouts there is not known"):
        roll_out(config(tmp_path))
    roll_out(config(tmp_path, overwrite=True))
    assert tree(tmp_path / "out") == before


def test_overwrite_again_after_an_interruption_goes_on(tmp_path: Path, engine: FakeEngine) -> None:
    roll_out(config(tmp_path))
    engine.texts = {"id6": [ANSWER, "!kill"]}
    with pytest.raises(KeyboardInterrupt):
        roll_out(config(tmp_path, seed=1, overwrite=True))
    engine.texts, engine.asked = {}, []
    roll_out(config(tmp_path, seed=1, overwrite=True))
    assert 0 < len(engine.asked) < 20

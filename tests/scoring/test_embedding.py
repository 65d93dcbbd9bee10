"""Embeddings from the scoring pass against the model's own plain forward, and what comes of them in a set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import gaincurate
import tiny
from architectures import ARCHITECTURES, Architecture, in_tiers
from command import run, tree
from gaincurate.core.schema import EMBEDDING
from gaincurate.errors import InputError
from gaincurate.scoring.angle import angle_scores
from gaincurate.scoring.config import ScoreConfig
from gaincurate.scoring.packed_attention import UnsupportedAttention
from gaincurate.scoring.packed_prefill import PackedPrefill, shared_prefixes
from gaincurate.scoring.prefill import Prefill, Site
from gaincurate.scoring.segment import Segmented
from gaincurate.scoring.signals import embeddings

pytestmark = pytest.mark.usefixtures("one_thread")


def prompts() -> list[Segmented]:
    """Some share a prefix of 11 tokens; the tiny models' windows are 8; each has a tail."""
    random = np.random.default_rng(0)
    common, found = random.integers(3, 500, 11), []
    for prefix, question in [(0, 7), (11, 1), (4, 23), (11, 12), (1, 40)]:
        tokens = random.integers(3, 500, prefix + question + 3)
        tokens[:prefix] = common[:prefix]
        found.append(Segmented(tokens.astype(np.int32), prefix, prefix + question))
    return found


def plain(kind: Architecture, rows: list[Segmented]) -> np.ndarray[Any, Any]:
    """One prompt at a time, whole, with its tail, in float64 where torch has it: the last of `hidden_states`,
    averaged; for Gemma-3n, whose last one is of four streams, what its last norm makes.
    """
    model, seen = tiny.model(kind.config()), list[torch.Tensor]()
    model.base_model.get_submodule(kind.final).register_forward_hook(lambda _m, _a, out: seen.append(out))
    experts = any("expert" in name for name, _ in model.named_modules())  # grouped products are in float32
    exact, means = model if experts else model.double(), []
    for row in rows:
        ids = torch.from_numpy(row.token_ids).long()[None]
        with torch.no_grad():
            out = exact(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        last = seen[-1] if kind.kind == "gemma3n_text" else out.hidden_states[-1]
        means.append(last[0, row.prefix : row.end].mean(0).numpy())
    return np.stack(means)


def close(found: Any, expected: np.ndarray[Any, Any]) -> None:
    assert all(row is not None and row.dtype == np.float16 for row in found)
    # float16 keeps eleven bits of each number.
    np.testing.assert_allclose(np.stack(found).astype(float), expected, rtol=6e-4, atol=2e-5)


CASES: list[tuple[Site, int]] = [("mlp_input", -1), ("mlp_input", 0), ("final_norm", -1)]


@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES))
def test_embeddings_equal_a_plain_forwards_final_states_and_angles_stay_the_same_bits(
    kind: Architecture,
) -> None:
    rows, whole = prompts(), tiny.model(kind.config())
    whole.config.use_cache = False
    expected = plain(kind, rows)
    for site, layer in CASES:
        alone = Prefill(whole.base_model, site=site, layer=layer)
        both = Prefill(whole.base_model, site=site, layer=layer, final=True)
        states = both(rows)
        assert alone(rows).final is None
        assert states.final is not None
        close(embeddings(states.final, states.questions), expected)
        assert angle_scores(states, rows).scores == angle_scores(alone(rows), rows).scores


@pytest.mark.parametrize("kind", in_tiers(ARCHITECTURES[:9]))
def test_packed_embeddings_do_too_with_prefixes_shared_and_not(kind: Architecture) -> None:
    rows, expected = prompts(), plain(kind, prompts())
    for site, layer in CASES:
        # A model for each: its attention is exchanged.
        model = tiny.model(kind.config()).base_model
        packed = PackedPrefill(Prefill(model, site=site, layer=layer, final=True))
        packed.try_on(rows[:2])
        for shared in (shared_prefixes(rows), set[bytes]()):
            states = packed(rows, shared)
            assert states.final is not None
            close(embeddings(states.final, states.questions), expected)


def test_a_packed_final_state_that_differs_from_the_models_own_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefill = Prefill(tiny.model(ARCHITECTURES[0].config()).base_model, final=True)
    whole = Prefill.both

    def off(self: Prefill, ids: torch.Tensor, **options: Any) -> Any:
        states, final = whole(self, ids, **options)
        return states, final if final is None or not options else final * 1.01

    monkeypatch.setattr(Prefill, "both", off)
    with pytest.raises(UnsupportedAttention, match="states differ from a plain forward's by"):
        PackedPrefill(prefill).try_on(prompts()[:2])


def test_a_mean_that_is_not_finite_or_too_large_for_float16_is_none() -> None:
    final = torch.ones(6, 3)
    final[1, 2], final[3, 0] = torch.nan, 1e9
    found = embeddings(final, torch.tensor([[0, 2], [2, 4], [4, 6]]))
    assert [row is None for row in found] == [True, True, False]


WITH = ("--signals", "angle,embedding")


def score(data: Path, model: Path, out: Path, *more: object) -> Any:
    return run("score", data, "-m", model, "-o", out, "--shard-rows", "16", *more)


def test_a_set_with_embeddings_has_the_same_scores_and_one_more_column(
    tmp_path: Path, tiny_model: Path, rows_file: Path
) -> None:
    assert score(rows_file, tiny_model, tmp_path / "without").exit_code == 0
    result = score(rows_file, tiny_model, tmp_path / "with", *WITH)
    assert result.exit_code == 0, result.stderr
    without, found = (gaincurate.open_scores(tmp_path / name) for name in ("without", "with"))
    assert (without.identity["signals"], found.identity["signals"]) == (["angle"], ["angle", "embedding"])
    assert found.schema.names == [*without.schema.names, EMBEDDING]
    assert found.schema.field(EMBEDDING).type == pa.list_(pa.float16(), 32)
    for name in without.schema.names:
        assert found.column(name).equals(without.column(name))
    assert found.column(EMBEDDING).null_count == 0
    assert (
        np.abs(np.stack(found.rows(found.column("gc_id").to_pylist()).column(EMBEDDING).to_numpy())).max() > 0
    )


@pytest.mark.parametrize("site", ["mlp_input", "final_norm"])
def test_the_stored_embedding_is_that_of_the_scored_prompt(
    tmp_path: Path, tiny_model: Path, rows_file: Path, site: str
) -> None:
    import transformers

    assert score(rows_file, tiny_model, tmp_path / "out", *WITH, "--site", site).exit_code == 0
    rows = gaincurate.open_scores(tmp_path / "out").rows
    scored = gaincurate.open_scores(tmp_path / "out")
    names = scored.column("gc_id").to_pylist()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    for row in rows([names[3], names[30]]).to_pylist():
        message = [{"role": "user", "content": row["question"]}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        begin, count = row["gc_prefix_tokens"], row["gc_question_tokens"]
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        expected = states[0, begin : begin + count].mean(0).numpy()
        np.testing.assert_allclose(row[EMBEDDING], expected, rtol=6e-4, atol=2e-5)


def test_bytes_do_not_depend_on_how_often_a_run_was_interrupted_and_other_signals_are_refused(
    tmp_path: Path, tiny_model: Path, rows_file: Path
) -> None:
    for name in ("a", "b"):
        assert score(rows_file, tiny_model, tmp_path / name, *WITH).exit_code == 0
    good = tree(tmp_path / "a")
    assert tree(tmp_path / "b") == good
    (tmp_path / "a/manifest.json").unlink()
    (tmp_path / "a/shard-00001.arrow").unlink()
    other = score(rows_file, tiny_model, tmp_path / "a")
    assert other.exit_code == 2
    assert "error: other signals: " in other.stderr
    assert score(rows_file, tiny_model, tmp_path / "a", "--signals", "embedding,angle").exit_code == 0
    assert tree(tmp_path / "a") == good


def test_a_model_that_runs_in_padded_batches_writes_embeddings_too(tmp_path: Path, rows_file: Path) -> None:
    falcon = next(a for a in ARCHITECTURES if a.name == "falcon")
    model = tiny.save_model(tmp_path / "falcon", falcon.config())
    assert score(rows_file, model, tmp_path / "out", *WITH).exit_code == 0
    found = gaincurate.open_scores(tmp_path / "out")
    assert found.manifest["prefill"] == "padded"
    assert found.column(EMBEDDING).null_count == 0


def test_a_shard_without_a_row_has_the_column_and_the_others_join_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    rows = tiny.questions(20)
    for row in rows[:16]:
        row["question"] = " "
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert score(data, tiny_model, tmp_path / "out", *WITH, "--on-error", "skip").exit_code == 0
    found = gaincurate.open_scores(tmp_path / "out")
    assert [len(table) for table in found.tables()] == [0, 4]
    assert len(found.column(EMBEDDING)) == 4


def test_what_reads_a_set_takes_the_column_as_it_is(
    tmp_path: Path, tiny_model: Path, rows_file: Path
) -> None:
    out = tmp_path / "out"
    assert score(rows_file, tiny_model, out, *WITH).exit_code == 0
    assert run("show", out).exit_code == 0
    assert json.loads(run("show", out, "--json").stdout)["rows"] == 40
    assert (
        len(
            gaincurate.open_scores(out).row(gaincurate.open_scores(out).column("gc_id")[0].as_py())[EMBEDDING]
        )
        == 32
    )
    read = datasets.load_dataset(
        "arrow", data_files=str(out / "shard-*.arrow"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(read[0][EMBEDDING]) == 32
    started = run(
        "schedule", "start", out, "--run", tmp_path / "run", "--strategy", "gain-rl", "--budget", "4",
        "--rounds", "1", "--set", "with_scores=true",
    )  # fmt: skip
    assert started.exit_code == 0, started.stderr
    (path,) = (tmp_path / "run").glob("rounds/*/data.parquet")
    assert pq.read_table(path).schema.field(EMBEDDING).type == pa.list_(pa.float16(), 32)


def test_features_of_a_source_name_the_column_with_its_type(tmp_path: Path, tiny_model: Path) -> None:
    datasets.Dataset.from_list(tiny.questions(5)).save_to_disk(tmp_path / "source")
    assert score(tmp_path / "source", tiny_model, tmp_path / "out", *WITH).exit_code == 0
    schema = pa.ipc.open_file(str(tmp_path / "out/shard-00000.arrow")).schema
    features = datasets.Features.from_arrow_schema(schema)
    assert features.arrow_schema.field(EMBEDDING).type == schema.field(EMBEDDING).type


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("loss", "--signals: there is no signal 'loss'; there are angle, nll, entropy and embedding."),
        ("", "--signals: there is no signal ''; there are angle, nll, entropy and embedding."),
        ("nll,entropy", "--signals nll,entropy: angle is always computed; write angle,nll,entropy."),
        ("embedding", "--signals embedding: angle is always computed; write angle,embedding."),
    ],
)
def test_other_signals_are_refused(tmp_path: Path, value: str, sentence: str) -> None:
    result = run("score", "rows.jsonl", "-m", "m", "-o", tmp_path / "out", "--signals", value)
    assert (result.exit_code, result.stderr.strip()) == (2, f"error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_the_functions_option_is_checked_and_ordered_alike() -> None:
    made = ScoreConfig(data="d", model="m", out=Path("o"), signals=("embedding", "angle"))
    assert made.signals == ("angle", "embedding")
    with pytest.raises(InputError, match="no signal 'loss'"):
        ScoreConfig(data="d", model="m", out=Path("o"), signals=("angle", "loss"))  # type: ignore[arg-type]

"""Whether a trainer trains on what was scored: prompts, tools and weights, against tokenizers and weights as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
import transformers

import runs
import tiny
from gaincurate.core.scored_set import ScoredSet
from gaincurate.errors import InputError
from gaincurate.schedule.run import Run
from gaincurate.trainers.trl import start
from gaincurate.trainers.trl.start import schemas_of, see_adapters, see_prompts

THINKS = tiny.CHATML + "{% if no_thought %}<think></think>{% endif %}"


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def rendered(text: str) -> str:
    made: str = tiny.tokenizer().apply_chat_template(chat(text), tokenize=False, add_generation_prompt=True)
    return made


def found(
    folder: Path, prompt: Any, template: str | None = tiny.CHATML, **more: Any
) -> tuple[str, list[str]]:
    """The findings and notes of a trainer that has the rows of a round, each prompt made of its question."""
    run, notes = runs.begin(folder), list[str]()
    prompts = [prompt(text) for text in run.scored.rows(run.ids(0)).column("question").to_pylist()]
    given: dict[str, Any] = {"processing_class": tiny.tokenizer(template), "chat_template_kwargs": {}}
    trainer = SimpleNamespace(
        train_dataset=datasets.Dataset.from_dict({"gc_id": run.ids(0), "prompt": prompts}), **given | more
    )
    findings = list(see_prompts(trainer, run, run.ids(0), notes.append))
    return "".join(f"{each.title}. {dict(each.fix)} {each.advice}" for each in findings), notes


@pytest.mark.parametrize(
    ("prompt", "template", "variables", "sentence"),
    [
        (chat, tiny.CHATML, {}, ""),
        (rendered, tiny.CHATML, {}, ""),  # the template was applied before
        (str, None, {}, ""),  # a base model: texts are scored and trained on as they are
        (chat, tiny.CHATML, {"no_thought": True}, ""),  # which this template does not read
        (chat, THINKS, {}, ""),
        (str, tiny.CHATML, {}, "(8 of 8 prompts differ): its prompt is plain text"),
        (lambda text: chat(f"{text}?"), tiny.CHATML, {}, "its messages are not those of the scored set"),
        (lambda text: chat(f"{text}?") if text[-1] in "02468" else chat(text), tiny.CHATML, {}, " of 8 prompts"),
        (chat, None, {}, "the prompts are chat messages, and the trainer's tokenizer has no chat template"),
        (chat, THINKS, {"no_thought": True}, "other template variables. {'chat_template_kwargs': {}} or score the rows again "
            "with --template-kwargs '{\"no_thought\": true}'"),
    ],
)  # fmt: skip
def test_prompts_that_were_not_scored_are_found(
    tmp_path: Path, prompt: Any, template: str | None, variables: dict[str, Any], sentence: str
) -> None:
    title, notes = found(tmp_path, prompt, template, chat_template_kwargs=variables)
    assert sentence in title if sentence else not title
    assert not notes


def test_the_first_row_that_differs_is_named_with_both_lengths(tmp_path: Path) -> None:
    title, _ = found(tmp_path, str)
    row = Run(tmp_path / "run").scored.rows([title.split("'")[1]]).column("question")[0].as_py()
    tokenizer = tiny.tokenizer()
    trained, scored = (len(tokenizer(text)["input_ids"]) for text in (row, rendered(row)))
    assert title.startswith(f"TRL gives the model {trained} tokens of ")
    assert f", and {scored} were scored" in title


def test_an_answer_that_was_begun_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = [*chat("why?"), {"role": "assistant", "content": "Because"}]
    monkeypatch.setattr(start, "prompts_of", lambda rows, *more, **options: [begun] * len(rows))
    title, _ = found(tmp_path, lambda text: begun)
    assert "scoring continues its last message, and TRL does not. {} end the prompts" in title


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    title, notes = found(tmp_path, chat, processing_class=SimpleNamespace())
    said = (
        "warning: the prompts that the trainer's SimpleNamespace makes are not compared with the scored ones"
    )
    assert (title, notes) == ("", [said])


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: one.
        b: the other.
    """
    return a + b


@pytest.mark.parametrize(
    ("column", "tools", "finds", "says"),
    [
        (None, [add], "", "renders the tools add into every prompt, and {set} was scored with no tools"),
        ("question", [add], "", "was scored with the tools in column 'question': its token counts"),
        ("question", [], "was scored with the tools in column 'question', which TRL does not render", ""),
        (None, [], "", ""),
        ("schemas", [add], "", ""),
    ],
)
def test_tools_that_were_not_scored_are_not_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str | None, tools: Any, finds: str, says: str
) -> None:
    real, schemas = ScoredSet.column, json.dumps(schemas_of(SimpleNamespace(tools=tools)))
    same = datasets.Dataset.from_dict({"text": [schemas]}).data.column("text")
    monkeypatch.setattr(
        ScoredSet, "column", lambda self, name: same if name == "schemas" else real(self, name)
    )
    run, notes = runs.begin(tmp_path), list[str]()
    run.scored.identity["source"] = {**run.scored.identity["source"], "tools_column": column}
    titles = [each.title for each in start._see_tools(SimpleNamespace(tools=tools), run, notes.append)]
    assert [finds in title for title in titles] == ([True] if finds else [])
    assert [says.format(set=tmp_path / "set") in note for note in notes] == ([True] if says else [])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model") / "tiny")


def loaded(saved: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(saved, **options)


def adapted(model: Any, trained: bool = False, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], **options))
    if trained:
        torch.nn.init.ones_(made.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    return made


@pytest.mark.parametrize(
    ("make", "differs"),
    [
        (loaded, ""),
        (lambda saved: adapted(loaded(saved)), ""),
        (lambda saved: adapted(loaded(saved), init_lora_weights="pissa"), ""),
        (lambda saved: adapted(loaded(saved), trained=True), "q_proj.lora_B.default.weight"),
    ],
)
def test_a_trained_adapter_is_not_scored_as_its_base(saved: Path, make: Any, differs: str) -> None:
    trainer = SimpleNamespace(model=make(saved))
    if not differs:
        return see_adapters(trainer)
    with pytest.raises(InputError, match=rf"has a trained adapter \(.*{differs}\)"):
        see_adapters(trainer)


@pytest.mark.parametrize("tools", [None, [add]])
def test_rows_are_scored_with_the_variables_and_tools_that_trl_renders(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, tools: Any
) -> None:
    """And not with the tools of rows, which it leaves out."""
    seen: dict[str, Any] = {}

    def score(command: list[str], **options: Any) -> None:
        seen["rows"] = pq.read_table(command[4]).to_pylist()
        seen["options"] = json.loads(Path(command[command.index("--config") + 1]).read_text())

    monkeypatch.setattr(start, "run_command", score)
    trainer = SimpleNamespace(
        model=loaded(saved),
        processing_class=tiny.tokenizer(),
        chat_template_kwargs={"no_thought": True},
        tools=tools,
        train_dataset=datasets.Dataset.from_list([{"prompt": chat("why?"), "tools": "[]"}]),
    )
    start._score(trainer, tmp_path / "set", {"device": "cpu"}, lambda text: None)
    given = {"prompt_column": "prompt", "template_kwargs": {"no_thought": True}, "device": "cpu"}
    schema = {"tools": json.dumps([transformers.utils.chat_template_utils.get_json_schema(add)])}
    assert seen == {"rows": [{"prompt": chat("why?"), **(schema if tools else {})}], "options": given}
    with pytest.raises(InputError, match=r"^score=\{'devise': 1\}: there is no keyword 'devise'; similar"):
        start._score(trainer, tmp_path / "set", {"devise": 1}, lambda text: None)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import templates
import tiny
from command import run
from gaincurate.errors import InputError, ModelError
from gaincurate.scoring import config
from gaincurate.scoring.config import check_shots
from gaincurate.scoring.segment import Segmented, Segmenter, Unusable
from templates import CASES, one, user

BY_NAME = {case.name: case for case in CASES}
SHOTS = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}]


def reason(segmenter: Segmenter, messages: list[dict[str, Any]]) -> str:
    (found,) = segmenter([messages])
    assert isinstance(found, Unusable), found
    return found.reason


@pytest.mark.parametrize("bos", [True, False])
def test_a_base_model_gets_what_its_tokenizer_adds_and_the_bos_alone_is_prefix(bos: bool) -> None:
    base = templates.byte_level(None, bos=bos)
    found = one(Segmenter(base), user("What is 12 plus 7?"))
    assert found.token_ids.tolist() == base("What is 12 plus 7?")["input_ids"]
    assert found.prefix == int(bos)
    assert found.end == len(found.token_ids)
    assert found.token_ids.tolist().count(base.bos_token_id) == int(bos)


def test_a_prompt_of_ten_megabytes_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was read")

    said = "the prompt has 10,000,000 characters and the limit is 4,194,304"
    limits: list[dict[str, Any]] = [{}, {"max_length": 9}, {"max_length": 9, "truncate": True}]
    for options in limits:
        segmenter = Segmenter(templates.byte_level(None), **options)
        monkeypatch.setattr(segmenter, "_render", never)
        (found,) = segmenter([user("x" * 10_000_000)])
        assert isinstance(found, Unusable)
        assert (found.reason, found.overlong) == (said, options == {"max_length": 9})


def test_a_base_model_takes_no_chat_and_no_system_message() -> None:
    base = templates.byte_level(None)
    assert "this prompt has 2 messages" in reason(Segmenter(base), [*SHOTS[:1], *user("x")])
    for options in ({"system": "Be brief."}, {"shots": SHOTS}):
        with pytest.raises(ModelError, match="has no chat template, so --system and --shots"):
            Segmenter(base, **options)


def test_a_token_astride_the_border_counts_as_question() -> None:
    template = "{% for m in messages %}{{ 'Q: ' + m.content + '.' }}{% endfor %}"
    made = tiny.tokenizer(template, merges=0)
    made.add_tokens([": W", "t."])
    found = one(Segmenter(made), user("What"))
    tokens = [made.decode([i]) for i in found.token_ids]
    assert tokens[found.prefix] == ": W"
    assert tokens[found.end - 1] == "t."


def test_system_message_and_examples_stand_before_the_rows_own_messages() -> None:
    case = BY_NAME["qwen2.5"]
    made = templates.byte_level(case.template)
    found = one(Segmenter(made, system="Be brief.", shots=SHOTS), user("3?"))
    full = [{"role": "system", "content": "Be brief."}, *SHOTS, *user("3?")]
    assert found.token_ids.tolist() == made.apply_chat_template(full, add_generation_prompt=True)["input_ids"]
    prefix = made.decode(found.token_ids[: found.prefix])
    assert prefix.endswith("<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n")


def test_a_rows_own_system_message_is_kept_before_the_examples_unless_overridden() -> None:
    made = templates.byte_level(BY_NAME["qwen2.5"].template)
    own = [{"role": "system", "content": "Own."}, *user("3?")]
    kept = made.decode(one(Segmenter(made, shots=SHOTS), own).token_ids)
    assert kept.startswith("<|im_start|>system\nOwn.<|im_end|>\n<|im_start|>user\nWhat is 1 + 1?")
    assert "add --system-override" in reason(Segmenter(made, system="Ours."), own)
    replaced = made.decode(one(Segmenter(made, system="Ours.", system_override=True), own).token_ids)
    assert replaced.startswith("<|im_start|>system\nOurs.<|im_end|>\n<|im_start|>user\n3?")


def test_a_prompt_without_question_has_the_reason() -> None:
    made, nothing = templates.byte_level(BY_NAME["qwen2.5"].template), "the question is empty"
    bad = [SHOTS[1:], user(" \n\t"), [{"role": "user", "content": None}], [*SHOTS, *user("")]]
    found = Segmenter(made)([user("good"), *bad, user("good")])
    assert [type(item) for item in found] == [Segmented, *[Unusable] * 4, Segmented]
    assert [str(item) for item in found[1:5]] == ["there is no user message", *[nothing] * 3]


PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
AFTER = "{% if '/no_think' in messages[-1].content %}{{ '<think></think>' }}{% endif %}"
BEFORE = "{% if 'prove' in messages[-1].content %}{{ 'Proof. ' }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "question", "tail"),
    [(PLAIN + AFTER, "What is 2? /no_think", "\n<think></think>"), (BEFORE + PLAIN, "prove it", "\n")],
    ids=["what follows", "what stands before"],
)
def test_a_switch_in_the_content_does_not_hide_the_question(template: str, question: str, tail: str) -> None:
    made = templates.byte_level(template)
    shots = [{"role": "user", "content": question}, {"role": "assistant", "content": "2"}]
    for content in (question, f"  {question}\n"):
        cut = one(Segmenter(made, shots=shots), user(content))
        parts = np.split(cut.token_ids, [cut.prefix, cut.end])
        before, middle, after = (made.decode(part) for part in parts)
        assert before.count(question) == 1
        assert middle.strip() == question
        assert after.strip() == tail.strip()


def test_a_template_that_repeats_or_drops_the_question_is_refused() -> None:
    twice = "{% for m in messages %}{{ m.content }} again {{ m.content }}{% endfor %}"
    for template, expected in [(twice, "occurs 2 times"), ("{{ 'no' }}", "the chat template rewrites it")]:
        assert expected in reason(Segmenter(templates.byte_level(template)), user("What is 2?"))


def test_a_long_prompt_is_refused_or_loses_the_questions_end() -> None:
    case = BY_NAME["qwen2.5"]
    made = templates.byte_level(case.template)
    whole = one(Segmenter(made), user("word " * 20))
    length, cut = len(whole.token_ids), whole.prefix + 5
    assert one(Segmenter(made, max_length=length), user("word " * 20)).end == whole.end
    (refused,) = Segmenter(made, max_length=length - 1)([user("word " * 20)])
    assert isinstance(refused, Unusable)
    expected = f"the prompt has {length} tokens and the limit is {length - 1}"
    assert (refused.reason, refused.overlong) == (expected, True)
    short = one(Segmenter(made, max_length=cut, truncate=True), user("word " * 20))
    assert short.token_ids.tolist() == whole.token_ids[:cut].tolist()
    assert (short.prefix, short.end, short.truncated) == (whole.prefix, cut, True)
    tail_only = one(Segmenter(made, max_length=whole.end, truncate=True), user("word " * 20))
    assert (tail_only.end, tail_only.truncated) == (whole.end, False)
    (nothing,) = Segmenter(made, max_length=whole.prefix, truncate=True)([user("word " * 20)])
    assert isinstance(nothing, Unusable)
    assert (nothing.reason[:16], nothing.overlong) == ("its prefix alone", False)


def test_a_limit_stored_in_the_tokenizer_cuts_nothing() -> None:
    made = templates.byte_level(BY_NAME["qwen2.5"].template)
    whole = one(Segmenter(made), user("word " * 20))
    made.backend_tokenizer.enable_truncation(8)
    made.backend_tokenizer.enable_padding(length=4096)
    assert np.array_equal(one(Segmenter(made), user("word " * 20)).token_ids, whole.token_ids)


def test_the_fingerprint_changes_with_all_that_changes_the_rendering() -> None:
    made = templates.byte_level(BY_NAME["llama3"].template)
    options: list[dict[str, Any]] = [{}, {}, {"system": "Be brief."}, {"shots": SHOTS}]
    first = {"date_string": "1 Jan 2025"}
    prints = [Segmenter(made, template_kwargs=first, **o).fingerprint for o in options]
    prints.append(Segmenter(made, template_kwargs={"date_string": "2 Jan 2025"}).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_examples_that_are_no_conversation_are_refused() -> None:
    numbered = [{"role": "user", "content": 3}, SHOTS[1]]
    values: list[Any] = [None, {}, SHOTS[:1], SHOTS[::-1], numbered, ["x", "y"]]
    for value in values:
        with pytest.raises(InputError, match="--shots: expected a JSON list"):
            check_shots(value)


def test_a_system_message_and_examples_are_read_from_files(tmp_path: Path) -> None:
    system, shots = tmp_path / "system.txt", tmp_path / "shots.json"
    system.write_bytes(b"Be\r\nbrief.\r\n")
    shots.write_text(json.dumps(SHOTS))
    assert config._system(f"@{system}") == "Be\nbrief."  # an editor's last line break is not trained on
    assert config._shots(str(shots)) == SHOTS
    shots.write_text("[")
    for arguments in (["--system", f"@{tmp_path / 'gone.txt'}"], ["--shots", shots]):
        result = run("score", "rows.jsonl", "-m", "m", "-o", tmp_path / "out", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {arguments[0]}: cannot read ")


def test_a_token_that_the_model_has_no_embedding_for_is_refused_unless_it_is_never_fed() -> None:
    made = templates.byte_level(BY_NAME["phi3"].template)
    known = made.convert_tokens_to_ids("<|end|>")  # stands in the tail
    segmenter = Segmenter(made, vocab_size=known)
    assert one(segmenter, user("What?")).end < len(one(segmenter, user("What?")).token_ids)
    assert f"token {known} is outside" in reason(segmenter, user("What <|end|> ?"))
    assert f"token {known} is outside" in reason(Segmenter(made, vocab_size=known, tails=True), user("What?"))

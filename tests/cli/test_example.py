"""`gaincurate example`: what it writes, and that its answers are right by another way of computing them."""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from command import run, tree

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example")
    assert run("example", out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]


def solved(question: str, source: str) -> str:
    """The answer read from the question's text alone."""
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    if source == "sum":
        return str(sum(numbers))
    if source == "product":
        return str(numbers[0] * numbers[1])
    if source == "equation":
        return str(next(x for x in range(10_000) if numbers[0] * x + numbers[1] == numbers[2]))
    if source == "story":
        given = [int(n) for n in re.findall(r"(\d+) more", question)]
        spent = [int(n) for n in re.findall(r"spends (\d+)", question)]
        return str(numbers[0] + sum(given) - sum(spent))
    quoted = question.split("'")[1]
    if source == "reversal":
        return "".join(reversed(quoted))
    letter = re.findall(r"letter (\w) in", question)[0]
    return str(Counter(quoted)[letter])


def test_every_answer_is_right_and_no_question_stands_twice(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == len({row["question"] for row in rows}) == 240
    assert {row["source"] for row in rows} == {"sum", "product", "equation", "story", "reversal", "letters"}
    assert all(solved(row["question"], row["source"]) == row["answer"] for row in rows)
    counts = Counter((row["source"], row["level"]) for row in rows)
    assert set(counts.values()) == {20}
    assert len({row["source"] for row in rows[:6]}) == 6, "a few rows of the beginning are of all tasks"
    assert len({(row["source"], row["level"]) for row in rows[:12]}) == 12


def test_the_same_files_again_and_no_others_file_is_overwritten(folder: Path, tmp_path: Path) -> None:
    before = tree(folder)
    assert set(before) == {"prompts.jsonl", "reward.py", "train.py"}
    assert run("example", folder).exit_code == 0
    assert tree(folder) == before
    (tmp_path / "reward.py").write_text("mine = 1\n")
    refused = run("example", tmp_path)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'reward.py'} exists with other content" in refused.stderr
    assert tree(tmp_path) == {"reward.py": b"mine = 1\n"}


def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "prompts.jsonl").mkdir(parents=True)

    def mkdir(path: Path, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    def sentence(folder: Path) -> str:
        refused = run("example", folder)
        assert refused.exit_code == 1
        return refused.stderr.replace(str(tmp_path), "")

    assert sentence(tmp_path / "file").startswith("error: cannot write /file: file exists. ")
    below = "a part of the path is a file, not a folder. "
    assert sentence(tmp_path / "file/demo").startswith(f"error: cannot write /file/demo: {below}")
    assert sentence(tmp_path / "folder").startswith(
        "error: cannot write /folder/prompts.jsonl: is a directory."
    )
    monkeypatch.setattr(Path, "mkdir", mkdir)  # root, who runs tests in containers, may write anywhere
    assert sentence(tmp_path / "demo").startswith("error: cannot write /demo: permission is denied. ")


def test_the_next_commands_are_those_of_the_readme(tmp_path: Path) -> None:
    printed = run("example", tmp_path / "some folder").stdout.partition("next:\n")[2].splitlines()
    assert printed[0] == f"  cd '{tmp_path / 'some folder'}'"
    assert len(printed) == 5
    readme = (ROOT / "README.md").read_text().replace(" \\\n     ", "")
    assert all(f"$ {command.strip()}\n" in readme for command in printed[1:])


def test_the_reward_is_one_for_the_answer_alone(folder: Path, rows: list[dict[str, Any]]) -> None:
    module = runpy.run_path(str(folder / "reward.py"))
    correct = module["correct"]
    assert all(correct(f"It is {row['answer'].upper()}.", row) == 1.0 for row in rows)
    assert correct("so x = 1,200", {"answer": "1200"}) == 1.0
    assert correct("7, or 8", {"answer": "7"}) == correct("", {"answer": "7"}) == 0.0
    chat = [[{"role": "assistant", "content": "7"}], "8"]
    assert module["reward"](chat, answer=["7", "7"], source=["sum", "sum"]) == [1.0, 0.0]


def test_no_message_points_to_a_file_that_the_wheel_lacks() -> None:
    """Help texts are in docs/cli.md. Other messages are texts in the code that are no docstrings."""
    pointer = re.compile(r"\b(docs|tests)/\w")
    assert not pointer.search((ROOT / "docs/cli.md").read_text())
    for path in (ROOT / "gaincurate").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [
            node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings
        ]
        assert not [text for text in texts if isinstance(text, str) and pointer.search(text)], path

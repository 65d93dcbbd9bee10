from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

import trainer_folders as folders
from gaincurate.core.sealed import read_sealed
from gaincurate.errors import InputError, StorageError, TrainerError
from gaincurate.schedule.checkpoints import why_incomplete
from gaincurate.trainers import checkpoints
from gaincurate.trainers.checkpoints import RECORD, Checkpoint, changed, find, hold, see_unchanged
from gaincurate.trainers.profile import layout_of

TRL = layout_of("trl")


def source(held: Path) -> str:
    return str(read_sealed(held / RECORD)["checkpoint"])


def newest(root: Path) -> Checkpoint:
    found = find(root, TRL)[0]
    assert found is not None
    return found


@pytest.mark.parametrize("when", range(1, 9))
def test_one_that_is_deleted_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """The trainer's rotation strikes at the first, second, ... reading of a file."""
    folders.write(tmp_path, [*folders.trl(10), *folders.trl(20)])
    reads, real = [0], Path.is_file

    def rotating(self: Path) -> bool:
        if "checkpoint-20" in str(self):
            reads[0] += 1
            if reads[0] == when:
                shutil.rmtree(tmp_path / "checkpoint-20")
        return real(self)

    monkeypatch.setattr(Path, "is_file", rotating)
    found = find(tmp_path, TRL)
    gone = not (tmp_path / "checkpoint-20").exists()
    assert found[0] is not None
    assert (found[0].step, found[1]) == (10 if gone else 20, "")
    assert gone or when > reads[0]


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path, folders.trl(10))

    def refused(path: Path, step: int, layout: object) -> Checkpoint:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(checkpoints, "look", refused)
    with pytest.raises(StorageError, match="checkpoint-10: permission is denied"):
        find(tmp_path, TRL)


def test_what_was_there_before_is_left_out_whatever_its_files_say_of_their_age(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.trl(10))
    for file in tmp_path.rglob("*"):
        os.utime(file, (0, 0))  # as a copy has the times of what it is a copy of
    put = (tmp_path / "checkpoint-10/model.safetensors").stat().st_ctime
    assert find(tmp_path, TRL, since=put)[0] is not None
    assert find(tmp_path, TRL, since=put + 1e-3)[0] is None


def test_a_hold_survives_the_original_and_has_what_scoring_reads_alone(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.trl(10, folders.model(True)))
    path, held = tmp_path / "checkpoint-10", tmp_path / "run/held"
    (path / "model-00009-of-00009.safetensors").write_bytes(folders.WEIGHTS)  # of an earlier save
    folders.write(path / "additional_chat_templates", [("tools.jinja", b"{{ tools }}")])
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    hold(newest(tmp_path), held)
    inodes = {file.name: file.stat().st_ino for file in held.glob("*.safetensors")}
    assert inodes == {name: (path / name).stat().st_ino for name in inodes}  # links, not copies
    shutil.rmtree(path)
    names = {str(file.relative_to(held)) for file in held.rglob("*") if file.is_file()} - {".held.json"}
    shards = {f"model-0000{k}-of-00002.safetensors" for k in (1, 2)}
    small = {"config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"}
    assert names == shards | small | {"chat_template.jinja", "additional_chat_templates/tools.jinja"}
    assert why_incomplete(held) is None
    assert all((held / name).read_bytes() == before[name] for name in names if "/" not in name)
    assert (source(held), changed(held)) == (str(path), [])


def test_a_hold_is_made_again_only_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path, folders.trl(10))
    held = tmp_path / "held"
    hold(newest(tmp_path), held)
    inode = held.stat().st_ino
    hold(newest(tmp_path), held)
    assert held.stat().st_ino == inode
    folders.write(tmp_path, folders.trl(20))
    hold(newest(tmp_path), held)
    assert source(held) == str(tmp_path / "checkpoint-20")
    folders.write(tmp_path, folders.trl(30))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))  # killed while it deletes
        with pytest.raises(KeyboardInterrupt):
            hold(newest(tmp_path), held)
    assert not (held / RECORD).exists()
    hold(newest(tmp_path), held)
    assert source(held) == str(tmp_path / "checkpoint-30")


@pytest.mark.parametrize("when", range(6))
def test_killed_at_any_link_the_hold_has_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    folders.write(tmp_path, folders.trl(10))
    links, real = [0], os.link

    def killed(path: Path, to: Path) -> None:
        if links[0] == when:
            raise KeyboardInterrupt
        links[0] += 1
        real(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", killed)
        if when < 5:  # of five files
            with pytest.raises(KeyboardInterrupt):
                hold(newest(tmp_path), tmp_path / "held")
            assert not (tmp_path / "held" / RECORD).exists()
        else:
            hold(newest(tmp_path), tmp_path / "held")
    hold(newest(tmp_path), tmp_path / "held")
    assert why_incomplete(tmp_path / "held") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "held"]


def test_across_file_systems_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path, folders.trl(10))

    def refused(*paths: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refused)
    hold(newest(tmp_path), tmp_path / "held")
    original = tmp_path / "checkpoint-10/model.safetensors"
    assert (tmp_path / "held/model.safetensors").stat().st_ino != original.stat().st_ino
    original.write_bytes(b"other")  # which a copy does not see
    assert changed(tmp_path / "held") == []
    assert why_incomplete(tmp_path / "held") is None


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path, folders.trl(10))

    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StorageError, match="held: the disk is full"):
        hold(newest(tmp_path), tmp_path / "held")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    with pytest.raises(StorageError, match="cannot write"):
        hold(newest(tmp_path), tmp_path / ("n" * 300))


def test_a_writer_that_writes_in_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path, folders.trl(10))
    weights, real = tmp_path / "checkpoint-10/model.safetensors", os.link

    def writing(path: Path, to: Path) -> None:
        real(path, to)
        if Path(path).name == weights.name:
            os.truncate(weights, 50)

    def refused() -> None:
        assert changed(tmp_path / "held") == ["model.safetensors"]
        with pytest.raises(TrainerError, match=r"checkpoint-10 was written again in .*\(model.safetensors\)"):
            see_unchanged(tmp_path / "held")
        assert not (tmp_path / "held").exists()

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", writing)
        hold(newest(tmp_path), tmp_path / "held")
    refused()
    # And afterwards, while it is scored: the link has the new bytes.
    weights.write_bytes(folders.WEIGHTS)
    hold(newest(tmp_path), tmp_path / "held")
    see_unchanged(tmp_path / "held")
    weights.write_bytes(folders.WEIGHTS[:-4] + b"\1\1\1\1")
    os.utime(weights, (1, 1))
    refused()


def test_weights_alone_get_configuration_and_tokenizer_from_the_runs_model(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.prime_rl(7))
    found = find(tmp_path, layout_of("prime-rl"))[0]
    assert found is not None
    with pytest.raises(InputError, match=r"has weights without a config.json, .*\(not known\) is no folder"):
        hold(found, tmp_path / "held")
    other = [("config.json", b'{"model_type": "qwen3"}'), ("model.safetensors", b"other"), *folders.TOKENIZER]
    model = folders.write(tmp_path / "model", other)
    hold(found, tmp_path / "held", model=model)
    assert (tmp_path / "held/config.json").read_bytes() == b'{"model_type": "qwen3"}'
    assert (tmp_path / "held/model.safetensors").read_bytes() == folders.WEIGHTS
    assert (tmp_path / "held/tokenizer.json").is_file()


def test_nemos_tokenizer_lies_elsewhere_in_the_checkpoint(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.nemo_rl(7))
    found = find(tmp_path, layout_of("nemo-rl"))[0]
    assert found is not None
    hold(found, tmp_path / "held")
    assert (tmp_path / "held/chat_template.jinja").read_bytes() == b"{{ messages }}"


def test_links_in_a_checkpoint_are_followed(tmp_path: Path) -> None:
    folders.write(tmp_path, folders.trl(10))
    weights = tmp_path / "checkpoint-10/model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    hold(newest(tmp_path), tmp_path / "held")
    assert not (tmp_path / "held/model.safetensors").is_symlink()
    assert changed(tmp_path / "held") == []

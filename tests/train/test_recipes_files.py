"""Files of runs: whole or absent, checkpoints refused by name where they are damaged or another program's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import pytest
import torch

from streamfer.errors import CheckpointError, ConfigError, OutputError
from streamfer_train.recipes.checkpoint import read_checkpoint, taking_apart
from streamfer_train.recipes.files import CONFIG, claim, write_text, write_whole

OURS = "'streamfer train toy'"


def test_bytes_are_on_the_disk_before_they_have_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "a.bin", os.fsync
    seen: list[tuple[int, bool]] = []

    def observed(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", observed)
    write_whole(path, lambda stream: stream.write(b"12345"))
    assert seen[0] == (5, False)
    assert path.read_bytes() == b"12345"


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.bin: cannot be written \(No space left on device\).*disk full\?$"):
        write_whole(tmp_path / "new" / "a.bin", fail)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_writer_that_fails_leaves_the_former_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"aft")
        raise error

    with pytest.raises(OutputError, match="the file that was there before is untouched"):
        write_whole(path, fail)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_that_is_not_the_disks_passes_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "a.txt", lambda _: 1 // 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mapped", [False, True])
def test_a_checkpoint_comes_back(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "a.pt"
    write_whole(path, lambda stream: torch.save({"kind": "toy 1", "weight": torch.arange(3)}, stream))
    assert read_checkpoint(path, OURS, "toy 1", mapped=mapped)["weight"].tolist() == [0, 1, 2]
    assert read_checkpoint(path, OURS, mapped=mapped).keys() == {"kind", "weight"}


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint; delete it to start anew"):
        read_checkpoint(path, OURS)


class Foreign:
    """Something that only an unpickler that runs code can read."""


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"kind": "toy 1", "thing": Foreign()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "a.pt", OURS, "toy 1")


@pytest.mark.parametrize("contents", [{"state_dict": {}}, {"kind": "toy 2"}, [1, 2]])
def test_another_programs_checkpoint_is_named(tmp_path: Path, contents: object) -> None:
    torch.save(contents, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a checkpoint of 'streamfer train toy'; choose another file"):
        read_checkpoint(tmp_path / "a.pt", OURS, "toy 1")
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such checkpoint; train first"):
        read_checkpoint(tmp_path / "absent.pt", OURS, "toy 1")


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    parts: dict[str, int] = {}
    with (
        pytest.raises(CheckpointError, match=r"a\.pt: a part .* missing or damaged \('step'\)"),
        taking_apart(tmp_path / "a.pt"),
    ):
        parts["step"]


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    started = tmp_path / "fold1" / "last.pt"
    claim(tmp_path, {"lr": 1, "log": {"every": 3}}, ["log"], [started])
    claim(tmp_path, {"lr": 1, "log": {"every": 9}}, ["log"], [started])
    assert "every: 9" in (tmp_path / CONFIG).read_text()
    with pytest.raises(CheckpointError, match=r"config\.yaml: of another configuration: lr was 1 and is now 2"):
        claim(tmp_path, {"lr": 2}, ["log"], [])
    write_text(started, "begun")
    with pytest.raises(ConfigError, match="fold1 holds a run already; add --resume, or choose another --out"):
        claim(tmp_path, {"lr": 1}, ["log"], [started])
    claim(tmp_path, {"lr": 1}, ["log"], [])
    (tmp_path / CONFIG).write_text("a: [")
    with pytest.raises(CheckpointError, match=r"config\.yaml: cannot be read; choose another --out"):
        claim(tmp_path, {"lr": 1}, ["log"], [])

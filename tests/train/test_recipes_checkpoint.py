"""Checkpoints: whole or absent, and refused by name where they are damaged or another program's."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest
import torch

from streamfer.errors import CheckpointError, OutputError
from streamfer_train.recipes.checkpoint import read_checkpoint, taking_apart, write_tensors

OURS = "'streamfer train toy'"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_writer_that_fails_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"kind": "toy 1"})

    def fail(_contents: object, stream: IO[bytes]) -> None:
        stream.write(b"aft")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="the file that was there before is untouched"):
        write_tensors(path, {})
    assert read_checkpoint(path, OURS, "toy 1") == {"kind": "toy 1"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("mapped", [False, True])
def test_a_checkpoint_comes_back(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"kind": "toy 1", "weight": torch.arange(3)})
    assert read_checkpoint(path, OURS, "toy 1", mapped=mapped)["weight"].tolist() == [0, 1, 2]
    assert read_checkpoint(path, OURS, mapped=mapped).keys() == {"kind", "weight"}


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint; delete it to start anew"):
        read_checkpoint(path, OURS)


def test_a_flipped_bit_is_told_where_all_of_a_checkpoint_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_tensors(path, {"kind": "toy 1", "weight": torch.ones(4096)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
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

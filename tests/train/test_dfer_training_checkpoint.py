"""Checkpoints: plain contents, whole or absent, and refused by name where they do not fit."""

from __future__ import annotations

import resource
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from tiny_clips import settings

from streamfer.errors import CheckpointError, OutputError
from streamfer_train.dfer_clip.backbones import Sizes, read_backbone
from streamfer_train.dfer_clip.config import MAY_CHANGE, RunConfig, parse_config
from streamfer_train.dfer_clip.model import build_learner, load_learner
from streamfer_train.recipes.checkpoint import Checkpoint, Progress, is_checkpoint
from streamfer_train.recipes.journal import Table
from streamfer_train.recipes.run_folder import check_same

RECIPE = "dfer-clip"


def made(folder: Path) -> tuple[RunConfig, Checkpoint]:
    config = parse_config(settings(folder), "test")
    learner = build_learner(config, read_backbone(config), seed=1)
    progress = Progress(epoch=2, step=7, sums={"total": 1.5}, history=[{"epoch": 1, "test": {"war": 0.5}}])
    average = {"clip.temporal_net.cls_token": torch.ones(1, 1, 16)}
    about = {"fold": 1, "seed": 1, "sizes": asdict(learner.sizes)}
    plain = config.model_dump(mode="json")
    return config, Checkpoint(RECIPE, plain, about, progress, learner.state_dict(), average=average)


def test_what_is_saved_comes_back_and_needs_no_trust(tmp_path: Path) -> None:
    config, checkpoint = made(tmp_path)
    checkpoint.save(tmp_path / "a.pt")
    plain = torch.load(tmp_path / "a.pt", weights_only=True)
    assert {type(value).__name__ for value in plain.values()} <= {"str", "dict", "OrderedDict", "NoneType"}
    found = Checkpoint.load(tmp_path / "a.pt", RECIPE)
    assert found.progress == checkpoint.progress
    sizes = TypeAdapter(Sizes).validate_python
    assert sizes(found.about["sizes"]) == sizes(checkpoint.about["sizes"])
    check_same(tmp_path / "a.pt", found.config, config.model_dump(mode="json"), MAY_CHANGE)
    learner, read, again = load_learner(tmp_path / "a.pt")
    assert read == config
    assert again.progress.step == 7
    assert not learner.training
    # Averaged weights are the ones that are evaluated.
    assert torch.equal(learner.clip.state_dict()["temporal_net.cls_token"], torch.ones(1, 1, 16))
    assert is_checkpoint(tmp_path / "a.pt", RECIPE)


def test_another_configuration_is_named_by_its_first_difference(tmp_path: Path) -> None:
    _, checkpoint = made(tmp_path)
    other = parse_config(settings(tmp_path, temporal={"layers": 2}, optimiser={"momentum": 0.1}), "test")
    with pytest.raises(CheckpointError, match=r"temporal\.layers was 1 and is now 2"):
        check_same(tmp_path / "a.pt", checkpoint.config, other.model_dump(mode="json"), MAY_CHANGE)
    about = {**checkpoint.about, "sizes": asdict(read_backbone(other).sizes)}
    plain = other.model_dump(mode="json")
    Checkpoint(RECIPE, plain, about, checkpoint.progress, checkpoint.model).save(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"temporal_transformer\.layers\.1"):
        load_learner(tmp_path / "b.pt")


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    _, checkpoint = made(tmp_path)
    path = tmp_path / "a.pt"
    checkpoint.save(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses bytes beyond the limit as it does on a full disk (Python ignores the signal).
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match="the file that was there before is untouched"):
            checkpoint.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint"):
        Checkpoint.load(path, RECIPE)
    assert not is_checkpoint(path, RECIPE)


def test_another_programs_file_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of 'streamfer train dfer-clip'"):
        Checkpoint.load(tmp_path / "a.pt", RECIPE)
    with pytest.raises(CheckpointError, match="train first"):
        Checkpoint.load(tmp_path / "absent.pt", RECIPE)


def test_a_table_forgets_what_a_continued_run_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    table = Table(path, "step")
    for step in range(1, 5):
        table.add({"step": step, "loss": step / 3})
    with path.open("a", encoding="utf-8") as stream:
        stream.write("5,0.1")  # a process that was killed while writing
    again = Table(path, "step")
    again.keep_until(2)
    again.add({"step": 3, "loss": 1.0})
    assert path.read_text().splitlines() == ["step,loss", "1,0.3333333", "2,0.6666667", "3,1"]

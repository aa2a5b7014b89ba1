"""Small lists of clips on disk, their configuration, and what a check of them finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from streamfer_train.dfer_clip.checks import CheckReport, check_clips
from streamfer_train.dfer_clip.data_config import DataConfig


def config(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"dataset": "dfew", "train": "train.txt", "test": "test.txt", **settings})


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def frame_folder(folder: Path, frames: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number + 1:05d}.jpg")
    return folder


def checked(tmp_path: Path, train: str, test: str, **settings: Any) -> CheckReport:
    written(tmp_path, "train_1.txt", train)
    written(tmp_path, "test_1.txt", test)
    lists = {"train": f"{tmp_path}/train_{{fold}}.txt", "test": f"{tmp_path}/test_{{fold}}.txt"}
    return check_clips(config(**lists, root=tmp_path / "clips", **settings))

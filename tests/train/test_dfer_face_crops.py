"""Raw videos become folders of cut faces, once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamfer.video import write_video
from streamfer_train.dfer_clip.checks import check_clips
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.face_crops import with_face_crops
from streamfer_train.dfer_clip.frames import read_clip


def raw_config(folder: Path, **faces: Any) -> DataConfig:
    (folder / "train.csv").write_text("video,label,start,end\nface.mp4,happy,0,1\n", encoding="utf-8")
    (folder / "test.csv").write_text("video,label\nwall.mp4,sad\n", encoding="utf-8")
    return DataConfig.model_validate(
        {
            "dataset": "csv",
            "train": str(folder / "train.csv"),
            "test": str(folder / "test.csv"),
            "root": folder,
            "size": 64,
            "faces": "detect",
            "face_crops": {"detector": "lbp", "cache": folder / "cache", **faces},
        }
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, face_film: Path) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "face.mp4").symlink_to(face_film)
    write_video(folder / "wall.mp4", (np.full((64, 80, 3), 90, np.uint8) for _ in range(12)), 10)
    return folder


def test_faces_of_raw_video_become_frame_folders(raw: Path) -> None:
    config = raw_config(raw)
    report = check_clips(config)
    report.raise_for_errors()
    said: list[tuple[int, int]] = []
    cropped = with_face_crops(report, config, lambda done, total: said.append((done, total)))
    assert said == [(1, 2), (2, 2)]
    (fold,) = cropped.folds
    (face,), (wall,) = fold.train, fold.test
    assert (face.kind, face.label, face.start, face.end) == ("frames", "happiness", None, None)
    assert face.frames == 10
    crops = read_clip(face, 10, None)
    assert {crop.shape for crop in crops} == {(64, 64, 3)}
    # The face fills the crop: it is found again, in its middle, in an enlarged crop.
    from streamfer.faces import load_detector

    found = load_detector("lbp").detect([np.pad(cv2.resize(crops[5], (160, 160)), ((40, 40), (40, 40), (0, 0)))])[0]
    x1, y1, x2, y2 = found.boxes[0]
    assert (x2 - x1) * (y2 - y1) > 0.5 * 160 * 160
    assert math.hypot((x1 + x2) / 2 - 120, (y1 + y2) / 2 - 120) < 25
    # Nobody on the wall: its whole frames, and a word about it.
    assert wall.frames == 12
    assert [(p.severity, p.kind, p.where) for p in cropped.problems[-1:]] == [
        ("warning", "no face", f"{raw}/test.csv:2")
    ]


def test_crops_are_made_once(raw: Path, monkeypatch: Any) -> None:
    config = raw_config(raw)
    first = with_face_crops(check_clips(config), config)
    monkeypatch.setattr(
        "streamfer_train.dfer_clip.face_crops._Cutter._make", lambda *_: pytest.fail("the crops were there already")
    )
    assert with_face_crops(check_clips(config), config) == first


@pytest.mark.parametrize(("missing", "kept", "errors"), [("skip", 0, 0), ("error", 0, 1)])
def test_a_clip_without_face_may_be_left_out_or_stop(raw: Path, missing: str, kept: int, errors: int) -> None:
    config = raw_config(raw, missing=missing, every=4)
    report = with_face_crops(check_clips(config), config)
    assert len(report.folds[0].test) == kept
    assert len(report.errors) == errors

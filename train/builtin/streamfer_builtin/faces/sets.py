"""The pictures that the detector learns from and is judged on, decoded once, and the split that keeps them apart.

Four parts. ``test`` is set aside: the ``val`` rows of crowds.parquet and two development videos, looked at once, at
the end. ``tune`` is where thresholds are chosen: folders of the ``train`` rows drawn by a hash, and the other videos.
``train`` is the rest. A folder, or a person of scenes.parquet, is on one side only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from streamfer_builtin.faces.frames import known_videos
from streamfer_builtin.faces.labels import BoolArray, Labels, Picture
from streamfer_builtin.tables import as_stored, decoded, rows

CROWDS, BACKGROUNDS, SCENES = "faces/crowds.parquet", "faces/backgrounds.parquet", "faces/scenes.parquet"
TUNE_SHARE = 0.07
PERSON_SHARE = 0.06
#: Repositories that keep unrelated pictures in one folder: these are drawn one by one.
BY_PICTURE = (
    "marellanoc/MaskON",
    "mukammilbasha/Dataset",
    "EliSchwartz/imagenet-sample-images",
    "alexeygrigorev/clothing-dataset",
)
#: Repositories with several copies of the same people, for training alone.
COPIES = ("chandrikadeb7/Face-Mask-Detection",)
#: Development videos with several people whose names have the smallest SHA-1 (of ``faces/<name>``): set aside.
TEST_VIDEOS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded picture (RGB uint8 H x W x 3, or grey H x W), its faces, which of them are turned, and its origin."""

    picture: Picture
    labels: Labels
    profile: BoolArray
    source: str


def draw(name: str) -> float:
    """A number in [0, 1) that a name stands for, the same everywhere."""
    digest = hashlib.sha1(f"faces/{name}".encode(), usedforsecurity=False).hexdigest()
    return int(digest[:8], 16) / 2**32


def part_of(source: str, split: str) -> str:
    """``train``, ``tune`` or ``test`` of a row of crowds.parquet or backgrounds.parquet."""
    if split == "val":
        return "test"
    repository = source.split(":", maxsplit=1)[0]
    if repository in COPIES:
        return "train"
    unit = source if repository in BY_PICTURE else str(PurePosixPath(source).parent)
    return "tune" if draw(unit) < TUNE_SHARE else "train"


def crowds(root: Path, part: str) -> list[Sample]:
    """The pictures of people of one part; boxes that one teacher alone saw are ``ignored``."""
    columns = ("image", "source", "split", "boxes", "landmarks", "sure", "profile")
    return _samples(root, CROWDS, columns, lambda row: part_of(row["source"], row["split"]) == part, _crowd)


def backgrounds(root: Path, part: str) -> list[Sample]:
    """The pictures without a face of one part."""
    columns = ("image", "source", "split")
    return _samples(root, BACKGROUNDS, columns, lambda row: part_of(row["source"], row["split"]) == part, _background)


def scenes(root: Path) -> list[Sample]:
    """Pictures of single people, most of them grey; 6 % of the people are left out, as for version 1."""
    columns = ("image", "boxes", "landmarks", "source_id", "identity")
    return _samples(root, SCENES, columns, lambda row: draw(row["identity"]) >= PERSON_SHARE, _scene)


def test_videos(root: Path) -> tuple[str, ...]:
    """Names of the videos that are set aside: of those with several people, the two of the smallest hash."""
    several = [
        video.path.name for video in known_videos(root / "videos") if video.people > 1 and video.path.suffix != ".jpg"
    ]
    return tuple(sorted(several, key=draw)[:TEST_VIDEOS])


def _samples(
    root: Path,
    name: str,
    columns: tuple[str, ...],
    wanted: Callable[[dict[str, Any]], bool],
    read: Callable[[dict[str, Any], Picture], Sample],
) -> list[Sample]:
    kept = []
    for row in rows(root, name, columns):
        where = f"{root / name}, {row.get('source', row.get('source_id'))}"
        with as_stored(where):
            if wanted(row):
                kept.append(read(row, shown(row["image"], where)))
    return kept


def shown(coded: bytes, name: str) -> Picture:
    """A coded picture: RGB uint8 H x W x 3, or H x W when it has no colour.

    Raises:
        SourceUnreadableError: the bytes are no picture.
    """
    picture = decoded(coded, name, cv2.IMREAD_COLOR)
    if np.abs(picture[..., 0].astype(np.int16) - picture[..., 2]).mean() < 1.5:
        return np.ascontiguousarray(picture[..., 1])
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _crowd(row: dict[str, Any], picture: Picture) -> Sample:
    count = len(row["boxes"])
    labels = Labels(
        np.array(row["boxes"], np.float32).reshape(count, 4),
        np.array(row["landmarks"], np.float32).reshape(count, 5, 2),
        ~np.array(row["sure"], np.bool_).reshape(count),
        np.ones(count, np.bool_),
    )
    return Sample(picture, labels, np.array(row["profile"], np.bool_).reshape(count), row["source"])


def _background(row: dict[str, Any], picture: Picture) -> Sample:
    return Sample(picture, Labels.none(), np.zeros(0, np.bool_), row["source"])


def _scene(row: dict[str, Any], picture: Picture) -> Sample:
    count = len(row["boxes"])
    labels = Labels(
        np.array(row["boxes"], np.float32).reshape(count, 4),
        np.array(row["landmarks"], np.float32).reshape(count, 5, 2),
        np.zeros(count, np.bool_),
        np.ones(count, np.bool_),
    )
    return Sample(picture, labels, np.zeros(count, np.bool_), str(row["source_id"]))

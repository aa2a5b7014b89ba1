"""Tiny parquet files in the shape of the development data, with bright squares for faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FACE = np.array([[8, 10], [24, 10], [16, 18], [10, 25], [22, 25]], np.float32) / 32


def coded(picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def square(rng: np.random.Generator, side: int = 32, size: int = 96) -> tuple[np.ndarray, list[float], list[Any]]:
    """A dark coloured picture with one bright square: picture, box, landmarks."""
    picture = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
    picture[..., 0] //= 2
    x, y = (int(value) for value in rng.integers(4, size - side - 4, size=2))
    picture[y : y + side, x : x + side] = (230, 200, 180)
    return picture, [x, y, x + side, y + side], (FACE * side + [x, y]).tolist()


def write_sets(root: Path, *, people: int = 12) -> None:
    """Write crowds, backgrounds and scenes of a few pictures each below ``root``."""
    rng = np.random.default_rng(3)
    (root / "faces").mkdir(parents=True)
    crowds, scenes = [], []
    for index in range(people):
        picture, box, points = square(rng)
        row = {"image": coded(picture), "source": f"some/where:{index}/a.jpg", "split": "train" if index else "val"}
        # The second box of every picture is one that a single teacher saw.
        doubtful = [[2.0, 2.0, 12.0, 12.0], (FACE * 10 + 2).tolist()]
        row |= {"boxes": [box, doubtful[0]], "landmarks": [points, doubtful[1]]}
        crowds.append(row | {"sure": [True, False], "profile": [False, index % 2 == 0]})
        scenes.append({"image": coded(picture), "boxes": [box], "landmarks": [points],
                       "source_id": f"{index}.jpg", "identity": f"person {index}"})  # fmt: skip
    empty = [
        {"image": coded(rng.integers(0, 90, (80, 120, 3)).astype(np.uint8)), "source": f"some/thing:{index}/b.jpg",
         "split": "train"}
        for index in range(4)
    ]  # fmt: skip
    for name, rows in (("crowds", crowds), ("backgrounds", empty), ("scenes", scenes)):
        pq.write_table(pa.Table.from_pylist(rows), root / "faces" / f"{name}.parquet")

"""A small cut of the development data that has everything the recipes ask for: every class, every part of the split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamfer_builtin.faces import sets
from streamfer_builtin.mini import data

#: Short ones: two that the recipe sets aside, and others to choose the threshold on.
VIDEOS = (
    "CiscoVT2people_320x192_12fps.yuv",
    "head-pose-face-detection-female-and-male.gif",
    "face-demographics-walking-and-pause.gif",
    "head-pose-face-detection-female.gif",
)


def cut(source: Path, target: Path, group: Callable[[dict[str, Any]], object], most: int) -> list[dict[str, Any]]:
    """Write the first ``most`` rows of every group (None: left out) of a parquet file, and return them."""
    seen: Counter[object] = Counter()
    kept = []
    for batch in pq.ParquetFile(source).iter_batches(batch_size=256):
        for row in batch.to_pylist():
            key = group(row)
            seen[key] += 1
            if key is not None and seen[key] <= most:
                kept.append(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(kept, pq.read_schema(source)), target)
    return kept


def listed(known: dict[str, set[str]], row: dict[str, Any]) -> bool | None:
    """True for a row that is among those known of its source."""
    return row["source_id"] in known[row.get("source", "")] or None


def write_expressions(shared: Path, folder: Path) -> None:
    """Write what ``streamfer_builtin.mini`` reads, some 400 pictures."""
    known: dict[str, set[str]] = {}
    for split in ("train", "val"):
        rows = cut(
            shared / f"fer2013/{split}.parquet",
            folder / f"fer2013/{split}.parquet",
            lambda row: (row["label"], data.place(row["source_id"]) < 0.5),
            10,
        )
        known[f"fer2013_{split}"] = {row["source_id"] for row in rows}
        votes = f"fer2013/ferplus_{split}.parquet"
        cut(shared / votes, folder / votes, partial(listed, {"": known[f"fer2013_{split}"]}), 10**6)
    faces = cut(
        shared / "faces/faces.parquet",
        folder / "faces/faces.parquet",
        lambda row: (row["emotion"], sum(data.place(row["identity"]) >= edge for edge in (0.15, 0.21375, 0.2775))),
        6,
    )
    known["faces"] = {row["source_id"] for row in faces}
    scores = "blendshapes/blendshapes.parquet"
    cut(shared / scores, folder / scores, partial(listed, known), 10**6)
    (folder / "ict_face").symlink_to(shared / "ict_face")


def write_pictures(shared: Path, folder: Path) -> None:
    """Write what ``streamfer_builtin.faces`` reads: some 40 pictures and four short videos."""
    for name in (sets.CROWDS, sets.BACKGROUNDS):
        cut(shared / name, folder / name, lambda row: sets.part_of(row["source"], row["split"]), 6)
    cut(shared / sets.SCENES, folder / sets.SCENES, lambda row: sets.draw(row["identity"]) >= sets.PERSON_SHARE, 8)
    (folder / "weights").symlink_to(shared / "weights")
    (folder / "videos").mkdir()
    truth = json.loads((shared / "videos" / "ground_truth.json").read_text(encoding="utf-8"))
    truth["videos"] = {name: truth["videos"][name] for name in VIDEOS}
    (folder / "videos" / "ground_truth.json").write_text(json.dumps(truth), encoding="utf-8")
    for name in VIDEOS:
        (folder / "videos" / name).symlink_to(shared / "videos" / name)

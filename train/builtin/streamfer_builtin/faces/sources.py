"""Where faces come from: full pictures, aligned crops and rendered heads, each labelled in the teacher's manner.

They are gathered once into four shards (``scenes``, ``crops``, ``heads``, ``backs``) per split in the working folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import structlog

from streamfer.errors import SourceNotFoundError
from streamfer_builtin.faces.heads import HeadRenderer, RenderedHead
from streamfer_builtin.faces.labels import FloatArray, Labels, Picture, overlaps
from streamfer_builtin.faces.shards import Shard, coded_png, decoded_picture
from streamfer_builtin.faces.teacher import Teacher

log = structlog.get_logger(__name__)

SPLITS = ("train", "val")
KINDS = ("scenes", "crops", "heads", "backs")
_VALIDATION_SHARE = 0.06
_CROP_MARGIN = 40


@dataclass(frozen=True, slots=True)
class FaceSources:
    """All faces of one split; ``backs`` are heads seen from behind, which have no face."""

    scenes: Shard
    crops: Shard
    heads: Shard
    backs: Shard


def split_of(identity: str) -> str:
    """``train`` or ``val``: a person's pictures are all on one side, chosen by a hash of the name."""
    digest = hashlib.sha1(f"faces/{identity}".encode(), usedforsecurity=False).hexdigest()
    return "val" if int(digest[:8], 16) / 2**32 < _VALIDATION_SHARE else "train"


def load_sources(folder: Path, split: str) -> FaceSources:
    """The gathered sources of ``split`` from the working folder.

    Raises:
        SourceNotFoundError: :func:`gather` has not been run into that folder.
    """
    paths = {kind: folder / f"{split}-{kind}.npz" for kind in KINDS}
    for path in paths.values():
        if not path.is_file():
            raise SourceNotFoundError(f"{path}: no such file; run `compose` first, which gathers the sources")
    return FaceSources(**{kind: Shard.load(path) for kind, path in paths.items()})


def gather(data: Path, folder: Path, teacher: Teacher, *, heads: int, seed: int) -> None:
    """Read the image sets under ``data``, label them with ``teacher`` and write both splits' shards to ``folder``.

    ``heads`` heads are rendered for training and a tenth of that for validation. Shards that exist are kept.
    """
    if not all((folder / f"{split}-scenes.npz").is_file() for split in SPLITS):
        _write(folder, "scenes", [_scene(row) for row in _rows(data / "faces" / "scenes.parquet")])
    if not all((folder / f"{split}-crops.npz").is_file() for split in SPLITS):
        rows = _rows(data / "faces" / "faces.parquet")
        _write(folder, "crops", [crop for row in rows if (crop := _crop(row, teacher))])
    if not all((folder / f"{split}-heads.npz").is_file() for split in SPLITS):
        renderer = HeadRenderer(data / "ict_face" / "ict_face.npz")
        for offset, (split, count) in enumerate((("train", heads), ("val", max(1, heads // 10)))):
            rng = np.random.default_rng([seed, offset])
            drawn = [_head(renderer.render(rng), teacher) for _ in range(count)]
            behind = [renderer.render(rng, from_behind=True) for _ in range(max(1, count // 10))]
            Shard.of([coded_png(_rgba(each)) for each in behind], [Labels.none()] * len(behind)).save(
                folder / f"{split}-backs.npz"
            )
            Shard.of([coded for coded, _ in drawn], [labels for _, labels in drawn]).save(folder / f"{split}-heads.npz")
            log.info("faces.sources.rendered", split=split, heads=count)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; set data.root to the folder that holds faces/ and ict_face/")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _write(folder: Path, kind: str, items: list[tuple[str, bytes, Labels]]) -> None:
    for split in SPLITS:
        chosen = [(coded, labels) for where, coded, labels in items if where == split]
        Shard.of([coded for coded, _ in chosen], [labels for _, labels in chosen]).save(folder / f"{split}-{kind}.npz")
        log.info("faces.sources.gathered", kind=kind, split=split, pictures=len(chosen))


def _scene(row: dict[str, Any]) -> tuple[str, bytes, Labels]:
    count = len(row["boxes"])
    labels = Labels(
        np.array(row["boxes"], np.float32).reshape(-1, 4),
        np.array(row["landmarks"], np.float32).reshape(-1, 5, 2),
        np.zeros(count, np.bool_),
        np.ones(count, np.bool_),
    )
    return split_of(row["identity"]), row["image"], labels


def _crop(row: dict[str, Any], teacher: Teacher) -> tuple[str, bytes, Labels] | None:
    """A 128-pixel crop with the teacher's box; the crop is widened by repeated edges so that the box fits."""
    decoded = decoded_picture(np.frombuffer(row["image"], np.uint8))
    margin = _CROP_MARGIN
    wide = cv2.copyMakeBorder(decoded, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    found = teacher.faces(np.asarray(wide, np.uint8))
    if len(found.boxes) != 1:
        return None
    labels = Labels.single(found.boxes[0] - margin, found.landmarks[0] - margin)
    return split_of(row["identity"]), row["image"], labels


def _head(head: RenderedHead, teacher: Teacher) -> tuple[bytes, Labels]:
    """A rendered head, labelled by the teacher where it agrees with the geometry, else by the geometry."""
    shown = np.where(head.alpha[..., None] > 127, head.picture, 120).astype(np.uint8)
    found = teacher.faces(shown)
    box, landmarks, precise = head.box, head.landmarks, head.facing > 0.35
    if len(found.boxes):
        agreement: FloatArray = overlaps(head.box[None], found.boxes)[0]
        best = int(agreement.argmax())
        if agreement[best] > 0.5:
            box, landmarks, precise = found.boxes[best], found.landmarks[best], True
    return coded_png(_rgba(head)), Labels.single(box, landmarks, ignored=head.facing < -0.05, precise=precise)


def _rgba(head: RenderedHead) -> Picture:
    return np.concatenate([head.picture, head.alpha[..., None]], axis=2)

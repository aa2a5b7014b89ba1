"""Pictures of the mini model: two labelled sets, annotators' votes, action units, and what is set aside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfer.errors import SourceUnreadableError
from streamfer.files import sha256_of
from streamfer_builtin.mini import augment
from streamfer_builtin.mini.units import BLENDSHAPE_COLUMNS, units_of
from streamfer_builtin.tables import as_stored, decoded, file_in, rows, table

CLASSES: tuple[str, ...] = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")

_FILES = (
    "fer2013/train.parquet",
    "fer2013/val.parquet",
    "faces/faces.parquet",
    "blendshapes/blendshapes.parquet",
    "fer2013/ferplus_train.parquet",
    "fer2013/ferplus_val.parquet",
)

# The data set itself already keeps the identities below 0.15 apart; the next slice is ours to hold out, its upper half
# for the last look.
_HELD_OUT = (0.15, 0.2775)
_LAST_FACES = 0.21375
#: A picture of FER2013 val whose name lies below this place is for the last look; the others choose and watch.
_LAST_FER = 0.5
#: FER+ takes a class that one annotator alone saw for a mistake (Barsoum et al. 2016, section 3).
_OUTLIER = 1
_OTHER_VOTES = ("contempt", "unknown", "NF")


FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Grey pictures of one source with their labels; what a picture lacks is NaN.

    Attributes:
        source: name of the set.
        extent: size of the whole picture in crop pixels: there its faces lie where the crop's landmarks are.
        pixels: uint8 (N, H, H).
        labels: int64 (N,), indices into `CLASSES`.
        units: float32 (N, A), intensity 0-1 of each action unit of `units.ACTION_UNITS`.
        pose: float32 (N, 2), yaw and pitch in degrees.
        votes: float32 (N, C), each class's share of all annotators' votes; NaN where nobody voted, all 0 where most saw
            contempt, no face, or could not tell.
    """

    source: str
    extent: float
    pixels: Tensor
    labels: Tensor
    units: Tensor
    pose: Tensor
    votes: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Pictures:
        """Return the pictures at `index` (int64 or bool mask)."""
        parts = (self.pixels, self.labels, self.units, self.pose, self.votes)
        return Pictures(self.source, self.extent, *(part[index] for part in parts))

    def to(self, device: str) -> Pictures:
        """Return the pictures on a device."""
        parts = (self.pixels, self.labels, self.units, self.pose, self.votes)
        return Pictures(self.source, self.extent, *(part.to(device) for part in parts))

    @property
    def clear(self) -> Tensor:
        """Return bool (N,): one class has more than half of all votes (FER+'s majority)."""
        return self.votes.amax(1) > 0.5  # NaN compares false

    def targets(self, vote_share: float) -> Tensor:
        """Return probabilities float32 (N, C): annotators' votes, mixed with the data set's own label."""
        label = F.one_hot(self.labels, len(CLASSES)).float()
        total = self.votes.sum(1, keepdim=True)
        voted = torch.where(total > 0, self.votes / total.clamp(min=1e-6), label)
        return torch.lerp(label, voted, vote_share)

    @property
    def readable(self) -> Tensor:
        """Return bool (N,): not one that most annotators took for contempt, no face, or could not tell."""
        return ~(self.votes.sum(1) == 0)  # nobody's votes are NaN, which compares false


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that the recipe reads: training sources, FER2013 validation, held-out identities.

    `val` and `held_out` are watched, and thresholds are chosen on them; `last_val` and `last_held_out`, other pictures
    and other identities, are looked at once, when everything is decided.
    """

    train: tuple[Pictures, ...]
    val: Pictures
    held_out: Pictures
    last_val: Pictures
    last_held_out: Pictures


@dataclass(frozen=True, slots=True)
class _Scores:
    rows: dict[tuple[str, str], int]
    units: FloatArray
    pose: FloatArray

    def of(self, source: str, source_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return action units and pose of the named pictures, NaN for a picture without."""
        places = np.array([self.rows.get((source, s), -1) for s in source_ids])
        found = []
        for known in (self.units, self.pose):
            values = known[places]
            values[places < 0] = np.nan
            found.append(torch.from_numpy(values))
        return found[0], found[1]


def digests(data: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that the recipe reads, by path relative to `data`."""
    return {name: sha256_of(file_in(data, name)) for name in _FILES}


def place(name: str) -> float:
    """Return the place in [0, 1) of an identity or a picture: the first 8 hex digits of its name's SHA-1 over 2^32."""
    return int(hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:8], 16) / 2**32


def load(data: Path) -> Corpus:
    """Read and decode both sets; some 38,000 grey pictures, about 100 MB of memory.

    Raises:
        SourceNotFoundError: a file is absent.
        SourceUnreadableError: one is damaged, or holds something else.
    """
    scores = _read_scores(data)
    fer_train, _ = _read_fer(data, "train", scores)
    fer_val, names = _read_fer(data, "val", scores)
    last = torch.tensor([place(name) < _LAST_FER for name in names])
    faces, identities = _read_faces(data, scores)
    places = torch.tensor([place(identity) for identity in identities], dtype=torch.float64)
    held = (places >= _HELD_OUT[0]) & (places < _HELD_OUT[1])
    return Corpus(
        train=(fer_train, faces.subset(~held)),
        val=fer_val.subset(~last),
        held_out=faces.subset(held & (places < _LAST_FACES)),
        last_val=fer_val.subset(last),
        last_held_out=faces.subset(held & (places >= _LAST_FACES)),
    )


def _read_scores(data: Path) -> _Scores:
    read = table(data, _FILES[3], ("source", "source_id", "yaw", "pitch", *BLENDSHAPE_COLUMNS))
    with as_stored(data / _FILES[3]):
        column = {name: np.array(read[name], np.float32) for name in ("yaw", "pitch", *BLENDSHAPE_COLUMNS)}
    return _Scores(
        rows={key: row for row, key in enumerate(zip(read["source"], read["source_id"], strict=True))},
        units=units_of({name: column[name] for name in BLENDSHAPE_COLUMNS}),
        pose=np.stack([column["yaw"], column["pitch"]], 1),
    )


def _grey(jpeg: bytes, size: int, name: str) -> Any:
    image = decoded(jpeg, name, cv2.IMREAD_GRAYSCALE)
    if image.shape != (size, size):
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image


def vote_shares(counts: FloatArray) -> FloatArray:
    """Turn votes (N, C + 3) into the classes' shares (N, C) of all votes; contempt, unknown and no face come last.

    As in FER+ a class with a single vote is dropped first; rows that contempt, unknown or no face win are all 0.
    """
    kept = np.where(counts <= _OUTLIER, 0, counts)
    shares = kept / np.maximum(kept.sum(1, keepdims=True), 1)
    classes = len(CLASSES)
    lost = shares[:, classes:].max(1) >= shares[:, :classes].max(1)
    return np.where(lost[:, None], 0, shares[:, :classes]).astype(np.float32)


def _read_votes(data: Path, split: str, names: Sequence[str]) -> Tensor:
    name, kinds = f"fer2013/ferplus_{split}.parquet", (*CLASSES, *_OTHER_VOTES)
    read = table(data, name, ("source_id", *kinds))
    with as_stored(data / name):
        counts = np.stack([np.array(read[kind], np.float32) for kind in kinds], 1)
    row = dict(zip(read["source_id"], vote_shares(counts), strict=True))
    nobody = np.full(len(CLASSES), np.nan, np.float32)
    return torch.from_numpy(np.stack([row.get(name, nobody) for name in names]))


def _read_fer(data: Path, split: str, scores: _Scores) -> tuple[Pictures, list[str]]:
    name, source = f"fer2013/{split}.parquet", f"fer2013_{split}"
    read = table(data, name, ("image", "label", "source_id"))
    names = read["source_id"]
    images = zip(read["image"], names, strict=True)
    pixels = np.stack([_grey(image, 48, f"{source}, {name}") for image, name in images])
    if strangers := [label for label in read["label"] if label not in CLASSES]:
        raise SourceUnreadableError(f"{data / name}: label {strangers[0]!r}; expected one of {', '.join(CLASSES)}")
    labels = torch.tensor([CLASSES.index(label) for label in read["label"]])
    votes = _read_votes(data, split, names)
    known = scores.of(source, names)
    return Pictures(source, augment.FER_EXTENT, torch.from_numpy(pixels), labels, *known, votes), names


def _read_faces(data: Path, scores: _Scores) -> tuple[Pictures, list[str]]:
    read = rows(data, _FILES[2], ("image", "emotion", "source_id", "identity"))
    found = [row for row in read if row["emotion"] in CLASSES]
    if not found:
        raise SourceUnreadableError(f"{data / _FILES[2]}: no picture shows one of {', '.join(CLASSES)}")
    pixels = np.stack([_grey(row["image"], 64, f"faces, {row['source_id']}") for row in found])
    labels = torch.tensor([CLASSES.index(row["emotion"]) for row in found])
    known = scores.of("faces", [row["source_id"] for row in found])
    nobody = torch.full((len(found), len(CLASSES)), torch.nan)
    pictures = Pictures("faces", augment.FACES_EXTENT, torch.from_numpy(pixels), labels, *known, nobody)
    return pictures, [row["identity"] for row in found]

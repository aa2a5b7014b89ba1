"""Training pictures of the mini model: two labelled sets, their action scores and a class-balanced sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from streamfer.errors import ConfigError
from streamfer_builtin.mini import augment
from streamfer_builtin.mini.units import units_of

CLASSES: tuple[str, ...] = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")

# Scores that are close to zero on every picture: nothing to learn from them.
_DEAD_SCORES = frozenset(
    {
        "_neutral",
        "cheekPuff",
        "cheekSquintLeft",
        "cheekSquintRight",
        "jawForward",
        "noseSneerLeft",
        "noseSneerRight",
    }
)
_WORDS = frozenset({"source", "source_id", "detected", "pass"})
_NOT_SCORES = _WORDS | {"yaw", "pitch", "roll"}
_FILES = ("fer2013/train.parquet", "fer2013/val.parquet", "faces/faces.parquet", "blendshapes/blendshapes.parquet")

# The data set itself already keeps the identities below 0.15 apart; the next slice is ours to hold out.
_HELD_OUT = (0.15, 0.2775)


FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Grey pictures of one source with their labels; what a picture lacks is NaN.

    Attributes:
        source: name of the set.
        extent: size of the whole picture in crop pixels: there its faces lie where the crop's landmarks are.
        pixels: uint8 (N, H, H).
        labels: int64 (N,), indices into `CLASSES`.
        scores: float32 (N, S), standardised blendshape scores, yaw and pitch.
        units: float32 (N, A), intensity 0-1 of each action unit of `units.ACTION_UNITS`.
        pose: float32 (N, 2), yaw and pitch in degrees.
    """

    source: str
    extent: float
    pixels: Tensor
    labels: Tensor
    scores: Tensor
    units: Tensor
    pose: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> Pictures:
        """Return the pictures at `index` (int64 or bool mask)."""
        rows = (part[index] for part in (self.pixels, self.labels, self.scores, self.units, self.pose))
        return Pictures(self.source, self.extent, *rows)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that the recipe reads: training sources, FER2013 validation, held-out identities."""

    train: tuple[Pictures, ...]
    val: Pictures
    held_out: Pictures
    mirror: Tensor
    """int64 (S,): the score that each score becomes in a mirrored picture."""
    mirror_sign: Tensor
    """float32 (S,): its sign there (the yaw angle turns around)."""


@dataclass(frozen=True, slots=True)
class _Scores:
    names: tuple[str, ...]
    rows: dict[tuple[str, str], int]
    values: FloatArray
    units: FloatArray
    pose: FloatArray

    def of(self, source: str, source_ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, action units and pose of the named pictures, NaN for a picture without."""
        rows = np.array([self.rows.get((source, s), -1) for s in source_ids])
        found = []
        for table in (self.values, self.units, self.pose):
            values = table[rows]
            values[rows < 0] = np.nan
            found.append(torch.from_numpy(values))
        return found[0], found[1], found[2]


def digests(data: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that the recipe reads, by path relative to `data`."""
    return {name: hashlib.sha256(_file(data, name).read_bytes()).hexdigest() for name in _FILES}


def identity_fraction(identity: str) -> float:
    """Return the place of an identity in [0, 1): the first 8 hex digits of the SHA-1 of its name over 2^32."""
    return int(hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:8], 16) / 2**32


def load(data: Path) -> Corpus:
    """Read and decode both sets; some 38,000 grey pictures, about 100 MB of memory.

    Raises: ConfigError when a file is absent.
    """
    scores = _read_scores(data)
    fer_train = _read_fer(data, "train", scores)
    fer_val = _read_fer(data, "val", scores)
    faces, identities = _read_faces(data, scores)
    low, high = _HELD_OUT
    held = torch.tensor([low <= identity_fraction(i) < high for i in identities])
    mirror = [scores.names.index(_mirrored(n)) for n in scores.names]
    sign = [-1.0 if n == "yaw" else 1.0 for n in scores.names]
    return Corpus(
        train=(fer_train, faces.subset(~held)),
        val=fer_val,
        held_out=faces.subset(held),
        mirror=torch.tensor(mirror),
        mirror_sign=torch.tensor(sign),
    )


def sampling_weights(labels: Tensor, *, power: float = 0.5, cap: int | None = None) -> Tensor:
    """Weigh every picture by (size of its class) ** -power, and a class above `cap` pictures down to the cap.

    power 0 keeps the natural frequencies, 1 makes all classes equally frequent. Returns float64 (N,), mean 1.
    """
    counts = torch.bincount(labels, minlength=len(CLASSES)).double()
    size = counts if cap is None else counts.clamp(max=float(cap))
    # What a class contributes in all is (effective size) ** (1 - power), shared among its pictures.
    per_picture = size.clamp(min=1) ** (1 - power) / counts.clamp(min=1)
    weights = per_picture[labels]
    return weights / weights.mean()


def _file(data: Path, name: str) -> Path:
    path = data / name
    if not path.is_file():
        raise ConfigError(f"{path}: training data not found; point --data at the folder that holds fer2013/ and faces/")
    return path


def _mirrored(name: str) -> str:
    if "Left" in name:
        return name.replace("Left", "Right")
    return name.replace("Right", "Left")


def _read_scores(data: Path) -> _Scores:
    table = pq.read_table(_file(data, _FILES[3]))
    names = [n for n in table.schema.names if n not in _NOT_SCORES and n not in _DEAD_SCORES] + ["yaw", "pitch"]
    column = {n: table[n].to_numpy().astype(np.float32) for n in table.schema.names if n not in _WORDS}
    values = np.stack([column[n] for n in names], 1)
    # Left and right share their statistics, or mirroring would shift the targets.
    both = np.concatenate([values, values[:, [names.index(_mirrored(n)) for n in names]]])
    values = (values - np.nanmean(both, 0)) / (np.nanstd(both, 0) + 1e-3)
    keys = zip(table["source"].to_pylist(), table["source_id"].to_pylist(), strict=True)
    return _Scores(
        names=tuple(names),
        rows={k: i for i, k in enumerate(keys)},
        values=values.clip(-4, 4).astype(np.float32),
        units=units_of(column),
        pose=np.stack([column["yaw"], column["pitch"]], 1),
    )


def _grey(jpeg: bytes, size: int) -> Any:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ConfigError("a training picture is not a readable JPEG; fetch the data again")
    if image.shape != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return image


def _read_fer(data: Path, split: str, scores: _Scores) -> Pictures:
    table = pq.read_table(_file(data, f"fer2013/{split}.parquet"))
    pixels = np.stack([_grey(b, 48) for b in table["image"].to_pylist()])
    labels = torch.tensor([CLASSES.index(n) for n in table["label"].to_pylist()])
    source = f"fer2013_{split}"
    known = scores.of(source, table["source_id"].to_pylist())
    return Pictures(source, augment.FER_EXTENT, torch.from_numpy(pixels), labels, *known)


def _read_faces(data: Path, scores: _Scores) -> tuple[Pictures, list[str]]:
    table = pq.read_table(_file(data, _FILES[2]))
    rows = [r for r in table.to_pylist() if r["emotion"] in CLASSES]
    pixels = np.stack([_grey(r["image"], 64) for r in rows])
    labels = torch.tensor([CLASSES.index(r["emotion"]) for r in rows])
    known = scores.of("faces", [r["source_id"] for r in rows])
    pictures = Pictures("faces", augment.FACES_EXTENT, torch.from_numpy(pixels), labels, *known)
    return pictures, [r["identity"] for r in rows]

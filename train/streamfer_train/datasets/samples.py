"""A labelled picture of a data set, how video frames are thinned out, and how people are kept apart."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streamfer.errors import ConfigError
from streamfer_train.captions.labels import FaceLabels

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture: its file relative to the root, who is on it, what is known of the face, and where in a video."""

    image: Path
    subject: str
    labels: FaceLabels
    sequence: str = ""
    frame: int | None = None
    split: Split | None = None  #: where the data set itself says what is for training and what for testing

    def to_json(self) -> dict[str, Any]:
        """Return an entry of a label file, as ``python -m streamfer_train.captions`` reads it."""
        return {"image": self.image.as_posix(), "image_id": self.image.as_posix(), **self.labels.to_json()}


def thin_out(frames: Sequence[Sample], step: int = 10) -> list[Sample]:
    """Keep, of one sequence in order, every ``step``-th frame and every frame that differs from the one before.

    Frames differ by the set of units present; a frame of which fewer units were coded differs too.
    Source: Exp-BLIP (BMVC 2023), section 4.1.
    """
    kept = []
    before: Sample | None = None
    for number, frame in enumerate(frames):
        if number % step == 0 or before is None or _vector(frame) != _vector(before):
            kept.append(frame)
        before = frame
    return kept


def _vector(sample: Sample) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    return sample.labels.action_units, sample.labels.coded


def sequences(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield the samples of each sequence, ordered by frame."""
    grouped: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.subject, sample.sequence), []).append(sample)
    for members in grouped.values():
        yield sorted(members, key=lambda sample: (sample.frame is None, sample.frame or 0, sample.image))


def split_subjects(subjects: Iterable[str], held_out: int, seed: int = 0) -> frozenset[str]:
    """Choose people for testing, the same for a seed and a set of people; a ConfigError where none would be left."""
    everyone = sorted(set(subjects))
    if not 0 < held_out < len(everyone):
        raise ConfigError(f"{len(everyone)} people, {held_out} of them for testing: leaves none on one side; get all")
    return frozenset(random.Random(f"people/{seed}").sample(everyone, held_out))


def split_randomly(samples: Sequence[Sample], share: float, split: Split, seed: int = 0) -> list[Sample]:
    """Return one side of a random split, ``share`` of it for testing, always the same for a seed and a list."""
    order = sorted(samples, key=lambda sample: sample.image)
    random.Random(f"pictures/{seed}").shuffle(order)
    tested = round(share * len(order))
    chosen = order[:tested] if split == "test" else order[tested:]
    return sorted(chosen, key=lambda sample: sample.image)

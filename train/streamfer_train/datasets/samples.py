"""Labelled pictures of a data set, read from its label files, thinned out where they are frames, split by people."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import Entry, read_text
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


def read_lines(path: Path, expects: str) -> Iterator[tuple[str, str]]:
    """Yield (line, place) of a text file, without empty lines.

    Raises:
        ConfigError: the file is absent; ``expects`` says what should be there.
        RecordError: it is no text.
    """
    for number, line in enumerate(read_text(path, f"expected is {expects}").splitlines(), start=1):
        if line.strip():
            yield line.strip(), f"{path}, line {number}"


def read_table(path: Path, expects: str, required: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Yield the rows of a file of comma-separated values whose first line names the columns.

    Raises:
        ConfigError: the file is absent.
        RecordError: a required column is missing, or a line has too few or too many fields.
    """
    lines = list(read_lines(path, expects))
    if not lines:
        raise RecordError(f"{path}: is empty; fetch it again")
    header = [name.strip().strip("'\"") for name in next(csv.reader([lines[0][0]]))]
    missing = [name for name in required if name not in header]
    if missing:
        raise RecordError(f"{lines[0][1]}: column {missing[0]} is missing; expected is {expects}")
    for line, place in lines[1:]:
        fields = [field.strip() for field in next(csv.reader([line]))]
        if len(fields) != len(header):
            raise RecordError(f"{place}: has {len(fields)} fields for {len(header)} columns; correct it")
        yield Entry(dict(zip(header, fields, strict=True)), place)


def occurrence(row: Entry, columns: Mapping[int, str], *uncoded: int) -> FaceLabels:
    """Return the labels of a row: 1 in a unit's column is presence, 0 absence, ``uncoded`` what nobody looked for."""
    codes = {unit: row.integer(name) for unit, name in columns.items()}
    for unit, code in codes.items():
        if code not in (0, 1, *uncoded):
            known = " or ".join(map(str, uncoded))
            raise RecordError(f"{row.place}: field {columns[unit]} is {code}, not 0, 1 or {known}; correct it")
    coded = frozenset(unit for unit, code in codes.items() if code not in uncoded)
    return FaceLabels(frozenset(unit for unit in coded if codes[unit]), (), {}, coded)


def need_folder(path: Path, expects: str) -> Path:
    """Return a folder that must be there; a ConfigError says what the data set ``expects`` on disk."""
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; expected is {expects}")
    return path

"""RAF-AU, EmotioNet, AffectNet, RAF-DB compound and FaceME: single pictures with units or emotions.

Every reader raises ConfigError where the label file is missing, RecordError where a line is malformed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer.errors import RecordError
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.datasets.samples import Sample, Split, need_folder, occurrence, read_lines, read_table

RAF_AU_EXPECTS = "RAFAU_label.txt (lines as in: 0001.jpg 17+B22+T24) and aligned/0001_aligned.jpg ..."
EMOTIONET_EXPECTS = "labels.csv (columns URL, AU 1, AU 2 ...; 999 is not coded) and images/<last part of the URL>"
AFFECTNET_EXPECTS = "train_set/ and val_set/, each with images/<n>.jpg and annotations/<n>_exp.npy"
RAF_DB_EXPECTS = "EmoLabel/list_patition_label.txt and Image/aligned/train_0001_aligned.jpg ... (compound part)"
FACEME_EXPECTS = "votes.csv (columns image, annotator, label; one line a vote) and images/<image>"
#: AffectNet's classes by number; 8 and above (none, uncertain, no face) are not used.
AFFECTNET_CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
#: RAF-DB's compound classes by number less one.
RAF_DB_CLASSES = (
    ("happiness", "surprise"), ("happiness", "disgust"), ("sadness", "fear"), ("sadness", "anger"),
    ("sadness", "surprise"), ("sadness", "disgust"), ("fear", "anger"), ("fear", "surprise"), ("anger", "surprise"),
    ("anger", "disgust"), ("disgust", "surprise"),
)  # fmt: skip
EMOTIONET_UNCODED = 999
#: A label of FaceME counts when at least this many of its three annotators gave it.
FACEME_VOTES = 2


def read_raf_au(root: Path) -> Iterator[Sample]:
    """Read RAF-AU; letters for side and lip are dropped ("17+B22+T24" is 17, 22, 24), other units than the 27 too."""
    for line, place in read_lines(root / "RAFAU_label.txt", RAF_AU_EXPECTS):
        name, _, codes = line.partition(" ")
        image = Path("aligned") / f"{Path(name).stem}_aligned.jpg"
        units = parse_units(codes, place)
        yield Sample(image, Path(name).stem, FaceLabels.of(units))


def parse_units(codes: str, place: str) -> list[int]:
    """Return the numbers of a code such as ``17+B22+T24``; ``null`` or ``0`` is a face without units.

    Raises:
        RecordError: a part is no unit.
    """
    codes = codes.strip().strip("\"'")
    if not codes:
        raise RecordError(f"{place}: field action units is missing; write them as in 1+L2+B25, or null")
    if codes.lower() in ("null", "none", "0"):
        return []
    units = []
    for code in codes.split("+"):
        match = re.fullmatch(r"[A-Z]{0,2}(\d+)[A-Ea-e]?", code.strip())
        if not match:
            raise RecordError(f"{place}: field action units: {code!r} is no unit; write them as in 1+L2+B25")
        units.append(int(match.group(1)))
    return units


def read_emotionet(root: Path) -> Iterator[Sample]:
    """Read EmotioNet's manual codes; pictures that are no longer in the web are left out and counted."""
    for row in read_table(root / "labels.csv", EMOTIONET_EXPECTS, ("URL",)):
        columns = {int(m.group(1)): name for name in row.fields if (m := re.fullmatch(r"AU\s*(\d+)", name))}
        if not columns:
            raise RecordError(f"{row.place}: no column names a unit, as in AU 1; expected is {EMOTIONET_EXPECTS}")
        image = Path("images") / PurePosixPath(urlsplit(row.text("URL")).path).name
        known = {unit: name for unit, name in columns.items() if unit in ACTION_UNITS}
        labels = occurrence(row, known, EMOTIONET_UNCODED)
        if labels.coded:
            yield Sample(image, image.stem, labels)


def read_affectnet(root: Path) -> Iterator[Sample]:
    """Read AffectNet's eight classes; its validation set is for testing."""
    sides: tuple[tuple[str, Split], ...] = (("train_set", "train"), ("val_set", "test"))
    for side, split in sides:
        for path in sorted(need_folder(root / side / "annotations", AFFECTNET_EXPECTS).glob("*_exp.npy")):
            number = path.name.removesuffix("_exp.npy")
            image = Path(side) / "images" / f"{number}.jpg"
            label = _affectnet_class(path)
            if label < len(AFFECTNET_CLASSES):
                labels = FaceLabels.of(None, AFFECTNET_CLASSES[label])
                yield Sample(image, f"{side}/{number}", labels, split=split)


def _affectnet_class(path: Path) -> int:
    try:
        label = int(np.load(path, allow_pickle=False).item())
    except (ValueError, OSError, EOFError) as error:
        raise RecordError(f"{path}: holds no class number; fetch it again") from error
    if label < 0:
        raise RecordError(f"{path}: class {label} does not exist; fetch it again")
    return label


def read_raf_db(root: Path) -> Iterator[Sample]:
    """Read RAF-DB's compound part: two emotions a picture; names say what is for training."""
    for line, place in read_lines(root / "EmoLabel" / "list_patition_label.txt", RAF_DB_EXPECTS):
        name, _, label = line.partition(" ")
        number = int(label) if label.strip().isdecimal() else 0
        if not 1 <= number <= len(RAF_DB_CLASSES):
            raise RecordError(f"{place}: field label is {label!r}, not 1-{len(RAF_DB_CLASSES)}; take the compound part")
        split: Split | None = "train" if name.startswith("train") else "test" if name.startswith("test") else None
        if split is None:
            raise RecordError(f"{place}: field name is {name!r}; it should begin with train or test")
        image = Path("Image") / "aligned" / f"{Path(name).stem}_aligned.jpg"
        labels = FaceLabels.of(None, *RAF_DB_CLASSES[number - 1])
        yield Sample(image, Path(name).stem, labels, split=split)


def read_faceme(root: Path) -> Iterator[Sample]:
    """Read FaceME's votes; a label stays where at least two annotators gave it, a picture where a label stays."""
    votes: dict[str, Counter[str]] = {}
    seen: set[tuple[str, str, str]] = set()
    for row in read_table(root / "votes.csv", FACEME_EXPECTS, ("image", "annotator", "label")):
        vote = (row.text("image"), row.text("annotator"), row.text("label").lower())
        counter = votes.setdefault(vote[0], Counter())
        if vote not in seen:  # the same annotator counts once
            counter[vote[2]] += 1
        seen.add(vote)
    for name, counter in votes.items():
        agreed = sorted(label for label, count in counter.items() if count >= FACEME_VOTES)
        image = Path("images") / name
        if agreed:
            yield Sample(image, image.stem, FaceLabels.of(None, *agreed), split="train")

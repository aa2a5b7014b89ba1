"""The authors' training files as they are: captions of Exp-BLIP's two stages, questions of Exp-VQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import Entry, read_entries


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A picture, relative to the root of pictures, with its caption; ``image_id`` is set in files of stage 2."""

    image: Path
    caption: str
    image_id: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A picture with a question, its answer, and the region that it is about where the file names one."""

    image: Path
    image_id: str
    question: str
    answer: str
    area: str | None = None


def read_captions(path: Path, stage: int, images: Path | None = None) -> list[CaptionPair]:
    """Read a caption file of stage 1 (``image``, ``caption``) or stage 2 (``image_id`` too).

    With ``images``, the root of pictures, every picture must be there.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    pairs = []
    for entry in read_entries(path):
        identifier = entry.identifier() if stage == 2 else None
        pairs.append(CaptionPair(_image(entry, images), entry.text("caption"), identifier))
    return pairs


def read_answers(path: Path, images: Path | None = None) -> list[AnswerPair]:
    """Read a question file (``image``, ``image_id``, ``text_input``, ``text_output``, and ``area`` where present).

    ``question`` and ``answer``, as the stage-1 variant calls them, are understood as well.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    pairs = []
    for number, entry in enumerate(read_entries(path)):
        older = "question" in entry.fields and "text_input" not in entry.fields
        question, answer = ("question", "answer") if older else ("text_input", "text_output")
        identifier = str(number) if older and "image_id" not in entry.fields else entry.identifier()
        area = entry.text("area") if entry.fields.get("area") is not None else None
        pairs.append(AnswerPair(_image(entry, images), identifier, entry.text(question), entry.text(answer), area))
    return pairs


def _image(entry: Entry, images: Path | None) -> Path:
    image = Path(entry.text("image"))
    if image.is_absolute() or ".." in image.parts:
        raise RecordError(f"{entry.place}: field image {str(image)!r} leaves the root of pictures; make it relative")
    if images is not None and not (images / image).is_file():
        raise ConfigError(f"{entry.place}: picture {images / image} is missing; check the root of pictures")
    return image

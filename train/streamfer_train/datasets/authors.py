"""The authors' training files as they are: captions of Exp-BLIP's two stages, questions of Exp-VQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import Entry, read_entries


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A picture, relative to the root of pictures, with its caption."""

    image: Path
    caption: str


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A picture, relative to the root of pictures, with a question and its answer."""

    image: Path
    question: str
    answer: str


def read_captions(path: Path, images: Path | None = None) -> list[CaptionPair]:
    """Read a caption file (``image``, ``caption``); with ``images``, their root, every picture must be there.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    return [CaptionPair(_image(entry, images), entry.text("caption")) for entry in read_entries(path)]


def read_answers(path: Path, images: Path | None = None) -> list[AnswerPair]:
    """Read a question file (``image``, ``text_input``, ``text_output``), or one with ``question`` and ``answer``.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    pairs = []
    for entry in read_entries(path):
        older = "question" in entry.fields and "text_input" not in entry.fields
        question, answer = ("question", "answer") if older else ("text_input", "text_output")
        pairs.append(AnswerPair(_image(entry, images), entry.text(question), entry.text(answer)))
    return pairs


def _image(entry: Entry, images: Path | None) -> Path:
    image = Path(entry.text("image"))
    if image.is_absolute() or ".." in image.parts:
        raise RecordError(f"{entry.place}: field image {str(image)!r} leaves the root of pictures; make it relative")
    if images is not None and not (images / image).is_file():
        raise ConfigError(f"{entry.place}: picture {images / image} is missing; check the root of pictures")
    return image

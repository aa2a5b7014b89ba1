"""The authors' training files as they are: captions of Exp-BLIP's two stages, questions of Exp-VQA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import Entry, read_entries


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture with what is to be written about it, and with the question if there is one."""

    image: Path
    text: str
    question: str = ""


def read_captions(path: Path, images: Path | None = None) -> list[Pair]:
    """Read a caption file (``image``, ``caption``); with ``images``, their root, every picture must be there.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    return [Pair(_image(entry, images), entry.text("caption")) for entry in read_entries(path)]


def read_answers(path: Path, images: Path | None = None) -> list[Pair]:
    """Read a question file (``image``, ``text_input``, ``text_output``), or one with ``question`` and ``answer``.

    Raises:
        ConfigError: the file or a picture is missing.
        RecordError: an entry lacks a field; file, entry, line and field are named.
    """
    pairs = []
    for entry in read_entries(path):
        older = "question" in entry.fields and "text_input" not in entry.fields
        question, answer = ("question", "answer") if older else ("text_input", "text_output")
        pairs.append(Pair(_image(entry, images), entry.text(answer), entry.text(question)))
    return pairs


def _image(entry: Entry, images: Path | None) -> Path:
    """Return the picture, below ``images`` where that is given."""
    image = Path(entry.text("image"))
    if image.is_absolute() or ".." in image.parts:
        raise RecordError(f"{entry.place}: field image {str(image)!r} leaves the root of pictures; make it relative")
    if images is not None and not (images / image).is_file():
        raise ConfigError(f"{entry.place}: picture {images / image} is missing; check the root of pictures")
    return image

"""Lists of labelled, captioned or questioned pictures as JSON or JSON lines, in the format of the authors' files.

Train files of Exp-BLIP hold ``image`` and ``caption`` (stage 1), and ``image_id`` besides (stage 2); those of Exp-VQA
hold ``image``, ``image_id``, ``text_input`` and ``text_output``. Label files hold ``image`` with the fields of
:meth:`streamfer_train.captions.labels.FaceLabels.from_json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfer.errors import ConfigError, RecordError
from streamfer.files import open_text, replacing
from streamfer_train.captions.labels import FaceLabels

#: What stands between two elements of a list.
_GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a list or line of a table, and where it stands, for messages."""

    fields: Mapping[str, Any]
    place: str

    def text(self, name: str) -> str:
        """Return a field that must be a text with something in it; a RecordError names file, line, entry and field."""
        value = self.fields.get(name, "")
        if value == "":
            raise RecordError(f"{self.place}: field {name} is missing; every entry needs it")
        if not isinstance(value, str) or not value.strip():
            raise RecordError(f"{self.place}: field {name} must be a text that is not empty, not {value!r}")
        return value

    def integer(self, name: str) -> int:
        """Return a text field as a whole number, which tables may write as ``7.0``."""
        text = self.text(name)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            raise RecordError(f"{self.place}: field {name} is {text!r}, not a whole number; correct it")
        return int(number)

    def labels(self) -> FaceLabels:
        """Return the labels; a RecordError where a field is malformed, or there are none at all."""
        try:
            labels = FaceLabels.from_json(self.fields)
        except RecordError as error:
            raise RecordError(f"{self.place}: {error}") from error
        if labels.action_units is None and not labels.emotions:
            raise RecordError(f"{self.place}: fields action_units and emotions are both missing; give at least one")
        return labels


def read_text(path: Path, way_out: str) -> str:
    """Return what a file of UTF-8 holds; ``way_out`` says what to do where it is absent."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {way_out}") from error


def read_entries(path: Path) -> list[Entry]:
    """Read a JSON list of objects, or JSON lines (chosen by how the file begins).

    Raises:
        ConfigError: the file cannot be read, or nothing is in it.
        RecordError: it is no JSON, no list, or an entry is no object; the line is named.
    """
    text = read_text(path, "name an existing file")
    if not text.strip():
        raise ConfigError(f"{path}: is empty; give a JSON list of entries, or JSON lines")
    if text.lstrip().startswith("["):
        entries = _json_list(path, text)
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        entries = [Entry(_parsed(path, line, number - 1), f"{path}, line {number}") for number, line in lines]
    if not entries:
        raise ConfigError(f"{path}: names no picture; give a list that does")
    for entry in entries:
        if not isinstance(entry.fields, dict):
            raise RecordError(f'{entry.place}: is no object; write {{"image": ...}}')
    return entries


def _json_list(path: Path, text: str) -> list[Entry]:
    """Read a list, and then its elements once more, because the line of an entry is wanted in messages."""
    decoder, entries, place = json.JSONDecoder(), list[Entry](), text.index("[") + 1
    line = 1 + text[:place].count("\n")
    for number, value in enumerate(_parsed(path, text), start=1):
        gap = _GAP.match(text, place)
        begin = gap.end() if gap else place
        _, end = decoder.raw_decode(text, begin)
        line += text.count("\n", place, begin)
        entries.append(Entry(value, f"{path}, entry {number} (line {line})"))
        line += text.count("\n", begin, end)
        place = end
    return entries


def _parsed(path: Path, text: str, above: int = 0) -> Any:
    """Return what a text that begins below so many lines of a file says."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line, what = above + getattr(error, "lineno", 1), getattr(error, "msg", "brackets in brackets")
        raise RecordError(f"{path}, line {line}: is no JSON ({what}); correct it") from error


def write_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write a JSON list, or JSON lines for ``.jsonl``, whole or (OutputError) not at all; returns the count."""
    lines = path.suffix.lower() == ".jsonl"
    count = 0
    with replacing(path) as part, open_text(part) as file:
        for count, entry in enumerate(entries, start=1):
            text = json.dumps(entry, ensure_ascii=False)
            file.write(text + "\n" if lines else f"{',' if count > 1 else '['}\n{text}")
        if not lines:
            file.write("\n]\n" if count else "[]\n")
    return count


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

"""Pictures that a captioner is measured on: their labels, reference texts, and what the captioner writes.

Captions are kept in a file as they come, so an interrupted measurement goes on behind the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfer.captions.protocol import Captioner
from streamfer.errors import ConfigError
from streamfer_train.captions.files import Entry, read_entries
from streamfer_train.captions.grammar import captions as grammar_captions
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.rules import rule_caption
from streamfer_train.exp_blip.kept import keep, read_kept, windows
from streamfer_train.exp_blip.pseudo import caption_pictures

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture that is there, what is known of the face, and its name in the list."""

    name: str
    path: Path
    labels: FaceLabels


def read_labelled(path: Path, images: Path) -> list[LabelledPicture]:
    """Read a list with labels; every picture must be there.

    Raises:
        ConfigError: the list or a picture is missing.
        RecordError: an entry lacks a field; file, line and field are named.
    """
    found = [LabelledPicture(entry.text("image"), images / entry.text("image"), entry.labels())
             for entry in _entries(path)]  # fmt: skip
    for one in found:
        if not one.path.is_file():
            raise ConfigError(f"{path}: picture {one.path} is missing; check --images")
    return found


def _entries(path: Path) -> list[Entry]:
    entries = read_entries(path)
    if not entries:
        raise ConfigError(f"{path}: names no picture; give a list that does")
    return entries


def references_for(
    pictures: Sequence[LabelledPicture], path: Path | None, *, variants: int = 4, seed: int = 0
) -> tuple[list[list[str]], str]:
    """Return reference texts of each picture, and where they come from.

    Without a file they are written from the labels: the rule's sentence and several of the grammar's (the paper has
    the rule's and a language model's).

    Raises:
        ConfigError: the file lacks a picture.
        RecordError: an entry of the file lacks a field.
    """
    if path is None:
        found = []
        for number, picture in enumerate(pictures):
            rule = rule_caption(picture.labels)
            written = grammar_captions(picture.labels, variants, f"{seed}/{number}")
            found.append([*([rule] if rule else []), *written])
        return found, f"rule and {variants} of the grammar from the labels"
    known: dict[str, list[str]] = {}
    for entry in _entries(path):
        known.setdefault(entry.text("image"), []).append(entry.text("caption"))
    for picture in pictures:
        if picture.name not in known:
            raise ConfigError(f"{path}: has no caption of {picture.name}; add one, or leave --references out")
    return [known[picture.name] for picture in pictures], path.name


def caption_all(
    model: Captioner, pictures: Sequence[LabelledPicture], file: Path, batch: int = 16, question: str | None = None
) -> list[str]:
    """Return a caption of every picture, written to ``file`` as they come; those that it holds are not made again.

    Raises:
        ConfigError: the file was written by another captioner, or with another question.
        RecordError: the file is another command's.
    """
    head = {"captioner": model.info.digest, "question": question}
    before = read_kept(file, ("image", "caption", "by"))
    if before and before[0]["by"] != head:
        raise ConfigError(f"{file}: holds captions of another model or question; choose another --out, or delete it")
    made = {row["image"]: row["caption"] for row in before}

    def rows() -> Iterator[dict[str, Any]]:
        for window in windows([picture for picture in pictures if picture.name not in made], batch):
            asked = None if question is None else [question] * len(window)
            for picture, text in zip(window, caption_pictures(model, [one.path for one in window], asked), strict=True):
                yield {"image": picture.name, "caption": text, "by": head}
            log.info("exp.captioned", extra={"done": len(made), "of": len(pictures)})

    for row in keep(file, rows(), batch):
        made[row["image"]] = row["caption"]
    return [made[picture.name] for picture in pictures]

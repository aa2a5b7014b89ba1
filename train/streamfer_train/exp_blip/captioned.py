"""Pictures that a captioner is asked about: their labels, reference texts, and what it writes.

What is written is kept in a file line by line, so an interrupted run goes on behind the last whole one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.captions.protocol import Captioner
from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import read_entries
from streamfer_train.captions.grammar import captions as grammar_captions
from streamfer_train.captions.grammar import rule_caption
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.exp_blip.augment import squashed
from streamfer_train.exp_blip.data import read_picture
from streamfer_train.recipes.run_folder import alone_in, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture that is there, what is known of the face, and its name in the list."""

    name: str
    path: Path
    labels: FaceLabels


def read_labelled(path: Path, images: Path) -> list[LabelledPicture]:
    """Read a list with labels; a ConfigError where the list or a picture is missing."""
    found = [LabelledPicture(entry.text("image"), images / entry.text("image"), entry.labels())
             for entry in read_entries(path)]  # fmt: skip
    for one in found:
        if not one.path.is_file():
            raise ConfigError(f"{path}: picture {one.path} is missing; check --images")
    return found


def references_for(
    pictures: Sequence[LabelledPicture], path: Path | None, *, variants: int = 4, seed: int = 0
) -> tuple[list[list[str]], str]:
    """Return reference texts of each picture, and where they come from.

    Without a file they are written from the labels: the rule's sentence and several of the grammar's (the paper has
    the rule's and a language model's).

    Raises:
        ConfigError: the file lacks a picture.
    """
    if path is None:
        found = []
        for number, picture in enumerate(pictures):
            rule = rule_caption(picture.labels)
            written = grammar_captions(picture.labels, variants, f"{seed}/{number}")
            found.append([*([rule] if rule else []), *written])
        return found, f"rule and {variants} of the grammar from the labels"
    known: dict[str, list[str]] = {}
    for entry in read_entries(path):
        known.setdefault(entry.text("image"), []).append(entry.text("caption"))
    for picture in pictures:
        if picture.name not in known:
            raise ConfigError(f"{path}: has no caption of {picture.name}; add one, or leave --references out")
    return [known[picture.name] for picture in pictures], path.name


def face_of(image: Path, size: int) -> NDArray[np.uint8]:
    """Return a picture as one keyframe, uint8 (S, S, 3)."""
    keyframe: NDArray[np.uint8] = squashed(read_picture(image), size).permute(1, 2, 0).numpy()
    return keyframe


def caption_all(model: Captioner, pictures: Sequence[LabelledPicture], file: Path, batch: int) -> list[str]:
    """Return a caption of every picture, written to ``file`` as they come; those that it holds are not made again.

    Raises:
        ConfigError: the file was written by another captioner, or is being written.
        RecordError: the file is another command's.
        OutputError: it cannot be written.
    """
    # Files of earlier versions say that no question was asked; so these do too, and are gone on with.
    head, made = {"captioner": model.info.digest, "question": None}, dict[str, str]()

    def rows() -> Iterator[dict[str, Any]]:
        lacking = [picture for picture in pictures if picture.name not in made]
        for start in range(0, len(lacking), batch):
            window = lacking[start : start + batch]
            clips = [face_of(one.path, model.info.picture.size) for one in window]
            texts = model.caption(clips)
            for picture, text in zip(window, texts, strict=True):
                yield {"image": picture.name, "caption": " ".join(text.split()), "by": head}
            log.info("exp.captioned", extra={"done": len(made), "of": len(pictures)})

    with alone_in(file.parent):
        before = read_kept(file)
        if before and before[0]["by"] != head:
            raise ConfigError(f"{file}: holds captions of another model; choose another --out, or delete it")
        made.update((row["image"], row["caption"]) for row in before)
        for row in keep(file, rows(), batch):
            made[row["image"]] = row["caption"]
    return [made[picture.name] for picture in pictures]


def read_kept(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an earlier :func:`caption_all`; a last line that was cut short is dropped from the file.

    Raises:
        RecordError: a line has other fields.
    """
    if not path.exists():
        return []
    contents = path.read_bytes()
    if not contents.endswith(b"\n"):
        contents = contents[: contents.rfind(b"\n") + 1]
        with path.open("r+b") as stream:
            stream.truncate(len(contents))
    entries = read_entries(path) if contents else []
    for entry in entries:
        if {"image", "caption", "by"} - entry.fields.keys():
            raise RecordError(f"{entry.place}: no line of this command; choose another --out, or delete the file")
    return [dict(entry.fields) for entry in entries]


def keep(path: Path, rows: Iterable[dict[str, Any]], every: int) -> Iterator[dict[str, Any]]:
    """Append rows as they come, on the disk after ``every`` of them, and hand them on, or raise an OutputError."""
    with writing(path):
        stream = path.open("a", encoding="utf-8", buffering=1)  # a line is in the file when it is handed on
    try:
        for count, row in enumerate(rows, start=1):
            with writing(path):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                if count % every == 0:
                    os.fsync(stream.fileno())
            yield row
    finally:
        with contextlib.suppress(OSError):  # a line that did not fit is tried once more
            stream.close()

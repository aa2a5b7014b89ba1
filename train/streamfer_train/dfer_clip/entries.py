"""Annotation lists: every clip of a list with its label's name, and everything in the list that cannot be used."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.classes import class_of
from streamfer_train.dfer_clip.data_config import DataConfig

ClipKind = Literal["frames", "video"]
Severity = Literal["error", "warning"]

#: Names under which a CSV file may hold the clip; DFEW's own files say video_name.
_VIDEO_COLUMNS = ("video", "path", "video_name", "clip")
_DFEW_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled clip of a list.

    Attributes:
        frames: frames that are sampled from; the list's count until :mod:`~streamfer_train.dfer_clip.checks` has
            looked, None where neither says (a video is counted when it is read).
        actions: intensity of each unit of ``data.actions``, NaN where absent.
        votes: share of the annotators' votes for each class (with ``data.votes``); their sum is 1.
        start, end: seconds of the video, or None for its beginning and end.
    """

    path: str
    frames: int | None
    label: str
    where: str
    actions: tuple[float, ...] = ()
    votes: tuple[float, ...] = ()
    start: float | None = None
    end: float | None = None
    group: str | None = None
    kind: ClipKind | None = None

    @property
    def identity(self) -> tuple[str, float | None, float | None]:
        """What makes two entries the same clip: the file and the part of it."""
        return self.path, self.start, self.end


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about the data that training must not meet unawares."""

    severity: Severity
    kind: str
    where: str
    what: str


def read_list(path: Path, config: DataConfig) -> tuple[list[Clip], list[Problem]]:
    """Read an annotation list: a CSV file with a header where its name ends in ``.csv``, else the authors' form.

    The authors' form is ``<folder> <frames> <label>`` a line; with labels given as names the count may be left out.
    Lines that cannot be used are among the problems and not among the clips; nothing is raised for them.

    Source: DFER-CLIP, dataloader/video_dataloader.py and annotation/.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return [], [
            Problem("error", "missing list", str(path), "no such annotation list; set data.train and data.test")
        ]
    except (OSError, UnicodeDecodeError) as error:
        return [], [Problem("error", "missing list", str(path), f"cannot be read as UTF-8 text ({error})")]
    reader = _CsvReader(path, config) if path.suffix.lower() == ".csv" else _LineReader(path, config)
    clips, problems = reader.read(text)
    if not clips and not problems:
        problems.append(Problem("error", "empty list", str(path), "holds no clip"))
    return clips, problems


def clip_path(listed: str, config: DataConfig) -> str:
    """Return where a listed clip lies here: its trailing parts below ``data.root``.

    >>> config = DataConfig(dataset="dfew", train="a", test="b", root=Path("/data/faces"))
    >>> clip_path("/elsewhere/DFEW/DFEW_Frame_Face/00012", config)
    '/data/faces/00012'
    """
    path = PurePath(listed)
    if config.dataset == "dfew" and path.name.isdecimal():
        path = path.with_name(path.name.zfill(_DFEW_DIGITS))
    if config.root is None:
        return str(path)
    if config.kept_parts is not None:
        path = PurePath(*path.parts[-config.kept_parts :])
    return str(config.root / path)


def data_digest(clips: Iterable[Clip]) -> str:
    """Return a sha256 (hex) of what is learned from: the end of each path, its count, label and targets, in order.

    Folders above the clip's own do not count, so that the same data has the same digest on another machine.
    """
    digest = hashlib.sha256()
    for clip in clips:
        parts = (*PurePath(clip.path).parts[-3:], clip.frames, clip.label, *clip.actions, *clip.votes)
        digest.update(repr((*parts, clip.start, clip.end)).encode())
    return digest.hexdigest()


class _Refused(Exception):
    """A line cannot be used; carries the problem's kind and its words."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class _LineReader:
    """The authors' lists."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self._path = path
        self._config = config

    def read(self, text: str) -> tuple[list[Clip], list[Problem]]:
        clips: list[Clip] = []
        problems: list[Problem] = []
        for where, row in self._rows(text, problems):
            try:
                clips.append(self._clip(row, where))
            except _Refused as error:
                problems.append(Problem("error", error.kind, where, str(error)))
        return clips, problems

    def _rows(self, text: str, problems: list[Problem]) -> Iterator[tuple[str, Mapping[str, str]]]:
        names = self._config.label_scheme == "names"
        for number, line in enumerate(text.splitlines(), start=1):
            where = f"{self._path}:{number}"
            if not line.strip():
                continue
            fields = line.split()
            if len(fields) == 2 and names:
                yield where, {"video": fields[0], "label": fields[1]}
            elif len(fields) < 3:
                what = f"{line.strip()!r} has {len(fields)} fields; expected '<folder> <frames> <label>'"
                problems.append(Problem("error", "too few fields", where, what))
            else:
                # From the right: the authors' paths hold no spaces, others' may.
                path, frames, label = line.strip().rsplit(None, 2)
                yield where, {"video": path, "frames": frames, "label": label}

    def _clip(self, row: Mapping[str, str], where: str) -> Clip:
        config = self._config
        listed = next((row[name] for name in _VIDEO_COLUMNS if row.get(name)), "")
        if not listed:
            raise _Refused("too few fields", "names no video")
        try:
            label = class_of(row.get("label") or "", config.label_scheme, config.class_names)
        except ConfigError as error:
            raise _Refused("unknown label", str(error)) from None
        start, end = _number(row, "start", 0), _number(row, "end", 0)
        if end is not None and end <= (start or 0.0):
            raise _Refused("empty clip", f"{listed} ends at {end} s, not after its start at {start or 0.0} s")
        actions = tuple(_number(row, name.lower(), 0) for name in config.actions)
        given = [_number(row, name.lower(), 0) or 0.0 for name in config.class_names] if config.votes else []
        if config.votes and not sum(given):
            raise _Refused("no votes", f"{listed} has no vote for {', '.join(config.class_names)}")
        return Clip(
            path=clip_path(listed, config),
            frames=_count(row, listed),
            label=label,
            where=where,
            actions=tuple(math.nan if value is None else value for value in actions),
            votes=tuple(value / sum(given) for value in given),
            start=start,
            end=end,
            group=row.get("group") or None,
        )


class _CsvReader(_LineReader):
    """CSV files with a header; columns are found by name, in any order and case."""

    def _rows(self, text: str, problems: list[Problem]) -> Iterator[tuple[str, Mapping[str, str]]]:
        lines = csv.reader(text.splitlines())
        header = [name.strip().lower() for name in next(lines, [])]
        asked = (*self._config.actions, *(self._config.class_names if self._config.votes else ()))
        lacking = _lacking_columns(header, asked)
        if lacking:
            what = f"its header has no column {', '.join(lacking)}; found {', '.join(header) or 'nothing'}"
            problems.append(Problem("error", "too few fields", f"{self._path}:1", what))
            return
        try:
            for fields in lines:
                where = f"{self._path}:{lines.line_num}"
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    what = f"{len(fields)} fields where the header has {len(header)}"
                    kind = "too few fields" if len(fields) < len(header) else "too many fields"
                    problems.append(Problem("error", kind, where, what))
                    continue
                yield where, {name: field.strip() for name, field in zip(header, fields, strict=True)}
        except csv.Error as error:
            what = f"is not CSV from here on ({error})"
            problems.append(Problem("error", "too few fields", f"{self._path}:{lines.line_num}", what))


def _lacking_columns(header: Sequence[str], actions: Sequence[str]) -> list[str]:
    lacking = [] if set(header) & set(_VIDEO_COLUMNS) else ["video"]
    return lacking + [name for name in ("label", *(name.lower() for name in actions)) if name not in header]


def _count(row: Mapping[str, str], listed: str) -> int | None:
    text = row.get("frames") or ""
    if not text:
        return None
    try:
        count = int(text)
    except ValueError:
        raise _Refused("not a number", f"{text!r} is no number of frames") from None
    if count < 1:
        raise _Refused("empty clip", f"{listed} has {count} frames; at least one is needed")
    return count


def _number(row: Mapping[str, str], name: str, least: float, most: float = math.inf) -> float | None:
    text = row.get(name) or ""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise _Refused("not a number", f"{name} {text!r} is no number") from None
    if not (math.isfinite(value) and least <= value <= most):
        raise _Refused("not a number", f"{name} {text} is not between {least} and {most}")
    return value

"""Annotation lists: every clip of a list with its label's name, and everything in the list that cannot be used."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Literal

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.data_config import DataConfig, class_of

ClipKind = Literal["frames", "video"]
Severity = Literal["error", "warning"]
#: The file of a clip, and the seconds of it where it begins and ends.
Identity = tuple[str, float | None, float | None]

#: Names under which a CSV file may hold the clip; DFEW's own files say video_name.
_VIDEO_COLUMNS = ("video", "path", "video_name", "clip")
_DFEW_DIGITS = 5
#: A line of an authors' list: from the right, because the authors' paths hold no spaces and others' may.
_COUNTED = re.compile(r"(.+?)[\s,;]+([^\s,;]+)[\s,;]+([^\s,;]+)")
_UNCOUNTED = re.compile(r"(.+?)[\s,;]+([^\s,;]+)")


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled clip of a list."""

    path: str
    #: frames that are sampled from; the list's count until :mod:`~streamfer_train.dfer_clip.checks` has looked, None
    #: where neither says (a video is counted when it is read)
    frames: int | None
    label: str
    where: str
    actions: tuple[float, ...] = ()  #: intensity of each unit of ``data.actions``, NaN where absent
    #: share of the annotators' votes for each class (with ``data.votes``); their sum is 1
    votes: tuple[float, ...] = ()
    start: float | None = None  #: and end: seconds of the video, or None for its beginning and end
    end: float | None = None
    group: str | None = None
    kind: ClipKind | None = None

    @property
    def identity(self) -> Identity:
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

    The authors' form is ``<folder> <frames> <label>`` a line, also with commas or tabs between; with labels given as
    names the count may be left out. FERV39k's own files have that form, too, and end in ``.csv``.
    Lines that cannot be used are among the problems and not among the clips; nothing is raised for them.

    Source: DFER-CLIP, dataloader/video_dataloader.py and annotation/.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        what = "no such annotation list; set data.train and data.test"
        return [], [Problem("error", "missing list", str(path), what)]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        return [], [Problem("error", "missing list", str(path), f"cannot be read ({reason})")]
    clips, problems = [], []
    first = next(iter(text.splitlines()), "").strip()
    table = path.suffix.lower() == ".csv" and not re.fullmatch(r"[^\s,;]+ +[^,;\t]+", first)
    for where, row in (_csv_rows if table else _rows)(path, text, config):
        try:
            clips.append(_clip(row, where, config))
        except _Refused as error:
            problems.append(Problem("error", error.kind, where, str(error)))
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
    if config.root is not None and config.kept_parts is not None:
        # Lists that were rewritten on Windows are read anywhere: there, both kinds of slash part folders.
        theirs = PureWindowsPath(listed)
        path = PurePath(*theirs.relative_to(theirs.anchor).parts[-config.kept_parts :])
    if config.dataset == "dfew" and path.name.isdecimal():
        path = path.with_name(path.name.zfill(_DFEW_DIGITS))
    return str(path if config.root is None else config.root / path)


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


#: Fields by name, or why there are none.
_Row = Mapping[str, str] | _Refused


def _rows(path: Path, text: str, config: DataConfig) -> Iterator[tuple[str, _Row]]:
    """Yield place and fields of each line of an authors' list."""
    named = config.label_scheme == "names"
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        row = None
        counted, uncounted = _COUNTED.fullmatch(line), _UNCOUNTED.fullmatch(line)
        if counted and not (named and not counted[2].isdecimal()):
            row = {"video": counted[1].strip("\"'"), "frames": counted[2], "label": counted[3]}
        elif uncounted and named:
            row = {"video": uncounted[1].strip("\"'"), "label": uncounted[2]}
        if line:
            fields = len(re.split(r"[\s,;]+", line))
            refused = _Refused("too few fields", f"{fields} fields; expected '<folder> <frames> <label>'")
            yield f"{path}:{number}", row or refused


def _csv_rows(path: Path, text: str, config: DataConfig) -> Iterator[tuple[str, _Row]]:
    """Yield place and fields of each line of a CSV file; columns are found by name, in any order and case."""
    rows = text.splitlines()
    lines = csv.reader(rows, delimiter=max(",;\t", key=rows[0].count) if rows else ",")
    header = [name.strip().lower() for name in next(lines, [])]
    asked = ("label", *config.actions, *(config.class_names if config.votes else ()))
    lacking = [name for name in map(str.lower, asked) if name not in header]
    if not set(header) & set(_VIDEO_COLUMNS):
        lacking.insert(0, "video")
    if lacking:
        what = f"its header has no column {', '.join(lacking)}; found {', '.join(header) or 'nothing'}"
        yield f"{path}:1", _Refused("too few fields", what)
        return
    try:
        for fields in lines:
            where = f"{path}:{lines.line_num}"
            if len(fields) != len(header) and any(map(str.strip, fields)):
                kind = "too few fields" if len(fields) < len(header) else "too many fields"
                yield where, _Refused(kind, f"{len(fields)} fields where the header has {len(header)}")
            elif any(map(str.strip, fields)):
                yield where, {name: field.strip() for name, field in zip(header, fields, strict=True)}
    except csv.Error as error:
        yield f"{path}:{lines.line_num}", _Refused("too few fields", f"is not CSV from here on ({error})")


def _clip(row: _Row, where: str, config: DataConfig) -> Clip:
    if isinstance(row, _Refused):
        raise row
    listed = next((row[name] for name in _VIDEO_COLUMNS if row.get(name)), "")
    if not listed:
        raise _Refused("too few fields", "names no video")
    try:
        label = class_of(row.get("label") or "", config.label_scheme, config.class_names)
    except ConfigError as error:
        raise _Refused("unknown label", str(error)) from None
    start, end = _number(row, "start"), _number(row, "end")
    if end is not None and end <= (start or 0.0):
        raise _Refused("empty clip", f"{listed} ends at {end} s, not after its start at {start or 0.0} s")
    actions = [_number(row, name.lower()) for name in config.actions]
    given = [_number(row, name.lower()) or 0.0 for name in config.class_names] if config.votes else []
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


def _number(row: Mapping[str, str], name: str) -> float | None:
    """Return a field as a number from 0 on, None where it is empty."""
    text = row.get(name) or ""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise _Refused("not a number", f"{name} {text!r} is no number") from None
    if not 0 <= value < math.inf:
        raise _Refused("not a number", f"{name} {text} is not between 0 and {math.inf}")
    return value

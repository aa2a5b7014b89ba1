"""Files of segments that other programs open: subtitles, ELAN, Praat and BORIS; all times are the file's own.

ELAN and TextGrid are written by pympi (Lubbers and Torreira); subtitles by the WebVTT standard and SubRip's custom; the
project of BORIS by version 7.0 of its format.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamfer.export.job import Job
from streamfer.export.segments import CAPTION, DAMAGED, EMOTION, Segment, Segmenter
from streamfer.files import WholeText
from streamfer.pipeline.events import Event, SourceOpened
from streamfer.video.frames import VideoInfo

#: A cue of subtitles: two lines of so many characters.
_LINE, _LINES = 42, 2
#: What never changes of a project, of a behaviour in it, and of an observation.
_BORIS: Mapping[str, Any] = json.loads(Path(__file__).with_name("boris.json").read_text(encoding="utf-8"))
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SegmentFile(WholeText, ABC):
    """A file that is written when the segments of a source are known."""

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path)
        self._job = job
        self._segmenter = Segmenter()
        self._info: VideoInfo | None = None

    def add(self, event: Event) -> None:
        self._segmenter.add(event)
        if isinstance(event, SourceOpened):
            self._info = self._info or event.info

    def prepare(self) -> None:
        # Players and annotation tools know no time before a file's zero.
        found = (one for one in self._segmenter.segments() if one.media_end > 0)
        self.write([replace(one, media_begin=max(0.0, one.media_begin)) for one in found])
        super().prepare()

    @abstractmethod
    def write(self, segments: Sequence[Segment]) -> None:
        """Write what the file holds."""

    @property
    def media(self) -> Path:
        """The video, as an absolute path."""
        spec = self._job.spec
        if spec and spec.place:
            return Path("/", Path(spec.place).name)
        return Path(os.path.abspath(spec.url if spec else self._job.base))


class Subtitles(SegmentFile):
    """Captions where there are any, else labels: one cue a segment, more where its text needs them."""

    mark, header = ",", ""

    def write(self, segments: Sequence[Segment]) -> None:
        self.file.write(self.header)
        tier = CAPTION if any(one.tier == CAPTION for one in segments) else EMOTION
        chosen = sorted((one for one in segments if one.tier == tier), key=lambda one: (one.media_begin, one.track))
        cues = [cue for one in chosen for cue in self._cues(one)]
        for number, (begin, end, text) in enumerate(sorted(cues, key=lambda cue: cue[0]), 1):
            self.file.write(f"{number}\n{self._time(begin)} --> {self._time(end)}\n{text}\n\n")

    def _cues(self, one: Segment) -> Iterator[tuple[int, int, str]]:
        """Yield begin and end in milliseconds and text; a long text comes in parts, each for its share of the time."""
        words = one.value if one.probability is None else f"{one.value} {one.probability:.0%}"
        lines = textwrap.wrap(f"{self.opening(one)}{words}", _LINE) or [""]
        parts = ["\n".join(lines[first : first + _LINES]) for first in range(0, len(lines), _LINES)]
        begin, end = round(one.media_begin * 1000), round(one.media_end * 1000)
        total, told, at = sum(map(len, parts)), 0, begin
        for part in parts:
            told += len(part)
            until = begin + round((end - begin) * told / max(1, total))
            if until > at:
                yield at, until, self.spoken(one, part)
            at = until

    def opening(self, one: Segment) -> str:
        """Return what names the speaker at the begin of a text."""
        return f"{one.person}: "

    def spoken(self, one: Segment, text: str) -> str:
        """Return a cue's text as the format holds it."""
        del one
        return text.replace("-->", "→")

    def _time(self, milliseconds: int) -> str:
        minutes, rest = divmod(milliseconds, 60_000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{self.mark}{rest % 1000:03}"


class WebVtt(Subtitles):
    """Subtitles for browsers; the speaker is a voice."""

    mark, header = ".", "WEBVTT\n\n"

    def opening(self, one: Segment) -> str:
        """Return nothing: a voice names the speaker."""
        del one
        return ""

    def spoken(self, one: Segment, text: str) -> str:
        """Return a cue's text, escaped, with its voice."""
        for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(sign, name)
        return f"<v {one.person}>{text}</v>"


class Elan(SegmentFile):
    """An ELAN file: a tier a person and channel, labels as a controlled vocabulary, the video linked."""

    def write(self, segments: Sequence[Segment]) -> None:
        """Write tiers of all people; action units only where they occur."""
        from pympi.Elan import Eaf, to_string

        eaf = Eaf(author="streamfer")
        eaf.remove_tier("default")
        # Equal results are equal files: the time of writing is none of them.
        eaf.adocument["DATE"] = "1970-01-01T00:00:00+00:00"
        eaf.add_language("und", "", "undetermined")
        names = dict.fromkeys([*self._segmenter.classes, *(one.value for one in segments if one.tier == EMOTION)])
        if names:
            # Where emotions are withheld, nothing speaks of them.
            eaf.add_controlled_vocabulary(EMOTION)
            eaf.add_cv_description(EMOTION, "und", "labels of the expression model")
            eaf.add_linguistic_type(EMOTION, param_dict=None)
            eaf.linguistic_types[EMOTION]["CONTROLLED_VOCABULARY_REF"] = EMOTION
        for name in names:
            eaf.add_cv_entry(EMOTION, f"cve_{name}", [(name, "und", None)])
        kind = mimetypes.guess_type(self.media.name)[0] or "video/mp4"
        near = os.path.relpath(self.media, self.path.parent.resolve()).replace(os.sep, "/")
        near = _NO_XML.sub(lambda odd: quote(os.fsencode(odd[0])), near)
        eaf.add_linked_file(self.media.as_uri(), relpath=near if near.startswith("..") else f"./{near}", mimetype=kind)
        for (person, track_id, tier), group in groupby(segments, lambda one: (one.person, one.track_id, one.tier)):
            name = f"{person} {tier}"
            eaf.add_tier(name, ling=EMOTION if tier == EMOTION else "default-lt", part=track_id, ann="streamfer")
            for one in group:
                begin, end = round(one.media_begin * 1000), round(one.media_end * 1000)
                eaf.add_annotation(name, begin, end, _NO_XML.sub(" ", one.value))
        self.file.write('<?xml version="1.0" encoding="UTF-8"?>\n' + to_string(eaf))


class TextGridFile(SegmentFile):
    """A Praat TextGrid: an interval tier a person and channel."""

    def write(self, segments: Sequence[Segment]) -> None:
        """Write the tiers from zero to the end of the file."""
        from pympi.Praat import TextGrid

        lasts = [one.media_end for one in segments]
        grid = TextGrid(xmax=max([self._info.duration if self._info and self._info.duration else 0.001, *lasts]))
        for (person, tier), group in groupby(segments, lambda one: (one.person, one.tier)):
            intervals = grid.add_tier(f"{person} {tier}")
            for one in group:
                # Praat doubles quotes within texts.
                intervals.add_interval(one.media_begin, one.media_end, one.value.replace('"', '""'), check=False)
        self.file.close()
        grid.to_file(self.part)
        self.file = self.part.open("a", encoding="utf-8")


def _code(one: Segment) -> str:
    return CAPTION if one.tier == CAPTION else one.value


class Boris(SegmentFile):
    """A project of BORIS: people are subjects; labels, units and captions, their text as comment, state events."""

    def write(self, segments: Sequence[Segment]) -> None:
        """Write one observation with a start and a stop for each segment."""
        groups = dict.fromkeys(self._segmenter.classes, EMOTION)
        for one in segments:
            kinds = {EMOTION: EMOTION, CAPTION: CAPTION, DAMAGED: "file"}
            groups[_code(one)] = kinds.get(one.tier, "action unit")
        subjects = dict.fromkeys((one.person, one.track_id) for one in segments)
        events: list[list[Any]] = []
        for one in segments:
            note = one.value if one.tier == CAPTION else ""
            events += [[time, one.person, _code(one), "", note] for time in (one.media_begin, one.media_end)]
        # Within a tier segments are in order, so that a state ends before the next begins at the same time.
        events.sort(key=lambda event: event[0])
        project = {
            **_BORIS["project"],
            "project_name": self._job.base.name,
            "behavioral_categories": list(dict.fromkeys(groups.values())),
            "subjects_conf": {
                str(number): {"key": "", "name": name, "description": track_id}
                for number, (name, track_id) in enumerate(subjects)
            },
            "behaviors_conf": {
                str(number): {**_BORIS["behaviour"], "code": code, "category": group}
                for number, (code, group) in enumerate(groups.items())
            },
            "observations": {self._job.base.name: self._observation(events)},
        }
        json.dump(project, self.file, indent=1, ensure_ascii=False)

    def _observation(self, events: list[list[Any]]) -> dict[str, Any]:
        path, info = str(self.media), self._info
        lasts, rate = (info.duration or 0.0, info.declared_fps or 0.0) if info else (0.0, 0.0)
        facts = {"length": {path: lasts}, "fps": {path: rate}, "hasVideo": {path: True}, "hasAudio": {path: False}}
        players = {**_BORIS["observation"]["file"], "1": [path]}
        more = {"events": events, "media_info": {**facts, "offset": {"1": 0.0}}}
        return {**_BORIS["observation"], "file": players, **more}

"""Files of segments that other programs open: subtitles, ELAN, Praat and BORIS; all times are the file's own.

ELAN and TextGrid are written by pympi (Lubbers and Torreira); subtitles by the WebVTT standard and SubRip's custom; the
project of BORIS by version 7.0 of its format.
"""

from __future__ import annotations

import html
import json
import mimetypes
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamfer.export.segments import CAPTION, DAMAGED, EMOTION, Film, Segment
from streamfer.files import open_text

#: A cue of subtitles: two lines of so many characters.
_LINE, _LINES = 42, 2
#: What never changes of a project, of a behaviour in it, and of an observation.
_BORIS: Mapping[str, Any] = json.loads(Path(__file__).with_name("boris.json").read_text(encoding="utf-8"))
#: What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_subtitles(path: Path, film: Film) -> None:
    """Write subtitles: captions where there are any, else labels; of WebVTT (``.vtt``) the speaker is a voice."""
    webvtt = path.suffix == ".vtt"
    tier = CAPTION if any(one.tier == CAPTION for one in film.segments) else EMOTION
    chosen = sorted((one for one in film.segments if one.tier == tier), key=lambda one: (one.media_begin, one.track))
    cues = [(*cue, one) for one in chosen for cue in _cues(one, "" if webvtt else f"{one.person}: ")]
    with open_text(path) as file:
        file.write("WEBVTT\n\n" if webvtt else "")
        for number, (begin, end, text, one) in enumerate(sorted(cues, key=itemgetter(0)), 1):
            voice = f"<v {one.person}>{html.escape(text, quote=False)}</v>"
            spoken = voice if webvtt else text.replace("-->", "→")
            times = (f"{_clock(moment)}{'.' if webvtt else ','}{moment % 1000:03}" for moment in (begin, end))
            file.write(f"{number}\n{' --> '.join(times)}\n{spoken}\n\n")


def _cues(one: Segment, opening: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin and end in milliseconds and text; a long text comes in parts, each for its share of the time."""
    words = one.value if one.probability is None else f"{one.value} {one.probability:.0%}"
    lines = textwrap.wrap(f"{opening}{words}", _LINE) or [""]
    parts = ["\n".join(lines[first : first + _LINES]) for first in range(0, len(lines), _LINES)]
    begin, end = round(one.media_begin * 1000), round(one.media_end * 1000)
    total, told, at = sum(map(len, parts)), 0, begin
    for part in parts:
        told += len(part)
        until = begin + round((end - begin) * told / max(1, total))
        if until > at:
            yield at, until, part
        at = until


def _clock(milliseconds: int) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}"


def write_elan(path: Path, film: Film) -> None:
    """Write ELAN: a tier a person and channel, labels as a controlled vocabulary, the video linked."""
    from pympi.Elan import Eaf, to_string

    eaf = Eaf(author="streamfer")
    eaf.remove_tier("default")
    # Equal results are equal files: the time of writing is none of them.
    eaf.adocument["DATE"] = "1970-01-01T00:00:00+00:00"
    eaf.add_language("und", "", "undetermined")
    names = dict.fromkeys([*film.found.classes, *(one.value for one in film.segments if one.tier == EMOTION)])
    if names:
        # Where emotions are withheld, nothing speaks of them.
        eaf.add_controlled_vocabulary(EMOTION)
        eaf.add_cv_description(EMOTION, "und", "labels of the expression model")
        eaf.add_linguistic_type(EMOTION, param_dict=None)
        eaf.linguistic_types[EMOTION]["CONTROLLED_VOCABULARY_REF"] = EMOTION
    for name in names:
        eaf.add_cv_entry(EMOTION, f"cve_{name}", [(name, "und", None)])
    kind = mimetypes.guess_type(film.media.name)[0] or "video/mp4"
    near = os.path.relpath(film.media, path.parent.resolve()).replace(os.sep, "/")
    near = _NO_XML.sub(lambda odd: quote(os.fsencode(odd[0])), near)
    eaf.add_linked_file(film.media.as_uri(), relpath=near if near.startswith("..") else f"./{near}", mimetype=kind)
    for (person, track_id, tier), group in groupby(film.segments, lambda one: (one.person, one.track_id, one.tier)):
        name = f"{person} {tier}"
        eaf.add_tier(name, ling=EMOTION if tier == EMOTION else "default-lt", part=track_id, ann="streamfer")
        for one in group:
            begin, end = round(one.media_begin * 1000), round(one.media_end * 1000)
            eaf.add_annotation(name, begin, end, _NO_XML.sub(" ", one.value))
    with open_text(path) as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n' + to_string(eaf))


def write_textgrid(path: Path, film: Film) -> None:
    """Write Praat's TextGrid, from zero to the end of the file: an interval tier a person and channel."""
    from pympi.Praat import TextGrid

    lasts = [one.media_end for one in film.segments]
    grid = TextGrid(xmax=max([film.found.info.duration or 0.001, *lasts]))
    for (person, tier), group in groupby(film.segments, lambda one: (one.person, one.tier)):
        intervals = grid.add_tier(f"{person} {tier}")
        for one in group:
            # Praat doubles quotes within texts.
            intervals.add_interval(one.media_begin, one.media_end, one.value.replace('"', '""'), check=False)
    grid.to_file(path)


def write_boris(path: Path, film: Film) -> None:
    """Write a project of BORIS with one observation: people are subjects, every segment a start and a stop.

    Labels, units and captions, their text as comment, are state events.
    """
    groups = dict.fromkeys(film.found.classes, EMOTION)
    events: list[list[Any]] = []
    for one in film.segments:
        code, note = (CAPTION, one.value) if one.tier == CAPTION else (one.value, "")
        groups[code] = {EMOTION: EMOTION, CAPTION: CAPTION, DAMAGED: "file"}.get(one.tier, "action unit")
        events += [[time, one.person, code, "", note] for time in (one.media_begin, one.media_end)]
    # Within a tier segments are in order, so that a state ends before the next begins at the same time.
    events.sort(key=itemgetter(0))
    subjects = dict.fromkeys((one.person, one.track_id) for one in film.segments)
    media, info, name = str(film.media), film.found.info, film.job.base.name
    facts = {"length": info.duration or 0.0, "fps": info.declared_fps or 0.0}
    known = {fact: {media: value} for fact, value in {**facts, "hasVideo": True, "hasAudio": False}.items()}
    observation = {
        **_BORIS["observation"],
        "file": {**_BORIS["observation"]["file"], "1": [media]},
        "events": events,
        "media_info": {**known, "offset": {"1": 0.0}},
    }
    project = {
        **_BORIS["project"],
        "project_name": name,
        "behavioral_categories": list(dict.fromkeys(groups.values())),
        "subjects_conf": {
            str(number): {"key": "", "name": person, "description": track_id}
            for number, (person, track_id) in enumerate(subjects)
        },
        "behaviors_conf": {
            str(number): {**_BORIS["behaviour"], "code": code, "category": group}
            for number, (code, group) in enumerate(groups.items())
        },
        "observations": {name: observation},
    }
    with open_text(path) as file:
        json.dump(project, file, indent=1, ensure_ascii=False)

"""Files of the Brain Imaging Data Structure (1.10): events with their dictionary, and action units as a recording.

Times are the file's own. The recording is headerless and gzipped: a row a tick of the analysed frames, a column a
person and unit.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from streamfer.export.columns import MEANING
from streamfer.export.segments import CAPTION, Film
from streamfer.files import open_text
from streamfer.pipeline.events import FrameFaces

_COLUMNS = ("onset", "duration", "trial_type", "tier", "person", "track_id", "probability", "text")
_OWN = {
    "trial_type": "what holds in the segment: the label, the unit's name, damaged, or caption",
    "text": MEANING["caption"],
    "person": "number of the person within the file, as in the tables",
}
#: A clock that leaps further than this many seconds ahead begins something else.
_LEAP_SECONDS = 3600.0
_Who = tuple[int, int]


def write_events(path: Path, film: Film) -> None:
    """Write ``_events.tsv``: one row a segment, in order of time."""
    with open_text(path) as file:
        file.write("\t".join(_COLUMNS) + "\n")
        for one in sorted(film.segments, key=lambda one: (one.media_begin, one.epoch, one.track)):
            probability = "n/a" if one.probability is None else f"{one.probability:.6f}"
            length = one.media_end - one.media_begin
            times = f"{one.media_begin:.3f}", f"{length:.3f}"
            kind, text = (CAPTION, one.value) if one.tier == CAPTION else (one.value, "n/a")
            cells = (*times, kind, one.tier, one.person, one.track_id or "n/a", probability, text)
            file.write("\t".join(" ".join(cell.split()) for cell in cells) + "\n")


def write_events_json(path: Path, film: Film) -> None:
    """Write ``_events.json``: a description a column, and the levels of ``trial_type``."""
    # Onset and duration are the standard's own; what is a level of trial_type stands in its list.
    content: dict[str, Any] = {name: {"Description": _OWN.get(name) or MEANING[name]} for name in _COLUMNS[2:]}
    values = dict.fromkeys(CAPTION if one.tier == CAPTION else one.value for one in film.segments)
    content["trial_type"]["Levels"] = {value: f"{value} as the model reads it" for value in values}
    content["StimulusPresentation"] = {"SoftwareName": "streamfer"}
    with open_text(path) as file:
        json.dump(content, file, indent=2)


def write_recording(path: Path, film: Film) -> None:
    """Write ``_physio.tsv.gz``."""
    people, absent = _people(film), ["n/a"] * len(film.found.thresholds)

    def lines() -> Iterator[bytes]:
        following = 0
        for tick, read in _ticks(film):
            for found in (*[{}] * (tick - following), read):
                told = ([f"{v:.6f}" for v in found[who].values()] if who in found else absent for who in people)
                yield ("\t".join(chain.from_iterable(told)) + "\n").encode()
            following = tick + 1

    # Without a time in its head, equal results are equal files.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=cast(IO[bytes], raw)) as packed:
        packed.writelines(lines())


def write_recording_json(path: Path, film: Film) -> None:
    """Write ``_physio.json``: rate, start and columns of the recording."""
    names = [f"{_name(who)}_{unit}" for who in _people(film) for unit in film.found.thresholds]
    start = next((_moment(frame) for frame in film.found.frames), 0.0)
    head = {"PhysioType": "generic", "SamplingFrequency": _rate(film), "StartTime": round(start, 3), "Columns": names}
    described = {"Description": "intensity of the action unit, 0 to 1", "Units": "arbitrary"}
    with open_text(path) as file:
        json.dump({**head, **dict.fromkeys(names, described)}, file, indent=2)


def _rate(film: Film) -> float:
    return float(film.job.settings.values["sampling"]["fps"])


def _moment(frame: FrameFaces) -> float:
    return frame.seconds if frame.media_seconds is None else frame.media_seconds


def _ticks(film: Film) -> Iterator[tuple[int, dict[_Who, Mapping[str, float]]]]:
    """Yield analysed frames by their number at the recording's rate: who was read, and how."""
    rate, start, last = _rate(film), None, -1
    for frame in film.found.frames:
        start = _moment(frame) if start is None else start
        tick = round((_moment(frame) - start) * rate)
        if last < tick < last + _LEAP_SECONDS * rate:
            last = tick
            yield tick, {(frame.epoch, face.track): face.action_units for face in frame.faces if face.action_units}


def _people(film: Film) -> Sequence[_Who]:
    return sorted({who for _, read in _ticks(film) for who in read})


def _name(who: _Who) -> str:
    return f"P{f'{who[0] + 1}.' if who[0] else ''}{who[1]}"

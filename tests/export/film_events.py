"""Events of a small film, and the files that a batch makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from record_examples import examples, labelled, span

from streamfer.export.findings import Findings
from streamfer.export.folder import SourceFolder
from streamfer.export.job import Settings
from streamfer.pipeline.events import Event, FaceRow, FrameFaces, SourceDone, SourceOpened, SourceStats
from streamfer.records import ClipLabelled, Record
from streamfer.video.frames import VideoInfo
from streamfer.video.locate import SourceSpec

SETTINGS = Settings("c0ffee", "ab" * 32, "lbp", ("csv",), values={"sampling": {"fps": 8.0}})
INFO = VideoInfo("film.mp4", "film.mp4", 640, 480, "h264", 25.0, 12.0, 0, False, "key")
OPENED = SourceOpened("film.mp4", 0, INFO, ("happiness", "neutral"), ("AU06", "AU12"), (0.5, 0.5))
LEAD = 2.0
CAPTION = 'She says "hello" & smiles <broadly>, the corners of the mouth go up and the cheeks are raised --> twice.'


def clip(begin: float, label: str, probability: float = 0.75, track: int = 1, smile: float = 0.0) -> Record:
    """A clip of two seconds at 8 frames a second, in a file whose picture begins ``LEAD`` seconds late."""
    end = begin + 1.875
    times = {"start_time": begin, "end_time": end, "media_start_time": begin + LEAD, "media_end_time": end + LEAD}
    units_of_time = {"start_pts": round(begin * 1000), "end_pts": round(end * 1000)}
    stretch = span(**times, **units_of_time, time_origin="file")
    face = {"top": label, "emotions": {"happiness": 0.0, "neutral": 0.0, label: probability}, "track": track}
    units = {"AU06": 0.1, "AU12": smile}
    document = labelled(stretch, **face, track_id=f"t{track}", action_units=units, action_units_peak=units)
    return Record.of(document, source_id="film.mp4")


def captioned(record: Record, text: str) -> Record:
    assert isinstance(record.data, ClipLabelled)
    face = record.data.faces[0]
    shown: Any = examples()["clip.captioned.v1"].data
    told = {
        "clip": record.data.clip,
        "clip_id": record.id,
        "track": face.track,
        "track_id": face.track_id,
        "text": text,
    }
    return Record.of(shown.model_copy(update=told), source_id="film.mp4")


def frame(number: int, faces: Sequence[int] = (1,)) -> FrameFaces:
    rows = (FaceRow(track, f"t{track}", (0.25, 0.1, 0.2, 0.3), 0.9, 0.5, {"AU06": 0.1, "AU12": 0.5}) for track in faces)
    return FrameFaces("film.mp4", 0, number * 3, number / 8, tuple(rows), (), number / 8 + LEAD)


EVENTS: tuple[Event, ...] = (
    OPENED,
    *(frame(number, () if number == 3 else (1, 2)) for number in range(40)),
    clip(0.0, "neutral", 0.5),
    clip(1.0, "neutral", 0.75),
    clip(2.0, "happiness", 0.875, smile=0.75),
    clip(3.0, "happiness", 0.625, smile=0.875),
    clip(0.5, "happiness", track=2, smile=0.625),
    captioned(clip(2.0, "happiness"), CAPTION),
)
DONE = SourceDone("film.mp4", stats=SourceStats(clips=5, tracks=2))


def findings(*events: Event) -> Findings:
    found = Findings()
    for event in events:
        found.add(event)
    return found


def saved(folder: Path, *formats: str, events: Sequence[Event] = EVENTS, **changes: Any) -> Callable[[str], Path]:
    """Write files as a batch does; return the path of one by the end of its name."""
    settings = replace(SETTINGS, formats=formats, **changes)
    spec = SourceSpec(str(folder / "videos" / "film.mp4"), "film.mp4", "file")
    source = SourceFolder(folder / "out", spec, settings, captions=True)
    source.open()
    for event in events:
        source.add(event)
    source.commit("d1", DONE)
    assert {path for path in (folder / "out").iterdir() if not path.name.endswith(".json")} <= set(source.paths)
    return lambda end: folder / "out" / f"film.mp4{end}"

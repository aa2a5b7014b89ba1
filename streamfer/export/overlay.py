"""A copy of the video with what was found drawn on it: boxes, names of tracks, labels, the strongest action units.

Where clips were described, their captions are its subtitles. It has the file's sound; faces are blurred if asked.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from sys import intern

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from streamfer.errors import OutputError
from streamfer.export.findings import UNIT_PRESENT
from streamfer.export.job import Blur
from streamfer.export.lettering import Layout, Tag, chip, link, paste, subtitle
from streamfer.export.segments import Film
from streamfer.faces.coverage import LIKELY_SCORE, Cover, Watch
from streamfer.faces.detections import Detector
from streamfer.faces.detectors import load_detector
from streamfer.faces.privacy import blur_faces
from streamfer.files import replacing
from streamfer.pipeline.events import Event, FrameFaces, SourceOpened
from streamfer.records import ClipCaptioned, ClipLabelled, ClipSpan, Record
from streamfer.video import open_source
from streamfer.video.encode import playable_codec, write_video
from streamfer.video.files import FileSource
from streamfer.video.frames import Frame, Source, StateChange
from streamfer.video.sound import Sound

#: One colour a track, distinguishable for most colour-blind people (Okabe and Ito, 2008), black left out.
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
#: A box is shown for this long before its first and after its last sighting.
_HOLD_SECONDS = 0.25
#: Action units named under a label.
_UNITS_SHOWN = 3
#: Share of a new sighting in the shown intensity.
_SMOOTHING = 0.4
#: A caption stays for so long a word (four words a second are read with ease) where its clip is shorter.
_SECONDS_A_WORD = 0.25
#: Captions shown at once; of more faces, those that were described last.
_CAPTIONS_SHOWN = 2
#: Faces and what may be one, of a frame whose faces are blurred.
_MOST_FACES = 1000

_Box = tuple[float, float, float, float]


@dataclass(slots=True)
class _Path:
    """Where one track was: times in seconds, ascending, with boxes as fractions of the frame and action units."""

    name: str
    times: array[float] = field(default_factory=lambda: array("d"))
    corners: array[float] = field(default_factory=lambda: array("d"))
    units: list[str] = field(default_factory=list)
    smooth: dict[str, float] = field(default_factory=dict)
    #: begin, end, label and how probable it is; begin, end and text
    clips: list[tuple[float, float, str, str]] = field(default_factory=list)
    captions: list[tuple[float, float, str]] = field(default_factory=list)

    def box(self, number: int) -> _Box:
        """Return the box of a sighting by its number."""
        x, y, width, height = self.corners[4 * number : 4 * number + 4]
        return x, y, width, height

    def box_at(self, seconds: float, hold: float) -> _Box | None:
        """Return the box at a time, interpolated between sightings at most a second apart."""
        after = bisect_right(self.times, seconds)
        before = after - 1
        if before >= 0 and after < len(self.times) and self.times[after] - self.times[before] <= 1.0:
            part = (seconds - self.times[before]) / (self.times[after] - self.times[before])
            pairs = zip(self.box(before), self.box(after), strict=True)
            x, y, width, height = ((1 - part) * old + part * new for old, new in pairs)
            return x, y, width, height
        if before >= 0 and seconds - self.times[before] <= hold:
            return self.box(before)
        if after < len(self.times) and self.times[after] - seconds <= hold:
            return self.box(after)
        return None

    def seen_at(self, seconds: float) -> _Box | None:
        """Return the box of the sighting at exactly a time."""
        place = bisect_left(self.times, seconds)
        return self.box(place) if place < len(self.times) and self.times[place] == seconds else None

    def units_at(self, seconds: float) -> str:
        """Return the strongest action units in words: those of the last sighting not after a time, else the first."""
        return self.units[max(0, bisect_right(self.times, seconds) - 1)] if self.units else ""

    def label_at(self, seconds: float) -> tuple[str, str] | None:
        """Return the label of the newest clip that covers a time, and how probable it is or why it is unsure."""
        for number in range(bisect_right(self.clips, seconds, key=itemgetter(0)) - 1, -1, -1):
            _, end, label, weight = self.clips[number]
            if end >= seconds:
                return label, weight
        return None

    def caption_at(self, seconds: float) -> tuple[float, str] | None:
        """Return start and text of the newest caption, while its clip lasts and until it can have been read."""
        begun = bisect_right(self.captions, seconds, key=itemgetter(0))
        begin, end, text = self.captions[begun - 1] if begun else (0.0, -math.inf, "")
        return (begin, text) if end >= seconds else None


class OverlayNotes:
    """Remembers, from the events of one source, what has to be drawn: a few numbers a face and analysed frame."""

    def __init__(self) -> None:
        self._paths: dict[tuple[int, int], _Path] = {}
        self._thresholds: dict[str, float] = {}
        self.canvas = (0, 0)  #: width and height of the source's largest pictures, pixels; zeros before it is open

    def add(self, event: Event) -> None:
        """Take the next event; those of other kinds are ignored."""
        if isinstance(event, SourceOpened):
            self._thresholds = dict(zip(event.action_units, event.action_thresholds, strict=False))
            self.canvas = max(self.canvas, (event.info.width, event.info.height), key=math.prod)
        elif isinstance(event, FrameFaces):
            for face in event.faces:
                path = self._paths.setdefault((event.epoch, face.track), _Path(face.track_id))
                path.times.append(event.seconds)
                path.corners.extend(face.box)
                path.units.append(intern(self._strongest(path, face.action_units or {})))
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            start, end = _span(event.data.clip)
            for reading in event.data.faces:
                path = self._paths.setdefault((event.data.clip.epoch, reading.track), _Path(reading.track_id))
                if reading.reason == "withheld":
                    continue
                path.clips.append((start, end, reading.label, reading.reason or f"{reading.probability:.0%}"))
        elif isinstance(event, Record) and isinstance(event.data, ClipCaptioned):
            start, end = _span(event.data.clip)
            path = self._paths.setdefault((event.data.clip.epoch, event.data.track), _Path(event.data.track_id))
            readable = start + _SECONDS_A_WORD * len(event.data.text.split())
            path.captions.append((start, max(end, readable), event.data.text))

    def _strongest(self, path: _Path, intensities: Mapping[str, float]) -> str:
        """Return the units that count as present, the strongest first; smoothed, so that a reader can follow."""
        for name, value in intensities.items():
            before = path.smooth.get(name, value)
            path.smooth[name] = before + _SMOOTHING * (value - before)
        present = [
            (value, name) for name, value in path.smooth.items() if value >= self._thresholds.get(name, UNIT_PRESENT)
        ]
        return ",  ".join(f"{name}  {value:.1f}" for value, name in sorted(present, reverse=True)[:_UNITS_SHOWN])

    def captions_at(self, epoch: int, seconds: float) -> list[tuple[int, str]]:
        """Return track number and caption of the faces that were described last, by track number."""
        found = [
            (caption, track)
            for (of_epoch, track), path in self._paths.items()
            if of_epoch == epoch and (caption := path.caption_at(seconds)) is not None
        ]
        newest = sorted(found, reverse=True)[:_CAPTIONS_SHOWN]
        return sorted((track, text) for (_, text), track in newest)

    def seen_at(self, epoch: int, seconds: float) -> list[_Box]:
        """Return the boxes of the faces that were analysed at exactly a time."""
        boxes = [path.seen_at(seconds) for (of_epoch, _), path in self._paths.items() if of_epoch == epoch]
        return [box for box in boxes if box is not None]

    def faces_at(self, epoch: int, seconds: float, hold: float) -> Iterator[tuple[int, _Path, _Box]]:
        """Yield track number, path and box of every face on screen at a time."""
        for (of_epoch, track), path in self._paths.items():
            box = path.box_at(seconds, hold) if of_epoch == epoch else None
            if box is not None:
                yield track, path, box


def draw_overlay(path: Path, film: Film) -> int:
    """Write the overlay of a source as :func:`write_overlay` does, from all that was found in it."""
    notes = OverlayNotes()
    for event in film.found.events():
        notes.add(event)
    return write_overlay(open_source(film.job.spec), notes, path, blur=film.job.settings.blurred)


def write_overlay(source: Source, notes: OverlayNotes, path: Path, *, blur: Blur = "off") -> int:
    """Decode ``source`` again and write it with what ``notes`` hold drawn on every frame, and its sound.

    Returns the number of frames that may show a face although faces are blurred.

    Args:
        path: ``.mp4``, or ``.png`` for a still.
        blur: ``normal`` makes every face that is found unrecognisable, ``strict`` the whole frame where a face may be
            elsewhere.

    Raises:
        SourceError: the file cannot be read any more.
    """
    hidden = iter(_covers(source, notes, still=path.suffix == ".png") if blur != "off" else [])
    doubtful = 0
    stream = source.stream()
    info = next((one.info for one in stream if isinstance(one, StateChange) and one.info), None)
    if info is None:
        raise OutputError(f"{path}: the source was not online")
    layout = Layout()

    def drawn(frame: Frame) -> NDArray[np.uint8]:
        nonlocal doubtful
        image = frame.image
        if blur != "off":
            # The file was longer when it was looked at: nothing is known of a frame that came since.
            cover = next(hidden, None) or Cover([], doubtful=True)
            doubtful += cover.doubtful
            boxes = cover.pixels(image.shape[1], image.shape[0], strict=blur == "strict")
            image = blur_faces(image, boxes)
        return _draw(frame, image, notes, layout)

    if path.suffix == ".png":
        picture = next(item for item in stream if isinstance(item, Frame))
        with replacing(path, path.suffix) as part:
            Image.fromarray(drawn(picture)).save(part)
        return doubtful
    canvas = notes.canvas if all(notes.canvas) else (info.width, info.height)
    clock, epoch = [0.0], 0
    with Sound(source.spec) if isinstance(source, FileSource) else nullcontext() as sound:

        def frames() -> Iterator[NDArray[np.uint8]]:
            nonlocal epoch
            begin: float | None = None
            for item in stream:
                if not isinstance(item, Frame):
                    continue
                media = item.wall_time if item.media_seconds is None else item.media_seconds
                # The container's own time, so that the copy runs beside the original; without the leaps of its clock.
                begin = max(0.0, media - item.wall_time) if begin is None else begin
                clock[0] = begin + item.wall_time
                if sound is not None:
                    sound.picture(media, clock[0], new=item.epoch != epoch)
                epoch = item.epoch
                yield _fitted(drawn(item), canvas)

        # The encoder asks for a frame, then for its time.
        times = iter(lambda: clock[0], None)
        write_video(path, frames(), info.declared_fps or 25.0, codec=playable_codec(), times=times, sound=sound)
    return doubtful


def blur_detector() -> Detector:
    """Return what looks for faces to blur: the fast built-in detector at a low threshold."""
    return load_detector("builtin", threshold=LIKELY_SCORE, max_faces=_MOST_FACES)


def _covers(source: Source, notes: OverlayNotes, *, still: bool) -> list[Cover]:
    """Look at every frame for faces, and return what to blur in each."""
    watch = Watch(blur_detector(), still=still)
    for item in source.stream():
        if isinstance(item, Frame):
            watch.look(item.image, item.epoch, item.seconds, notes.seen_at(item.epoch, item.seconds))
    return watch.covers()


def _span(clip: ClipSpan) -> tuple[float, float]:
    """Return start and end of a clip on the file's own clock, seconds."""
    seconds_a_tick = clip.time_base[0] / clip.time_base[1]
    return clip.start_pts * seconds_a_tick, clip.end_pts * seconds_a_tick


def _draw(frame: Frame, image: NDArray[np.uint8], notes: OverlayNotes, layout: Layout) -> NDArray[np.uint8]:
    """Return a frame's picture, uint8 RGB (H, W, 3), with what is known of its moment."""
    image = image.copy()
    height, width = image.shape[:2]
    size = max(12, round(min(height, width) / 28))
    faces = [
        (track, path, _pixels(box, width, height))
        for track, path, box in notes.faces_at(frame.epoch, frame.seconds, _HOLD_SECONDS)
    ]
    captions = notes.captions_at(frame.epoch, frame.seconds)
    foot = subtitle(image, [(text, _colour(track)) for track, text in captions], size)
    tags = []
    for track, path, box in faces:
        label = path.label_at(frame.seconds)
        words = f"{path.name}  {label[0]} {label[1]}" if label else path.name
        tags.append(Tag((frame.epoch, track), box, chip(words, path.units_at(frame.seconds), _colour(track), size)))
    thickness = max(2, round(min(height, width) / 240))
    placed = list(zip(tags, layout.places(tags, width, foot), strict=True))
    for tag, place in placed:
        corners = tuple(round(value) for value in tag.box)
        colour = _colour(tag.key[1])
        cv2.rectangle(image, corners[:2], corners[2:], colour, thickness, cv2.LINE_AA)
        if place is not None:
            link(image, tag, place, colour, thickness)
    for tag, place in placed:
        if place is not None:
            paste(image, tag.chip, *place)
    return image


def _fitted(image: NDArray[np.uint8], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture as a video of ``canvas`` (width, height) holds it: scaled to fit, between black bars."""
    if image.shape[1::-1] != canvas:
        image = np.asarray(ImageOps.pad(Image.fromarray(image), canvas, Image.Resampling.BOX), np.uint8)
    if canvas[0] % 2 or canvas[1] % 2:
        # Encoders of 4:2:0 video need even sides.
        image = np.pad(image, ((0, canvas[1] % 2), (0, canvas[0] % 2), (0, 0)), "edge")
    return image


def _colour(track: int) -> tuple[int, int, int]:
    return _COLOURS[(track - 1) % len(_COLOURS)]


def _pixels(box: _Box, width: int, height: int) -> _Box:
    x, y, w, h = box
    return x * width, y * height, (x + w) * width, (y + h) * height

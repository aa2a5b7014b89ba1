"""The frame table in the words of other programs, so that scripts written for them run.

Columns that streamfer does not measure and every script expects are there and empty; what has no name there comes last.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from math import inf
from operator import itemgetter

from streamfer.export.columns import SCORE, SHARE, TEXT, TIME, WHOLE
from streamfer.export.rows import UNIT_PRESENT, Cell, ModelColumns, Row
from streamfer.files import Spill
from streamfer.pipeline.events import Event, FrameFaces, SourceDone, SourceOpened
from streamfer.records import ClipLabelled, Record

#: Units of OpenFace 2.2, in its order; AU28 has presence alone.
_OPENFACE = [f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)]
#: Units and emotions of py-feat's Fex.
_FEX = [f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
_FEX_EMOTIONS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
#: OpenFace's intensities go from 0 to 5, ours from 0 to 1.
_OPENFACE_SCALE = 5.0

#: Epoch, index, seconds, and of each face track, box, score and units.
_Frame = tuple[int, int, float, list[tuple[int, tuple[float, float, float, float], float, Mapping[str, float]]]]


class OpenFaceTable:
    """OpenFace's columns: frames from 1, faces from 0, intensities from 0 to 5, presence by the model's thresholds."""

    def __init__(self) -> None:
        self._model = ModelColumns()

    def columns(self) -> Mapping[str, str]:
        intensities, presence = self._units()
        return {
            **{"frame": WHOLE, "face_id": WHOLE, "timestamp": TIME, "confidence": SCORE, "success": WHOLE},
            **{f"{name}_r": SCORE for name in intensities},
            **{f"{name}_c": WHOLE for name in presence},
        }

    def rows(self, event: Event) -> Iterator[Row]:
        """Yield the rows of an analysed frame; without a face it is one row without success."""
        self._model.opened(event)
        if not isinstance(event, FrameFaces):
            return
        self._model.note((), ())
        intensities, presence = self._units()
        for face in event.faces:
            found, limits = face.action_units or {}, self._model.thresholds
            yield [
                *(event.index + 1, face.track - 1, event.seconds, face.score, 1),
                *(_OPENFACE_SCALE * found[name] if name in found else None for name in intensities),
                *(int(found[name] >= limits.get(name, UNIT_PRESENT)) if name in found else None for name in presence),
            ]
        if not event.faces:
            yield [event.index + 1, 0, event.seconds, 0.0, 0, *[None] * (len(intensities) + len(presence))]

    def _units(self) -> tuple[list[str], list[str]]:
        more = [name for name in self._model.units if name not in (*_OPENFACE, "AU28")]
        later = ["AU28"] if "AU28" in self._model.units else []
        return [*_OPENFACE, *more, *later], [*_OPENFACE[:-1], "AU28", _OPENFACE[-1], *more]


class PyFeatTable:
    """py-feat's Fex: pixels, units from 0 to 1, and the emotions of the clip whose centre is nearest.

    Rows come when the source ends, because the clip of a frame is complete only later.
    """

    def __init__(self) -> None:
        self._model = ModelColumns()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._location = ""
        self._frames: Spill[_Frame] = Spill(lambda plain: plain)
        self._clips: dict[tuple[int, int], list[tuple[float, Mapping[str, float]]]] = {}

    def columns(self) -> Mapping[str, str]:
        units = [*_FEX, *(name for name in self._model.units if name not in _FEX)]
        return {
            **dict.fromkeys(("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"), TIME),
            **{"FaceScore": SCORE},
            **dict.fromkeys([*units, *self._emotions], SHARE),
            **{"frame": WHOLE, "input": TEXT, "approx_time": TIME, "Identity": WHOLE},
        }

    def rows(self, event: Event) -> Iterator[Row]:
        """Take note of frames and clips; yield the rows when the source ends."""
        self._model.opened(event)
        if isinstance(event, SourceOpened):
            self._sizes[event.epoch] = (event.info.width, event.info.height)
            self._location = event.info.location
        elif isinstance(event, FrameFaces):
            seen = [(one.track, one.box, one.score, dict(one.action_units or {})) for one in event.faces]
            self._frames.append((event.epoch, event.index, event.seconds, seen))
        elif isinstance(event, SourceDone):
            for frame in self._frames:
                yield from self._rows(frame)
        elif isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            numerator, denominator = event.data.clip.time_base
            centre = (event.data.clip.start_pts + event.data.clip.end_pts) / 2 * numerator / denominator
            for face in event.data.faces:
                clips = self._clips.setdefault((event.data.clip.epoch, face.track), [])
                clips.append((centre, face.emotions))

    @property
    def _emotions(self) -> list[str]:
        """The columns of emotions: none where they are withheld."""
        return [] if self._model.classes == () else _FEX_EMOTIONS

    def _rows(self, frame: _Frame) -> Iterator[Row]:
        epoch, index, seconds, faces = frame
        width, height = self._sizes.get(epoch, (1, 1))
        units = [*_FEX, *(name for name in self._model.units if name not in _FEX)]
        for track, (x, y, w, h), score, found in faces:
            clips = self._clips.get((epoch, track), ())
            after = bisect(clips, seconds, key=itemgetter(0))
            near = clips[max(0, after - 1) : after + 1]
            emotions = min(near, key=lambda clip: abs(clip[0] - seconds), default=(inf, {}))[1]
            cells: Row = [x * width, y * height, w * width, h * height, score]
            cells += [found.get(name) for name in units]
            cells += [emotions.get(name) for name in self._emotions]
            yield [*cells, index, self._location, seconds, track]
        if not faces:
            empty: list[Cell] = [None] * (5 + len(units) + len(self._emotions))
            yield [*empty, index, self._location, seconds, None]

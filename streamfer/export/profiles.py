"""The frame table in the words of other programs, so that scripts written for them run.

Columns that streamfer does not measure and every script expects are there and empty; what has no name there comes last.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from math import inf
from operator import itemgetter

from streamfer.export.columns import SCORE, SHARE, TEXT, TIME, WHOLE
from streamfer.export.findings import UNIT_PRESENT, Findings, Row
from streamfer.export.rows import Table

#: Units of OpenFace 2.2, in its order; AU28 has presence alone.
_OPENFACE = [f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)]
#: Units and emotions of py-feat's Fex.
_FEX = [f"AU{number:02}" for number in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
_FEX_EMOTIONS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
#: OpenFace's intensities go from 0 to 5, ours from 0 to 1.
_OPENFACE_SCALE = 5.0
_BOX = ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight")


def openface_table(found: Findings) -> Table:
    """Return OpenFace's columns: frames from 1, faces from 0, intensities from 0 to 5, presence by thresholds."""
    units = found.thresholds
    more = [name for name in units if name not in (*_OPENFACE, "AU28")]
    intensities = [*_OPENFACE, *more, *(["AU28"] if "AU28" in units else [])]
    presence = [*_OPENFACE[:-1], "AU28", _OPENFACE[-1], *more]

    def rows() -> Iterator[Row]:
        for frame in found.frames:
            head = {"frame": frame.index + 1, "timestamp": frame.seconds}
            for face in frame.faces:
                read = face.action_units or {}
                yield {
                    **{**head, "face_id": face.track - 1, "confidence": face.score, "success": 1},
                    **{f"{name}_r": _OPENFACE_SCALE * value for name, value in read.items()},
                    **{f"{name}_c": int(value >= units.get(name, UNIT_PRESENT)) for name, value in read.items()},
                }
            if not frame.faces:
                yield {**head, "face_id": 0, "confidence": 0.0, "success": 0}

    return Table(
        {
            **{"frame": WHOLE, "face_id": WHOLE, "timestamp": TIME, "confidence": SCORE, "success": WHOLE},
            **{f"{name}_r": SCORE for name in intensities},
            **{f"{name}_c": WHOLE for name in presence},
        },
        rows,
    )


def pyfeat_table(found: Findings) -> Table:
    """Return py-feat's Fex: pixels, units from 0 to 1, and the emotions of the clip whose centre is nearest."""
    names = [*_FEX, *(name for name in found.thresholds if name not in _FEX)]

    def rows() -> Iterator[Row]:
        sizes = {event.epoch: (event.info.width, event.info.height) for event in found.opened}
        clips: dict[tuple[int, int], list[tuple[float, Mapping[str, float | None]]]] = {}
        for row in found.clips:
            centre = row["epoch_s"] + (row["end_s"] - row["start_s"]) / 2
            read = {name: row.get(f"p_{name}") for name in _FEX_EMOTIONS}
            clips.setdefault((row["epoch"], row["track"]), []).append((centre, read))
        for frame in found.frames:
            width, height = sizes[frame.epoch]
            head = {"frame": frame.index, "input": found.info.location}
            head["approx_time"] = frame.seconds
            for seen in frame.faces:
                own = clips.get((frame.epoch, seen.track), [])
                after = bisect(own, frame.seconds, key=itemgetter(0))
                near = own[max(0, after - 1) : after + 1]
                emotions = min(near, key=lambda clip: abs(clip[0] - frame.seconds), default=(inf, {}))[1]
                box = zip(_BOX, seen.box, (width, height, width, height), strict=True)
                place = {name: share * size for name, share, size in box}
                told = {**(seen.action_units or {}), **emotions}
                yield {**head, **place, "FaceScore": seen.score, "Identity": seen.track, **told}
            if not frame.faces:
                yield head

    return Table(
        {
            **{**dict.fromkeys(_BOX, TIME), "FaceScore": SCORE},
            # There are none where emotions are withheld.
            **dict.fromkeys([*names, *(_FEX_EMOTIONS if found.classes else ())], SHARE),
            **{"frame": WHOLE, "input": TEXT, "approx_time": TIME, "Identity": WHOLE},
        },
        rows,
    )

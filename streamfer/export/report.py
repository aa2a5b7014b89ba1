"""A report of one file: an HTML page that needs nothing else, with timelines, shares, keyframes and caveats."""

from __future__ import annotations

import base64
import io
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from streamfer.export.job import Job
from streamfer.export.overlay import blur_detector
from streamfer.export.rows import TrackTable
from streamfer.export.segments import CAPTION, EMOTION, Segment
from streamfer.export.tiers import SegmentFile
from streamfer.faces.detections import Detector
from streamfer.faces.privacy import blur_faces
from streamfer.models.registry import find_model
from streamfer.pipeline.events import Event, FrameFaces, SourceDone
from streamfer.video import open_source
from streamfer.video.frames import Frame

#: People with keyframes, keyframes of each, and their side in pixels; units and captions that are shown of a person.
_PEOPLE, _KEYFRAMES, _SIDE, _UNITS, _CAPTIONS = 24, 4, 176, 8, 60
#: A keyframe shows so much around the face, as a share of its size on each side.
_AROUND = 0.35
_CAVEATS = (
    "Labels name what a face shows, as people labelled pictures; they do not measure what a person feels. Action units "
    "describe movements. Both are the model's estimates: compare a person with themselves rather than with others.",
    "“unsure” is an answer: the face was too small, turned away, blurred, or no class was probable enough.",
    "In the European Union, inferring emotions at work or in education is prohibited except for medical or safety "
    "reasons (Regulation 2024/1689, Article 5), and people must be told (Article 50). Captions are machine-made.",
)
_WITHHELD = (
    "Action units describe movements, as the model estimates them: compare a person with themselves rather than with "
    "others. What the movements may express was withheld (--no-emotions). Captions are machine-made.",
)
_Box = tuple[float, float, float, float]
_Place = tuple[int, int]


class Report(SegmentFile):
    """The page, written when everything is known; the video is decoded once more for its keyframes.

    Where faces are to be hidden, keyframes are blurred; where they must be for sure, there is none.
    """

    def __init__(self, path: Path, job: Job) -> None:
        super().__init__(path, job)
        self._tracks = TrackTable()
        self._rows: list[dict[str, Any]] = []
        self._done: SourceDone | None = None
        self._last = 0.0
        #: For each person and sighting six numbers: index of the frame, seconds by the file's clock, box.
        self._seen: dict[_Place, array[float]] = {}

    def add(self, event: Event) -> None:
        super().add(event)
        self._rows += [dict(zip(self._tracks.columns(), row, strict=True)) for row in self._tracks.rows(event)]
        if isinstance(event, FrameFaces):
            seconds = event.seconds if event.media_seconds is None else event.media_seconds
            self._last = max(self._last, seconds)
            for face in event.faces:
                seen = self._seen.setdefault((event.epoch, face.track), array("d"))
                seen.extend((event.index, seconds, *face.box))
        elif isinstance(event, SourceDone):
            self._done = event

    def write(self, segments: Sequence[Segment]) -> None:
        own: dict[_Place, list[Segment]] = {}
        for one in segments:
            own.setdefault((one.epoch, one.track), []).append(one)
        people = [self._person(row, own.get((row["epoch"], row["track"]), [])) for row in self._rows if row["clips"]]
        self._add_keyframes(people)
        ends = [person["seen"] for person in people]
        begin, end = min((one[0] for one in ends), default=0.0), max((one[1] for one in ends), default=0.0)
        data = {
            **{"source": self._job.base.name, "classes": self._segmenter.classes, "facts": self._facts()},
            # What a file declares of its length may be a lie.
            **{"begin": min(0.0, begin), "end": max(end, self._last)},
            "notes": [note for note in ((self._done.note, self._done.stats.unread) if self._done else ()) if note],
            "caveats": _CAVEATS if self._segmenter.classes else _WITHHELD,
            **{"people": people, "card": self._card(), "manifest": self._manifest()},
        }
        page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
        # Nothing in the data can end the element that holds it.
        self.file.write(page.replace("__DATA__", json.dumps(data).replace("<", "\\u003c")))

    def _person(self, row: dict[str, Any], own: Sequence[Segment]) -> dict[str, Any]:
        place = (row["epoch"], row["track"])
        tiers: dict[str, list[list[Any]]] = {}
        for one in own:
            tiers.setdefault(one.tier, []).append([one.media_begin, one.media_end, one.value, one.probability])
        lengths = {tier: sum(end - begin for begin, end, *_ in times) for tier, times in tiers.items()}
        units = sorted((tier for tier in tiers if tier not in (EMOTION, CAPTION)), key=lambda tier: -lengths[tier])
        named: dict[str, list[tuple[str, float]]] = {"share_": [], "_mean": []}
        for column, value in row.items():
            for mark, pairs in named.items():
                if mark in column and value:
                    pairs.append((column.replace(mark, ""), value))
        begin, end = (
            (row["start_s"], row["end_s"])
            if row["media_start_s"] is None
            else (row["media_start_s"], row["media_end_s"])
        )
        return {
            **{"name": own[0].person if own else f"Person {row['track']}", "id": row["track_id"], "place": place},
            **{"seen": [begin, end], "frames": row["frames"], "clips": row["clips"], "emotion": tiers.get(EMOTION, [])},
            "units": {unit: tiers[unit] for unit in units[:_UNITS]},
            "shares": sorted(named["share_"], key=lambda pair: -pair[1]),
            "intensities": sorted(named["_mean"], key=lambda pair: -pair[1])[:_UNITS],
            **{"captions": [one[:3] for one in tiers.get(CAPTION, [])][:_CAPTIONS], "faces": []},
        }

    def _add_keyframes(self, people: list[dict[str, Any]]) -> None:
        """Give each person pictures from the middle of the longest stretch of each label."""
        spec, blur = self._job.spec, self._job.settings.blurred
        if spec is None or blur == "strict":
            return
        wanted: dict[_Place, list[tuple[dict[str, Any], str, float, _Box]]] = {}
        for person in people[:_PEOPLE]:
            for begin, end, label, _ in _longest(person["emotion"])[:_KEYFRAMES]:
                middle = (begin + end) / 2
                seen = np.frombuffer(self._seen[person["place"]]).reshape(-1, 6)
                index, seconds, *box = seen[np.abs(seen[:, 1] - middle).argmin()].tolist()
                wanted.setdefault((person["place"][0], int(index)), []).append((person, label, seconds, tuple(box)))
        left = set(wanted)
        detector = blur_detector() if blur != "off" and wanted else None
        frames = open_source(spec).stream(lambda epoch, _seconds, index: (epoch, index) in wanted)
        while left and (frame := next(frames, None)) is not None:
            if isinstance(frame, Frame):
                left.discard((frame.epoch, frame.index))
                image = blur_faces(frame.image, self._faces(frame, detector)) if detector else frame.image
                for person, label, seconds, box in wanted[frame.epoch, frame.index]:
                    person["faces"].append({"seconds": seconds, "label": label, "image": _picture(image, box)})
        for person in people:
            person["faces"].sort(key=lambda face: face["seconds"])

    def _faces(self, frame: Frame, detector: Detector) -> NDArray[np.float64]:
        """Return all that may be faces in a frame, (F, 4) corners in pixels: who was read, who was not, who passes."""
        seen = (np.frombuffer(seen).reshape(-1, 6) for (epoch, _), seen in self._seen.items() if epoch == frame.epoch)
        boxes = [box for rows in seen for box in rows[rows[:, 0] == frame.index, 2:]]
        (found,) = detector.detect([frame.image])
        return np.concatenate([_corners(boxes, frame.image), found.boxes])

    def _facts(self) -> list[tuple[str, str]]:
        stats, info = self._done.stats if self._done else None, self._info
        if stats is None or info is None:
            return []
        return [
            *(("length", f"{stats.seconds:.1f} s"), ("people", str(stats.tracks)), ("clips", str(stats.clips))),
            *(("frames analysed", f"{stats.frames_analysed:,}"), ("picture", f"{info.width} × {info.height}")),
            *(("codec", info.codec), ("model", str(self._job.settings.values.get("model", "")))),
        ]

    def _card(self) -> str:
        if not self._segmenter.classes:
            return "It speaks of what was withheld here; streamfer models show prints it."
        card = find_model(str(self._job.settings.values["model"])).with_suffix(".md")
        return card.read_text(encoding="utf-8") if card.is_file() else "This model came without a card."

    def _manifest(self) -> dict[str, Any]:
        stats = asdict(self._done.stats) if self._done else {}
        return {
            **asdict(self._job.settings),
            "source_sha256": self._info.epoch_key if self._info else "",
            "stats": stats,
        }


def _longest(segments: Sequence[Any]) -> list[Any]:
    """Return the longest segment of each label, the longest first."""
    best: dict[str, Any] = {}
    for one in sorted(segments, key=lambda one: one[0] - one[1]):
        best.setdefault(one[2], one)
    return list(best.values())


def _corners(boxes: Sequence[ArrayLike], image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return boxes, (F, 4) fractions x y w h, as corners in pixels."""
    x, y, w, h = np.array(boxes, np.float64).reshape(-1, 4).T
    height, width = image.shape[:2]
    return np.stack([x * width, y * height, (x + w) * width, (y + h) * height], 1)


def _picture(image: NDArray[np.uint8], box: _Box) -> str:
    """Return a square around a face as an address of data."""
    ((x1, y1, x2, y2),) = _corners([box], image)
    side = max(x2 - x1, y2 - y1) * (1 + 2 * _AROUND)
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    cut = Image.fromarray(image).crop((round(left), round(top), round(left + side), round(top + side)))
    packed = io.BytesIO()
    cut.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(packed, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"

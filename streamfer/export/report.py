"""A report of one file: an HTML page that needs nothing else, with timelines, shares, keyframes and caveats."""

from __future__ import annotations

import base64
import io
import json
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from streamfer.export.columns import columns_of
from streamfer.export.overlay import blur_detector
from streamfer.export.rows import track_rows
from streamfer.export.segments import CAPTION, EMOTION, Film, Segment
from streamfer.faces.privacy import blur_faces
from streamfer.files import open_text, table_beside
from streamfer.models.registry import find_model
from streamfer.video import open_source
from streamfer.video.frames import Frame

#: People with keyframes, keyframes of each, and their side in pixels; units and captions that are shown of a person.
_PEOPLE, _KEYFRAMES, _SIDE, _UNITS, _CAPTIONS = 24, 4, 176, 8, 60
#: A keyframe shows so much around the face, as a share of its size on each side.
_AROUND = 0.35
#: How a report is to be read: one that names expressions, and one from which they were withheld.
_CAVEATS: dict[str, list[str]] = table_beside(__file__)
_Box = tuple[float, float, float, float]
_Place = tuple[int, int]


def write_report(path: Path, film: Film) -> None:
    """Write the page; the video is decoded once more for its keyframes.

    Where faces are to be hidden, keyframes are blurred; where they must be for sure, there is none.
    """
    found = film.found
    seen: defaultdict[_Place, array[float]] = defaultdict(lambda: array("d"))
    last = 0.0
    for frame in found.frames:
        seconds = frame.seconds if frame.media_seconds is None else frame.media_seconds
        last = max(last, seconds)
        for face in frame.faces:
            seen[frame.epoch, face.track].extend((frame.index, seconds, *face.box))
    own: defaultdict[_Place, list[Segment]] = defaultdict(list)
    for one in film.segments:
        own[one.epoch, one.track].append(one)
    columns = columns_of("tracks", found.classes, tuple(found.thresholds))
    rows: list[dict[str, Any]] = [{name: row.get(name) for name in columns} for row in track_rows(found)]
    people = [_person(row, own[row["epoch"], row["track"]]) for row in rows if row["clips"]]
    _add_keyframes(film, people, {place: np.frombuffer(rows).reshape(-1, 6) for place, rows in seen.items()})
    spans = [person["seen"] for person in people]
    data = {
        **{"source": film.job.base.name, "classes": found.classes, "facts": _facts(film)},
        "begin": min((0.0, *(begin for begin, _ in spans))),
        # What a file declares of its length may be a lie.
        "end": max((last, *(end for _, end in spans))),
        "notes": [note for note in (found.done.note, found.done.stats.unread) if note],
        "caveats": _CAVEATS["named" if found.classes else "withheld"],
        **{"people": people, "card": _card(film), "manifest": _manifest(film)},
    }
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    with open_text(path) as file:
        # Nothing in the data can end the element that holds it.
        file.write(page.replace("__DATA__", json.dumps(data).replace("<", "\\u003c")))


def _person(row: Mapping[str, Any], own: Sequence[Segment]) -> dict[str, Any]:
    tiers: defaultdict[str, list[list[Any]]] = defaultdict(list)
    for one in own:
        tiers[one.tier].append([one.media_begin, one.media_end, one.value, one.probability])
    lengths = {tier: sum(end - begin for begin, end, *_ in times) for tier, times in tiers.items()}
    units = sorted((tier for tier in tiers if tier not in (EMOTION, CAPTION)), key=lambda tier: -lengths[tier])
    named: dict[str, list[tuple[str, Any]]] = {"share_": [], "_mean": []}
    for column, value in row.items():
        for mark, pairs in named.items():
            if mark in column and value:
                pairs.append((column.replace(mark, ""), value))
    clock = "" if row["media_start_s"] is None else "media_"
    return {
        **{"name": own[0].person if own else f"Person {row['track']}", "id": row["track_id"]},
        **{"place": (row["epoch"], row["track"]), "seen": [row[f"{clock}start_s"], row[f"{clock}end_s"]]},
        **{"frames": row["frames"], "clips": row["clips"], "emotion": tiers[EMOTION]},
        "units": {unit: tiers[unit] for unit in units[:_UNITS]},
        "shares": sorted(named["share_"], key=lambda pair: -pair[1]),
        "intensities": sorted(named["_mean"], key=lambda pair: -pair[1])[:_UNITS],
        **{"captions": [one[:3] for one in tiers[CAPTION]][:_CAPTIONS], "faces": []},
    }


def _add_keyframes(film: Film, people: list[dict[str, Any]], seen: Mapping[_Place, NDArray[np.float64]]) -> None:
    """Give each person pictures from the middle of the longest stretch of each label.

    ``seen`` are the sightings of each: index of the frame, seconds by the file's clock and box, (N, 6).
    """
    blur = film.job.settings.blurred
    if blur == "strict":
        return
    wanted: defaultdict[_Place, list[tuple[dict[str, Any], str, float, _Box]]] = defaultdict(list)
    for person in people[:_PEOPLE]:
        for begin, end, label, _ in _longest(person["emotion"])[:_KEYFRAMES]:
            rows = seen[person["place"]]
            index, seconds, *box = rows[np.abs(rows[:, 1] - (begin + end) / 2).argmin()].tolist()
            wanted[person["place"][0], int(index)].append((person, label, seconds, tuple(box)))
    left = set(wanted)
    detector = blur_detector() if blur != "off" and wanted else None
    frames = open_source(film.job.spec).stream(lambda epoch, _seconds, index: (epoch, index) in wanted)
    while left and (frame := next(frames, None)) is not None:
        if isinstance(frame, Frame):
            left.discard((frame.epoch, frame.index))
            image = frame.image
            if detector:
                # All that may be faces: who was read, who was not, who passes.
                own = [rows[rows[:, 0] == frame.index, 2:] for (epoch, _), rows in seen.items() if epoch == frame.epoch]
                (others,) = detector.detect([image], still=film.found.info.still)
                image = blur_faces(image, np.concatenate([_corners(np.concatenate(own), image), others.boxes]))
            for person, label, seconds, box in wanted[frame.epoch, frame.index]:
                person["faces"].append({"seconds": seconds, "label": label, "image": _picture(image, box)})
    for person in people:
        person["faces"].sort(key=lambda face: face["seconds"])


def _facts(film: Film) -> list[tuple[str, str]]:
    stats, info = film.found.done.stats, film.found.info
    return [
        *(("length", f"{stats.seconds:.1f} s"), ("people", str(stats.tracks)), ("clips", str(stats.clips))),
        *(("frames analysed", f"{stats.frames_analysed:,}"), ("picture", f"{info.width} × {info.height}")),
        *(("codec", info.codec), ("model", str(film.job.settings.values.get("model", "")))),
    ]


def _card(film: Film) -> str:
    if not film.found.classes:
        return "It speaks of what was withheld here; streamfer models show prints it."
    card = find_model(str(film.job.settings.values["model"])).with_suffix(".md")
    return card.read_text(encoding="utf-8") if card.is_file() else "This model came without a card."


def _manifest(film: Film) -> dict[str, Any]:
    facts = {"source_sha256": film.found.info.epoch_key, "stats": asdict(film.found.done.stats)}
    return {**asdict(film.job.settings), **facts}


def _longest(segments: Sequence[Any]) -> list[Any]:
    """Return the longest segment of each label, the longest first."""
    best: dict[str, Any] = {}
    for one in sorted(segments, key=lambda one: one[0] - one[1]):
        best.setdefault(one[2], one)
    return list(best.values())


def _corners(boxes: ArrayLike, image: NDArray[np.uint8]) -> NDArray[np.float64]:
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

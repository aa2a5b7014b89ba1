"""Rows of the tables, from what was found in one source: the same for CSV files and for DataFrames.

A row is a cell by the name of its column, as ``columns.toml`` lists them; what is not there is empty. What a file holds
as text, a DataFrame holds as a number rounded to the same digits.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamfer.export.columns import columns_of
from streamfer.export.findings import Cell, Findings, Row, face_cells
from streamfer.pipeline.events import FrameFaces

if TYPE_CHECKING:
    import pandas


#: Columns of a summary that are means over the clips.
_MEAN = re.compile(r"p_|.*_(mean|present)$")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, read as often as they are needed, and the columns in order with the formats of their cells."""

    columns: Mapping[str, str]
    rows: Callable[[], Iterable[Row]]

    def printed(self) -> Iterator[list[str]]:
        """Yield the cells of each row as a CSV file holds them."""
        for row in self.rows():
            cells = ((row.get(name), spec) for name, spec in self.columns.items())
            yield ["" if cell is None else format(cell, spec) for cell, spec in cells]

    def rounded(self) -> Iterator[dict[str, Cell]]:
        """Yield rows with all cells, numbers of as many digits as a CSV file holds; texts are valid Unicode."""
        for row in self.rows():
            yield {name: _rounded(row.get(name), spec) for name, spec in self.columns.items()}

    def data_frame(self) -> pandas.DataFrame:
        """Return what the table's file holds as a DataFrame; as in a table that is read back, an empty cell is NaN."""
        import pandas

        rows = [[math.nan if cell is None else cell for cell in row.values()] for row in self.rounded()]
        found = pandas.DataFrame(rows, columns=list(self.columns))
        # A column of empty cells alone is one of numbers, too.
        return found.astype({name: "float64" for name, spec in self.columns.items() if spec.endswith("f")})


def _rounded(cell: Cell, spec: str) -> Cell:
    if cell is None or spec == "d":
        return cell
    return round(float(cell), int(spec[1:-1])) if spec else str(cell).encode(errors="backslashreplace").decode()


def frame_rows(found: Findings) -> Iterator[Row]:
    """Yield one row a face of an analysed frame; a frame without a face has one row with empty cells."""
    for frame in found.frames:
        head: dict[str, Any] = {
            "source": frame.source_id,
            "epoch": frame.epoch,
            "frame": frame.index,
            "seconds": frame.seconds,
        }
        head |= {"faces": len(frame.faces), "media_seconds": frame.media_seconds}
        for face in frame.faces:
            units = {f"{name}_r": value for name, value in (face.action_units or {}).items()}
            yield {**head, **face_cells(face), "det_score": face.score, **units}
        if not frame.faces:
            yield head


@dataclass(slots=True)
class _Person:
    """What is known of one track, or of all of a file: sums over its clips, and when it was in the picture."""

    track_id: str = ""
    start: float = 0.0
    end: float = 0.0
    media_start: float | None = None
    media_end: float | None = None
    frames: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    #: by the names of their columns
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    peaks: dict[str, float] = field(default_factory=dict)

    def seen(self, frame: FrameFaces) -> None:
        self.start = min(self.start, frame.seconds) if self.frames else frame.seconds
        self.end = max(self.end, frame.seconds)
        if frame.media_seconds is not None:
            # A file's own clock may jump back: a person's first moment is the first that was seen.
            self.media_start = frame.media_seconds if self.media_start is None else self.media_start
            self.media_end = frame.media_seconds
        self.frames += 1

    def add(self, clip: Row, summary: Sequence[str], thresholds: Mapping[str, float]) -> None:
        """Take in the row of a clip; ``summary`` names the columns that the sums and peaks are for."""
        self.labels[clip["label"]] += 1
        for name in summary:
            if (value := clip.get(name)) is None:
                continue
            if name.endswith("_peak"):
                self.peaks[name] = max(value, self.peaks.get(name, value))
            else:
                self.sums[name] += value
        for unit, least in thresholds.items():
            self.sums[f"{unit}_present"] += (clip.get(f"{unit}_mean") or 0.0) >= least

    def summary(self, columns: Iterable[str]) -> dict[str, Any]:
        """Return number of clips and, where there are any, the most frequent label, its share, and means over them."""
        row: dict[str, Any] = {"media_start_s": self.media_start, "media_end_s": self.media_end}
        if not (clips := self.labels.total()):
            return {**row, "clips": 0}
        ((label, count),) = self.labels.most_common(1)
        means = {name: self.sums[name] / clips for name in columns if _MEAN.match(name)}
        shares = {name: self.labels[name[6:]] / clips for name in columns if name.startswith("share_")}
        return {**row, "clips": clips, "label": label, "share": count / clips, **self.peaks, **means, **shares}


def _of_clips(columns: Iterable[str]) -> list[str]:
    """Return the columns of a summary that clips have, too."""
    return [name for name in columns if name.startswith("p_") or name.endswith(("_mean", "_peak"))]


def track_rows(found: Findings) -> Iterator[Row]:
    """Yield one row a track: when it was in the picture, and the summary over its clips."""
    columns = columns_of("tracks", found.classes, tuple(found.thresholds))
    named = _of_clips(columns)
    people: dict[tuple[int, int], _Person] = {}
    for frame in found.frames:
        for seen in frame.faces:
            people.setdefault((frame.epoch, seen.track), _Person(seen.track_id)).seen(frame)
    for clip in found.clips:
        person = people.setdefault((clip["epoch"], clip["track"]), _Person(clip["track_id"]))
        person.add(clip, named, found.thresholds)
    for (epoch, track), person in sorted(people.items()):
        who: dict[str, Any] = {
            "source": found.done.source_id,
            "track_id": person.track_id,
            "track": track,
            "epoch": epoch,
        }
        times = {"start_s": person.start, "end_s": person.end, "frames": person.frames}
        yield {**who, **times, **person.summary(columns)}


def file_rows(found: Findings) -> Iterator[Row]:
    """Yield the one row of a file: what it is, what it came to, and the summary over all its people's clips."""
    columns = columns_of("files", found.classes, tuple(found.thresholds))
    everybody, with_faces, named = _Person(), 0, _of_clips(columns)
    for frame in found.frames:
        everybody.seen(frame)
        with_faces += bool(frame.faces)
    for clip in found.clips:
        everybody.add(clip, named, found.thresholds)
    done = found.done
    yield {
        **{"source": done.source_id, "status": "partial" if done.cut_off else "done", "note": done.note or None},
        **{"sha256": found.info.epoch_key, "duration_s": done.stats.seconds},
        **{"frames_decoded": done.stats.frames_decoded, "frames_analysed": everybody.frames},
        **{"frames_with_faces": with_faces, "tracks": done.stats.tracks},
        **everybody.summary(columns),
        "damaged_s": sum(gap.end_time - gap.start_time for gap in found.damage),
    }

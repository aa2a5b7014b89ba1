"""What was found in one file, in memory: tables as DataFrames, a line about itself, and the same files as a batch."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from streamfer.errors import ConfigError
from streamfer.export.baseline import Baseline
from streamfer.export.batch import BatchPlan
from streamfer.export.findings import Findings
from streamfer.export.job import Settings, choose
from streamfer.export.tables import table_of
from streamfer.pipeline.events import Event, SourceOpened, SourceStats
from streamfer.records import ClipCaptioned, ClipLabelled, Record
from streamfer.video.frames import VideoInfo
from streamfer.video.locate import Place, SourceSpec, placed

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from streamfer.config import ClipConfig
    from streamfer.pipeline.events import SourceDone

_ROWS_SHOWN = 10


@dataclass(frozen=True, slots=True, repr=False)
class Annotation:
    """What was found in one file.

    Attributes:
        spec: the file.
        info: what the file is.
        events: everything the analysis said, in order, its end not counted.
        done: its end, with counts.
        settings: what the result depends on.
        licences: of the models, by their names.
    """

    spec: SourceSpec
    info: VideoInfo
    events: tuple[Event, ...] = field(repr=False)
    done: SourceDone = field(repr=False)
    settings: Settings = field(repr=False)
    licences: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str:
        """Name of the file in tables and records."""
        return self.spec.source_id

    @property
    def stats(self) -> SourceStats:
        """Counts: frames, clips, tracks, captions, and what was left out."""
        return self.done.stats

    @property
    def records(self) -> tuple[Record, ...]:
        """Labelled clips and, where captions are on, their descriptions, each behind its label."""
        return tuple(
            event
            for event in self.events
            if isinstance(event, Record) and isinstance(event.data, ClipLabelled | ClipCaptioned)
        )

    @property
    def clips(self) -> pandas.DataFrame:
        """One row a labelled clip and person: what NAME.clips.csv holds."""
        return self._table("clips")

    @property
    def frames(self) -> pandas.DataFrame:
        """One row a face of an analysed frame: what NAME.frames.csv holds."""
        return self._table("frames")

    @property
    def tracks(self) -> pandas.DataFrame:
        """One row a person: what NAME.tracks.csv holds."""
        return self._table("tracks")

    @property
    def segments(self) -> pandas.DataFrame:
        """One row a stretch of a person's time in which one label, action unit or caption holds: NAME.segments.csv."""
        return self._table("segments")

    @property
    def summary(self) -> pandas.DataFrame:
        """One row: what the file is and came to."""
        return self._table("files")

    @property
    def captions(self) -> pandas.DataFrame:
        """One row a described clip: what NAME.captions.csv holds; empty where captions are off."""
        return self._table("captions")

    def plot(self, axes: Axes | None = None, *, units: int = 4) -> Axes:
        """Draw the timeline of each person: expressions, and the action units that last longest.

        Args:
            axes: of matplotlib (``pip install 'streamfer[plot]'``), a new figure's if None.
            units: how many action units of each person.

        Raises:
            ConfigError: ``axes`` are none, or ``units`` is no count.
            MissingExtraError: matplotlib is not installed.
        """
        from streamfer.export.plot import draw

        classes = next((event.classes for event in self.events if isinstance(event, SourceOpened)), ())
        return draw(self.segments, classes, axes, units)

    def save(
        self,
        output: str | Path,
        formats: str | Iterable[str] = ("csv", "jsonl"),
        *,
        overlay: bool = False,
        blur_faces: bool | str = False,
        profile: str = "streamfer",
        csv_dialect: str = "plain",
        baseline: str | Annotation | None = None,
    ) -> list[Path]:
        """Write the files that :func:`streamfer.annotate_folder` writes, all of them or none.

        Args:
            output: folder; made if it is not there.
            formats: any of ``csv parquet xlsx jsonl srt vtt eaf textgrid boris bids html overlay``.
            overlay: also the video with boxes, names and labels; the file is decoded once more.
            blur_faces: make the faces in overlay and report unrecognisable; ``strict``: the whole frame in doubt.
            profile: columns of the frame table: ``streamfer``, ``openface`` or ``pyfeat``.
            csv_dialect: ``plain``, or ``excel``: as Excel opens it.
            baseline: hold measurements against each person's first seconds (``10s``), or another file's annotation.

        Returns:
            The files.

        Raises:
            ConfigError: a format is unknown, or the baseline is neither.
            OutputError: they cannot be written.
        """
        looks: dict[str, Any] = {
            "overlay": overlay,
            "blur_faces": blur_faces,
            "profile": profile,
            "csv_dialect": csv_dialect,
        }
        against, settings = held_against(baseline, choose(self.settings, formats, **looks), _refuse)
        described = any(isinstance(event, Record) and isinstance(event.data, ClipCaptioned) for event in self.events)
        plan = BatchPlan(
            Path(placed(output, "output")), settings, described, baseline=against, licences=lambda: self.licences
        )
        folder = plan.folder_of(self.spec)
        folder.open()
        try:
            for event in self.events:
                folder.add(event)
            folder.commit(self.info.epoch_key, self.done)
        finally:
            folder.discard()
        return folder.paths

    def __repr__(self) -> str:
        return f"Annotation({self.source}: {self._summary()})"

    def _repr_html_(self) -> str:
        table: str = self.clips.to_html(max_rows=_ROWS_SHOWN, border=0)
        return f"<p><b>{html.escape(self.source)}</b>: {html.escape(self._summary())}</p>{table}"

    def _summary(self) -> str:
        """Return length, people, clips and the most frequent labels in words."""
        stats = self.stats
        labels = Counter(
            face.label for record in self.records if isinstance(record.data, ClipLabelled) for face in record.data.faces
        )
        shares = ", ".join(f"{label} {count / labels.total():.0%}" for label, count in labels.most_common(3))
        people = "1 person" if stats.tracks == 1 else f"{stats.tracks} people"
        clips = "1 clip" if stats.clips == 1 else f"{stats.clips} clips"
        return "; ".join(filter(None, (f"{stats.seconds:.1f} s, {people}, {clips}", shares, stats.unread)))

    def _table(self, name: str) -> pandas.DataFrame:
        found = Findings()
        for event in (*self.events, self.done):
            found.add(event)
        return table_of(name, found).data_frame()


def held_against(
    baseline: Place | Annotation | None,
    settings: Settings,
    annotate: Callable[[Place], Annotation],
    clip: ClipConfig | None = None,
) -> tuple[Baseline | None, Settings]:
    """Return what measurements are held against, and settings that say so; a file is annotated for it."""
    if baseline is None:
        return None, settings
    if not isinstance(baseline, Annotation):
        named = placed(baseline, "baseline")
        if (first := Baseline.first(named, clip)) is not None:
            return first, replace(settings, baseline=named)
        baseline = annotate(baseline)
    return Baseline.of(baseline), replace(settings, baseline=baseline.info.epoch_key)


def _refuse(baseline: Place) -> NoReturn:
    raise ConfigError(f"baseline {baseline}: annotate the file, and give what comes of it")

"""Annotating files from Python: a path in, an :class:`Annotation` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.build import LoadedModels, build_pipeline, load_models
from streamfer.config import Config
from streamfer.errors import ConfigError
from streamfer.pipeline.events import FrameFaces, SourceDone, SourceOpened, SourceStats
from streamfer.records import ClipCaptioned, ClipLabelled, Record
from streamfer.video import find_sources, open_source
from streamfer.video.frames import VideoInfo

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was found in one file.

    Attributes:
        source_id: name of the file among its siblings.
        info: what the file is.
        records: labelled clips and, where captions are on, their descriptions, each behind its label.
        frames: the faces of every analysed frame.
        stats: counts.
    """

    source_id: str
    info: VideoInfo
    records: tuple[Record, ...]
    frames: tuple[FrameFaces, ...]
    stats: SourceStats

    @property
    def clips(self) -> tuple[ClipLabelled, ...]:
        """The documents of the labelled clips."""
        return tuple(record.data for record in self.records if isinstance(record.data, ClipLabelled))

    @property
    def captions(self) -> dict[str, str]:
        """Descriptions of clips by the id of the clip's record; empty where captions are off."""
        return {
            record.data.clip_id: record.data.text for record in self.records if isinstance(record.data, ClipCaptioned)
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one flat row a clip and track; times in seconds, boxes as fractions of the frame.

        With captions, ``caption`` is the clip's description; None for a clip that was not described.
        """
        captions = self.captions
        return [
            {
                "source": self.source_id,
                "track_id": face.track_id,
                "track": face.track,
                "start_s": clip.clip.start_time,
                "end_s": clip.clip.end_time,
                "label": face.top,
                "probability": face.emotions[face.top],
                "frames_real": clip.clip.frames_real,
                "quality": face.quality,
                **{f"p_{name}": value for name, value in face.emotions.items()},
                **{f"{name}_mean": value for name, value in (face.action_units or {}).items()},
                **{f"{name}_peak": value for name, value in (face.action_units_peak or {}).items()},
                **({"caption": captions.get(record.id)} if captions else {}),
            }
            for record in self.records
            if isinstance(clip := record.data, ClipLabelled)
            for face in clip.faces
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """Return :meth:`to_rows` as a table.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.to_rows())


def annotate(
    path: str | Path, *, config: Config | None = None, models: LoadedModels | None = None, salt: str | None = None
) -> Annotation:
    """Find the faces of one video or picture and label their expressions.

    Args:
        path: a file or http(s) URL.
        config: settings; the defaults if None.
        models: from :func:`~streamfer.build.load_models`, to load them once for many files.
        salt: makes ``track_id`` repeatable; random if None.

    Raises:
        SourceError: the file is absent or cannot be decoded.
        ModelError: weights are missing or damaged.
    """
    config = config or Config()
    specs = find_sources([str(path)])
    if len(specs) != 1:
        raise ConfigError(f"{path}: holds {len(specs)} sources; annotate() takes one file, 'streamfer annotate' many")
    models = models or load_models(config)
    pipeline = build_pipeline(config, models, live=False, salt=salt)
    source = open_source(specs[0], decode_threads=models.budget.decode)
    info: VideoInfo | None = None
    records: list[Record] = []
    frames: list[FrameFaces] = []
    stats = SourceStats()
    for event in pipeline.events([source]):
        if isinstance(event, SourceOpened):
            info = info or event.info
        elif isinstance(event, FrameFaces):
            frames.append(event)
        elif isinstance(event, SourceDone):
            if event.error is not None:
                raise event.error
            stats = event.stats
        elif isinstance(event.data, ClipLabelled | ClipCaptioned):
            records.append(event)
    if info is None:
        raise ConfigError(f"{path}: no frame was analysed; check the sampling settings")
    return Annotation(specs[0].source_id, info, tuple(records), tuple(frames), stats)


def stream(
    sources: str | Sequence[str], *, config: Config | None = None, models: LoadedModels | None = None
) -> Iterator[ClipLabelled]:
    """Yield the labelled clips of live or file sources as they are complete; leave the loop to stop.

    Args:
        sources: one or more paths or URLs.
        config: settings; the defaults if None.
        models: from :func:`~streamfer.build.load_models`.

    Raises:
        SourceError: a source cannot be read.
    """
    config = config or Config()
    specs = find_sources([sources] if isinstance(sources, str) else list(sources))
    models = models or load_models(config, len(specs))
    live = any(spec.live for spec in specs)
    pipeline = build_pipeline(config, models, live=live)
    opened = (open_source(spec, decode_threads=models.budget.decode) for spec in specs)
    for event in pipeline.events(opened):
        if isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            yield event.data
        elif isinstance(event, SourceDone) and event.error is not None:
            raise event.error

"""The files of one annotated source, and the manifest that says they are complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.errors import ConfigError, InternalError, OutputError
from streamfer.files import WholeText

if TYPE_CHECKING:
    from streamfer.export.tables import Writer
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.video.locate import SourceSpec

#: Format name to the ends of the names of its files; :data:`streamfer.export.tables.WRITERS` write them.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "csv": (".clips.csv", ".frames.csv", ".tracks.csv"),
    "jsonl": (".records.jsonl",),
}
#: The file that captions add.
CAPTIONS = ".captions.csv"

_MANIFEST = ".streamfer.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the contents of the files besides the video: equal settings, equal results.

    Attributes:
        config: digest of the configuration that matters.
        model: digest of the weights.
        detector: name of the detector.
        formats: formats asked for.
        blurred: faces in the overlay are unrecognisable.
    """

    config: str
    model: str
    detector: str
    formats: tuple[str, ...]
    blurred: bool = False


class SourceFolder:
    """Writes the files of one source into the output folder, all of them or none.

    Args:
        folder: output folder.
        source_id: names the files; a source id with folders in it keeps them.
        settings: stored in the manifest, compared by :meth:`is_done`; its formats say which files there are.
        captions: clips are described, which makes a file more.
        overlay: the file itself and whether its faces are blurred, where what was found is drawn on a copy of it.
    """

    def __init__(
        self,
        folder: Path,
        source_id: str,
        settings: Settings,
        *,
        captions: bool = False,
        overlay: tuple[SourceSpec, bool] | None = None,
    ) -> None:
        self._base = folder / _safe(source_id)
        self._settings = settings
        self._overlay = overlay
        self._suffixes = [suffix for name in settings.formats for suffix in FORMATS[name]]
        self._suffixes += [CAPTIONS] if captions else []
        self._suffixes += [f".overlay{'.png' if overlay[0].still else '.mp4'}"] if overlay else []
        self._writers: list[Writer] = []

    @property
    def paths(self) -> list[Path]:
        """The files that :meth:`commit` makes, the manifest not counted."""
        return [self._base.with_name(self._base.name + suffix) for suffix in self._suffixes]

    def is_done(self, source_digest: Callable[[], str]) -> bool:
        """Whether an earlier run wrote these files for the same bytes with the same settings.

        Args:
            source_digest: computes the digest of the source; not asked where everything else says no.
        """
        try:
            manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        wanted = self._identity(None)
        del wanted["source_sha256"]
        if not isinstance(manifest, dict) or any(manifest.get(name) != value for name, value in wanted.items()):
            return False
        try:
            return all(path.exists() for path in self.paths) and manifest.get("source_sha256") == source_digest()
        except OSError:
            # Whoever decodes it says what is wrong with it.
            return False

    def open(self) -> None:
        """Start the files.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            for path, suffix in zip(self.paths, self._suffixes, strict=True):
                self._writers.append(self._writer(path, suffix))
        except OutputError:
            self.discard()
            raise

    def add(self, event: Event) -> None:
        """Hand an event to every file.

        Raises:
            OutputError: the disk is full.
        """
        try:
            for writer in self._writers:
                writer.add(event)
        except OSError as error:
            self.discard()
            raise OutputError(f"{self._base}: cannot be written ({error.strerror})") from error

    def commit(self, source_digest: str | None, done: SourceDone) -> None:
        """Make all files appear, the manifest last.

        Everything is on the disk before the first file gets its name, so that a full disk leaves none of them.

        Raises:
            OutputError: a file cannot be written; those not yet in place are discarded.
        """
        self.add(done)  # the table of tracks is made of its end
        content: dict[str, Any] = {**self._identity(source_digest), "stats": asdict(done.stats), "note": done.note}
        try:
            for writer in self._writers:
                writer.prepare()
            manifest = WholeText(self._manifest)
            try:
                manifest.file.write(json.dumps(content, indent=2) + "\n")
                manifest.prepare()
                for writer in self._writers:
                    writer.commit()
                manifest.commit()
            finally:
                manifest.discard()
        except OutputError:
            self.discard()
            raise
        self._writers = []

    def discard(self) -> None:
        """Leave nothing behind of what was not committed."""
        for writer in self._writers:
            writer.discard()
        self._writers = []

    def _writer(self, path: Path, suffix: str) -> Writer:
        # What writes is heavier to import than what is written is to look up.
        from streamfer.export.tables import WRITERS

        if suffix in WRITERS:
            return WRITERS[suffix](path)
        from streamfer.export.overlay import OverlayWriter
        from streamfer.video import open_source

        if self._overlay is None:
            raise InternalError(f"nobody writes {suffix}")
        spec, blur = self._overlay
        return OverlayWriter(path, open_source(spec), blur=blur)

    @property
    def _manifest(self) -> Path:
        return self._base.with_name(self._base.name + _MANIFEST)

    def _identity(self, source_digest: str | None) -> dict[str, Any]:
        settings = asdict(self._settings)
        return {**settings, "formats": list(self._settings.formats), "source_sha256": source_digest}


def check_formats(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the formats of a list, or of one text with commas.

    Raises:
        ConfigError: a format is unknown.
    """
    words = names.split(",") if isinstance(names, str) else names
    chosen = tuple(dict.fromkeys(name.strip().lower() for name in words if name.strip()))
    for name in chosen:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}: unknown; choose from {', '.join(FORMATS)}")
    if not chosen:
        raise ConfigError(f"no output format; choose from {', '.join(FORMATS)}")
    return chosen


def _safe(source_id: str) -> Path:
    """Return a relative path that stays inside the output folder whatever the source is called."""
    parts: Sequence[str] = [part for part in source_id.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return Path(*parts) if parts else Path("source")

"""The files of one annotated source, and the manifest that says they are complete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streamfer.errors import OutputError
from streamfer.export.tables import FORMATS, MakeWriter, Writer
from streamfer.files import WholeText
from streamfer.pipeline.events import Event, SourceDone

_MANIFEST = ".streamfer.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the contents of the files besides the video: equal settings, equal results.

    Attributes:
        config: digest of the configuration that matters.
        model: digest of the weights.
        detector: name of the detector.
        formats: formats asked for.
    """

    config: str
    model: str
    detector: str
    formats: tuple[str, ...]


class SourceFolder:
    """Writes the files of one source into the output folder, all of them or none.

    Args:
        folder: output folder.
        source_id: names the files; a source id with folders in it keeps them.
        settings: stored in the manifest, compared by :meth:`is_done`.
        more: files besides those of the formats, as pairs of suffix and writer.
    """

    def __init__(
        self, folder: Path, source_id: str, settings: Settings, more: Sequence[tuple[str, MakeWriter]] = ()
    ) -> None:
        self._base = folder / _safe(source_id)
        self._settings = settings
        self._kinds = [pair for name in settings.formats for pair in FORMATS[name]] + list(more)
        self._writers: list[Writer] = []

    @property
    def paths(self) -> list[Path]:
        """The files that :meth:`commit` makes, the manifest not counted."""
        return [self._base.with_name(self._base.name + suffix) for suffix, _ in self._kinds]

    def is_done(self, source_digest: str | None) -> bool:
        """Whether an earlier run wrote these files for the same bytes with the same settings."""
        try:
            manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        wanted = self._identity(source_digest)
        return (
            isinstance(manifest, dict)
            and all(manifest.get(name) == value for name, value in wanted.items())
            and all(path.exists() for path in self.paths)
        )

    def open(self) -> None:
        """Start the files.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            for path, (_, make) in zip(self.paths, self._kinds, strict=True):
                self._writers.append(make(path))
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

    @property
    def _manifest(self) -> Path:
        return self._base.with_name(self._base.name + _MANIFEST)

    def _identity(self, source_digest: str | None) -> dict[str, Any]:
        settings = asdict(self._settings)
        return {**settings, "formats": list(self._settings.formats), "source_sha256": source_digest}


def _safe(source_id: str) -> Path:
    """Return a relative path that stays inside the output folder whatever the source is called."""
    parts: Sequence[str] = [part for part in source_id.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return Path(*parts) if parts else Path("source")

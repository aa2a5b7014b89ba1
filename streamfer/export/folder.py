"""The files of one annotated source, and the manifest that says they are complete."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfer.errors import OutputError, StreamferError
from streamfer.export.job import Job, Settings
from streamfer.files import WholeFile

if TYPE_CHECKING:
    from streamfer.export.findings import Findings
    from streamfer.pipeline.events import Event, SourceDone
    from streamfer.video.locate import SourceSpec

#: End of the name of the file that says what the results of a source are, and that they are complete.
MANIFEST = ".streamfer.json"
_OWN = re.compile(r"\.overlay\.(mp4|png)$")
#: Bytes of a name that file systems hold, without what marks a file that is being written.
_LONGEST_NAME = 255 - len(".9999999.9999.part.parquet")


class SourceFolder:
    """Writes the files of one source into the output folder, all of them or none.

    Args:
        spec: the source, whose id names the files; one with folders in it keeps them.
        settings: stored in the manifest, compared by :meth:`is_done`; its formats say which files there are.
    """

    def __init__(self, folder: Path, spec: SourceSpec, settings: Settings, **more: Any) -> None:
        # Inside the output folder whatever the source is called.
        parts = [part for part in spec.source_id.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        self._base = folder.joinpath(*(parts or ["source"]))
        self._settings = settings
        self._job = Job(self._base, settings, spec, **more)
        self._files: dict[str, WholeFile] = {}
        self._found: Findings
        #: frames of the overlay that may show a face although faces are blurred; known once it is drawn
        self.doubtful = 0

    @property
    def paths(self) -> list[Path]:
        """The files that :meth:`commit` makes, the manifest not counted."""
        return list(self._job.files().values())

    def is_done(self, source_digest: Callable[[], str]) -> bool:
        """Whether an earlier run wrote these files for the same bytes with the same settings.

        ``source_digest`` is not asked where everything else says no.
        """
        manifest = self._read()
        wanted = self._identity(None)
        del wanted["source_sha256"]
        if any(manifest.get(name) != value for name, value in wanted.items()):
            return False
        try:
            return all(path.exists() for path in self.paths) and manifest.get("source_sha256") == source_digest()
        except OSError:
            # Whoever decodes it says what is wrong with it.
            return False

    def has_version(self, version: str) -> bool:
        """Whether the results that lie here are of this version of their source."""
        return self._read().get("version") == version

    def owner(self) -> tuple[str, str]:
        """Return place and digest of the source whose results lie here; empty where there are none."""
        manifest = self._read()
        return str(manifest.get("path", "")), str(manifest.get("source_sha256", ""))

    def _read(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def open(self) -> None:
        """Start the files.

        Raises:
            OutputError: the folder cannot be written, or the source's name is too long for those of its results.
            SourceUnreadableError: pictures are wanted of what can be read but once.
        """
        # What writes is heavier to import than what is written is to look up.
        from streamfer.export.findings import Findings
        from streamfer.export.tables import check

        check(self._job)
        longest = max((path.name for path in [*self.paths, self.manifest]), key=lambda name: len(os.fsencode(name)))
        if len(os.fsencode(longest)) > _LONGEST_NAME:
            raise OutputError(f"{self._base.name}: too long a name for its results, which add to it; shorten it")
        self._files = {end: WholeFile(path, path.suffix) for end, path in self._job.files().items()}
        manifest = self._files[MANIFEST] = WholeFile(self.manifest)
        with manifest.writing():
            # Whoever looks sees that the source is under way.
            manifest.part.open("w").close()
            self._found = Findings(self._base.parent)

    def add(self, event: Event) -> None:
        """Keep an event; an OutputError where the disk is full."""
        with self._writing():
            self._found.add(event)

    def commit(self, source_digest: str | None, done: SourceDone) -> None:
        """Make all files appear, the manifest last.

        Everything is on the disk before the first file gets its name, so that a full disk leaves none of them. Results
        of a source that was cut off are named ``NAME.partial`` and never count as done; complete ones take their place.

        Raises:
            OutputError: a file cannot be written; nothing is left behind.
            SourceError: pictures are wanted, and the source cannot be read any more.
        """
        self.add(done)
        content: dict[str, Any] = {**self._identity(source_digest), "stats": asdict(done.stats), "note": done.note}
        content["path"] = place_of(self._job.spec)
        if self._job.spec.version:
            content["version"] = self._job.spec.version
        content["licences"] = dict(self._job.licences())
        with self._writing():
            self._write(content)
            for whole in self._files.values():
                whole.path = self._partial(whole.path) if done.cut_off else whole.path
            for whole in self._files.values():
                whole.commit()
            for path in () if done.cut_off else self.replaced:
                path.unlink(missing_ok=True)
        self._files = {}

    def _write(self, content: dict[str, Any]) -> None:
        """Write everything under hidden names: the files, then the manifest."""
        from streamfer.export.segments import Film
        from streamfer.export.tables import table_of, write

        film = Film(self._found, self._job)
        (content["summary"],) = table_of("files", self._found).rounded()
        for end, whole in self._files.items():
            try:
                with whole.writing():
                    if end == MANIFEST:
                        content |= {"frames_doubtful": self.doubtful} if self._settings.blurred != "off" else {}
                        whole.part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="")
                    else:
                        self.doubtful += write(end, whole.part, film)
            except OutputError as error:
                raise OutputError(str(error).replace(str(whole.part), str(whole.path))) from error.__cause__
        for whole in self._files.values():
            whole.prepare()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what fails while files are written into an OutputError, with nothing left behind."""
        try:
            yield
        except OSError as error:
            self.discard()
            if isinstance(error, StreamferError):
                raise
            raise OutputError(f"{self._base}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Leave nothing behind of what was not committed."""
        for whole in self._files.values():
            whole.discard()
        self._files = {}

    def _partial(self, path: Path) -> Path:
        """Return the name that a file has where its source was cut off."""
        name = self._base.name
        at = path.name.removeprefix(name) if path.name.startswith(name) else f"_{path.name}"
        return path.with_name(f"{name}.partial{at}")

    @property
    def replaced(self) -> list[Path]:
        """The files of a source that was cut off, which complete ones take the place of."""
        return [self._partial(path) for path in (*self.paths, self.manifest)]

    @property
    def manifest(self) -> Path:
        """The file that says what the results are, and that they are complete."""
        return self._base.with_name(self._base.name + MANIFEST)

    def _identity(self, source_digest: str | None) -> dict[str, Any]:
        settings = asdict(self._settings)
        return {**settings, "formats": list(self._settings.formats), "source_sha256": source_digest}


def is_own(spec: SourceSpec) -> bool:
    """Whether a file is an overlay of an earlier run: it lies beside the manifest that its name says."""
    path = Path(spec.url)
    if spec.remote or not _OWN.search(path.name):
        return False
    return path.with_name(_OWN.sub("", path.name) + MANIFEST).is_file()


def place_of(spec: SourceSpec) -> str:
    """Return where a source lies: its path, or its address without secrets."""
    return (
        spec.location
        if spec.remote or spec.place
        else os.path.realpath(spec.url).encode(errors="backslashreplace").decode()
    )

"""Buckets and other far folders, through fsspec: videos are found and fetched there, results looked up and sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from streamfer.errors import ConfigError, SourceNotFoundError, SourceUnreachableError, StreamferError
from streamfer.export.folder import MANIFEST
from streamfer.extras import needs
from streamfer.redaction import redact_text, redact_url
from streamfer.video.locate import MEDIA_SUFFIXES, SourceSpec

if TYPE_CHECKING:
    from streamfer.export.folder import SourceFolder

#: What of an object's description tells one version of it from another, whichever store it lies in.
_VERSION = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "updated", "created", "size")


class Bucket:
    """A folder or file that a URL names: ``s3://...``, ``gs://...``, and whatever else fsspec knows.

    Raises:
        ConfigError: nothing reads such a URL, the package that does is not installed, or the URL has credentials that
            its kind does not take there.
        SourceUnreachableError: the store does not answer.
    """

    def __init__(self, url: str) -> None:
        self.name = redact_url(url)
        with needs("ray", self.name):
            import fsspec.core
        credentials = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
        #: What messages of stores may repeat, the longest first.
        self._secrets = [one for one in (credentials, credentials.partition(":")[2]) if one]
        with self._reached():
            try:
                self._files, root = fsspec.core.url_to_fs(url)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{self.name}: {' '.join(str(error).split())}") from error
            if credentials and not self._files._get_kwargs_from_urls(url):
                # It would be taken for a part of the bucket's name.
                raise ConfigError(
                    f"{self.name}: such an address holds no credentials; give them as the store's own tools take them "
                    "(environment, profile)"
                )
        self._root = str(root).rstrip("/")

    def find(self) -> list[SourceSpec]:
        """Return the videos and pictures of a folder, by their suffixes, or the one file.

        Raises:
            SourceNotFoundError: there is none.
            SourceUnreachableError: the store does not answer, or refuses.
        """
        with self._reached():
            found = self._files.find(self._root, detail=True)
        specs = []
        for path, about in sorted(found.items()):
            url, name = self._files.unstrip_protocol(path), path.removeprefix(self._root).lstrip("/")
            own = path.endswith(".overlay.mp4") and path.removesuffix(".overlay.mp4") + MANIFEST in found
            if not name or (PurePosixPath(path).suffix.lower() in MEDIA_SUFFIXES and not own):
                version = "|".join(f"{key}={about[key]}" for key in _VERSION if about.get(key) is not None)
                name = name or PurePosixPath(path).name
                specs.append(SourceSpec(url, name, "file", place=redact_url(url), version=version))
        if not specs:
            raise SourceNotFoundError(f"{self.name}: no such file, or no video in this folder")
        return specs

    def fetch(self, spec: SourceSpec, folder: Path) -> SourceSpec:
        """Return the file as one on the disk, in ``folder``."""
        copy = folder / f"source{PurePosixPath(spec.url).suffix}"
        with self._reached():
            self._files.get_file(self._root, str(copy))
        return replace(spec, url=str(copy))

    def recall(self, results: SourceFolder, output: Path) -> None:
        """Make ``output`` look like this folder to whoever asks whether the results of one source are there."""
        for path in (results.manifest, *results.paths):
            with self._reached():
                if not self._files.exists(far := self._far(path, output)):
                    return
                path.parent.mkdir(parents=True, exist_ok=True)
                if path == results.manifest:
                    self._files.get_file(far, str(path))
                else:
                    path.touch()

    def recall_tables(self, output: Path) -> None:
        """Fetch what the tables of a study are made of into ``output``."""
        with self._reached():
            for far in self._files.find(self._root):
                path = output / far.removeprefix(self._root).lstrip("/")
                table = path.suffix in (".csv", ".parquet", ".xlsx") and ".frames." not in path.name
                if path.name.endswith(MANIFEST) or table:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(far, str(path))

    def send(self, files: list[Path], output: Path, replaced: list[Path]) -> None:
        """Put files of ``output`` here, manifests last, and remove those that they replace."""
        with self._reached():
            for path in sorted(files, key=lambda path: path.name.endswith(MANIFEST)):
                self._files.makedirs(self._far(path, output).rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), self._far(path, output))
            for path in replaced:
                if self._files.exists(far := self._far(path, output)):
                    self._files.rm_file(far)

    def _far(self, path: Path, output: Path) -> str:
        return f"{self._root}/{path.relative_to(output).as_posix()}"

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except StreamferError:
            raise
        except Exception as error:
            # Each store has exceptions of its own.
            said = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))
            for secret in self._secrets:
                said = said.replace(secret, "***").replace(unquote(secret), "***")
            raise SourceUnreachableError(f"{self.name}: {said}; check address and credentials") from error

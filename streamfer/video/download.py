"""A download fetched whole: for videos whose index comes last, from servers that cannot begin in the middle."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2

from streamfer.errors import SourceUnreachableError, SourceUnreadableError
from streamfer.redaction import redact_text
from streamfer.video.locate import SourceSpec

#: Largest download that is kept in a temporary file, bytes.
MOST_BYTES = 4 << 30
#: Longest that one takes, seconds: what has no end would be fetched for ever.
MOST_SECONDS = 900.0


@contextmanager
def fetched(spec: SourceSpec, timeout: float) -> Iterator[SourceSpec]:
    """Fetch a download into a temporary file, and give that as the source; an operation may take ``timeout`` seconds.

    Raises:
        SourceUnreachableError: the connection breaks or is refused.
        SourceUnreadableError: it is larger than :data:`MOST_BYTES`, or takes longer than :data:`MOST_SECONDS`.
    """
    with tempfile.TemporaryDirectory(prefix="streamfer-") as folder:
        path = Path(folder) / "download"
        try:
            _fetch(spec, path, timeout)
        except httpx2.HTTPError as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            way_out = "name the file of its authority in SSL_CERT_FILE" if untrusted else "try again"
            raise SourceUnreachableError(
                f"{spec.location}: the connection broke ({redact_text(str(error))}); {way_out}"
            ) from None
        yield replace(spec, url=str(path), place=spec.location)


def _fetch(spec: SourceSpec, path: Path, timeout: float) -> None:
    count, until = 0, time.monotonic() + MOST_SECONDS
    with httpx2.stream("GET", spec.url, timeout=timeout, follow_redirects=True) as answer, path.open("wb") as copy:
        answer.raise_for_status()
        for piece in answer.iter_bytes():
            count += len(piece)
            if count > MOST_BYTES or time.monotonic() > until:
                raise SourceUnreadableError(
                    f"{spec.location}: its index comes last, its server cannot begin in the middle, and it is larger "
                    f"than {MOST_BYTES >> 30} GB, takes longer than {MOST_SECONDS / 60:.0f} minutes, or has no end; "
                    "download it and give the file"
                )
            copy.write(piece)

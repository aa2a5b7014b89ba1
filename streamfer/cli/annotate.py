"""``streamfer annotate``: video files in, tables out."""

from __future__ import annotations

import glob
import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from streamfer.cli.options import ANALYSIS, option, takes
from streamfer.cli.terminal import say_licences
from streamfer.errors import ConfigError, SourceNotFoundError
from streamfer.export.job import FORMATS, PROFILES

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.export.batch import BatchReport


_ADDRESS = re.compile(r"(auto|local|[\w.\-]+:\d+|\[[\da-fA-F:]+\]:\d+)$")


class BareFlags(TyperCommand):
    """A command whose ``--blur-faces`` and ``--ray`` need no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give the bare flags their usual values."""
        words = ["--blur-faces=normal" if word == "--blur-faces" else word for word in args]
        for at, (word, behind) in enumerate(pairwise([*args, ""])):
            # A word that is no option and leads nowhere was meant as an address: it is refused as one.
            source = behind[:1] in ("", "-") or "://" in behind or glob.has_magic(behind) or os.path.lexists(behind)
            if word == "--ray" and source and not _ADDRESS.match(behind):
                words[at] = "--ray=auto"
        return super().parse_args(ctx, words)


def _size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", size)
    if match is None:
        raise ConfigError(f"--raw-size {size}: expected WIDTHxHEIGHT, e.g. 320x192")
    return int(match[1]), int(match[2])


#: Arguments of :meth:`streamfer.Session.annotate_folder`.
_PASSED = {
    "formats": option(str, "--format -f", "LIST", f"With commas: {', '.join(FORMATS)} (csv,jsonl)."),
    "overlay": option(bool, "--overlay", None, "Also NAME.overlay.mp4, with boxes and labels."),
    "blur_faces": option(str, "--blur-faces", "[=strict]", "Blur faces; strict: whole frames in doubt."),
    "profile": option(str, "--profile", "NAME", f"Frame table as: {', '.join(PROFILES)}."),
    "csv_dialect": option(str, "--csv-dialect", "NAME", "plain, or excel: as Excel opens it."),
    "baseline": option(str, "--baseline", "10s|FILE", "Also z-scores against the start, or a file."),
    "redis": option(str, "--redis", "URL", "Also publish the records there, or: embedded."),
    "overwrite": option(bool, "--overwrite", None, "Do files again that are already done."),
    "raw_size": option(str, "--raw-size", "WxH", "Size of .yuv files, e.g. 320x192.", callback=_size),
    "raw_fps": option(float, "--raw-fps", "N", "Rate of .yuv, .264, .h265.", min=0.01, max=1000),
    "workers": option(int, "--workers", "N", "Files side by side (by the cores).", min=1),
    "ray": option(str, "--ray", "HOST:PORT", "On a Ray cluster; bare: this machine's."),
}


@takes("clip__mode", "captions", "captioner", *ANALYSIS, "salt", "purpose", passed=_PASSED)
def annotate(
    session: Session,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", show_default=False, help="For the results (annotations).")
    ] = "annotations",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
    **passed: Any,
) -> None:
    """Label the expressions in video files, and write tables for each.

    PATH is a file, a folder, a pattern or an http(s) URL. NAME.clips.csv, .frames.csv, .tracks.csv and .segments.csv
    have a row a clip, a face of a frame, a person, and a stretch of one label; .records.jsonl is what Redis gets. A
    file that fails is named and leaves nothing; files done before are skipped.
    """
    from streamfer.cli.progress import Progress
    from streamfer.cli.signals import stopping

    with session, Progress(quiet=quiet) as progress, stopping(session) as stopped:
        report = session.annotate_folder(paths, output, watch=progress.watch, **passed)
        if not quiet:
            say_licences(session)
    progress.report(report)
    if code := stopped.code() or _code(report):
        raise SystemExit(code)


def _code(report: BatchReport) -> int:
    """Return 0 when all is there, 3 when something failed or was cut off, 2 when nothing was found at all."""
    nowhere = report.total == len(report.failed) and all(
        isinstance(failure.error, SourceNotFoundError) for failure in report.failed
    )
    return 0 if report.complete else 2 if nowhere else 3

"""``streamfer annotate``: video files in, tables out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from streamfer.cli import options
from streamfer.cli.terminal import say_licences
from streamfer.errors import ConfigError, SourceNotFoundError
from streamfer.export.job import FORMATS, PROFILES

if TYPE_CHECKING:
    from streamfer.api import Session
    from streamfer.export.batch import BatchReport


class BareBlur(TyperCommand):
    """A command whose ``--blur-faces`` needs no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give the bare flag its usual value."""
        return super().parse_args(ctx, ["--blur-faces=normal" if word == "--blur-faces" else word for word in args])


@options.opens_session("clip__mode", "captions", "captioner", *options.ANALYSIS, "salt", "purpose")
def annotate(
    session: Session,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the results.")] = Path(
        "annotations"
    ),
    formats: Annotated[
        str, typer.Option("--format", "-f", metavar="LIST", help=f"With commas: {', '.join(FORMATS)}.")
    ] = "csv,jsonl",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also NAME.overlay.mp4: the video with boxes and labels.")
    ] = False,
    blur_faces: Annotated[
        str,
        typer.Option(metavar="[=strict]", help="Make faces in overlays and reports unrecognisable; frames, in doubt."),
    ] = "off",
    profile: Annotated[
        str,
        typer.Option("--profile", metavar="NAME", help=f"Whose words the frame table speaks: {', '.join(PROFILES)}."),
    ] = "streamfer",
    csv_dialect: Annotated[
        str,
        typer.Option("--csv-dialect", metavar="NAME", help="plain, or excel: opens there as it is, nothing a formula."),
    ] = "plain",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="10s|FILE", help="Also z-scores against each person's begin, or a file."),
    ] = None,
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="Also publish the records there, or: embedded.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do files again that are already done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
    raw_size: Annotated[
        str | None, typer.Option("--raw-size", metavar="WxH", help="Size of .yuv files, e.g. 320x192.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Files analysed side by side (by the cores).")
    ] = None,
    raw_fps: Annotated[
        float | None,
        typer.Option("--raw-fps", min=0.01, max=1000, metavar="N", help="Rate of .yuv, .264 and .h265 files."),
    ] = None,
) -> None:
    """Label the expressions in video files, folders, patterns and http(s) URLs, and write tables for each.

    NAME.clips.csv, .frames.csv, .tracks.csv and .segments.csv have a row a clip, a face of a frame, a person, and a
    stretch of one label; .records.jsonl is what Redis gets. A file that fails is named and leaves nothing;
    files done before are skipped.
    """
    size = _raw_size(raw_size)
    from streamfer.cli.progress import Progress
    from streamfer.cli.signals import stopping

    with session, Progress(quiet=quiet) as progress, stopping(session) as stopped:
        report = session.annotate_folder(
            paths,
            output,
            formats=formats,
            overlay=overlay,
            blur_faces=blur_faces,
            profile=profile,
            csv_dialect=csv_dialect,
            baseline=baseline,
            overwrite=overwrite,
            redis=redis,
            raw_size=size,
            raw_fps=raw_fps,
            workers=workers,
            watch=progress.watch,
        )
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


def _raw_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", size)
    if match is None:
        raise ConfigError(f"--raw-size {size}: expected WIDTHxHEIGHT, e.g. 320x192")
    return int(match[1]), int(match[2])

"""``streamfer annotate``: video files in, tables out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamfer.cli import options
from streamfer.cli.run import stopping
from streamfer.cli.terminal import complain, err
from streamfer.errors import ConfigError

if TYPE_CHECKING:
    from streamfer.captions.protocol import Captioner
    from streamfer.cli.batch import Batch
    from streamfer.config import Config
    from streamfer.pipeline.loop import Pipeline
    from streamfer.publish import Publisher
    from streamfer.video.locate import SourceSpec


def annotate(
    paths: Annotated[list[str], typer.Argument(help="Video files, folders, patterns or http(s) URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("annotations"),
    formats: Annotated[str, typer.Option("--format", "-f", help="csv, jsonl, or both with a comma.")] = "csv,jsonl",
    whole_clip: Annotated[
        bool,
        typer.Option("--whole-clip", help="One clip a file, sampled at segment centres as DFER-CLIP's test does."),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME.overlay.mp4: the video with boxes, ids and labels.")
    ] = False,
    blur_faces: Annotated[
        bool, typer.Option("--blur-faces", help="Make the faces in the overlay unrecognisable.")
    ] = False,
    captions: options.Captions = None,
    captioner: options.Captioner = None,
    redis: Annotated[
        str | None,
        typer.Option("--redis", help="Also publish the records: a Redis URL, or 'embedded' for the built-in server."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do files again that are already done.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress bar.")] = False,
    raw_size: Annotated[str | None, typer.Option("--raw-size", help="Size of .yuv files, e.g. 320x192.")] = None,
    raw_fps: Annotated[
        float | None, typer.Option("--raw-fps", min=0.01, max=1000, help="Rate of .yuv, .264 and .h265 files.")
    ] = None,
    track_salt: Annotated[
        str | None,
        typer.Option("--track-salt", help="Makes track ids repeatable across runs; random if not given."),
    ] = None,
    config_file: options.ConfigFile = None,
    model: options.Model = None,
    detector: options.Detector = None,
    device: options.Device = None,
    precision: options.Precision = None,
    fps: options.Fps = None,
    clip_seconds: options.Seconds = None,
    stride: options.Stride = None,
    threads: options.Threads = None,
    assignments: options.Set = None,
) -> None:
    """Label the expressions in video files and folders, and write a table for each.

    Every file gets NAME.clips.csv (one row a clip and face), NAME.frames.csv (one row a face of an analysed
    frame) and NAME.records.jsonl (what subscribers of Redis receive); with --captions also NAME.captions.csv. A file
    that fails is named and leaves nothing behind; the others are still done. Files done before with the same
    settings are skipped.
    """
    config = options.configure(
        config_file,
        {
            "model.name": model,
            "faces.detector": detector,
            "model.device": device,
            "model.precision": precision,
            "sampling.fps": fps,
            "clip.seconds": clip_seconds,
            "clip.stride": stride,
            "clip.mode": "whole" if whole_clip else None,
            "threads": threads,
            **options.caption_flags(captions, captioner),
        },
        assignments,
    )
    from streamfer.cli.batch import Batch
    from streamfer.export import Settings, check_formats

    if blur_faces and not overlay:
        raise ConfigError("--blur-faces: there is no picture to blur; add --overlay")
    names = check_formats(formats)
    specs, failures = _find(paths, raw_size, raw_fps)
    if not specs:
        raise SystemExit(2)
    # A server that is away is said before the seconds that torch and the models take to load.
    publisher = _publisher(redis, config)
    try:
        from streamfer.build import build_pipeline, load_models

        models = load_models(config)
        info = models.expression.info
        described = _described(config, models.captioner)
        decisive = _digest(config, raw_size, raw_fps, track_salt, info.precision, overlay and blur_faces, *described)
        settings = Settings(decisive, info.digest, models.detector.name, names)
        batch = Batch(specs, output, settings, publisher, overwrite, overlay, blur_faces, bool(described))
        pipeline = build_pipeline(config, models, live=False, salt=track_salt)
        _work(batch, pipeline, models.budget.decode, show=not quiet)
    finally:
        if publisher is not None:
            publisher.close()
    if not quiet:
        batch.report()
    if failures or batch.failed or batch.undescribed:
        raise SystemExit(2)


def _find(paths: list[str], raw_size: str | None, raw_fps: float | None) -> tuple[list[SourceSpec], int]:
    """Return the sources that exist, and how many arguments named none; each of those gets its line."""
    from streamfer.errors import SourceError
    from streamfer.video import find_sources

    good: list[str] = []
    for path in paths:
        try:
            find_sources([path])
        except SourceError as error:
            complain(str(error))
        else:
            good.append(path)
    specs = find_sources(good) if good else []
    return [_with_raw_layout(spec, raw_size, raw_fps) for spec in specs], len(paths) - len(good)


def _with_raw_layout(spec: SourceSpec, size: str | None, fps: float | None) -> SourceSpec:
    """Apply ``--raw-size`` and ``--raw-fps``; files with a header ignore them."""
    if size is not None:
        match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", size)
        if match is None:
            raise ConfigError(f"--raw-size {size}: expected WIDTHxHEIGHT, e.g. 320x192")
        spec = replace(spec, raw_size=(int(match[1]), int(match[2])))
    return spec if fps is None else replace(spec, raw_fps=Fraction(fps).limit_denominator(1001))


def _publisher(redis: str | None, config: Config) -> Publisher | None:
    if redis is None:
        return None
    from streamfer.cli.publishing import open_publisher

    url = None if redis == "embedded" else redis
    return open_publisher(config.publish.model_copy(update={"redis": url}))


def _digest(config: Config, *flags: object) -> str:
    """Return a short digest of the settings that results depend on; a secret among them cannot be read from it."""
    relevant = config.model_dump_json(include={"sampling", "clip", "faces"})
    return hashlib.sha256(f"{relevant}{flags!r}".encode()).hexdigest()[:16]


def _described(config: Config, captioner: Captioner | None) -> tuple[object, ...]:
    """Return what captions depend on; empty where there are none."""
    if captioner is None:
        return ()
    captions = config.captions
    return captions.when, captions.interval, captions.keyframes, captions.max_faces, captioner.info.digest


def _work(batch: Batch, pipeline: Pipeline, decode_threads: int, *, show: bool) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from streamfer.cli.batch import Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # Without a terminal a bar would be nothing but empty lines.
    hidden = not (show and err.is_terminal)
    try:
        with stopping(pipeline), Progress(*columns, console=err, transient=True, disable=hidden) as progress:
            bars = Bars(progress, len(batch.specs))
            for event in pipeline.events(batch.pending(decode_threads, bars)):
                batch.take(event, bars)
    finally:
        batch.discard()

"""Production: many clips to shards on disk, by several processes, going on where an earlier run stopped."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamfer.errors import OutputError, SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.render.clips import SHARD, RenderedClips, load_shard, save_shard, shard_path, shard_seed
from streamfer_builtin.render.studio import Clip, ClipRenderer

log = structlog.get_logger(__name__)


def produce(model: Path, folder: Path, split: str, seed: int, clips: int, *, workers: int = 1) -> None:
    """Write the clips 0 to ``clips`` - 1 of a split; shards that are already whole and of this seed are kept.

    Raises:
        SourceNotFoundError: the face model is absent.
        SourceUnreadableError: the face model cannot be read, or a shard on disk is of another seed.
        OutputError: a shard cannot be written, or a worker was killed.
    """
    cv2.setNumThreads(1)
    firsts = [first for first in range(0, clips, SHARD) if not _finished(folder, split, seed, first, clips)]
    missing = sum(min(SHARD, clips - first) for first in firsts)
    if missing and not model.is_file():
        raise SourceNotFoundError(f"{model}: no such file; give the folder that holds ict_face/ with --set data=FOLDER")
    log.info("render.produce", split=split, clips=clips, missing=missing, seed=seed, workers=workers)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{split} clips", total=missing)
        if workers == 1:
            for first in firsts:
                _produce_shard(model, folder, split, seed, first, clips, partial(progress.advance, task))
            return
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawned, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            jobs = {pool.submit(_produce_shard, model, folder, split, seed, first, clips): first for first in firsts}
            # A pool looks after the worker that it began last when something else wakes it: this does.
            pool.submit(int)
            try:
                for job in as_completed(jobs):
                    job.result()
                    progress.advance(task, min(SHARD, clips - jobs[job]))
            except BrokenProcessPool as error:
                raise OutputError(
                    f"{folder}: a process that rendered was killed, perhaps for want of memory; whole shards are kept: "
                    "run again, with fewer --threads"
                ) from error


def packed(clips: list[Clip], first: int) -> RenderedClips:
    """Clips ``first`` and following as arrays."""
    acts = [clip.performance for clip in clips]
    lights = [[*clip.light.main_3, clip.light.ambient] for clip in clips]
    return RenderedClips(
        frames=np.stack([clip.frames for clip in clips]),
        emotions=np.array([act.emotion for act in acts], np.int64),
        preceding=np.array([act.preceding for act in acts], np.int64),
        action_units=np.stack([act.action_units_TA for act in acts]).astype(np.float16),
        envelope=np.stack([act.envelope_T for act in acts]).astype(np.float16),
        phase=np.stack([act.phase_T for act in acts]).astype(np.uint8),
        direction=np.array([act.direction for act in acts], np.uint8),
        identity=np.array([clip.identity for clip in clips], np.int64),
        pose=np.stack([clip.pose_T3 for clip in clips]).astype(np.float16),
        light=np.array(lights).astype(np.float16),
        reverse_of=np.array([clip.reverse_of for clip in clips], np.int64),
        index=np.arange(first, first + len(clips), dtype=np.int64),
    )


def _produce_shard(
    model: Path, folder: Path, split: str, seed: int, first: int, clips: int, advance: Callable[[], None] | None = None
) -> None:
    studio, rendered = _studio(model, split, seed), []
    for number in range(first, min(first + SHARD, clips)):
        rendered.append(studio.clip(number))
        if advance is not None:
            advance()
    save_shard(packed(rendered, first), shard_path(folder, split, first), seed=seed)


@cache
def _studio(model: Path, split: str, seed: int) -> ClipRenderer:
    return ClipRenderer(model, split, seed)


def _finished(folder: Path, split: str, seed: int, first: int, clips: int) -> bool:
    """Whether the shard is there with all its clips; a shorter or unreadable one is rendered again."""
    path = shard_path(folder, split, first)
    if not path.is_file():
        return False
    try:
        whole = len(load_shard(path)) >= min(SHARD, clips - first)
    except SourceUnreadableError as error:
        log.warning("render.shard_unreadable", path=str(path), error=str(error))
        return False
    if shard_seed(path) != seed:
        raise SourceUnreadableError(f"{path}: rendered with seed {shard_seed(path)}, not {seed}; use another folder")
    return whole

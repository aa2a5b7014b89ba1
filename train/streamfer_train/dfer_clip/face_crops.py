"""Faces of raw clips, cut once before training and kept as frame folders such as the datasets ship.

The main person of a clip is the track with the most face area. Crops have the geometry that streamfer uses for
DFER-CLIP models when it runs: the detection box, squashed to a square. Frames before the person appears and after
they leave are left out; boxes of frames between in which nothing was found are interpolated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import OutputError, SourceError
from streamfer.faces import Detector, FaceTracker, crop_faces, load_detector, settle
from streamfer.geometry import squashed_crop
from streamfer.threads import available_cores
from streamfer_train.dfer_clip.checks import CheckReport
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.entries import Clip, Problem
from streamfer_train.dfer_clip.frames import Picture, list_pictures, opened, part_of, read_picture

log = logging.getLogger(__name__)

_FACTS = "facts.json"
#: Frame folders state no rate; the datasets are films.
_FOLDER_FPS = 25.0
#: Below this a clip is too short for the tracker to confirm anybody, and every face counts at once.
_SHORT_SECONDS = 0.5
_CHUNK = 16
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_NO_LANDMARKS = np.full((1, 5, 2), np.nan, np.float32)

Progress = Callable[[int, int], None]


def with_face_crops(report: CheckReport, config: DataConfig, progress: Progress | None = None) -> CheckReport:
    """Cut the faces of all clips (those in the cache are there already) and return the folds of the crops.

    Processes that train together may all call this: a folder of crops appears whole or not at all. Let the first
    do the work before the others call it. ``progress`` is told (clips done, clips in all).

    Raises:
        ModelError: the detector cannot be loaded.
        OutputError: the cache cannot be written.
    """
    wanted = {clip.identity: clip for fold in report.folds for clip in (*fold.train, *fold.held_out, *fold.test)}
    cutter = _Cutter(config)
    cropped: dict[tuple[str, float | None, float | None], Clip | None] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, (clip, crops, problem) in enumerate(pool.map(cutter.cut, wanted.values()), start=1):
            cropped[clip.identity] = crops
            problems += [problem] if problem else []
            if progress:
                progress(done, len(wanted))

    def kept(clips: Sequence[Clip]) -> tuple[Clip, ...]:
        found = ((clip, cropped[clip.identity]) for clip in clips)
        # Lists may give one clip other targets: only path, kind and count are the crops'.
        return tuple(
            replace(clip, path=crops.path, kind="frames", frames=crops.frames, start=None, end=None)
            for clip, crops in found
            if crops is not None
        )

    folds = tuple(
        replace(fold, train=kept(fold.train), held_out=kept(fold.held_out), test=kept(fold.test))
        for fold in report.folds
    )
    log.info("faces.cropped", extra={"clips": len(wanted), "without_face": len(problems), "cache": str(cutter.folder)})
    return replace(report, folds=folds, problems=(*report.problems, *problems))


class _Cutter:
    """Cuts clips, several at a time, each thread with a detector of its own."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._faces = config.face_crops
        self._own = threading.local()
        self._profile = squashed_crop(config.size, self._faces.margin)
        settings = (self._detector().name, self._faces.margin, self._faces.every, self._faces.missing, config.size)
        self.folder = self._faces.cache / hashlib.sha256(repr(settings).encode()).hexdigest()[:12]

    def _detector(self) -> Detector:
        if not hasattr(self._own, "detector"):
            self._own.detector = load_detector(self._faces.detector, threads=1, for_tracking=True)
        detector: Detector = self._own.detector
        return detector

    def cut(self, clip: Clip) -> tuple[Clip, Clip | None, Problem | None]:
        """Return the clip, the clip of its crops (None: left out), and what is to be said of it."""
        target = self.folder / _name(clip)
        try:
            if not (target / _FACTS).is_file():
                self._make(clip, target)
            facts = json.loads((target / _FACTS).read_text(encoding="utf-8"))
        except SourceError as error:
            return clip, None, Problem("error", "unreadable clip", clip.where, str(error))
        except OSError as error:
            raise OutputError(f"{self.folder}: crops cannot be kept ({error}); set data.face_crops.cache") from error
        crops = replace(clip, path=str(target), kind="frames", frames=facts["frames"])
        if facts["seen"]:
            return clip, crops, None
        missing = self._faces.missing
        if missing == "error":
            what = f"{clip.path}: set data.face_crops.missing to whole or skip"
            return clip, None, Problem("error", "no face", clip.where, what)
        what = f"{clip.path}: {'whole frames are used' if missing == 'whole' else 'it is left out'}"
        return clip, crops if missing == "whole" else None, Problem("warning", "no face", clip.where, what)

    def _make(self, clip: Clip, target: Path) -> None:
        boxes = self._boxes(clip)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            frames = self._write(clip, boxes, partial) if boxes or self._faces.missing == "whole" else 0
            (partial / _FACTS).write_text(json.dumps({"frames": frames, "seen": len(boxes)}), encoding="utf-8")
            if not target.exists():
                os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _boxes(self, clip: Clip) -> dict[int, NDArray[np.float32]]:
        """Return the main person's box (4,) in each frame in which they were seen."""
        count, fps = _length(clip)
        tracker = FaceTracker(fps, still=count / fps < _SHORT_SECONDS)
        seen = []
        for index, picture in enumerate(_pictures(clip)):
            looked = index % self._faces.every == 0
            seen.append(tracker.update(picture, self._detector().detect([picture])[0] if looked else None))
        tracks: defaultdict[int, dict[int, NDArray[np.float32]]] = defaultdict(dict)
        for index, faces in enumerate(settle(seen)):
            for face in faces:
                if face.index is not None:
                    tracks[face.track][index] = face.box
        return max(
            tracks.values(),
            key=lambda boxes: float(sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes.values())),
            default={},
        )

    def _write(self, clip: Clip, boxes: dict[int, NDArray[np.float32]], folder: Path) -> int:
        """Write the crops (whole frames where there is no box) and return their number."""
        span = range(min(boxes), max(boxes) + 1) if boxes else None
        known = sorted(boxes)
        written = 0
        for index, picture in enumerate(_pictures(clip)):
            if span is not None and index not in span:
                continue
            if boxes:
                box = [np.interp(index, known, [boxes[place][side] for place in known]) for side in range(4)]
            else:
                box = [0, 0, picture.shape[1], picture.shape[0]]
            crop = crop_faces(picture, np.array([box], np.float32), _NO_LANDMARKS, self._profile)[0]
            _, data = cv2.imencode(".jpg", crop[:, :, ::-1], _JPEG)
            written += 1
            data.tofile(folder / f"{written:06d}.jpg")
        return written


def _name(clip: Clip) -> str:
    """Return a folder's name that no other clip has, and that changes with the clip's bytes."""
    facts = os.stat(clip.path)
    identity = (os.path.abspath(clip.path), clip.start, clip.end, facts.st_size, facts.st_mtime_ns)
    return f"{Path(clip.path).stem}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"


def _length(clip: Clip) -> tuple[int, float]:
    if clip.kind != "video":
        return len(list_pictures(clip.path)), _FOLDER_FPS
    with opened(clip) as reader:
        return part_of(clip, reader)[1], reader.fps


def _pictures(clip: Clip) -> Iterator[Picture]:
    """Yield all frames of a clip, uint8 RGB (H, W, 3)."""
    if clip.kind != "video":
        for name in list_pictures(clip.path):
            yield read_picture(os.path.join(clip.path, name))
        return
    with opened(clip) as reader:
        first, count = part_of(clip, reader)
        for start in range(first, first + count, _CHUNK):
            yield from reader.read(range(start, min(start + _CHUNK, first + count)))

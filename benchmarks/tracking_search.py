"""What following costs and saves: faces where tracks lead to, against every frame searched whole, by real detectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tracking_clips import read_clip, sampled

from streamfer.faces import Detector, FaceTracker, settle
from streamfer.faces.search import FaceSearch, SearchMode

#: Ids and boxes of one frame.
Frame = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(slots=True)
class Followed:
    """One scene's confirmed faces, frame by frame, and what finding them took."""

    frames: list[Frame] = field(default_factory=list)
    whole: int = 0
    near: int = 0
    seconds: float = 0.0


def follow(
    images: Sequence[NDArray[np.uint8]], fps: float, detector: Detector, mode: SearchMode, *, hurried: bool = False
) -> Followed:
    """Track one scene with real detections; ``hurried``, as on a machine that cannot keep up with its cameras."""
    tracker = FaceTracker(fps)
    search = FaceSearch(mode, tracker)
    result, answers = Followed(), []
    for image in images:
        began = time.perf_counter()
        detections = search.detect(detector, image, hurried=hurried)
        result.seconds += time.perf_counter() - began
        answers.append(tracker.update(image, detections))
    for faces in settle(answers):
        ids = np.array([face.track for face in faces], np.int64)
        result.frames.append((ids, np.array([face.box for face in faces], np.float32).reshape(-1, 4)))
    result.whole, result.near = search.whole, search.near
    return result


def clips(folder: Path, truth: dict[str, Any], fps: float) -> dict[str, list[NDArray[np.uint8]]]:
    """Return the sampled frames of real clips, by name; pictures are left out."""
    found = {}
    for name, facts in truth.items():
        frames, times = read_clip(folder / name, facts)
        chosen = [frames[index] for index in sampled(times, fps)]
        if len(chosen) > 1:
            found[name] = chosen
    return found


def newcomers(truth: Sequence[Frame], found: Sequence[Frame], fps: float) -> list[float]:
    """Return seconds from each true id's first frame to the first one in which anybody covers it."""
    first = {int(key): index for index, (ids, _) in reversed(list(enumerate(truth))) for key in ids}
    delays = []
    for key, start in first.items():
        for index in range(start, len(truth)):
            ids, boxes = truth[index]
            rows = np.flatnonzero(ids == key)
            if len(rows) and len(found[index][1]) and overlap(boxes[rows[0]], found[index][1]).max() >= 0.4:
                delays.append((index - start) / fps)
                break
    return delays


def overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the overlap of one box with others, intersection over union."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / (areas - shared), np.float32)

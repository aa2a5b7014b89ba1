"""Which share of the faces in real videos does the blur of overlays cover?

    python benchmarks/blur.py VIDEOS --teacher yunet_n_dynamic.onnx

VIDEOS is a folder of videos with ``ground_truth.json``. The teacher is YuNet at low thresholds, on every frame; a face
of it counts as covered where at least 90 % of its box, as far as it lies in the picture, is blurred. Faces that the
teacher sees where the ground truth says that there is none (``face_intervals``, ``distinct_people`` 0) are counted in a
column of their own. Beside it: how many frames are said to be doubtful, which share of the picture is blurred beyond
the teacher's faces, and the processor time of looking at a frame.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.export.overlay import blur_detector
from streamfer.faces import load_detector
from streamfer.faces.coverage import Cover, Watch, grown
from streamfer.faces.privacy import MARGIN
from streamfer.video import Frame, find_sources, open_source

THRESHOLDS = (0.3, 0.5, 0.6)
COVERED = 0.9
#: Least heights of groups of faces, as shares of the frame's, and the teacher's score from which they are counted.
SIZES, SIZED_AT = (0.0, 0.04, 0.08, 0.16), 0.5
#: Points along each side of a face by which its covered share is measured.
POINTS = 24


@dataclass
class Count:
    """Faces of the teacher, and those that each mode covers."""

    faces: int = 0
    normal: int = 0
    strict: int = 0

    def add(self, share: float, *, doubtful: bool) -> None:
        """Count one face."""
        self.faces += 1
        self.normal += share >= COVERED
        self.strict += share >= COVERED or doubtful

    def words(self) -> str:
        """Return faces and shares as cells of a table."""
        if not self.faces:
            return "0 | - | -"
        return f"{self.faces} | {self.normal / self.faces:.2%} | {self.strict / self.faces:.2%}"


def covered(face: NDArray[np.float32], cover: Cover) -> float:
    """Return the share of a face (x1 y1 x2 y2, fractions of the frame) within the boxes that are blurred."""
    x, y = (np.linspace(face[side], face[side + 2], POINTS + 2)[1:-1] for side in (0, 1))
    xs, ys = np.meshgrid(x, y)
    hidden = np.zeros(xs.shape, bool)
    for box in cover.boxes:
        left, top, right, bottom = grown(box, MARGIN)
        hidden |= (xs >= left) & (xs <= right) & (ys >= top) & (ys <= bottom)
    return float(hidden.mean())


def blurred_beyond(cover: Cover, faces: NDArray[np.float32]) -> float:
    """Return the share of a frame that is blurred and lies far from the teacher's faces."""
    cells = (np.stack(np.meshgrid(np.arange(64), np.arange(36)), axis=-1) + 0.5) / (64, 36)

    def within(boxes: list[NDArray[np.float32]], share: float) -> NDArray[np.bool_]:
        inside = np.zeros((36, 64), bool)
        for box in boxes:
            larger = grown(box, share)
            inside |= ((cells >= larger[:2]) & (cells <= larger[2:])).all(axis=-1)
        return inside

    return float((within(cover.boxes, MARGIN) & ~within(list(faces), 2 * MARGIN)).mean())


def has_face(truth: dict[str, Any], number: int) -> bool:
    """Whether there is a face in a frame, by the ground truth."""
    intervals = truth.get("face_intervals")
    if intervals is None:
        return bool(truth["distinct_people"])
    return any(part["faces"] and part["first_frame"] <= number <= part["last_frame"] for part in intervals)


def main() -> None:
    """Print one line a video, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--teacher", default="yunet")
    arguments = parser.parse_args()
    truths = json.loads((arguments.videos / "ground_truth.json").read_text())["videos"]
    teacher = load_detector(arguments.teacher, threshold=min(THRESHOLDS))
    real = {threshold: Count() for threshold in THRESHOLDS}
    every = {threshold: Count() for threshold in THRESHOLDS}
    sizes = {size: Count() for size in SIZES}
    print("| video | frames | doubtful | blurred beyond faces | ms a frame |\n|---|---|---|---|---|")
    frames = doubtful = 0
    for name, truth in sorted(truths.items()):
        (spec,) = find_sources([str(arguments.videos / name)])
        watch, seen, spent, beyond = Watch(blur_detector()), [], 0.0, 0.0
        for item in open_source(spec).stream():
            if isinstance(item, Frame):
                begin = time.process_time()
                watch.look(item.image, item.epoch, item.seconds)
                spent += time.process_time() - begin
                (faces,) = teacher.detect([item.image])
                scale = np.tile(np.array(item.image.shape[1::-1], np.float32), 2)
                seen.append((np.clip(faces.boxes / scale, 0, 1), faces.scores))
        found = watch.covers()
        for number, (cover, (boxes, scores)) in enumerate(zip(found, seen, strict=True)):
            beyond += blurred_beyond(cover, boxes)
            for box, score in zip(boxes, scores, strict=True):
                share = covered(box, cover)
                for threshold in THRESHOLDS:
                    if score >= threshold:
                        every[threshold].add(share, doubtful=cover.doubtful)
                        if threshold == SIZED_AT:
                            size = max(one for one in SIZES if one <= box[3] - box[1])
                            sizes[size].add(share, doubtful=cover.doubtful)
                        if has_face(truth, number):
                            real[threshold].add(share, doubtful=cover.doubtful)
        unsure = sum(cover.doubtful for cover in found)
        frames, doubtful = frames + len(found), doubtful + unsure
        print(f"| {name} | {len(found)} | {unsure} | {beyond / len(found):.1%} | {1000 * spent / len(found):.0f} |")
    print(f"\n{doubtful} of {frames} frames are doubtful.\n")
    print("| teacher's score | faces | normal | strict | where faces are | normal | strict |")
    print("|---|---|---|---|---|---|---|")
    for threshold in THRESHOLDS:
        print(f"| {threshold} | {every[threshold].words()} | {real[threshold].words()} |")
    print(
        f"\n| from this share of the frame's height (score {SIZED_AT}) | faces | normal | strict |\n|---|---|---|---|"
    )
    for size, count in sizes.items():
        print(f"| {size:.0%} | {count.words()} |")


if __name__ == "__main__":
    main()

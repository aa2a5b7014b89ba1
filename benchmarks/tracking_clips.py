"""Real clips and small faces: does every person get one track, and are faces of 32 pixels still found?"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tracking_scenes import backdrop, sprites

from streamfer.faces import Detections, FaceTracker, load_detector, settle

#: Raw planar video has no header: its name says the size, the ground truth the rate.
RAW_SUFFIX = ".yuv"


def read_clip(path: Path, truth: dict[str, Any]) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Return all frames (uint8 RGB) of a clip or picture and their times in seconds."""
    if path.suffix == RAW_SUFFIX:
        width, height, fps = int(truth["width"]), int(truth["height"]), float(truth["fps"])
        planes = np.fromfile(path, np.uint8).reshape(-1, height * 3 // 2, width)
        frames = [np.asarray(cv2.cvtColor(plane, cv2.COLOR_YUV2RGB_I420), np.uint8) for plane in planes]
        return frames, [index / fps for index in range(len(frames))]
    frames, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(float(frame.time) if frame.time is not None else -1.0)
    if len(set(times)) < len(times):
        times = [index / float(truth["fps"]) for index in range(len(frames))]
    return frames, times


def sampled(times: list[float], fps: float | None) -> list[int]:
    """Return the frames that live sampling at ``fps`` would take; all of them for ``None``."""
    if fps is None:
        return list(range(len(times)))
    chosen, due = [], times[0]
    for index, moment in enumerate(times):
        if moment >= due - 1e-6:
            chosen.append(index)
            due += (1 + int((moment - due) * fps + 1e-6)) / fps
    return chosen


def follow(
    frames: list[NDArray[np.uint8]], times: list[float], found: list[Detections], fps: float | None, every: int
) -> tuple[int, list[int], int, int]:
    """Return people, faces a person, faces detected, and cuts of one clip."""
    chosen = sampled(times, fps)
    rate = fps or (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 1.0
    tracker = FaceTracker(rate, still=len(frames) == 1)
    answers, cuts = [], 0
    for count, index in enumerate(chosen):
        cuts += tracker.expect(frames[index]).cut
        answers.append(tracker.update(frames[index], found[index] if count % every == 0 else None))
    faces = Counter(face.track for seen in settle(answers) for face in seen)
    return len(faces), sorted(faces.values(), reverse=True), sum(len(found[i]) for i in chosen), cuts


def clip_table(folder: Path, truth: dict[str, Any], weights: str) -> None:
    """Print people found against people there, at 8 samples a second and at the full rate."""
    detector = load_detector(weights)
    print(f"\nDetector {detector.name}, on {detector.provider}\n")
    print("| clip | people | 8 fps | 8 fps, every 2nd | all frames | faces tracked / detected at 8 fps | cuts |")
    print("|---|---|---|---|---|---|---|")
    for name, facts in truth.items():
        frames, times = read_clip(folder / name, facts)
        found = detector.detect(frames)
        usual = follow(frames, times, found, 8.0, 1)
        cells = [
            name,
            facts["distinct_people"],
            usual[0],
            follow(frames, times, found, 8.0, 2)[0],
            follow(frames, times, found, None, 1)[0],
            f"{sum(usual[1])} / {usual[2]}",
            usual[3],
        ]
        print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def small_face_table(weights: str) -> None:
    """Print recall and time by the detector's input size for faces pasted into 1080p frames."""
    people = sprites()
    sizes = (24, 32, 40, 64)
    pictures = {size: [_crowd(people, size, ground) for ground in range(6)] for size in sizes}
    print("| det_size | " + " | ".join(f"recall at {size} px" for size in sizes) + " | ms a frame |")
    print("|---" * (len(sizes) + 2) + "|")
    for det_size in (480, 640, None, 960, 1280, 1920):
        detector = load_detector(weights, det_size=det_size)
        start = time.perf_counter()
        recalls = [
            np.mean([_recall(detector.detect([image])[0], boxes) for image, boxes in pictures[size]]) for size in sizes
        ]
        spent = (time.perf_counter() - start) / (6 * len(sizes)) * 1000
        print(f"| {det_size or 'auto'} | " + " | ".join(f"{recall:.2f}" for recall in recalls) + f" | {spent:.0f} |")


def _crowd(people: list[Any], size: int, ground: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a 1080p frame with 28 faces of ``size`` pixels height on a grid, and their boxes."""
    rng = np.random.default_rng(ground)
    image = backdrop(ground, 1920, 1080)
    boxes = []
    for cell in range(28):
        person = people[cell % len(people)]
        fx, fy, fw, fh = person.face
        scale = size / fh
        cx, cy = 150 + (cell % 7) * 270 + rng.uniform(-40, 40), 130 + (cell // 7) * 250 + rng.uniform(-30, 30)
        matrix = np.array([[scale, 0, cx - scale * (fx + fw / 2)], [0, scale, cy - scale * (fy + fh / 2)]])
        small = cv2.resize(person.picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(person.mask, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)[:, :, None]
        x, y = round(matrix[0, 2]), round(matrix[1, 2])
        part = image[y : y + small.shape[0], x : x + small.shape[1]]
        part[:] = (part * (1 - mask) + small * mask).astype(np.uint8)
        boxes.append([cx - scale * fw / 2, cy - size / 2, cx + scale * fw / 2, cy + size / 2])
    return image, np.array(boxes, np.float32)


def _recall(found: Detections, boxes: NDArray[np.float32]) -> float:
    if not len(found):
        return 0.0
    corner = np.maximum(boxes[:, None, :2], found.boxes[None, :, :2])
    other = np.minimum(boxes[:, None, 2:], found.boxes[None, :, 2:])
    shared = np.maximum(other - corner, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    union = areas + (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)[None] - shared
    return float((shared / union).max(axis=1).__ge__(0.4).mean())

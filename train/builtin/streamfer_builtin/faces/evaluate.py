"""How good a detector is on the validation split and on the development videos, printed as tables.

Reference on the videos is the teacher (YuNet n, score at least 0.6, longer side at most 640 px). Where the people who
looked at the videos say that no face is seen, the teacher's boxes are its errors and are dropped: there every
detection is false. Elsewhere a detection on a face that the teacher itself sees with a score of 0.3 to 0.6 is neither
counted nor false.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamfer_builtin.faces.config import FacesConfig
from streamfer_builtin.faces.detectors import Detector, Found, OnnxDetector, RfbDetector, YuNetDetector, milliseconds
from streamfer_builtin.faces.frames import frames, known_videos
from streamfer_builtin.faces.labels import Labels, Picture, overlaps
from streamfer_builtin.faces.large_frames import large_frame_table
from streamfer_builtin.faces.metrics import Reference, Tally, tally
from streamfer_builtin.faces.pool import Pool
from streamfer_builtin.faces.shards import Shard
from streamfer_builtin.faces.teacher import LONGER_SIDE, SCORE_THRESHOLD, Teacher, TeacherFaces
from streamfer_builtin.faces.teacher_noise import SCALES, self_disagreement

VALIDATION_SETS = ("composites", "composites, all", "pictures")
SMALLEST = 32.0
_HESITANT = 0.3
_THRESHOLDS = tuple(step / 50 for step in range(15, 40))


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture with its reference; ``group`` is the set or file that it belongs to."""

    group: str
    picture: Picture
    reference: Reference


def video_samples(folder: Path, teacher_weights: Path) -> Iterator[Sample]:
    """Every frame of every described video with the teacher's faces."""
    teacher = Teacher(teacher_weights, threshold=_HESITANT)
    for video in known_videos(folder):
        for index, picture in enumerate(frames(video.path)):
            seen = teacher.faces(picture)
            if not video.shows_face(index):
                yield Sample(video.path.name, picture, _reference(Labels.none(), np.zeros(0, np.bool_)))
                continue
            shrunk = min(1.0, LONGER_SIDE / max(picture.shape[:2]))
            count = len(seen.boxes)
            labels = Labels(seen.boxes, seen.landmarks, np.zeros(count, np.bool_), np.ones(count, np.bool_))
            counted = (seen.scores >= SCORE_THRESHOLD) & (labels.sizes() * shrunk >= SMALLEST)
            yield Sample(video.path.name, picture, _reference(labels, counted))


def validation_samples(config: FacesConfig) -> Iterator[Sample]:
    """The composites and the full pictures of people that training never showed.

    On composites the faces that the teacher finds too are counted, with the teacher's boxes; ``composites, all``
    counts every composed face that is large enough, also those too dark, turned or hidden for the teacher.
    """
    teacher = Teacher(config.data.teacher_path())
    pool = Pool(config.work / "sources", "val", 1)
    for index in range(len(pool)):
        picture, labels = pool.item(index)
        yield Sample("composites", picture, _confirmed(labels, teacher.faces(picture)))
        yield Sample("composites, all", picture, _reference(labels, _countable(labels)))
    scenes = Shard.load(config.work / "sources" / "val-scenes.npz")
    for index in range(len(scenes)):
        picture = scenes.picture(index)
        height, width = picture.shape[:2]
        labels = scenes.faces(index).framed(width, height)
        # The margin is what a video has around a face; without it the picture is all face.
        framed = np.full((height + 64, width + 64, 3), 96, np.uint8)
        framed[32:-32, 32:-32] = picture
        moved = labels.transformed(np.array([[1, 0, 32], [0, 1, 32]], np.float32))
        yield Sample("pictures", framed, _reference(moved, _countable(moved)))


def _confirmed(labels: Labels, seen: TeacherFaces) -> Reference:
    """Composed faces with the teacher's boxes and landmarks where it agrees; only those are counted."""
    boxes, landmarks = labels.boxes.copy(), labels.landmarks.copy()
    counted = np.zeros(len(labels), np.bool_)
    if len(labels) and len(seen.boxes):
        match = overlaps(labels.boxes, seen.boxes)
        best = match.argmax(axis=1)
        counted = match.max(axis=1) >= 0.5
        boxes[counted], landmarks[counted] = seen.boxes[best[counted]], seen.landmarks[best[counted]]
    sides = boxes[:, 2:] - boxes[:, :2]
    counted &= np.sqrt(np.maximum(sides.prod(axis=1), 0)) >= SMALLEST
    return Reference(boxes, landmarks, counted)


def _countable(labels: Labels) -> np.ndarray:
    return ~labels.ignored & (labels.sizes() >= SMALLEST)


def _reference(labels: Labels, counted: np.ndarray) -> Reference:
    return Reference(labels.boxes, labels.landmarks, counted)


def results(samples: list[Sample], found: list[Found], threshold: float) -> dict[str, Tally]:
    """Tallies by group at one score threshold."""
    sums: dict[str, Tally] = {}
    for sample, faces in zip(samples, found, strict=True):
        sums[sample.group] = sums.get(sample.group, Tally()) + tally(faces.above(threshold), sample.reference)
    return sums


def totals(sums: dict[str, Tally]) -> dict[str, Tally]:
    """``sums`` with the video files gathered as one row beside the validation sets."""
    videos = [each for name, each in sums.items() if name not in VALIDATION_SETS]
    gathered = {name: sums[name] for name in VALIDATION_SETS if name in sums}
    return gathered | {"videos": sum(videos, Tally())}


def table(title: str, sums: dict[str, Tally]) -> str:
    """A Markdown table of tallies by group."""
    lines = [f"### {title}", "", "| set | images | faces | recall | false an image | landmark error |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, each in sums.items():
        lines.append(
            f"| {name} | {each.pictures} | {each.faces} | {each.recall:.3f} | {each.false_per_picture:.3f} "
            f"| {100 * each.landmark_error:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def sweep_table(by_threshold: dict[float, dict[str, Tally]]) -> str:
    """A Markdown table of recall and false positives an image over thresholds, videos gathered."""
    names = list(totals(next(iter(by_threshold.values()))))
    lines = ["| threshold | " + " | ".join(f"{name}: recall, false" for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for threshold, sums in by_threshold.items():
        cells = [f"{each.recall:.3f}, {each.false_per_picture:.3f}" for each in totals(sums).values()]
        lines.append(f"| {threshold:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def chosen_threshold(by_threshold: dict[float, dict[str, Tally]], allowed: float = 0.02) -> float:
    """The lowest threshold at which neither validation set exceeds ``allowed`` false positives an image."""
    for threshold, sums in sorted(by_threshold.items()):
        if all(sums[name].false_per_picture <= allowed for name in ("composites", "pictures")):
            return threshold
    return max(by_threshold)


def evaluate(
    config: FacesConfig,
    weights: Path,
    *,
    threshold: float | None = None,
    enlarge: bool = False,
    sweep: bool = False,
    compare: bool = False,
) -> None:
    """Print our numbers per set and per video, the time of a pass, and with ``compare`` other detectors' numbers.

    Without a ``threshold`` the lowest one allowed on the validation sets is taken. With ``enlarge`` pictures smaller
    than 640 pixels are enlarged to that first, as insightface's own call does.
    """
    root = config.data.root
    samples = [*validation_samples(config), *video_samples(root / "videos", config.data.teacher_path())]
    ours = _found(OnnxDetector(weights, enlarge=enlarge), samples)
    by_threshold = {threshold: results(samples, ours, threshold) for threshold in _THRESHOLDS}
    if threshold is None:
        threshold = chosen_threshold(by_threshold)
    if sweep:
        print(sweep_table(by_threshold))
    sums = results(samples, ours, threshold)
    print(table(f"{weights.name} at threshold {threshold:.2f}", sums))
    print(table("the same, videos gathered", totals(sums)))
    for height, width in ((320, 320), (384, 640), (640, 640)):
        print(f"- {weights.name} at {width}x{height}: {milliseconds(weights, height, width):.2f} ms, one thread")
    if compare:
        others: dict[str, Detector] = {
            "YuNet s at 0.6": YuNetDetector(root / "weights" / "yunet_s_dynamic.onnx"),
            "RFB-320 at 0.7": RfbDetector(root / "weights" / "version-RFB-320.onnx"),
        }
        for name, other in others.items():
            print(table(name, totals(results(samples, _found(other, samples), 0.0))))


def evaluate_large(config: FacesConfig, weights: Path, threshold: float) -> None:
    """Print recall by face size and the time for several ways to look at 1080p frames."""
    samples = [
        (sample.picture, sample.reference) for sample in validation_samples(config) if sample.group == "composites"
    ]
    print(f"### 1920x1080 frames, threshold {threshold:.2f}\n")
    print(large_frame_table(weights, samples, threshold))


def evaluate_teacher(config: FacesConfig) -> None:
    """Print by how much the teacher disagrees with itself about landmarks on the validation pictures."""
    teacher = Teacher(config.data.teacher_path())
    pictures = Shard.load(config.work / "sources" / "val-scenes.npz")
    for scale in SCALES:
        count, error = self_disagreement(teacher, pictures, scale)
        print(f"- at {scale:.1f} of the size: {100 * error:.1f} % of the inter-ocular distance, {count} faces")


def _found(detector: Detector, samples: list[Sample]) -> list[Found]:
    return [detector.find(sample.picture) for sample in samples]

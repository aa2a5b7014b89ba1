"""Recall, false faces, landmark error and cost of detectors, on the parts that training never saw.

References on crowds.parquet are its two teachers' agreement; on the videos YuNet n (score of at least 0.6, faces of
32 pixels and more; what it sees at 0.3 to 0.6 is neither right nor wrong). So YuNet is judged there by itself.
Frames that by eye show no face have no reference: every detection there is false.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces import Detector, load_detector
from streamfer_builtin.faces import sets
from streamfer_builtin.faces.frames import KnownVideo, frames, known_videos
from streamfer_builtin.faces.labels import Labels, overlaps
from streamfer_builtin.faces.metrics import OVERLAP, Face, Outcome, judge, landmark_error, recall
from streamfer_builtin.tables import file_in

ALLOWED = 0.05
"""False faces a picture that a threshold may cost."""
LOWEST = 0.05
YUNET = "weights/yunet_n_dynamic.onnx"
"""The teacher on videos, beside the data sets."""
_VIDEO_SMALLEST = 32.0
_EVERY = 6
"""Every sixth frame of a video is judged: its neighbours show the same."""
CLOSE_UPS = tuple((size, share) for size in ((640, 360), (1920, 1080)) for share in (0.35, 0.5, 0.65, 0.8, 0.95, 1.1))
_CLOSE, _FEWEST_CLOSE = 48, 60
"""Shorter side of faces that are enlarged, pixels of their picture, and how many of them at least."""
GROUPS: dict[str, Callable[[Face], bool]] = {
    "10-16 px": lambda face: face.size < 16,
    "16-32 px": lambda face: 16 <= face.size < 32,
    "32 px and more": lambda face: face.size >= 32,
    "frontal, 16 px and more": lambda face: face.size >= 16 and not face.profile,
    "profile, 16 px and more": lambda face: face.size >= 16 and face.profile,
    "colour, 16 px and more": lambda face: face.size >= 16 and not face.grey,
    "grey, 16 px and more": lambda face: face.size >= 16 and face.grey,
    "darkest third, 16 px and more": lambda face: face.size >= 16 and face.light < 90,
    "lightest third, 16 px and more": lambda face: face.size >= 16 and face.light >= 130,
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A detector under the title of its table row."""

    title: str
    detector: Detector


@dataclass(frozen=True, slots=True)
class Reference:
    """One picture to judge on, of the set ``group``."""

    group: str
    picture: NDArray[np.uint8]
    labels: Labels
    profile: NDArray[np.bool_]
    still: bool = True


def references(root: Path, part: str) -> Iterator[Reference]:
    """All pictures of ``tune`` or ``test``: crowds, the same without colour, backgrounds, videos."""
    for sample in sets.crowds(root, part):
        coloured = sample.picture.ndim == 3
        picture = sample.picture if coloured else np.repeat(sample.picture[..., None], 3, axis=2)
        yield Reference("crowds", picture, sample.labels, sample.profile)
        if coloured:
            grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            yield Reference("crowds without colour", np.asarray(grey, np.uint8), sample.labels, sample.profile)
    for sample in sets.backgrounds(root, part):
        picture = sample.picture if sample.picture.ndim == 3 else np.repeat(sample.picture[..., None], 3, axis=2)
        yield Reference("backgrounds", picture, sample.labels, sample.profile)
    yield from video_references(root, part)


def video_references(root: Path, part: str) -> Iterator[Reference]:
    """Frames of the development videos of a part with YuNet's faces."""
    teacher = load_detector(str(file_in(root, YUNET)), threshold=0.3, det_size=640)
    for video in known_videos(root / "videos"):
        if (video.path.name in sets.test_videos(root)) != (part == "test"):
            continue
        for index, picture in enumerate(frames(video.path)):
            if index % _EVERY:
                continue
            yield Reference(video.path.name, picture, *_seen(teacher, video, index, picture), still=False)


def _seen(
    teacher: Detector, video: KnownVideo, index: int, picture: NDArray[np.uint8]
) -> tuple[Labels, NDArray[np.bool_]]:
    if not video.shows_face(index):
        return Labels.none(), np.zeros(0, np.bool_)
    (found,) = teacher.detect([picture])
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1, initial=np.inf)
    ignored = (found.scores < 0.6) | (sides < _VIDEO_SMALLEST)
    labels = Labels(found.boxes, found.landmarks, ignored, np.ones(len(found), np.bool_))
    across = found.landmarks[:, 1, 0] - found.landmarks[:, 0, 0]
    nose = found.landmarks[:, 2, 0] - found.landmarks[:, 0, 0]
    share = nose / np.maximum(across, 1e-3)
    return labels, (share < 0.12) | (share > 0.88) | (across < 0.22 * (found.boxes[:, 2] - found.boxes[:, 0]))


def outcomes(detector: Detector, pictures: list[Reference]) -> dict[str, Outcome]:
    """What ``detector``, made with a threshold of :data:`LOWEST`, does on every set."""
    sums: dict[str, Outcome] = {}
    for each in pictures:
        (found,) = detector.detect([each.picture], still=each.still)
        grey = each.group.endswith("without colour") or bool((each.picture[..., 0] == each.picture[..., 2]).all())
        judge(sums.setdefault(each.group, Outcome()), found, each.labels, each.profile, picture=each.picture, grey=grey)
    return sums


def videos_of(sums: dict[str, Outcome]) -> Outcome:
    """The video files gathered."""
    gathered = Outcome()
    for name, each in sums.items():
        if name not in ("crowds", "crowds without colour", "backgrounds"):
            gathered.pictures += each.pictures
            gathered.faces += each.faces
            gathered.false += each.false
    return gathered


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The lowest ones at which neither people's pictures nor backgrounds show more false faces, and videos neither."""

    pictures: float
    videos: float

    @classmethod
    def chosen(cls, sums: dict[str, Outcome]) -> Thresholds:
        """Choose them by what a detector does on ``tune``; that for frames of videos is never the lower one."""
        gathered = [sums[name] for name in ("crowds", "crowds without colour", "backgrounds")]
        pictures = max(each.threshold_for(ALLOWED) for each in gathered)
        return cls(pictures, max(pictures, videos_of(sums).threshold_for(ALLOWED)))


def contenders(root: Path, weights: Path, former: Path | None, *, others: bool) -> list[Contender]:
    """The detectors of the comparison, at the sizes that matter; ``others`` are those that are not ours."""
    yunet = str(file_in(root, YUNET))
    wanted = [("built-in", str(weights))] + ([("former", str(former))] if former is not None else [])
    wanted += [("CenterFace", "centerface"), ("YuNet n", yunet)] if others else []
    return [
        Contender(title + size, load_detector(name, threshold=LOWEST, max_faces=500, det_size=side))
        for title, name in wanted
        for size, side in (("", None), (" 640", 640))
    ]


def compare(root: Path, weights: Path, part: str, *, former: Path | None, others: bool) -> str:
    """Markdown tables of ``part``; thresholds are chosen on ``tune``, whichever part is shown."""
    rows = contenders(root, weights, former, others=others)
    tune = list(references(root, "tune"))
    shown = tune if part == "tune" else list(references(root, part))
    close = close_ups(shown)
    lines, results, filled = [], [], []
    for row in rows:
        chosen = outcomes(row.detector, tune)
        thresholds = Thresholds.chosen(chosen)
        sums = chosen if part == "tune" else outcomes(row.detector, shown)
        results.append((row.title, thresholds, sums, milliseconds(row.detector)))
        filled.append((row.title, [found_close_up(row.detector, close, *one, thresholds.videos) for one in CLOSE_UPS]))
    lines += summary_table(results)
    lines += group_table(results)
    lines += close_up_table(filled)
    lines += video_table(results)
    return "\n".join(lines)


Results = list[tuple[str, Thresholds, dict[str, Outcome], float]]


def summary_table(results: Results) -> list[str]:
    """One line a detector: recall by size, false faces, landmarks, cost."""
    lines = [
        "| detector | threshold | 10-16 px | 16-32 px | >= 32 px | false a picture | of backgrounds "
        "| landmarks | in videos | recall | false | ms at 640x384 |",
        "|---" * 12 + "|",
    ]
    for title, thresholds, sums, cost in results:
        people, clips, threshold = sums["crowds"], videos_of(sums), thresholds.pictures
        sizes = [recall([f for f in people.faces if GROUPS[name](f)], threshold) for name in list(GROUPS)[:3]]
        cells = [f"{threshold:.2f}", *(f"{each:.3f}" for each in sizes)]
        cells += [f"{people.false_a_picture(threshold):.3f}", f"{sums['backgrounds'].false_a_picture(threshold):.3f}"]
        cells += [f"{100 * landmark_error(people.faces, threshold):.1f} %", f"{thresholds.videos:.2f}"]
        cells += [f"{recall(clips.faces, thresholds.videos):.3f}"]
        cells += [f"{clips.false_a_picture(thresholds.videos):.3f}", f"{cost:.1f}"]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def group_table(results: Results) -> list[str]:
    """Recall on crowds by group; grey ones are the same pictures without colour."""
    lines = ["| faces | count | " + " | ".join(title for title, *_ in results) + " |"]
    lines.append("|---" * (len(results) + 2) + "|")
    for name, belongs in GROUPS.items():
        cells, count = [], 0
        for _, thresholds, sums, _ in results:
            source = "crowds without colour" if name.startswith("grey") else "crowds"
            faces = [face for face in sums[source].faces if belongs(face)]
            count = len(faces)
            cells.append(f"{recall(faces, thresholds.pictures):.3f}")
        lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def close_ups(pictures: list[Reference]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Pictures with a face that is large enough to be enlarged: every n-th, at least :data:`_FEWEST_CLOSE` of many."""
    found = [
        (each.picture, box)
        for each in pictures
        for box, ignored in zip(each.labels.boxes, each.labels.ignored, strict=True)
        if each.group == "crowds" and not ignored and (box[2:] - box[:2]).min() >= _CLOSE
    ]
    return found[:: max(1, len(found) // _FEWEST_CLOSE)]


def found_close_up(
    detector: Detector,
    faces: list[tuple[NDArray[np.uint8], NDArray[np.float32]]],
    size: tuple[int, int],
    share: float,
    threshold: float,
) -> float:
    """Share of faces found where each fills a ``share`` of the height of a frame of ``size`` (width, height)."""
    hits = 0
    for picture, box in faces:
        scale = share * size[1] / (box[3] - box[1])
        shift = np.array(size) / 2 - scale * (box[:2] + box[2:]) / 2
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        method = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
        view = cv2.warpAffine(picture, matrix, size, flags=method, borderValue=(110, 110, 110))
        (found,) = detector.detect([np.asarray(view, np.uint8)])
        edges = np.tile(size, 2)
        wanted = np.clip(box * scale + np.tile(shift, 2), 0, edges)
        boxes = np.clip(found.boxes[found.scores >= threshold], 0, edges)
        hits += bool((overlaps(boxes, wanted[None].astype(np.float32)) >= OVERLAP).any())
    return hits / max(1, len(faces))


def close_up_table(filled: list[tuple[str, list[float]]]) -> list[str]:
    """Recall by what a face fills of its frame, the faces of crowds enlarged."""
    lines = ["| frame, face's share of its height | " + " | ".join(title for title, _ in filled) + " |"]
    lines.append("|---" * (len(filled) + 1) + "|")
    for row, ((width, height), share) in enumerate(CLOSE_UPS):
        cells = " | ".join(f"{values[row]:.3f}" for _, values in filled)
        lines.append(f"| {width}x{height}, {share:.0%} | {cells} |")
    return [*lines, ""]


def video_table(results: Results) -> list[str]:
    """Recall and false faces a frame of every video."""
    names = [name for name in results[0][2] if name not in ("crowds", "crowds without colour", "backgrounds")]
    lines = ["| video | frames | faces | " + " | ".join(title for title, *_ in results) + " |"]
    lines.append("|---" * (len(results) + 3) + "|")
    for name in names:
        cells = [
            f"{recall(sums[name].faces, thresholds.videos):.3f}, {sums[name].false_a_picture(thresholds.videos):.3f}"
            for _, thresholds, sums, _ in results
        ]
        first = results[0][2][name]
        lines.append(f"| {name} | {first.pictures} | {len(first.faces)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def milliseconds(detector: Detector, passes: int = 12) -> float:
    """Median CPU time of one 640 x 384 frame, in milliseconds."""
    frame = np.random.default_rng(0).integers(0, 256, (384, 640, 3), np.uint8)
    taken = []
    for _ in range(passes):
        began = time.process_time()
        detector.detect([frame])
        taken.append(time.process_time() - began)
    return float(np.median(taken)) * 1e3


def thresholds_of(root: Path, weights: Path) -> Thresholds:
    """The thresholds that an exported network gets: chosen on ``tune``, frames read as the product reads them."""
    detector = load_detector(str(weights), threshold=LOWEST, max_faces=500)
    return Thresholds.chosen(outcomes(detector, list(references(root, "tune"))))

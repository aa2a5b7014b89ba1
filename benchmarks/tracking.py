"""Compare trackers on generated scenes with known ids and on real clips; prints Markdown tables.

    python benchmarks/tracking.py                       generated scenes
    python benchmarks/tracking.py --crowds crowds.parquet      cameras moving over real pictures of several people
    python benchmarks/tracking.py --clips FOLDER --weights yunet_n_dynamic.onnx
    python benchmarks/tracking.py --small-faces --weights yunet_n_dynamic.onnx
    python benchmarks/tracking.py --search --clips FOLDER --crowds crowds.parquet --weights builtin   where to look

HOTA, IDF1 and id switches are computed by the trackers library's own evaluation. A face that the detector missed
counts as missed by the tracker: no tracker here invents faces.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import supervision as sv
from asked import above_zero, asked, whole
from numpy.typing import NDArray
from trackers import BoTSORTTracker, ByteTrackTracker, OCSORTTracker
from trackers.eval import (
    aggregate_clear_metrics,
    aggregate_hota_metrics,
    aggregate_identity_metrics,
    box_iou,
    compute_clear_metrics,
    compute_hota_metrics,
    compute_identity_metrics,
)
from tracking_clips import clip_table, small_face_table
from tracking_crowds import crowd_scenes
from tracking_scenes import Sample, play, scenes, sprites
from tracking_search import Followed, clips, follow, newcomers

from streamfer.faces import FaceTracker, TrackerSettings, load_detector, settle
from streamfer.faces.appearance import Appearance, colours_and_gradients

#: Ids and boxes of one frame.
Frame = tuple[NDArray[np.int64], NDArray[np.float32]]
Follow = Callable[[Sequence[Sample], float], list[Frame]]


@dataclass(frozen=True)
class Score:
    """Metrics of one tracker over some scenes."""

    hota: float
    idf1: float
    switches: int
    missed: int
    invented: int
    milliseconds: float


def plain(make: Callable[[float], Any]) -> Follow:
    """Return the library's tracker as it is: its defaults, told the frame rate."""

    def follow(samples: Sequence[Sample], fps: float) -> list[Frame]:
        engine = make(fps)
        frames = []
        for sample in samples:
            found = engine.update(
                sv.Detections(
                    xyxy=sample.detections.boxes.astype(np.float64),
                    confidence=sample.detections.scores.astype(np.float64),
                )
            )
            ids = np.asarray(found.tracker_id, np.int64)
            frames.append((ids[ids >= 0], found.xyxy[ids >= 0].astype(np.float32)))
        return frames

    return follow


def ours(detect_every: int = 1, appearance: Appearance | None = colours_and_gradients, **settings: Any) -> Follow:
    """Return streamfer's tracker with these settings."""

    def follow(samples: Sequence[Sample], fps: float) -> list[Frame]:
        tracker = FaceTracker(fps, settings=TrackerSettings(**settings), appearance=appearance)
        answers = [
            tracker.update(sample.image, None if index % detect_every else sample.detections)
            for index, sample in enumerate(samples)
        ]
        return [
            (
                np.array([face.track for face in faces], np.int64),
                np.array([face.box for face in faces], np.float32).reshape(-1, 4),
            )
            for faces in settle(answers)
        ]

    return follow


CANDIDATES: dict[str, Follow] = {
    "ByteTrack as it comes": plain(lambda fps: ByteTrackTracker(frame_rate=fps)),
    "OC-SORT as it comes": plain(lambda fps: OCSORTTracker(frame_rate=fps)),
    "BoT-SORT as it comes": plain(lambda fps: BoTSORTTracker(frame_rate=fps, enable_cmc=False)),
    "streamfer (default)": ours(),
    "streamfer, boxes alone": ours(appearance=None),
    "streamfer, no return after absence": ours(forget_seconds=0.5),
    "streamfer, detection on every 2nd sample": ours(detect_every=2),
    "streamfer, detection on every 3rd sample": ours(detect_every=3),
}


def measure(samples: Sequence[Sample], frames: Sequence[Frame]) -> tuple[dict[str, Any], ...]:
    """Return HOTA, identity and CLEAR metrics of one scene."""
    truth = _dense([sample.ids for sample in samples])
    found = _dense([ids for ids, _ in frames])
    overlaps = [
        box_iou(sample.boxes.astype(np.float64), boxes.astype(np.float64)).reshape(len(sample.ids), len(ids))
        for sample, (ids, boxes) in zip(samples, frames, strict=True)
    ]
    return (
        compute_hota_metrics(truth, found, overlaps),
        compute_identity_metrics(truth, found, overlaps),
        compute_clear_metrics(truth, found, overlaps),
    )


def summary(parts: Sequence[tuple[dict[str, Any], ...]], milliseconds: float) -> Score:
    """Join the metrics of several scenes."""
    hota = aggregate_hota_metrics([part[0] for part in parts])
    identity = aggregate_identity_metrics([part[1] for part in parts])
    clear = aggregate_clear_metrics([part[2] for part in parts])
    return Score(
        float(np.mean(hota["HOTA"])),
        float(identity["IDF1"]),
        int(clear["IDSW"]),
        int(clear["CLR_FN"]),
        int(clear["CLR_FP"]),
        milliseconds,
    )


def generated(fps: float, seeds: int, first: int) -> dict[str, list[Sample]]:
    """Return the frames of the scenes with moving actors."""
    people = sprites()
    return {scene.name: list(play(scene, fps, people)) for scene in scenes(seeds, first)}


def compare(played: dict[str, list[Sample]], fps: float, names: Iterable[str]) -> None:
    """Print one table over all scenes, and the default's table by kind of scene."""
    total = sum(len(sample.ids) for samples in played.values() for sample in samples)
    print(f"\n{len(played)} scenes, {total} visible faces, {fps:g} samples a second\n")
    print("| tracker | HOTA | IDF1 | id switches | missed | invented | ms a frame |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        results = {scene: _run(CANDIDATES[name], samples, fps) for scene, samples in played.items()}
        cost = float(np.mean([spent for _, spent in results.values()]))
        _print_row(name, summary([part for part, _ in results.values()], cost))
        if "default" in name:
            default = results
    print("\nThe default by kind of scene:\n")
    print("| scenes | HOTA | IDF1 | id switches | missed | invented | ms a frame |")
    print("|---|---|---|---|---|---|---|")
    kinds = dict.fromkeys(scene.rsplit("-", 1)[0] for scene in default)
    for kind in kinds:
        chosen = [value for scene, value in default.items() if scene.startswith(kind)]
        _print_row(kind, summary([part for part, _ in chosen], float(np.mean([spent for _, spent in chosen]))))


def _run(follow: Follow, samples: Sequence[Sample], fps: float) -> tuple[tuple[dict[str, Any], ...], float]:
    start = time.perf_counter()
    frames = follow(samples, fps)
    spent = (time.perf_counter() - start) / max(1, len(samples)) * 1000
    return measure(samples, frames), spent


def _print_row(name: str, score: Score) -> None:
    print(
        f"| {name} | {score.hota:.3f} | {score.idf1:.3f} | {score.switches} | {score.missed} "
        f"| {score.invented} | {score.milliseconds:.1f} |"
    )


def search_table(wanted: argparse.Namespace) -> None:
    """Print what is lost and saved where faces are followed: true faces in crowds; in clips, against whole frames."""
    detector = load_detector(wanted.weights, for_tracking=True)
    fps = wanted.fps[0]
    sets: dict[str, list[tuple[list[NDArray[np.uint8]], list[Frame] | None]]] = {}
    if wanted.crowds:
        played = crowd_scenes(wanted.crowds, fps, wanted.seeds, wanted.first_seed).values()
        sets["crowds"] = [([s.image for s in samples], [(s.ids, s.boxes) for s in samples]) for samples in played]
    if wanted.clips:
        truth = json.loads((wanted.clips / "ground_truth.json").read_text())["videos"]
        sets["clips, against whole frames"] = [(images, None) for images in clips(wanted.clips, truth, fps).values()]
    print(f"\nDetector {detector.name}, {fps:g} samples a second\n")
    print("| set | search | recall | id switches | invented | people | delay, s | whole | ms a frame |")
    print("|" + "---|" * 9)
    for title, scenes_of in sets.items():
        whole = [follow(images, fps, detector, "full") for images, _ in scenes_of]
        near = [follow(images, fps, detector, "follow") for images, _ in scenes_of]
        hurried = [follow(images, fps, detector, "follow", hurried=True) for images, _ in scenes_of]
        truths = [known or all_whole.frames for (_, known), all_whole in zip(scenes_of, whole, strict=True)]
        for mode, runs in (("full", whole), ("follow", near), ("follow, hurried", hurried)):
            print(f"| {title} | {mode} | {_search_row(truths, runs, fps)} |", flush=True)


def _search_row(truths: Sequence[Sequence[Frame]], runs: Sequence[Followed], fps: float) -> str:
    parts, delays = [], list[float]()
    for truth, run in zip(truths, runs, strict=True):
        true, found = _dense([ids for ids, _ in truth]), _dense([ids for ids, _ in run.frames])
        overlaps = [
            box_iou(a.astype(np.float64), b.astype(np.float64)).reshape(len(a), len(b))
            for (_, a), (_, b) in zip(truth, run.frames, strict=True)
        ]
        parts.append(compute_clear_metrics(true, found, overlaps, threshold=0.4))
        delays += newcomers(truth, run.frames, fps)
    clear = aggregate_clear_metrics(parts)
    recall = clear["CLR_TP"] / max(1, clear["CLR_TP"] + clear["CLR_FN"])
    people = sum(len({int(key) for ids, _ in run.frames for key in ids}) for run in runs)
    whole, near = sum(run.whole for run in runs), sum(run.near for run in runs)
    spent = sum(run.seconds for run in runs) / sum(len(run.frames) for run in runs) * 1000
    return (
        f"{recall:.4f} | {int(clear['IDSW'])} | {int(clear['CLR_FP'])} | {people} | {np.mean(delays):.2f} "
        f"| {whole / (whole + near):.0%} | {spent:.1f}"
    )


def _dense(ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Renumber ids from 0 without gaps, as the library's evaluation wants them."""
    known: dict[int, int] = {}
    return [np.array([known.setdefault(int(key), len(known)) for key in frame], np.int64) for frame in ids]


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fps", type=above_zero, nargs="+", default=[8.0])
    parser.add_argument("--seeds", type=whole, default=4, help="scenes of each kind")
    parser.add_argument("--first-seed", type=int, default=0, help="0 to 7 were looked at while tuning")
    parser.add_argument("--only", help="run the candidates whose name holds this")
    parser.add_argument("--crowds", type=Path, help="crowds.parquet: its pictures under moving cameras")
    parser.add_argument("--clips", type=Path, help="folder with clips and ground_truth.json")
    parser.add_argument("--weights", default="auto", help="detector for the clips")
    parser.add_argument("--search", action="store_true", help="faces followed against whole frames, by the detector")
    parser.add_argument("--small-faces", action="store_true", help="recall of small faces in a 1080p frame")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    if arguments.small_faces:
        small_face_table(arguments.weights)
    elif arguments.search:
        search_table(arguments)
    elif arguments.clips:
        truth = json.loads((arguments.clips / "ground_truth.json").read_text())["videos"]
        clip_table(arguments.clips, truth, arguments.weights)
    else:
        names = [name for name in CANDIDATES if not arguments.only or arguments.only in name or "default" in name]
        for fps in arguments.fps:
            which = (fps, arguments.seeds, arguments.first_seed)
            played = crowd_scenes(arguments.crowds, *which) if arguments.crowds else generated(*which)
            compare(played, fps, names)


if __name__ == "__main__":
    asked(main)

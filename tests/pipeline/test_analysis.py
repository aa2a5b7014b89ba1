"""What faces are worth is measured where their crops are cut; a fault there ends one source alone."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from numpy.typing import NDArray
from PIL import Image
from scenes import CONFIG, clips, done, face_at, one_face, run

from streamfer.config import configure
from streamfer.errors import InternalError
from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import Detections, TrackedFrame
from streamfer.faces.search import FaceSearch
from streamfer.faces.tracking import FaceTracker
from streamfer.pipeline.analysis import AnalysisPlan, DetectorPool, SourceAnalysis
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, Item
from streamfer.pipeline.selection import TimeSelector
from streamfer.video import find_sources, open_source


class Scripted:
    """A tracker that sees two people in every picture, one of them far away."""

    def update(self, image: NDArray[np.uint8], detections: Detections | None) -> TrackedFrame:
        del image, detections
        return TrackedFrame((face_at(1, quality=math.nan), face_at(2, 90.0, 4.0, math.nan)))


def test_faces_too_small_to_be_read_are_neither_measured_nor_cut() -> None:
    crop = FakeExpressionModel().info.crop
    config = configure(CONFIG, faces__search="full")
    plan = AnalysisPlan(config, crop, lambda _source: TimeSelector(25), lambda _info: Scripted())  # type: ignore[arg-type,return-value]
    source, out = FakeSource(one_face, count=3, fps=25), list[Item]()
    detectors = DetectorPool([FakeDetector()])
    SourceAnalysis(source, plan, detectors, out.append, threading.Event(), StageClock()).run()
    frames = [item for item in out if isinstance(item, AnalysedFrame)]
    assert len(frames) == 3
    for frame in frames:
        assert [face.track for face in frame.faces] == [1]
        assert 0 <= frame.faces[0].quality <= 1
        assert [face.track for face in frame.too_small] == [2]
        assert math.isnan(frame.too_small[0].quality)
        assert frame.crops.shape == (1, crop.size, crop.size, 3)


@pytest.mark.parametrize(("live", "staleness", "hurries"), [(True, 0.4, True), (True, 60, False), (False, 0.4, False)])
def test_frames_that_waited_long_are_searched_in_a_hurry_where_they_may_be_lost(
    monkeypatch: pytest.MonkeyPatch, live: bool, staleness: float, hurries: bool
) -> None:
    hurry = []

    def detect(self: FaceSearch, detector: object, image: NDArray[np.uint8], *, hurried: bool = False) -> Detections:
        time.sleep(0.05)
        hurry.append(hurried)
        return Detections.empty()

    monkeypatch.setattr(FaceSearch, "detect", detect)
    source, out = FakeSource(one_face, count=6, fps=25, live=live), list[Item]()
    config = configure(CONFIG, live__staleness=staleness, live__queue_frames=64)
    plan = AnalysisPlan(
        config, FakeExpressionModel().info.crop, lambda _: TimeSelector(25), lambda _: FaceTracker(25)
    )  # fmt: skip
    SourceAnalysis(source, plan, DetectorPool([FakeDetector()]), out.append, threading.Event(), StageClock()).run()
    assert any(hurry) == hurries


@pytest.mark.parametrize("search", ["full", "follow"])
def test_a_still_is_searched_as_one(search: str, tmp_path: Path) -> None:
    Image.fromarray(one_face(0)).save(tmp_path / "photograph.png")
    (spec,) = find_sources([str(tmp_path / "photograph.png")])
    config, crop = configure(CONFIG, faces__search=search), FakeExpressionModel().info.crop
    plan = AnalysisPlan(config, crop, lambda _: TimeSelector(25), lambda _: FaceTracker(25))
    for source, still in ((open_source(spec), True), (FakeSource(one_face, count=1, fps=25), False)):
        detector, out = FakeDetector(), list[Item]()
        SourceAnalysis(source, plan, DetectorPool([detector]), out.append, threading.Event(), StageClock()).run()
        assert detector.still is still


def test_a_fault_ends_its_source_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(image, boxes, landmarks, profile):  # type: ignore[no-untyped-def]
        if threading.current_thread().name == "analyse b":
            raise RuntimeError("no crop")
        return crop_faces(image, boxes, landmarks, profile)

    monkeypatch.setattr("streamfer.pipeline.analysis.crop_faces", fails)
    events = run([FakeSource(one_face, count=100, fps=25, source_id=name) for name in ("a", "b")])
    ends = done(events)
    assert ends["a"].error is None
    assert isinstance(ends["b"].error, InternalError)
    assert "no crop" in str(ends["b"].error)
    assert clips(events, "a")
    assert not clips(events, "b")

"""Crops are cut beside the search in the next frame: in order, and a fault ends one source alone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from scenes import CONFIG, clips, done, face_at, facts_at, one_face, run

from streamfer.errors import InternalError
from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import TrackedFrame
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.cutting import CropCutter, TrackedPicture
from streamfer.pipeline.items import AnalysedFrame, Item

CROP = FakeExpressionModel().info.crop


def pictures(count: int) -> list[TrackedPicture]:
    """Return frames with one face each."""
    image = np.zeros((120, 160, 3), np.uint8)
    return [TrackedPicture("a", 0, n, facts_at(n), image, TrackedFrame((face_at(1),)), 0) for n in range(count)]


@pytest.mark.parametrize("live", [True, False])
def test_frames_leave_in_their_order_and_all_before_the_end(live: bool) -> None:
    out: list[Item] = []
    cutter = CropCutter(lambda: live, CONFIG.faces, CROP, None, out.append, StageClock(), "cut a")
    for picture in pictures(20):
        cutter.put(picture)
    assert cutter.close() is None
    assert [item.tick for item in out if isinstance(item, AnalysedFrame)] == list(range(20))
    assert not any(thread.name == "cut a" for thread in threading.enumerate())


@pytest.mark.parametrize("live", [True, False])
def test_only_files_go_on_while_a_frame_is_cut(live: bool) -> None:
    out: list[Item] = []

    def slowly(item: Item) -> None:
        time.sleep(0.2)
        out.append(item)

    cutter = CropCutter(lambda: live, CONFIG.faces, CROP, None, slowly, StageClock(), "cut a")
    cutter.put(pictures(1)[0])
    assert len(out) == live
    cutter.close()
    assert len(out) == 1


def test_a_fault_ends_its_source_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(image, boxes, landmarks, profile):  # type: ignore[no-untyped-def]
        if threading.current_thread().name == "cut b":
            raise RuntimeError("no crop")
        return crop_faces(image, boxes, landmarks, profile)

    monkeypatch.setattr("streamfer.pipeline.cutting.crop_faces", fails)
    events = run([FakeSource(one_face, count=100, fps=25, source_id=name) for name in ("a", "b")])
    ends = done(events)
    assert ends["a"].error is None
    assert isinstance(ends["b"].error, InternalError)
    assert "no crop" in str(ends["b"].error)
    assert clips(events, "a")
    assert not clips(events, "b")

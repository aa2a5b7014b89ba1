"""What faces are worth is measured where their crops are cut; a fault there ends one source alone."""

from __future__ import annotations

import math
import threading

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


def test_faces_too_small_to_be_read_are_neither_measured_nor_cut() -> None:
    crop = FakeExpressionModel().info.crop
    tracked = TrackedFrame((face_at(1, quality=math.nan), face_at(2, 90.0, 4.0, math.nan)))
    picture = TrackedPicture("a", 0, 0, facts_at(0), np.full((160, 240, 3), 90, np.uint8), tracked, 0)
    frame = CropCutter(CONFIG.faces, crop, None, StageClock()).analysed(picture)
    assert [face.track for face in frame.faces] == [1]
    assert 0 <= frame.faces[0].quality <= 1
    assert [face.track for face in frame.too_small] == [2]
    assert math.isnan(frame.too_small[0].quality)
    assert frame.crops.shape == (1, crop.size, crop.size, 3)


def test_a_fault_ends_its_source_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(image, boxes, landmarks, profile):  # type: ignore[no-untyped-def]
        if threading.current_thread().name == "analyse b":
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

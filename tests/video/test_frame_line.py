"""What one connection of a camera brings, in order: epochs open where its clock or its pictures change."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from streamfer.video import Frame, StateChange, find_sources
from streamfer.video.connection import Arrival, Opened
from streamfer.video.frame_line import FrameLine


def test_a_clock_that_jumps_back_within_a_connection_opens_an_epoch() -> None:
    opened = Opened("h264", 25.0, None, Fraction(1, 90000))
    line = FrameLine(find_sources(["rtsp://cam/live"])[0], opened, epoch=0)
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
    arrivals = [
        Arrival(picture, pts, 5000.0 + second, second, None) for second, pts in enumerate((900_000, 990_000, 45_000))
    ]
    items = [item for arrival in arrivals for item in line.advance(arrival, None)]
    assert [(type(item).__name__, item.epoch) for item in items] == [
        ("StateChange", 0),
        ("Frame", 0),
        ("Frame", 0),
        ("StateChange", 1),
        ("Frame", 1),
    ]
    assert isinstance(items[3], StateChange)
    assert "clock jumps back by 10.5 s" in items[3].reason


def test_pictures_of_another_size_open_an_epoch_with_new_facts() -> None:
    opened = Opened("mjpeg", 25.0, None, Fraction(1, 1000))
    line = FrameLine(find_sources(["http://cam/live.mjpg"])[0], opened, epoch=4)
    sizes = [(48, 64), (48, 64), (96, 160), (96, 160)]
    pictures = [av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8)) for size in sizes]
    arrivals = [Arrival(picture, 40 * number, 5000.0 + number, number, None) for number, picture in enumerate(pictures)]
    items = [item for arrival in arrivals for item in line.advance(arrival, None)]
    online = [item for item in items if isinstance(item, StateChange)]
    assert [(item.epoch, item.info.width, item.info.height) for item in online if item.info] == [
        (4, 64, 48),
        (5, 160, 96),
    ]
    shapes = [(item.epoch, item.image.shape[:2]) for item in items if isinstance(item, Frame)]
    assert shapes == [(4, (48, 64)), (4, (48, 64)), (5, (96, 160)), (5, (96, 160))]


@pytest.mark.parametrize(("by", "way"), [(3600.0, "ahead"), (-3600.0, "back")])
def test_a_clock_of_this_machine_that_is_set_is_no_slow_link(by: float, way: str) -> None:
    opened = Opened("h264", 25.0, None, Fraction(1, 1000))
    line = FrameLine(find_sources(["rtsp://cam/live"])[0], opened, epoch=0)
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
    arrivals = [Arrival(picture, 40 * n, 5000.0 + 0.04 * n + by * (n > 50), 0.04 * n, None) for n in range(100)]
    items = [item for arrival in arrivals for item in line.advance(arrival, None)]
    _, told = [item for item in items if isinstance(item, StateChange)]
    assert (told.epoch, told.reason) == (1, f"this machine's clock was set {way} by 3600 s")
    assert told.leap is not None
    assert told.leap.pts == 0
    times = [item.wall_time for item in items if isinstance(item, Frame)]
    assert times == pytest.approx([arrival.arrived for arrival in arrivals])
    assert line.late == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("captured", "origin", "wall_time"),
    [(None, "wallclock", 5000.0), (4999.7, "rtcp", 4999.7), (100.0, "wallclock", 5000.0)],
    ids=["no report", "sender report", "camera clock never set"],
)
def test_wall_time_follows_the_sender_where_it_can_be_believed(
    captured: float | None, origin: str, wall_time: float
) -> None:
    opened = Opened("h264", 25.0, None, Fraction(1, 90000))
    line = FrameLine(find_sources(["rtsp://cam/live"])[0], opened, epoch=3)
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
    online, frame = line.advance(Arrival(picture, 9000, 5000.0, 0.0, captured), None)
    assert isinstance(online, StateChange)
    assert isinstance(frame, Frame)
    assert (frame.time_origin, frame.wall_time, frame.epoch) == (origin, wall_time, 3)
    assert online.info is not None
    assert online.info.epoch_key == str(round(wall_time * 1000))
    # Behind a jump, what the sender reported is of another clock.
    _, frame = line.advance(Arrival(picture, -900_000, 5000.04, 0.04, captured), None)
    assert isinstance(frame, Frame)
    assert (frame.time_origin, frame.wall_time, frame.epoch) == ("wallclock", 5000.04, 4)

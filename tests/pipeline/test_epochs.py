"""Live sources that begin, break, come back, or whose clock is set: what their epochs give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
from fakes.video import FakeSource, Jump
from scenes import clips, one_face, run

from streamfer.records import Gap, Record, SourceStateChanged
from streamfer.video.frames import Frame, FrameFilter, Leap, StateChange

AT_ONCE = {"live__queue_frames": 200, "live__staleness": 60}  # so a live film that comes all at once loses no frame


def test_a_camera_is_labelled_from_half_a_window_on_and_a_film_from_a_whole_one() -> None:
    def seconds(live: bool) -> list[tuple[object, object]]:
        events = run([FakeSource(one_face, count=90, fps=25, live=live)], **AT_ONCE)
        spans = [clip.clip for clip in clips(events)]
        ids = [event.id for event in events if isinstance(event, Record)]
        assert len(set(ids)) == len(ids)
        return [(span.start_pts * float(Fraction(*span.time_base)), span.end_time - span.start_time) for span in spans]

    whole = [(0, pytest.approx(1.9, abs=0.1)), (1, pytest.approx(1.9, abs=0.1))]
    assert seconds(live=False)[:2] == whole
    assert seconds(live=True)[:3] == [(0, pytest.approx(0.9, abs=0.1)), *whole]


def test_a_restarted_clock_begins_a_new_epoch_with_new_ids() -> None:
    events = run([FakeSource(one_face, count=120, fps=25, live=True, script={60: [Jump()]})], **AT_ONCE)
    spans = {(clip.clip.epoch, clip.clip.start_pts) for clip in clips(events)}
    assert {epoch for epoch, _ in spans} == {0, 1}
    ids = [event.id for event in events if isinstance(event, Record)]
    assert len(ids) == len(set(ids))


def test_an_interruption_is_a_state_record_and_a_gap() -> None:
    lost = StateChange("backoff", 0, 1000.0, reason="rtsp://user:secret@10.0.0.1/ went away", attempt=1, delay=0.5)
    source = FakeSource(one_face, count=120, fps=25, live=True, script={60: [lost, Jump()]})
    documents = [event.data for event in run([source], **AT_ONCE) if isinstance(event, Record)]
    states = [document for document in documents if isinstance(document, SourceStateChanged)]
    assert [state.state for state in states] == ["online", "backoff", "online", "ended"]
    assert "secret" not in states[1].reason
    (gap,) = [document for document in documents if isinstance(document, Gap)]
    assert (gap.cause, gap.epoch, gap.start_time, gap.end_time) == ("reconnect", 1, 1000.0, states[2].wall_time)


class _ClockSet(FakeSource):
    """Its second epoch is timed by a clock that was set ahead by an hour."""

    def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
        for item in super().stream(wanted):
            if isinstance(item, Frame) and item.epoch:
                yield replace(item, wall_time=item.wall_time + 3600)
            elif isinstance(item, StateChange) and item.epoch and item.state == "online":
                yield replace(item, reason="set ahead", leap=Leap(0, Fraction(1, 1000), 1_700_003_602.4, "wallclock"))
            else:
                yield item


def test_an_hour_that_was_none_is_no_gap_of_an_hour() -> None:
    source = _ClockSet(one_face, count=120, fps=25, live=True, script={60: [Jump()]})
    gaps = [event.data for event in run([source], **AT_ONCE) if isinstance(event, Record)]
    (gap,) = [document for document in gaps if isinstance(document, Gap)]
    assert (gap.cause, gap.reason, gap.end_time - gap.start_time) == ("clock_jump", "set ahead", 0)

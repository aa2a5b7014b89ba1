"""How sources run beside one another: faults that stay at home, ends, stops, and queues that hold back or drop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from scenes import clips, done, one_face, pipeline, run

from streamfer.errors import InternalError, SourceUnreadableError
from streamfer.pipeline.events import SourceDone, SourceOpened
from streamfer.records import Record
from streamfer.video.frames import Frame, FrameFilter, StateChange


def test_a_source_that_fails_leaves_the_others_alone() -> None:
    broken = FakeSource(
        one_face, count=80, fps=25, source_id="broken", script={60: [SourceUnreadableError("broken: torn tape")]}
    )
    events = run([broken, FakeSource(one_face, count=100, fps=25, source_id="sound")])
    ends = done(events)
    assert str(ends["broken"].error) == "broken: torn tape"
    assert ends["sound"].error is None
    assert len(clips(events, "sound")) == 3


def test_a_defect_in_one_source_is_reported_as_its_end() -> None:
    broken = FakeSource(one_face, count=80, source_id="broken", script={9: [ZeroDivisionError("oops")]})
    error = done(run([broken]))["broken"].error
    assert isinstance(error, InternalError)
    assert "oops" in str(error)


def test_a_failing_model_ends_the_run_with_its_error() -> None:
    class Failing(FakeExpressionModel):
        def encode(self, crops: np.ndarray) -> torch.Tensor:
            raise RuntimeError(f"no memory for {len(crops)} crops")

    films = [FakeSource(one_face, count=2000, source_id=str(number)) for number in range(3)]
    with pytest.raises(RuntimeError, match="no memory"):
        run(films, model=Failing())


def test_nothing_of_a_source_follows_its_end() -> None:
    """And a record tells it, also of a camera that has been away."""
    away = FakeSource(
        one_face, count=100, fps=25, source_id="d", live=True, script={100: [StateChange("backoff", 0, time.time())]}
    )
    events = run([*(FakeSource(one_face, count=100, fps=25, source_id=name) for name in "abc"), away])
    for name in "abcd":
        mine = [
            e for e in events if (e.subject if isinstance(e, Record) else e.source_id) == name
        ]  # fmt: skip
        assert isinstance(mine[-1], SourceDone)
        assert "state='ended'" in repr(getattr(mine[-2], "data", None))
        assert sum(isinstance(e, SourceDone) for e in mine) == 1


def test_files_are_opened_a_few_at_a_time() -> None:
    events = run([FakeSource(one_face, count=50, fps=25, source_id=name) for name in "abcd"], max_open=1)
    kinds = [type(event) for event in events if isinstance(event, SourceOpened | SourceDone)]
    assert kinds == [SourceOpened, SourceDone] * 4


def test_stopping_labels_complete_windows_and_ends_every_source() -> None:
    class Slow(FakeSource):
        def stream(self, wanted: FrameFilter | None = None) -> Iterator[Frame | StateChange]:
            for item in super().stream(wanted):
                time.sleep(0.001)
                yield item

    running = pipeline()
    events = []
    for event in running.events([Slow(one_face, count=10**6, fps=25, source_id=name) for name in "ab"]):
        events.append(event)
        if len(clips(events)) == 6:
            running.stop()
    ends = done(events)
    assert set(ends) == {"a", "b"}
    told = [event.subject for event in events if isinstance(event, Record) and "ended" in repr(event.data)]
    assert sorted(told) == ["a", "b"], "each by a record"
    assert all(end.stopped and end.error is None for end in ends.values())
    assert all(clip.clip.frames_sampled == 16 for clip in clips(events))
    assert not [thread for thread in threading.enumerate() if "analyse" in thread.name or "read " in thread.name]


def test_leaving_the_iteration_ends_every_thread() -> None:
    events = pipeline().events([FakeSource(one_face, count=10**6, source_id="endless", live=True)])
    next(events)
    events.close()
    assert not [thread for thread in threading.enumerate() if "endless" in thread.name]


def test_a_slow_consumer_holds_files_back_and_memory_with_them() -> None:
    made = []

    def picture(number: int) -> np.ndarray:
        made.append(number)
        return one_face(number)

    events = pipeline().events([FakeSource(picture, count=5000, fps=8)])
    for _ in range(5):
        next(events)
    time.sleep(0.5)
    ahead = len(made)
    # Bounded queues: events, items, chosen frames. Far less than the film.
    assert ahead < 600
    events.close()


def test_live_frames_are_dropped_oldest_first_and_counted() -> None:
    class Hesitant(FakeExpressionModel):
        def encode(self, crops: np.ndarray) -> torch.Tensor:
            time.sleep(0.05)
            return super().encode(crops)

    events = run([FakeSource(one_face, count=4000, fps=8, live=True)], model=Hesitant(), model__batch_size=1)
    stats = done(events)["fake"].stats
    assert stats.frames_decoded == 4000
    assert stats.frames_dropped > 0
    # "online" and the like are never dropped; every frame is either analysed or counted.
    assert stats.frames_analysed + stats.frames_dropped == 4000

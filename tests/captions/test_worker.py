"""Captions in the pipeline: which clips, which pictures, in which order, and what happens when writing goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes.captioners import FakeCaptioner
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource, Jump
from scenes import clips, done, one_face, pipeline, squares, two_faces

from streamfer.captions import worker
from streamfer.captions.checks import faults
from streamfer.captions.measurements import measure
from streamfer.captions.protocol import Captioner, Keyframes, Writer
from streamfer.captions.worker import CaptionWorker
from streamfer.captions.writers import MeasuredWriter, ModelWriter
from streamfer.config import CaptionsConfig
from streamfer.geometry import squashed_crop
from streamfer.models.expression import Abstention
from streamfer.pipeline.events import Event, SourceDone
from streamfer.pipeline.loop import Pipeline
from streamfer.pipeline.observer import ObserverPlan
from streamfer.records import ClipCaptioned, ClipLabelled, Gap, Record
from streamfer.video.frames import Source


def captioned_pipeline(
    captioner: Captioner | Writer, *, model: FakeExpressionModel | None = None, patient: bool = True, **settings: Any
) -> Pipeline:
    """A pipeline of fakes that describes clips."""
    captions = CaptionsConfig(**{"when": "all", **settings})
    writer = ModelWriter(captioner, captions) if isinstance(captioner, Captioner) else captioner
    chosen = ObserverPlan(writer.info.crop, lambda run: CaptionWorker(writer, captions, run, patient=patient), captions)
    return pipeline(model=model, observed=chosen)


def run(sources: Sequence[Source], captioner: Captioner | Writer, **more: Any) -> list[Event]:
    return list(captioned_pipeline(captioner, **more).events(sources))


def captions(events: Sequence[Event]) -> list[ClipCaptioned]:
    return [event.data for event in events if isinstance(event, Record) and isinstance(event.data, ClipCaptioned)]


def gaps(events: Sequence[Event]) -> dict[str, int]:
    """How many captions are lacking, by cause."""
    found: dict[str, int] = {}
    for event in events:
        if isinstance(event, Record) and isinstance(event.data, Gap):
            assert event.data.unit == "captions"
            found[event.data.cause] = found.get(event.data.cause, 0) + event.data.count
    return found


def film(seconds: float = 6, source_id: str = "fake") -> FakeSource:
    return FakeSource(one_face, count=round(25 * seconds), fps=25, source_id=source_id)


# -- keyframes --------------------------------------------------------------------------------------------------


def blinking(number: int) -> np.ndarray:
    """A face that is dim, grows bright from frame 25 on, is brightest at 38, and dims again."""
    picture = np.full((160, 240, 3), 30, np.uint8)
    picture[50:98, 60:108] = 205 + max(0, 50 - 4 * abs(number - 38))
    return picture


def test_the_pictures_that_are_described_are_those_of_the_expression() -> None:
    # The fake model's units are the brightness of bands of the crop, from the top.
    reader = FakeExpressionModel(action_units=("AU01", "AU06", "AU12", "AU25"))
    events = run([FakeSource(blinking, count=50, fps=25)], FakeCaptioner(), model=reader)
    (label,), (caption,) = clips(events), captions(events)
    onset, apex = (pts / label.clip.time_base[1] * label.clip.time_base[0] for pts in caption.keyframes_pts)
    assert apex == pytest.approx(38 / 25, abs=0.13)
    assert 0.8 < onset < apex


# -- which clips ------------------------------------------------------------------------------------------------


def test_every_caption_follows_its_label_and_names_it() -> None:
    events = run([film()], FakeCaptioner())
    seen: dict[str, Record] = {}
    described = []
    for event in events:
        if isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            seen[event.id] = event
        if isinstance(event, Record) and isinstance(event.data, ClipCaptioned):
            label = seen[event.data.clip_id].data
            assert isinstance(label, ClipLabelled)
            assert event.data.clip == label.clip
            assert (event.data.track_id, event.data.model.name) == (label.faces[0].track_id, "fake")
            inside = [label.clip.start_pts <= pts <= label.clip.end_pts for pts in event.data.keyframes_pts]
            assert inside
            assert all(inside)
            described.append(event.data.clip_id)
    assert described == list(seen)
    assert isinstance(events[-1], SourceDone)
    stats = events[-1].stats
    assert (stats.captions, stats.captions_dropped, stats.captions_failed) == (len(described), 0, 0)
    assert len(described) == stats.clips > 3


def test_only_changes_are_described_unless_all_are_asked_for() -> None:
    still = squares((60, 50))

    def steady_film() -> FakeSource:
        return FakeSource(lambda _: still, count=200, fps=25)

    steady = run([steady_film()], FakeCaptioner(), when="changes", interval=100)
    assert len(captions(steady)) == 1
    again = run([steady_film()], FakeCaptioner(), when="changes", interval=3)
    assert [caption.clip.start_time for caption in captions(again)] == pytest.approx([0, 3, 6], abs=0.1)
    both = run([FakeSource(two_faces, count=100, fps=25)], FakeCaptioner(), when="changes")
    assert {caption.track for caption in captions(both)} == {1, 2}


def test_a_change_of_label_is_described() -> None:
    def picture(number: int) -> np.ndarray:
        # The fake model's label is the brightest band of the face.
        image = squares((60, 50), number=number)
        image[51:56, 61:107] = 255 if number < 100 else 201
        image[90:97, 61:107] = 201 if number < 100 else 255
        return image

    events = run([FakeSource(picture, count=200, fps=25)], FakeCaptioner(), when="changes", interval=100)
    tops = [(clip.clip.start_time, clip.faces[0].top) for clip in clips(events)]
    changes = [tops[0]] + [now for before, now in pairwise(tops) if before[1] != now[1]]
    assert len(changes) > 1
    assert [caption.clip.start_time for caption in captions(events)] == [start for start, _ in changes]


def test_a_new_epoch_is_a_new_face() -> None:
    source = FakeSource(one_face, count=150, fps=25, script={75: [Jump()]})
    events = run([source], FakeCaptioner(), when="changes", interval=100)
    assert {caption.clip.epoch for caption in captions(events)} == {0, 1}


def test_a_face_that_cannot_be_read_for_a_while_has_not_changed() -> None:
    def picture(number: int) -> np.ndarray:
        return squares((60, 50), number=7, size=48 if number < 75 or number > 150 else 36)

    unsure = FakeExpressionModel(abstention=Abstention(min_side=40))
    events = run(
        [FakeSource(picture, count=250, fps=25)],
        FakeCaptioner(),
        model=unsure,
        when="changes",
        interval=100,
    )
    found = clips(events)
    assert [clip.faces[0].reason for clip in found].count("small") == 3
    sure = [clip for clip in found if clip.faces[0].top]
    changed = [sure[0], *(clip for before, clip in pairwise(sure) if clip.faces[0].top != before.faces[0].top)]
    assert [caption.clip for caption in captions(events)] == [clip.clip for clip in changed]


def test_faces_beyond_the_cap_are_labelled_and_counted() -> None:
    events = run([FakeSource(two_faces, count=100, fps=25)], FakeCaptioner(), max_faces=1)
    assert {clip.faces[0].track for clip in clips(events)} == {1, 2}
    end = done(events)["fake"].stats
    assert end.captions + end.captions_dropped == end.clips
    assert gaps(events) == {"no_picture": end.captions_dropped}
    assert end.captions_dropped > 0


def test_crops_are_those_that_the_captioner_wants() -> None:
    shapes: set[tuple[int, ...]] = set()

    class Looking(FakeCaptioner):
        def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
            shapes.update(clip.shape[1:] for clip in clips)
            return super().caption(clips, questions)

    own = FakeExpressionModel()
    run([film(3)], Looking(crop=squashed_crop(40)), model=own)
    assert shapes == {(40, 40, 3)}
    run([film(3)], Looking(crop=own.info.crop), model=own)
    assert shapes == {(40, 40, 3), (32, 32, 3)}


def test_labels_do_not_depend_on_captions() -> None:
    plain = list(pipeline().events([film()]))
    described = run([film()], FakeCaptioner())
    assert [clip.faces for clip in clips(plain)] == [clip.faces for clip in clips(described)]


# -- when writing is slow, or goes wrong ------------------------------------------------------------------------


def test_clips_that_wait_are_described_together() -> None:
    gate = Gate()
    events: list[Event] = []
    for event in captioned_pipeline(gate, batch_size=6).events([film(8, "a"), film(8, "b")]):
        events.append(event)
        if len(clips(events)) >= 4:
            gate.opened.set()
    assert 1 < max(gate.batches) <= 6
    assert sum(gate.batches) == len(captions(events)) == len(clips(events))


def test_files_wait_for_their_captions() -> None:
    slow = FakeCaptioner(delay=0.02)
    events = run([film(8)], slow, queue=1, batch_size=1, max_age=0.001)
    assert len(captions(events)) == len(clips(events))
    assert gaps(events) == {}


class Gate(FakeCaptioner):
    """Writes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.busy = threading.Event()

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        self.busy.set()
        if self.patience is not None:
            self.patience.begin()
        while not self.opened.wait(0.02):
            if self.patience is not None and self.patience.over():
                raise self.patience.error()
        return super().caption(clips, questions)

    def film(self, seconds: float) -> FakeSource:
        """A film whose first clips are labelled, and one of them in hand, before it goes on."""

        def picture(number: int) -> np.ndarray:
            assert number < 90 or self.busy.wait(60)
            return one_face(number)

        return FakeSource(picture, count=round(25 * seconds), fps=25)


def test_labels_come_while_the_captioner_is_stuck_and_old_clips_are_dropped() -> None:
    gate = Gate()
    labels: list[Event] = []
    events: list[Event] = []
    made = captioned_pipeline(gate, patient=False, queue=3, batch_size=1, max_age=3.0)
    for event in made.events([gate.film(10)]):
        events.append(event)
        if isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            labels.append(event)
        if len(labels) == 9 and not gate.opened.is_set():
            # Every label is here and not one caption: nothing waited for words.
            assert captions(events) == []
            time.sleep(3.2)
            gate.opened.set()
    end = done(events)["fake"].stats
    assert end.clips == len(labels)
    assert end.captions == len(captions(events)) == 1
    assert end.captions_dropped == end.clips - 1
    lacking = gaps(events)
    assert set(lacking) == {"queue_full", "too_old"}
    assert lacking["too_old"] == 3
    assert sum(lacking.values()) == end.captions_dropped


def test_a_captioner_that_fails_is_counted_and_labels_go_on() -> None:
    events = run([film(8)], FakeCaptioner(error=ValueError("no such token\nsecond line")))
    end = done(events)["fake"]
    assert end.error is None
    assert end.stats.clips == len(clips(events)) > 5
    assert (end.stats.captions, end.stats.captions_failed) == (0, end.stats.clips)
    reasons = {event.data.reason for event in events if isinstance(event, Record) and isinstance(event.data, Gap)}
    assert "ValueError: no such token" in reasons


def test_a_captioner_that_fails_again_and_again_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FakeCaptioner(error=RuntimeError("out of order"))
    events = run([film(10)], broken, batch_size=1)
    assert len(broken.batches) == 3
    assert gaps(events)["captioner_resting"] == len(clips(events)) - 3
    monkeypatch.setattr(worker, "_REST_SECONDS", 0.0)
    tireless = FakeCaptioner(error=RuntimeError("out of order"))
    events = run([film(10)], tireless, batch_size=1)
    assert len(tireless.batches) == len(clips(events))


def test_a_captioner_that_hangs_is_given_up() -> None:
    gate = Gate()
    began = time.monotonic()
    events = run([film(6)], gate, batch_size=2, timeout=0.1)
    assert time.monotonic() - began < 60
    end = done(events)["fake"].stats
    assert (end.captions, end.captions_failed) == (0, end.clips)
    assert gaps(events)["captioner_timeout"] >= 2
    gate.opened.set()


def test_an_empty_caption_is_replaced_by_measured_words() -> None:
    class Silent(FakeCaptioner):
        def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
            return ["" for _ in clips]

    events = run([film(4)], Silent())
    assert {(one.writer, one.replaced) for one in captions(events)} == {("measured", "wrote nothing")}
    end = done(events)["fake"].stats
    assert end.captions == end.captions_replaced == end.clips


def test_measured_words_agree_with_their_record_and_need_no_pictures() -> None:
    reader = FakeExpressionModel(action_units=("AU01", "AU06", "AU12", "AU25"))
    events = run([film(6)], MeasuredWriter(), model=reader)
    labels = {event.id: event.data for event in events if isinstance(event, Record)}
    found = captions(events)
    assert len(found) == len(clips(events)) > 3
    for one in found:
        label = labels[one.clip_id]
        assert isinstance(label, ClipLabelled)
        assert (one.generated, one.writer, one.replaced, one.keyframes_pts) == (True, "measured", None, ())
        assert one.measured is not None
        known = measure(label, None)
        assert one.measured["emotion"] == known.emotion
        assert not faults(one.text, known, complete=False) or one.measured["action_units"]


def test_what_was_described_before_makes_room_for_new_people() -> None:
    gate = Gate()

    alone, together = squares((60, 50)), squares((60, 50), (150, 50))

    def picture(number: int) -> np.ndarray:
        return together if number > 150 else alone

    settings: dict[str, Any] = {"patient": False, "queue": 2, "batch_size": 1, "max_age": 60}
    events: list[Event] = []
    labelled: list[ClipLabelled] = []
    for event in captioned_pipeline(gate, **settings).events([FakeSource(picture, count=400, fps=25)]):
        events.append(event)
        if isinstance(event, Record) and isinstance(event.data, ClipLabelled):
            labelled.append(event.data)
        # More clips of both came behind the first one of the newcomer, which waits as long as they.
        if sum(clip.faces[0].track == 2 for clip in labelled) > 3:
            gate.opened.set()
    newcomer = next(clip for clip in labelled if clip.faces[0].track == 2)
    assert newcomer.clip in [caption.clip for caption in captions(events) if caption.track == 2]


def test_too_few_captions_are_an_error_not_a_mix_up() -> None:
    class Miser(FakeCaptioner):
        def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
            return super().caption(clips, questions)[1:]

    events = run([film(4)], Miser())
    assert captions(events) == []
    assert set(gaps(events)) == {"captioner_failed"}


def test_stopping_does_not_wait_for_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.2)
    gate = Gate()
    made = captioned_pipeline(gate, batch_size=1)
    events: list[Event] = []
    began = 0.0
    for event in made.events([gate.film(60)]):
        events.append(event)
        if gate.busy.is_set() and not began:
            began = time.monotonic()
            made.stop()
    assert began
    assert time.monotonic() - began < 50
    assert done(events)["fake"].stopped
    assert not [thread for thread in threading.enumerate() if thread.name == "streamfer captions"]
    gate.opened.set()

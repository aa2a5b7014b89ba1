"""The pipeline as a whole, on fakes: what it promises whatever the model, the detector and the source."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes.models import FakeExpressionModel
from fakes.video import FakeSource
from made_videos import leaping
from scenes import GRID, clips, done, one_face, rows, run, squares, two_faces

from streamfer.build import build_pipeline
from streamfer.config import ClipConfig, Config, SamplingConfig, configure
from streamfer.errors import ConfigError
from streamfer.models.expression import Abstention
from streamfer.pipeline.events import Event, SourceDone, SourceOpened, SourceStats
from streamfer.pipeline.selection import WholeClipSelector
from streamfer.pipeline.windows import WindowGrid
from streamfer.records import ClipLabelled, Gap, Record
from streamfer.video import find_sources, open_source


class RememberingModel(FakeExpressionModel):
    """Keeps every crop with its feature, and every window."""

    def __init__(self) -> None:
        super().__init__()
        self.crops: list[np.ndarray] = []
        self.windows: list[torch.Tensor] = []

    def encode(self, crops: np.ndarray) -> torch.Tensor:
        self.crops += list(crops)
        return super().encode(crops)

    def classify(self, windows: torch.Tensor) -> np.ndarray:
        self.windows += list(windows)
        return super().classify(windows)


def test_no_crop_is_encoded_twice() -> None:
    model = FakeExpressionModel()
    events = run([FakeSource(one_face, count=250, fps=25)], model=model)
    analysed = sum(bool(row.faces) for row in rows(events))
    assert analysed == 80
    assert model.encoded == analysed
    assert len(set(model.seen)) == model.encoded
    # Sixteen frames a window every eight: without the ring 1.8 times as many.
    assert sum(16 for _ in clips(events)) > 1.7 * model.encoded


def test_a_sliding_window_equals_encoding_its_frames_afresh() -> None:
    model = RememberingModel()
    events = run([FakeSource(one_face, count=250, fps=25)], model=model)
    fresh = FakeExpressionModel()
    labelled = clips(events)
    assert len(labelled) == 9
    for number, document in enumerate(labelled):
        start = GRID.start(number)
        window = fresh.encode(np.stack(model.crops[start : start + 16]))[None]
        expected = fresh.classify(window)[0]
        assert torch.equal(model.windows[number], window[0])
        assert np.allclose(list(document.faces[0].emotions.values()), expected, atol=1e-6)


UNITS = ("AU06", "AU12", "AU25")


class CountingReader(FakeExpressionModel):
    """Reads action units, and counts for how many features it was asked."""

    def __init__(self) -> None:
        super().__init__(action_units=UNITS)
        self.read = 0
        self.calls = 0

    def actions(self, features: torch.Tensor) -> np.ndarray:
        self.read += len(features)
        self.calls += 1
        return super().actions(features)


def test_action_units_are_read_once_a_face_and_reach_rows_and_records() -> None:
    model = CountingReader()
    events = run([FakeSource(two_faces, count=100, fps=25)], model=model)
    found = [row for row in rows(events) if row.faces]
    assert model.read == model.encoded == 2 * len(found)
    assert model.calls <= len(model.batches)
    (opened,) = [event for event in events if isinstance(event, SourceOpened)]
    assert (opened.action_units, opened.action_thresholds) == (UNITS, (0.5, 0.5, 0.5))
    by_track: dict[int, list[tuple[float, ...]]] = {1: [], 2: []}
    for row in found:
        for face in row.faces:
            assert face.action_units is not None
            assert tuple(face.action_units) == UNITS
            by_track[face.track].append(tuple(face.action_units.values()))
    labelled = clips(events)
    assert len(labelled) == 2 * 3
    for clip in labelled:
        (read,) = clip.faces
        first = round(clip.clip.start_time * 8)
        seen = np.array(by_track[read.track][first : first + clip.clip.frames_real])
        assert read.action_units is not None
        assert read.action_units_peak is not None
        assert tuple(read.action_units) == tuple(read.action_units_peak) == UNITS
        np.testing.assert_allclose(list(read.action_units.values()), seen.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(list(read.action_units_peak.values()), seen.max(axis=0), atol=1e-6)
        assert read.action_units["AU25"] < read.action_units_peak["AU25"]


def test_where_no_emotions_are_named_the_movements_are_the_same() -> None:
    named = clips(run([FakeSource(two_faces, count=100, fps=25)], model=CountingReader()))
    events = run([FakeSource(two_faces, count=100, fps=25)], model=CountingReader(), model__emotions=False)
    (opened,) = [event for event in events if isinstance(event, SourceOpened)]
    assert (opened.classes, opened.action_units) == ((), UNITS)
    withheld = clips(events)
    assert len(withheld) == len(named) == 6
    for before, after in zip(named, withheld, strict=True):
        (face,), (known,) = after.faces, before.faces
        assert (face.top, face.emotions, face.reason, face.label) == (None, {}, "withheld", "withheld")
        assert face.action_units == known.action_units
        document = after.model_dump_json()
        assert not any(f'"{name}"' in document for name in known.emotions)


def test_what_may_name_emotions_is_refused_where_they_are_withheld() -> None:
    info = SimpleNamespace(name="reader", action_units=UNITS)
    models: Any = SimpleNamespace(expression=SimpleNamespace(info=info))
    config = configure(Config(), model__emotions=False, captioner="openai:seer")
    with pytest.raises(ConfigError, match="openai:seer may name emotions; only 'measured' words do not"):
        build_pipeline(config, models, live=False)
    info.action_units = ()
    with pytest.raises(ConfigError, match="reader reads no action units, so nothing would be left"):
        build_pipeline(config, models, live=False)


def test_a_units_mean_is_over_the_pictures_that_showed_the_face() -> None:
    def picture(number: int) -> np.ndarray:
        return squares(number=number) if 10 <= number < 22 else squares((60, 50), number=number)

    events = run([FakeSource(picture, count=50, fps=25)], model=FakeExpressionModel(action_units=UNITS))
    (clip,) = clips(events)
    assert (clip.clip.frames_real, clip.clip.frames_sampled) == (12, 16)
    seen = [list((face.action_units or {}).values()) for row in rows(events) for face in row.faces]
    assert len(seen) == 12
    np.testing.assert_allclose(list((clip.faces[0].action_units or {}).values()), np.mean(seen, axis=0), atol=1e-6)


def test_frames_that_only_help_tracking_have_no_action_units() -> None:
    events = run(
        [FakeSource(one_face, count=200, fps=25)],
        model=CountingReader(),
        grid=WindowGrid.of(ClipConfig(mode="whole"), SamplingConfig(), 16),
        selector=lambda _source: WholeClipSelector(200, 16, 8.0),
    )
    read = [face.action_units is not None for row in rows(events) for face in row.faces]
    assert sum(read) == 16
    assert len(read) > 60
    (clip,) = clips(events)
    assert set(clip.faces[0].action_units or {}) == set(UNITS)


def test_a_model_without_action_units_is_not_asked_for_them() -> None:
    class Without(FakeExpressionModel):
        def actions(self, features: torch.Tensor) -> np.ndarray:
            raise AssertionError(f"asked for {len(features)} faces")

    events = run([FakeSource(one_face, count=60, fps=25)], model=Without())
    assert all(face.action_units is None for row in rows(events) for face in row.faces)
    assert all(clip.faces[0].action_units is None for clip in clips(events))
    assert not any("action_units" in event.to_json() for event in events if isinstance(event, Record))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 1000])
def test_labels_and_ids_do_not_depend_on_the_batch(batch_size: int) -> None:
    def films() -> list[FakeSource]:
        return [FakeSource(two_faces, count=90, fps=25, source_id=name) for name in ("a", "b", "c")]

    def told(events: list[Event]) -> dict[str, object]:
        records = {event.id: event.data for event in events if isinstance(event, Record)}
        return {name: data.faces[0].emotions for name, data in records.items() if isinstance(data, ClipLabelled)}

    reference = told(run(films(), model__batch_size=16))
    assert len(reference) == 3 * 2 * 3
    assert told(run(films(), model__batch_size=batch_size)) == reference


def test_crops_of_different_sources_share_a_batch() -> None:
    model = FakeExpressionModel()
    films = [FakeSource(one_face, count=60, fps=25, source_id=f"film-{number}") for number in range(6)]
    run(films, model=model, model__batch_size=16, model__batch_wait=0.5)
    assert max(model.batches) > 6
    assert max(model.batches) <= 16


def test_two_people_are_two_tracks_on_one_grid() -> None:
    labelled = clips(run([FakeSource(two_faces, count=100, fps=25)]))
    spans: dict[int, list[tuple[int, int]]] = {face.track: [] for clip in labelled for face in clip.faces}
    for clip in labelled:
        spans[clip.faces[0].track].append((clip.clip.start_pts, clip.clip.end_pts))
    assert set(spans) == {1, 2}
    assert spans[1] == spans[2]


def test_a_short_source_is_labelled_from_what_it_shows() -> None:
    (clip,) = clips(run([FakeSource(one_face, count=20, fps=25)]))
    assert clip.clip.frames_real == clip.clip.frames_sampled == 7


def test_the_end_of_a_source_is_labelled_when_half_a_window_is_new() -> None:
    ends = [clip.clip.end_time for clip in clips(run([FakeSource(one_face, count=67, fps=25)]))]
    assert ends == pytest.approx([1.88, 2.64])


def test_a_face_that_leaves_and_comes_back_has_no_clip_across_the_gap() -> None:
    def picture(number: int) -> np.ndarray:
        return squares(number=number) if 50 <= number < 125 else squares((60, 50), number=number)

    labelled = clips(run([FakeSource(picture, count=250, fps=25)]))
    spans = sorted((clip.clip.start_time, clip.clip.frames_real) for clip in labelled)
    assert spans[0][1] == 16
    # 2.0 to 5.0 s show nobody: the window of second 1 has half its frames, those of 2 and 3 none, of 4 half.
    assert [round(start) for start, _ in spans] == [0, 1, 4, 5, 6, 7, 8]


def test_a_track_confirmed_late_loses_none_of_its_first_frames() -> None:
    events = run([FakeSource(one_face, count=100, fps=25)])
    assert all(len(row.faces) == 1 for row in rows(events))
    assert clips(events)[0].clip.frames_real == 16


def test_frame_rows_are_complete_and_in_order() -> None:
    found = rows(run([FakeSource(two_faces, count=100, fps=25)]))
    assert [row.index for row in found] == sorted({row.index for row in found})
    assert len(found) == 32
    assert all(len(row.faces) == 2 for row in found)


def test_the_same_film_gives_the_same_ids() -> None:
    def ids() -> list[str]:
        events = run([FakeSource(two_faces, count=100, fps=25)])
        return [event.id for event in events if isinstance(event, Record) and event.data in clips([event])]

    assert ids() == ids()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"min_side": 60}, "small"),
        ({"min_pose": 1.0}, "turned"),
        ({"min_sharpness": 0.999}, "blurred"),
        ({"min_probability": 0.9}, "uncertain"),
        ({"min_side": 60, "min_pose": 1.0, "min_probability": 0.9}, "small"),
        ({"min_sharpness": 0.999, "min_probability": 0.9}, "blurred"),
        ({"min_side": 40, "min_probability": 0.01}, None),
    ],
)
def test_what_cannot_be_read_is_not_named_and_says_why(limits: dict[str, float], reason: str | None) -> None:
    def films() -> list[FakeSource]:
        return [FakeSource(one_face, count=60, fps=25)]

    plain = clips(run(films()))
    unsure = clips(run(films(), model=FakeExpressionModel(abstention=Abstention(**limits))))
    assert len(plain) == len(unsure) > 0
    for before, after in zip(plain, unsure, strict=True):
        assert after.faces[0].reason == reason
        assert after.faces[0].top == (None if reason else before.faces[0].top)
        assert after.faces[0].emotions == before.faces[0].emotions


def test_a_face_counts_by_the_median_of_its_pictures() -> None:
    def picture(number: int) -> np.ndarray:
        return squares((60, 50), number=number, size=20 if number < 20 else 48)

    model = FakeExpressionModel(abstention=Abstention(min_side=40))
    small = [clip.faces[0].reason for clip in clips(run([FakeSource(picture, count=100, fps=25)], model=model))]
    assert small == [None, None, None]


def test_faces_below_the_least_size_are_followed_and_counted() -> None:
    def picture(number: int) -> np.ndarray:
        image = squares((20, 50), number=number)
        image[60:75, 150:165] = 230
        # The third comes near after two seconds.
        side = 14 if number < 50 else 40
        image[100 : 100 + side, 100 : 100 + side] = 220
        return image

    events = run([FakeSource(picture, count=100, fps=25)], faces__min_size=18)
    stats = done(events)["fake"].stats
    assert stats.tracks == 2
    assert stats.tracks_too_small == 1
    found = rows(events)
    assert stats.faces_too_small == sum(len(row.too_small) for row in found) == 32 + 16
    first, *_, last = sorted(clips(events), key=lambda clip: clip.clip.start_time)
    assert (first.clip.faces_too_small, last.clip.faces_too_small) == (2, 1)
    assert clips(run([FakeSource(one_face, count=60, fps=25)]))[0].clip.faces_too_small is None


def test_whole_clips_have_one_window() -> None:
    events = run(
        [FakeSource(one_face, count=100, fps=25)],
        grid=WindowGrid.of(ClipConfig(mode="whole"), SamplingConfig(), 16),
        selector=lambda _source: WholeClipSelector(100, 16, 8.0),
    )
    (clip,) = clips(events)
    tick = 100 / 16
    assert clip.clip.frames_real == 16
    assert clip.clip.start_pts == int(tick / 2) * 1000
    assert clip.clip.end_pts == int(tick / 2 + 15 * tick) * 1000


def test_records_say_where_the_clip_lies() -> None:
    first, second, *_ = clips(run([FakeSource(one_face, count=100, fps=25)]))
    assert (first.clip.start_time, first.clip.end_time) == pytest.approx((0.0, 1.88))
    assert second.clip.start_time == pytest.approx(1.0)
    assert first.clip.frames_decoded == 48
    assert first.video.measured_fps == pytest.approx(25)
    for earlier, later in pairwise([first, second]):
        assert later.clip.start_pts > earlier.clip.start_pts


def test_a_clock_that_leaps_ahead_makes_two_epochs_and_a_gap(tmp_path: Path) -> None:
    later = 49 * 86_400
    times = [number / 25 + (later if number >= 75 else 0) for number in range(150)]
    leaping(tmp_path / "leap.mkv", [one_face(number) for number in range(150)], times)
    events = run([open_source(find_sources([str(tmp_path / "leap.mkv")])[0])])
    assert [event.epoch for event in events if isinstance(event, SourceOpened)] == [0, 1]
    assert [clip.clip.epoch for clip in clips(events)] == [0, 0, 1, 1]
    (gap,) = [event.data for event in events if isinstance(event, Record) and isinstance(event.data, Gap)]
    assert (gap.cause, gap.epoch, gap.end_pts) == ("clock_jump", 1, 0)
    assert gap.time_base is not None
    assert gap.start_pts is not None
    assert gap.start_pts * gap.time_base[0] / gap.time_base[1] == -later
    done = events[-1]
    assert isinstance(done, SourceDone)
    assert (done.stats.frames_analysed, round(done.stats.seconds)) == (48, 6)


@pytest.mark.parametrize(
    ("faces", "tracks", "words"),
    [
        (0, 0, ""),
        (1, 0, "1 face too small to read (below faces.min_size)"),
        (30, 1, "1 person too small to read (30 faces below faces.min_size)"),
        (42, 3, "3 people too small to read (42 faces below faces.min_size)"),
    ],
)
def test_who_is_too_small_is_said_in_words(faces: int, tracks: int, words: str) -> None:
    assert SourceStats(faces_too_small=faces, tracks_too_small=tracks).unread == words

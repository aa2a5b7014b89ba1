"""An epoch behind the encoder: provisional tracks gather features and are never labelled before they are people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from scenes import GRID, face_at, facts_at

from streamfer.faces.detections import HORIZON
from streamfer.pipeline.events import FrameFaces
from streamfer.pipeline.items import AnalysedFrame, EpochOpened
from streamfer.pipeline.session import ClipJob, EpochSession
from streamfer.video.frames import VideoInfo

INFO = VideoInfo(
    source_id="film",
    location="film.mp4",
    width=240,
    height=160,
    codec="fake",
    declared_fps=8.0,
    duration=None,
    rotation=0,
    live=False,
    epoch_key="film",
)


def session() -> EpochSession:
    opened = EpochOpened("film", 0, INFO, Fraction(1, 8), "file")
    return EpochSession(opened, GRID, ("AU12",), lambda track: f"film-{track}")


def frame(
    tick: int,
    tracks: Sequence[int],
    renamed: Sequence[tuple[int, int]] = (),
    *,
    small: Sequence[int] = (),
    size: tuple[int, int] = (240, 160),
) -> AnalysedFrame:
    return AnalysedFrame(
        source_id="film",
        epoch=0,
        tick=tick,
        facts=facts_at(tick, *size),
        faces=tuple(face_at(track) for track in tracks),
        too_small=tuple(face_at(track) for track in small),
        renamed=tuple(renamed),
        crops=np.zeros((len(tracks), 8, 8, 3), np.uint8),
        portraits=(None,) * len(tracks),
    )


def play(frames: Sequence[AnalysedFrame]) -> tuple[list[FrameFaces], list[ClipJob]]:
    """Put frames through a session, with features and units that tell track and tick."""
    epoch = session()
    entries: list[FrameFaces | ClipJob] = []
    for one in frames:
        features = torch.tensor([[float(face.track), float(one.tick or 0)] for face in one.faces]).reshape(-1, 2)
        entries += epoch.add(one, features, [(float(face.track),) for face in one.faces])
    entries += epoch.finish(flush=True)
    rows = [entry for entry in entries if isinstance(entry, FrameFaces)]
    return rows, [entry for entry in entries if isinstance(entry, ClipJob)]


def confirmed_at(late: int) -> list[AnalysedFrame]:
    """Sixteen frames of a face that is known to be a person from one of them on."""
    before = [frame(tick, [-1]) for tick in range(late)]
    return [*before, frame(late, [1], [(-1, 1)]), *[frame(tick, [1]) for tick in range(late + 1, 16)]]


def test_a_track_that_becomes_a_person_counts_from_its_first_frame() -> None:
    rows, (clip,) = play(confirmed_at(3))
    assert [[face.track for face in row.faces] for row in rows] == [[1]] * 16
    assert [face.action_units for row in rows for face in row.faces][:4] == [{"AU12": -1.0}] * 3 + [{"AU12": 1.0}]
    assert len(set(clip.ticks)) == 16
    assert clip.features[:4].tolist() == [[-1, 0], [-1, 1], [-1, 2], [1, 3]]


def test_a_track_that_never_becomes_a_person_is_neither_labelled_nor_listed() -> None:
    rows, clips = play([frame(tick, [1, -2]) for tick in range(24)])
    assert {face.track for row in rows for face in row.faces} == {1}
    assert {clip.track for clip in clips} == {1}


def test_what_a_track_showed_long_before_it_became_a_person_is_not_believed() -> None:
    late = 12
    rows, (clip,) = play(confirmed_at(late))
    assert [len(row.faces) for row in rows] == [0] * (late - HORIZON) + [1] * (16 - late + HORIZON)
    assert clip.sightings[0].tick == late - HORIZON


def test_a_newcomer_who_turns_out_to_be_known_counts_once_a_frame() -> None:
    # Seen beside the person for two frames (half hidden, say), then alone, then recognised.
    frames = [frame(tick, [1]) for tick in range(4)]
    frames += [frame(4, [1, -2]), frame(5, [1, -2]), frame(6, [-2]), frame(7, [-2])]
    frames += [frame(tick, [1], [(-2, 1)] if tick == 8 else ()) for tick in range(8, 16)]
    rows, (clip,) = play(frames)
    assert [[face.track for face in row.faces] for row in rows] == [[1]] * 16
    assert clip.features[:, 0].tolist() == [1] * 6 + [-2] * 2 + [1] * 8


def test_a_pause_costs_no_time_whatever_its_length() -> None:
    # Half a year later at eight ticks a second: what counts are frames, not the windows that nobody is in.
    later = 120_000_000
    began = time.process_time()
    _, clips = play([frame(tick, [1]) for tick in (*range(24), *range(later, later + 24))])
    assert time.process_time() - began < 5
    # Half a window at either edge of the pause is enough for a label.
    around = [(0, 15), (8, 23), (16, 23), (later, later + 7), (later, later + 15), (later + 8, later + 23)]
    assert [(clip.first.index, clip.last.index) for clip in clips] == around


def test_two_provisional_tracks_can_be_one() -> None:
    frames = [frame(0, [-1]), frame(1, [-2]), frame(2, [-1], [(-2, -1)]), frame(3, [1], [(-1, 1)])]
    rows, (clip,) = play([*frames, *[frame(tick, [1]) for tick in range(4, 16)]])
    assert [[face.track for face in row.faces] for row in rows] == [[1]] * 16
    assert len(set(clip.ticks)) == 16


def test_faces_too_small_to_read_are_counted_in_rows_and_clips() -> None:
    frames = [frame(tick, [1], small=[-2, -3]) for tick in range(4)]
    frames += [frame(tick, [1], [(-2, 2)] if tick == 4 else (), small=[2, -3]) for tick in range(4, 16)]
    rows, (clip,) = play(frames)
    assert [row.too_small for row in rows] == [(2,)] * 16
    assert clip.faces_too_small == 1


def test_boxes_are_fractions_of_their_own_frame() -> None:
    frames = [frame(tick, [1], size=(240, 160) if tick < 8 else (120, 80)) for tick in range(16)]
    rows, (clip,) = play(frames)
    first, last = rows[0].faces[0].box, rows[-1].faces[0].box
    assert last == pytest.approx([2 * value for value in first])
    assert clip.sightings[-1].box == last

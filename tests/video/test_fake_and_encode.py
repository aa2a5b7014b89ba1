"""The fake keeps the protocol of real sources; the encoder leaves whole files or none."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fakes.video import FakeSource, Happening, Jump, sampled

from streamfer.errors import OutputError, SourceUnreachableError
from streamfer.video import (
    FileSource,
    Frame,
    LiveSource,
    Source,
    StateChange,
    find_sources,
    write_video,
)

PICTURE = np.zeros((4, 6, 3), np.uint8)


def test_every_source_keeps_the_protocol(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.touch()
    sources: list[Source] = [
        FakeSource([PICTURE]),
        FileSource(find_sources([str(file)])[0]),
        LiveSource(find_sources(["rtsp://127.0.0.1/live"])[0]),
    ]
    for source in sources:
        assert isinstance(source, Source)


def test_a_fake_plays_its_script() -> None:
    stalled = StateChange("stalled", 0, 0.0, reason="frozen")
    script: dict[int, list[Happening]] = {2: [stalled, Jump(1.0)], 3: [Jump()], 4: [SourceUnreachableError("gone")]}
    source = FakeSource([PICTURE] * 5, fps=10, live=True, script=script)
    items = source.stream()
    seen: list[tuple[object, ...]] = []
    for item in itertools.islice(items, 7):
        if isinstance(item, Frame):
            wall = item.wall_time - 1_700_000_000
            seen.append((item.epoch, item.index, round(item.seconds, 3), round(wall, 3)))
        else:
            seen.append((item.state, item.epoch))
    with pytest.raises(SourceUnreachableError, match="gone"):
        next(items)
    assert seen == [
        ("online", 0),
        (0, 0, 0.0, 0.0),
        (0, 1, 0.1, 0.1),
        ("stalled", 0),
        (0, 2, 1.2, 1.2),
        ("online", 1),
        (1, 0, 0.0, 1.3),
    ]


def test_a_fake_counts_refused_frames_and_ends() -> None:
    source = FakeSource(lambda number: PICTURE + number, count=20, fps=20)
    items = list(source.stream(sampled(5)))
    assert [item.image[0, 0, 0] for item in items if isinstance(item, Frame)] == [0, 4, 8, 12, 16]
    assert source.frames_decoded == 20
    assert isinstance(items[-1], StateChange)
    assert (items[-1].state, items[-1].reason) == ("ended", "")


def test_a_closed_fake_ends() -> None:
    source = FakeSource([PICTURE] * 5)
    items = source.stream()
    next(items)
    next(items)
    source.close()
    assert [type(item).__name__ for item in items] == ["StateChange"]


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("clip.nonsense", [PICTURE] * 3, "cannot be written"),
        ("clip.mp4", [], "no frame to write"),
    ],
)
def test_a_video_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, name: str, frames: list[np.ndarray], words: str
) -> None:
    with pytest.raises(OutputError, match=words) as error:
        write_video(tmp_path / name, frames, 25)
    assert name.rpartition("/")[2] in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_producer_leaves_no_half_written_file(tmp_path: Path) -> None:
    def broken() -> object:
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the camera fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_video(tmp_path / "clip.mp4", broken(), 25)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []

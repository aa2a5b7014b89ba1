"""Random access: the same frames as reading in order, errors that name the file; and pictures that are let go."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import changing

from streamfer.errors import ConfigError, SourceNotFoundError, SourceUnreadableError
from streamfer.video import (
    Frame,
    find_sources,
    open_reader,
    open_source,
    segment_centres,
    write_video,
)


def in_order(path: Path) -> list[np.ndarray]:
    return [item.image for item in open_source(find_sources([str(path)])[0]).stream() if isinstance(item, Frame)]


def test_pictures_of_several_sizes_are_said(tmp_path: Path) -> None:
    changing(tmp_path / "a.ts", [np.zeros((48, 64, 3), np.uint8)] * 10, [np.zeros((96, 128, 3), np.uint8)] * 10)
    reader = open_reader(tmp_path / "a.ts")
    assert reader.read([2, 5]).shape == (2, 48, 64, 3)
    assert reader.read([15]).shape == (1, 96, 128, 3)
    with pytest.raises(SourceUnreadableError, match=r"a\.ts: its pictures change their size from 64x48 to 128x96"):
        reader.read([2, 15])


VIDEOS = [
    "single_face.mp4",
    "no_face.mp4",
    "asl_sorry.mkv",
    "CI1_FT_B.264",
    "CiscoVT2people_320x192_12fps.yuv",
    "head-pose-face-detection-female.gif",
    "single_face.jpg",
    "face_noface.mov",
]


@pytest.mark.parametrize("name", VIDEOS)
def test_pyav_reads_at_random_what_it_reads_in_order(shared_data: Path, name: str) -> None:
    path = shared_data / "videos" / name
    expected = in_order(path)
    reader = open_reader(path)
    assert len(reader) == len(expected)
    shuffled = random.Random(0).choices(range(len(expected)), k=10)
    for indices in (segment_centres(len(expected)), shuffled, [len(expected) - 1], [0]):
        images = reader.read(indices)
        assert images.dtype == np.uint8
        assert all(np.array_equal(image, expected[index]) for image, index in zip(images, indices, strict=True))
    reader.close()


@pytest.mark.parametrize("name", ["single_face.mp4", "asl_sorry.mkv", "head-pose-face-detection-female.gif"])
def test_decord_gives_the_same_pixels_where_it_works(shared_data: Path, name: str) -> None:
    path = shared_data / "videos" / name
    ours, theirs = open_reader(path), open_reader(path, "decord")
    indices = [0, 17, 3, len(ours) - 1]
    assert len(ours) == len(theirs)
    assert ours.fps == pytest.approx(theirs.fps)
    assert np.array_equal(ours.read(indices), theirs.read(indices))
    ours.close()
    theirs.close()


def test_decord_counts_packets_that_an_edit_list_hides(shared_data: Path) -> None:
    # The reason why it is not the default: when this no longer holds, docs/results/readers.md is out of date.
    path = shared_data / "videos" / "no_face.mp4"
    assert (len(open_reader(path)), len(open_reader(path, "decord"))) == (95, 98)


def test_decord_refuses_what_it_cannot_read(shared_data: Path) -> None:
    path = sorted((shared_data / "videos").glob("*.264"))[0]
    with pytest.raises(SourceUnreadableError, match="use the pyav reader"):
        open_reader(path, "decord")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    levels = [np.full((48, 64, 3), level, np.uint8) for level in range(0, 250, 5)]
    write_video(path, levels, 25, times=[index * 0.04 + (index % 3) * 0.01 for index in range(50)])
    return path


@pytest.mark.parametrize("prefer", ["pyav", "decord"])
def test_indices_in_any_order_and_repeated(clip: Path, prefer: str) -> None:
    reader = open_reader(clip, prefer)  # type: ignore[arg-type]
    brightness = reader.read([40, 0, 40, 10, 49]).mean(axis=(1, 2, 3))
    assert brightness == pytest.approx([200, 0, 200, 50, 245], abs=4)
    assert len(reader.read([])) == 0
    reader.close()


@pytest.mark.parametrize("prefer", ["pyav", "decord"])
@pytest.mark.parametrize("index", [-1, 50])
def test_an_index_outside_is_an_index_error(clip: Path, prefer: str, index: int) -> None:
    reader = open_reader(clip, prefer)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=f"frame {index} of a clip of 50"):
        reader.read([0, index])
    reader.close()


def test_turned_video_is_upright_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, [np.zeros((48, 64, 3), np.uint8)] * 3, 25, rotation=90)
    assert open_reader(path).read([1]).shape == (1, 64, 48, 3)
    with pytest.raises(SourceUnreadableError, match="cannot turn pictures upright"):
        open_reader(path, "decord")


@pytest.mark.parametrize("prefer", ["pyav", "decord"])
def test_no_video_is_one_line(tmp_path: Path, prefer: str) -> None:
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    with pytest.raises(SourceUnreadableError, match=r"text\.mp4: not a video"):
        open_reader(tmp_path / "text.mp4", prefer)  # type: ignore[arg-type]
    with pytest.raises(SourceNotFoundError, match=r"gone\.mp4"):
        open_reader(tmp_path / "gone.mp4", prefer)  # type: ignore[arg-type]


def test_an_unknown_reader(clip: Path) -> None:
    with pytest.raises(ConfigError, match="'opencv' is unknown"):
        open_reader(clip, "opencv")  # type: ignore[arg-type]


def test_pictures_are_let_go_without_collecting_garbage(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_video(path, [np.full((48, 64, 3), number, np.uint8) for number in range(60)], 25)
    source = open_source(find_sources([str(path)])[0])
    gc.collect()
    gc.disable()
    try:
        seen = sum(isinstance(item, Frame) for item in source.stream())
        left = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
    finally:
        gc.enable()
    assert seen == 60
    assert left <= 3

"""Files that are cut off are told by their structure, whatever they are called; whole ones never are."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from made_videos import CONTAINERS, in_container, tape
from PIL import Image

from streamfer.errors import SourceUnreadableError
from streamfer.video import Frame, StateChange, find_sources, open_source
from streamfer.video.encode import write_video
from streamfer.video.structure import is_cut_off


def pictures(count: int) -> list[np.ndarray]:
    """Textured pictures, 96 x 64, so that most bytes of a file are its pictures'."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(count)]


def ending(path: Path) -> tuple[int, StateChange]:
    """Frames that come of a file, and what its end says."""
    (spec,) = find_sources([str(path)])
    *items, last = open_source(spec).stream()
    assert isinstance(last, StateChange)
    return sum(isinstance(item, Frame) for item in items), last


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_length_that_lies_is_said_and_nothing_is_left_out(tmp_path: Path, name: str) -> None:
    film = tmp_path / name
    write_video(film, pictures(50), 25.0)
    whole = film.read_bytes()
    for seconds in (0.4, 2.0, 36_000.0):
        if name.endswith("mp4"):
            # Behind the mark of a header: version and flags, two dates, the time scale, then the length.
            content = bytearray(whole)
            for mark in (b"mvhd", b"mdhd"):
                at = whole.index(mark) + 16
                scale = int.from_bytes(whole[at : at + 4])
                content[at + 4 : at + 8] = round(scale * seconds).to_bytes(4)
            # The list of edits would hold a player to its own.
            content = content.replace(b"edts", b"free")
        else:
            at = whole.index(b"\x44\x89\x88") + 3
            content = bytearray(whole.replace(b"DURATION", b"DECLARED"))
            content[at : at + 8] = struct.pack(">d", 1000 * seconds)
        film.write_bytes(content)
        frames, end = ending(film)
        assert (frames, end.cut_off) == (50, False)
        # The index of an MP4 file knows better than its header.
        believed = seconds == 36_000.0 and name.endswith("mkv")
        assert end.reason == ("its pictures end at 2.0 s of the 36000.0 s it declares" if believed else "")


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_is_whole_or_cut_off_in_every_container(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    in_container(path, pictures(50))
    frames, last = ending(path)
    assert (frames, last.cut_off, last.reason) == (50, False, "")
    whole = path.read_bytes()
    # By its content, not by its name.
    path = path.with_suffix(".bin")
    for share in (0.52, 0.6, 0.83):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            frames, last = ending(path)
        except SourceUnreadableError as error:
            assert "cut off" in str(error)  # noqa: PT017
            continue
        assert last.cut_off, share
        assert last.reason.startswith("cut off at "), share
        assert 15 <= frames <= 50


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {"live": "1"}),
        ("a.mov", {"movflags": "+faststart"}),
        ("a.mov", {"movflags": "+frag_keyframe+empty_moov"}),
    ],
)
def test_files_written_for_streaming_too(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    in_container(path, pictures(50), options)
    assert ending(path)[1].cut_off is False
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    frames, last = ending(path)
    assert last.cut_off
    assert frames > 20
    if "frag" in options.get("movflags", ""):
        # The head of a fragment is overwritten: FFmpeg ends there, and an index that lies behind it tells of more.
        in_container(path, pictures(50), options)
        data = path.read_bytes()
        at = data.rfind(b"moof") - 4
        path.write_bytes(data[:at] + bytes(600) + data[at + 600 :])
        frames, last = ending(path)
        assert (last.cut_off, 20 < frames < 50) == (True, True)
        # What a file ends with that is no part of it is nobody's loss.
        path.write_bytes(data + bytes(5000))
        assert (ending(path)[0], ending(path)[1].cut_off) == (50, False)


def test_a_film_without_its_whole_index_is_said_to_be_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    in_container(path, pictures(20))
    data = path.read_bytes()
    for end in (data.rfind(b"moov") + 120, data.rfind(b"moov") - 40):
        path.write_bytes(data[:end])
        with pytest.raises(SourceUnreadableError, match="for it is cut off"):
            ending(path)


def test_a_tape_ends_with_a_whole_frame(tmp_path: Path) -> None:
    tape(tmp_path / "a.dv", 4)
    assert not is_cut_off(tmp_path / "a.dv")
    (tmp_path / "a.dv").write_bytes((tmp_path / "a.dv").read_bytes()[:-1000])
    assert ending(tmp_path / "a.dv")[1].cut_off


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp", "gif", "avif"])
def test_half_a_picture_is_cut_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pictures(1)[0]).save(path)
    assert not is_cut_off(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert is_cut_off(path)


def test_what_promises_nothing_is_never_cut_off(tmp_path: Path) -> None:
    for number, data in enumerate(
        (b"", b"G", b"RIFF", bytes(5000), b"hello" * 100, np.random.default_rng(1).bytes(9000))
    ):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert is_cut_off(path) is (data == b"RIFF"), data[:10]
    assert not is_cut_off(tmp_path)

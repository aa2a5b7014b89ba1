"""Bytes that are overwritten in the middle of a file: every picture that comes out is right, and the rest is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamfer.errors import SourceUnreadableError
from streamfer.video import Frame, StateChange, find_sources, open_source
from streamfer.video.frames import Damage

#: File name, encoder, how many bytes are overwritten in its middle, and where.
CASES = [
    ("a.mkv", "libx264", 800, 0.45),
    ("a.mkv", "libx264", 3000, 0.45),
    ("a.mkv", "mpeg4", 1000, 0.45),
    ("a.webm", "libvpx-vp9", 3000, 0.5),
    ("a.mp4", "libx264", 800, 0.45),
    ("a.mp4", "libx264", 3000, 0.45),
    ("a.mp4", "libx265", 3000, 0.45),
    ("a.ts", "libx264", 400, 0.45),
    ("a.ts", "mpeg2video", 400, 0.45),
    ("a.mpg", "mpeg2video", 300, 0.45),
    ("a.avi", "mpeg4", 1000, 0.45),
    ("a.avi", "mpeg4", 4000, 0.45),
    ("a.flv", "libx264", 3000, 0.45),
    ("a.wmv", "wmv2", 4000, 0.45),
]


def scene() -> list[NDArray[np.uint8]]:
    """75 pictures of a texture that moves, so that every picture is built upon the one before."""
    texture = np.kron(np.random.default_rng(1).integers(0, 255, (30, 60, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    return [np.ascontiguousarray(np.roll(texture, 2 * number, 1)[:96, :160]) for number in range(75)]


def film(path: Path, encoder: str, options: dict[str, str] | None = None) -> bytes:
    """Write the scene with a key picture a second and return the file's bytes."""
    with av.open(str(path), "w", options={"fflags": "+bitexact", **(options or {})}) as container:
        # With its macroblock tree x264 makes other bytes each time, and what is overwritten is another thing.
        same = {"x264-params": "mbtree=0"} if encoder == "libx264" else {}
        stream: Any = container.add_stream(encoder, rate=25, options=same)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = 25, 1
        for picture in scene():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path.read_bytes()


def scratched(data: bytes, size: int, share: float = 0.45) -> bytes:
    at = int(len(data) * share)
    noise = bytes(size // 2) + np.random.default_rng(1).bytes(size - size // 2)
    return data[:at] + noise + data[at + size :]


def read(path: Path, threads: int = 1) -> tuple[list[Frame], list[Damage], StateChange]:
    (spec,) = find_sources([str(path)])
    items = list(open_source(spec, decode_threads=threads).stream())
    changes = [item for item in items if isinstance(item, StateChange)]
    found = [change.damage for change in changes if change.damage is not None]
    return [item for item in items if isinstance(item, Frame)], found, changes[-1]


@pytest.mark.parametrize(("name", "encoder", "size", "share"), CASES)
def test_what_is_damaged_is_left_out_and_told(tmp_path: Path, name: str, encoder: str, size: int, share: float) -> None:
    path = tmp_path / name
    data = film(path, encoder)
    whole, none, last = read(path)
    assert (len(whole), none, last.reason) == (75, [], "")
    right = {round(frame.wall_time, 2): frame.image.astype(int) for frame in whole}
    path.write_bytes(scratched(data, size, share))
    frames, found, last = read(path)
    assert not last.cut_off
    assert found
    assert all(np.abs(frame.image - right[round(frame.wall_time, 2)]).mean() < 1 for frame in frames)
    missing = set(right) - {round(frame.wall_time, 2) for frame in frames}
    assert missing == {at for at in right if any(one.begin - 0.011 <= at < one.end - 0.011 for one in found)}
    assert 5 <= len(missing) <= 55
    assert f"damaged and left out: {found[0].begin:.2f} to {found[0].end:.2f} s" in last.reason
    lead = (whole[0].media_seconds or 0.0) - whole[0].wall_time
    assert all(abs(one.media_begin - one.begin - lead) + abs(one.media_end - one.end - lead) < 0.03 for one in found)
    # However many threads decode.
    assert read(path, threads=3)[1] == found


@pytest.mark.parametrize("options", [{}, {"live": "1"}])
def test_a_matroska_file_whose_clusters_are_gone_has_a_hole(tmp_path: Path, options: dict[str, str]) -> None:
    path = tmp_path / "a.mkv"
    data = film(path, "libx264", options | {"cluster_time_limit": "400"})
    second = data.find(bytes.fromhex("1f43b675"), data.find(bytes.fromhex("1f43b675")) + 4)
    path.write_bytes(data[:second] + bytes(400) + data[second + 400 :])
    frames, found, last = read(path)
    assert len(found) == 1
    assert not last.cut_off
    assert frames[-1].wall_time == pytest.approx(2.96)
    # A pause that belongs to the film is none.
    assert read_paused(tmp_path) == []


def read_paused(folder: Path) -> list[Damage]:
    with av.open(str(folder / "b.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number, picture in enumerate(scene()):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = number + 60 * (number > 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return read(folder / "b.mkv")[1]


def test_damage_up_to_the_end_lasts_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    data = film(path, "libx264")
    path.write_bytes(scratched(data, int(len(data) * 0.45)))
    frames, found, last = read(path)
    assert len(frames) > 20
    assert found[-1].end == pytest.approx(3.0)
    assert last.cut_off
    assert last.reason.startswith("nothing whole comes in its last 2.0 s, damaged and left out: 1.00 to 3.00 s")


def test_a_file_of_nothing_else_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    data = film(path, "mpeg4")
    begin = data.find(b"movi")
    path.write_bytes(data[: begin + 400] + bytes(len(data) - begin - 3000) + data[-2600:])
    with pytest.raises(SourceUnreadableError, match="copy"):
        read(path)

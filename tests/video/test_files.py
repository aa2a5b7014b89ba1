"""Reading files: the development videos, and the hard cases, made here."""

from __future__ import annotations

import hashlib
import itertools
import json
import wave
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from fakes.video import sampled
from made_videos import changing, in_container, leaping, tape, with_cover
from PIL import Image
from whole_reads import BLUE, GREEN, RED, WHITE, corners, quarters, read, source

from streamfer.errors import (
    SourceNotFoundError,
    SourceUnreadableError,
)
from streamfer.video import (
    Frame,
    StateChange,
    find_sources,
    write_video,
)


def test_every_development_video_decodes_to_its_known_frames(shared_data: Path) -> None:
    truth = json.loads((shared_data / "videos" / "ground_truth.json").read_text())["videos"]
    specs = find_sources([str(shared_data / "videos")])
    assert {spec.source_id for spec in specs} == set(truth)
    for spec in specs:
        known = truth[spec.source_id]
        info, frames, last = read(spec.url)
        assert len(frames) == known["frames"], spec.source_id
        assert (info.width, info.height) == (known["width"], known["height"]), spec.source_id
        assert {frame.image.shape for frame in frames} == {(known["height"], known["width"], 3)}
        assert frames[0].pts == 0
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert all(one.pts < two.pts for one, two in itertools.pairwise(frames))
        assert last.reason == "", spec.source_id
        assert info.still == (known["fps"] is None)
        if known["last_frame_time_s"] is not None:
            assert frames[-1].seconds == pytest.approx(known["last_frame_time_s"], abs=0.002)
            assert info.declared_fps == pytest.approx(known["fps"], abs=0.001)
        assert info.epoch_key == hashlib.sha256(Path(spec.url).read_bytes()).hexdigest()


def test_frames_are_upright_rgb_in_one_block(tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mp4", [corners()] * 3, 25)
    info, frames, _ = read(tmp_path / "plain.mp4")
    image = frames[0].image
    assert (image.dtype == np.uint8, image.shape, image.flags.c_contiguous) == (True, (48, 64, 3), True)
    assert quarters(image) == [RED, GREEN, BLUE, WHITE]
    assert (info.rotation, info.codec, info.declared_fps, info.live) == (0, "mpeg4", 25.0, False)
    assert [(frame.time_origin, round(frame.wall_time, 3)) for frame in frames] == [
        ("file", 0.0),
        ("file", 0.04),
        ("file", 0.08),
    ]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (90, [BLUE, RED, WHITE, GREEN]),
        (180, [WHITE, BLUE, GREEN, RED]),
        (270, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int, expected: list[tuple[int, int, int]]) -> None:
    write_video(tmp_path / "turned.mp4", [corners()] * 2, 25, rotation=degrees)
    info, frames, _ = read(tmp_path / "turned.mp4")
    assert info.rotation == degrees
    assert (info.height, info.width) == frames[0].image.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))
    assert frames[0].image.flags.c_contiguous
    assert quarters(frames[0].image) == expected


def test_mirrored_video_is_mirrored_back(tmp_path: Path) -> None:
    write_video(tmp_path / "mirror.mp4", [corners()] * 2, 25, rotation=180)
    data = (tmp_path / "mirror.mp4").read_bytes()
    turned = np.array([-1, 0, 0, 0, -1, 0, 0, 0, 16384], dtype=">i4") * np.array(65536, dtype=">i4")
    mirrored = np.array([-1, 0, 0, 0, 1, 0, 0, 0, 16384], dtype=">i4") * np.array(65536, dtype=">i4")
    assert data.count(turned.tobytes()[:20]) == 1
    (tmp_path / "mirror.mp4").write_bytes(data.replace(turned.tobytes()[:20], mirrored.tobytes()[:20]))
    _, frames, _ = read(tmp_path / "mirror.mp4")
    assert quarters(frames[0].image) == [GREEN, RED, WHITE, BLUE]


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.03, 0.1, 0.15, 0.4, 0.41, 0.6, 0.9, 1.2, 1.21]
    write_video(tmp_path / "vfr.mkv", [corners()] * len(times), 25, times=times)
    _, frames, last = read(tmp_path / "vfr.mkv")
    assert [round(frame.seconds, 3) for frame in frames] == times
    assert last.reason == ""


def test_times_start_at_zero_whatever_the_container_says(tmp_path: Path) -> None:
    write_video(tmp_path / "late.mkv", [corners()] * 3, 25, times=[5.0, 5.04, 5.08])
    _, frames, _ = read(tmp_path / "late.mkv")
    assert [round(frame.seconds, 3) for frame in frames] == [0.0, 0.04, 0.08]


def test_joined_recordings_open_a_new_epoch_where_the_clock_jumps_back(tmp_path: Path) -> None:
    write_video(tmp_path / "one.ts", [corners()] * 50, 25)
    (tmp_path / "two.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 2)
    items = list(source(tmp_path / "two.ts").stream())
    changes = [(index, item.state, item.epoch) for index, item in enumerate(items) if isinstance(item, StateChange)]
    assert changes == [(0, "online", 0), (51, "online", 1), (102, "ended", 1)]
    frames = [item for item in items if isinstance(item, Frame)]
    assert [(frame.epoch, frame.index, frame.pts) for frame in frames[50:51]] == [(1, 0, 0)]
    assert [round(frame.wall_time, 2) for frame in frames] == [round(0.04 * index, 2) for index in range(100)]


def test_a_clock_that_jumps_far_ahead_opens_a_new_epoch_and_takes_no_time(tmp_path: Path) -> None:
    later = 49 * 86_400
    times = [0.04 * index + (later if index >= 10 else 0) for index in range(20)]
    leaping(tmp_path / "leap.mkv", [corners()] * 20, times)
    items = list(source(tmp_path / "leap.mkv").stream())
    changes = [(item.state, item.epoch) for item in items if isinstance(item, StateChange)]
    assert changes == [("online", 0), ("online", 1), ("ended", 1)]
    online, first = items[11], items[12]
    assert isinstance(online, StateChange)
    assert isinstance(first, Frame)
    assert (online.reason, first.epoch, first.pts) == (f"its clock jumps ahead by {later:.1f} s", 1, 0)
    assert online.leap is not None
    assert (float(online.leap.pts * online.leap.time_base), str(online.leap.time_origin)) == (later, "file")
    frames = [item for item in items if isinstance(item, Frame)]
    assert [round(frame.wall_time, 2) for frame in frames] == [round(0.04 * index, 2) for index in range(20)]


def test_a_change_of_size_opens_a_new_epoch_with_its_own_facts(tmp_path: Path) -> None:
    path = tmp_path / "resized.ts"
    changing(path, [corners()] * 10, [corners(96, 160)] * 10, pause=1.0)
    items = list(source(path).stream())
    states = [item for item in items if isinstance(item, StateChange)]
    assert [(item.state, item.epoch, item.reason) for item in states[:-1]] == [
        ("online", 0, ""),
        ("online", 1, "its pictures change from 64x48 to 160x96"),
    ]
    assert [(item.info.width, item.info.height) for item in states if item.info] == [(64, 48), (160, 96)]
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.image.shape[:2] for frame in frames] == [(48, 64)] * 10 + [(96, 160)] * 10
    assert quarters(frames[-1].image) == [RED, GREEN, BLUE, WHITE]
    assert [(frame.epoch, frame.index, frame.pts) for frame in frames[9:11]] == [(0, 9, 9 * 3600), (1, 0, 0)]
    assert [round(frame.wall_time, 2) for frame in frames[8:12]] == [0.32, 0.36, 1.4, 1.44]
    assert states[1].leap is None


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with_cover(tmp_path / "podcast.m4a", corners())
    with pytest.raises(SourceUnreadableError, match=r"no video track \(found: a cover picture, audio\)"):
        read(tmp_path / "podcast.m4a")


def test_a_dv_tape_states_its_rate(tmp_path: Path) -> None:
    tape(tmp_path / "tape.dv", 5)
    info, frames, _ = read(tmp_path / "tape.dv")
    assert info.declared_fps == 25.0
    assert [round(frame.seconds, 3) for frame in frames] == [0.0, 0.04, 0.08, 0.12, 0.16]


def test_raw_hevc_without_times_gets_rising_ones(tmp_path: Path) -> None:
    path = tmp_path / "raw.h265"
    with av.open(str(path), "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:pools=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for level in range(12):
            picture = np.full((64, 64, 3), level * 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    info, frames, _ = read(path)
    assert [round(frame.seconds, 3) for frame in frames] == [round(0.04 * index, 3) for index in range(12)]
    brightness = [frame.image.mean() for frame in frames]
    assert brightness == sorted(brightness)
    assert (info.codec, info.duration) == ("hevc", None)


def test_gif_and_stills(tmp_path: Path) -> None:
    pictures = [Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (0, 120, 240)]
    pictures[0].save(tmp_path / "three.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100])
    pictures[1].save(tmp_path / "one_%03d.png")
    _, frames, _ = read(tmp_path / "three.gif")
    assert [round(frame.seconds, 2) for frame in frames] == [0.0, 0.1, 0.4]
    info, frames, _ = read(tmp_path / "one_%03d.png")
    assert (len(frames), info.still, info.duration, info.declared_fps) == (1, True, None, None)


def test_a_photograph_is_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(corners()).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    info, frames, _ = read(tmp_path / "phone.jpg")
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    assert quarters(frames[0].image) == [BLUE, RED, WHITE, GREEN]


def test_raw_planar_video_by_its_name(tmp_path: Path) -> None:
    plane = np.concatenate([np.full(64 * 48, 120, np.uint8), np.full(64 * 48 // 2, 128, np.uint8)])
    (tmp_path / "grey_64x48_10fps.yuv").write_bytes(plane.tobytes() * 4)
    info, frames, _ = read(tmp_path / "grey_64x48_10fps.yuv")
    assert [round(frame.seconds, 3) for frame in frames] == [0.0, 0.1, 0.2, 0.3]
    assert (info.width, info.height, info.declared_fps) == (64, 48, 10.0)
    (tmp_path / "grey.yuv").write_bytes(plane.tobytes())
    with pytest.raises(SourceUnreadableError, match=r"grey\.yuv: raw video without a size and rate; name it like"):
        read(tmp_path / "grey.yuv")


def silence(path: Path) -> None:
    with wave.open(str(path.with_suffix(".wav")), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    path.with_suffix(".wav").rename(path)


def cut(path: Path, share: float) -> None:
    whole = path.with_name("whole.mov")
    in_container(whole, [np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)] * 50)
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("hello\n" * 500), "not a video"),
        (lambda path: path.touch(), "the file is empty"),
        (silence, r"no video track \(found: audio\)"),
        (lambda path: cut(path, 0.5), "not a video that can be decoded, for it is cut off"),
        (lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)), "not a video"),
        (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), "not a video"),
        (lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"), "not a video"),
    ],
    ids=["text", "empty", "audio only", "cut before its index", "noise", "playlist", "concat script"],
)
def test_what_is_no_video_is_one_clear_line(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "clip.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(SourceUnreadableError, match=words) as unreadable:
        read(path)
    assert str(path) in str(unreadable.value)
    assert "\n" not in str(unreadable.value)


def test_a_file_that_vanished(tmp_path: Path) -> None:
    write_video(tmp_path / "gone.mp4", [corners()], 25)
    vanished = source(tmp_path / "gone.mp4")
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(SourceNotFoundError, match=r"gone\.mp4"):
        next(vanished.stream())


def test_a_file_cut_off_in_its_pictures_yields_what_is_there_and_says_so(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "videos" / "WolfgangLanger_Pexels.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    _, frames, last = read(tmp_path / "half.mp4")
    assert 200 < len(frames) < 260
    assert last.reason.startswith("cut off at 9.")


def test_memory_stays_flat_over_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write_video(path, (np.full((240, 320, 3), number % 256, np.uint8) for number in range(1500)), 25)
    clip = source(path)
    process = psutil.Process()
    sizes = [
        process.memory_info().rss
        for item in clip.stream(lambda epoch, seconds, index: index % 50 == 0)
        if isinstance(item, Frame)
    ]
    # The decoded pictures together come to 170 MB.
    assert max(sizes) - sizes[0] < 30e6


def test_unwanted_frames_are_counted_but_not_yielded(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [corners()] * 50, 25)
    clip = source(tmp_path / "clip.mp4")
    frames = [item for item in clip.stream(sampled(5)) if isinstance(item, Frame)]
    assert [frame.index for frame in frames] == list(range(0, 50, 5))
    assert clip.frames_decoded == 50


def test_streaming_again_starts_again_and_closing_is_for_good(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [corners()] * 10, 25)
    clip = source(tmp_path / "clip.mp4")
    assert [len(list(clip.stream())) for _ in range(2)] == [12, 12]
    running = clip.stream()
    items = [next(running), next(running)]
    clip.close()
    items += list(running)
    assert [type(item).__name__ for item in items] == ["StateChange", "Frame", "StateChange"]
    assert getattr(items[-1], "reason", "") == "closed on request"
    assert [getattr(item, "state", "") for item in clip.stream()] == ["ended"]

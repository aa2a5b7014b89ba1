"""Frames and views: the authors' positions to the index, their pixels to the grey level."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from streamfer.errors import ConfigError, SourceUnreadableError
from streamfer.video import PyAvReader, find_sources, write_video
from streamfer_train.dfer_clip.augment import Box, View, brightness_table, draw_view, render, whole_view
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.frames import is_picture, list_pictures, read_clip, read_picture, sample

SIZE = 56


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Something with coarse and fine structure, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255), np.uint8)


def assert_pils(got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
    """Equal to Pillow's resize within a grey level; two in at most one value of a thousand, and no bias."""
    difference = got.astype(int) - wanted.astype(int)
    assert np.abs(difference).max() <= 2
    assert (np.abs(difference) > 1).mean() <= 1e-3
    assert abs(difference.mean()) < 0.3


# Sampling -----------------------------------------------------------------------------------------------------


def test_training_positions_are_one_of_each_whole_segment() -> None:
    rng = random.Random(0)
    seen = np.array([sample(77, 16, rng) for _ in range(3000)])
    # 77 // 16 = 4: each position uniform over its four frames, and the last 13 frames never.
    assert [sorted(set(column)) for column in seen.T.tolist()] == [list(range(4 * n, 4 * n + 4)) for n in range(16)]
    shares = np.array([(seen[:, 0] == n).mean() for n in range(4)])
    assert np.abs(shares - 0.25).max() < 0.03
    assert seen.max() == 63


@pytest.mark.parametrize(
    ("frames", "positions"),
    [
        (77, [2, 7, 12, 16, 21, 26, 31, 36, 40, 45, 50, 55, 60, 64, 69, 74]),
        (17, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16]),
        (16, list(range(16))),
        (5, [0, 1, 2, 3, *[4] * 12]),
        (1, [0] * 16),
    ],
)
def test_test_positions_are_the_middles_of_segments(frames: int, positions: list[int]) -> None:
    assert sample(frames, 16, None) == positions


@given(st.integers(1, 900), st.integers(1, 32), st.integers(0, 9))
def test_positions_are_in_order_and_there(frames: int, segments: int, seed: int) -> None:
    for positions in (sample(frames, segments, random.Random(seed)), sample(frames, segments, None)):
        assert len(positions) == segments
        assert positions == sorted(positions)
        assert 0 <= positions[0] <= positions[-1] < frames
        if frames >= segments:
            assert len(set(positions)) == segments


# Frames -------------------------------------------------------------------------------------------------------


def frame_folder(folder: Path, frames: int, suffix: str = ".png", size: tuple[int, int] = (12, 10)) -> Path:
    """Frames whose red value is ten times their place in the authors' order."""
    folder.mkdir(parents=True)
    for place, number in enumerate(sorted(range(frames), key=str)):
        Image.new("RGB", size, (10 * place, 0, 200)).save(folder / f"{number}{suffix}")
    return folder


def test_frames_come_by_character_and_nothing_else_counts(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip", 12)
    for stray in ("Thumbs.db", ".DS_Store", "._1.png", "notes.txt"):
        (folder / stray).write_bytes(b"x")
    assert list_pictures(folder) == ["0.png", "1.png", "10.png", "11.png", *(f"{n}.png" for n in range(2, 10))]
    pictures = read_clip(Clip(str(folder), 12, "fear", "l:1", kind="frames"), 6, None)
    assert [int(picture[0, 0, 0]) // 10 for picture in pictures] == [1, 3, 5, 7, 9, 11]
    assert not is_picture("1.mp4")


def test_only_listed_frames_are_seen_and_each_is_decoded_once(tmp_path: Path, monkeypatch: Any) -> None:
    folder = frame_folder(tmp_path / "clip", 9)
    opened: list[str] = []

    def read(path: str) -> NDArray[np.uint8]:
        opened.append(path)
        return read_picture(path)

    monkeypatch.setattr("streamfer_train.dfer_clip.frames.read_picture", read)
    pictures = read_clip(Clip(str(folder), 3, "fear", "l:1", kind="frames"), 8, random.Random(0))
    assert [int(picture[0, 0, 0]) // 10 for picture in pictures] == [0, 1, 2, 2, 2, 2, 2, 2]
    assert [Path(path).name for path in opened] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", ".jpg"), ("L", ".jpg"), ("RGB", ".png"), ("L", ".png"), ("RGBA", ".png"), ("P", ".png")],
)
def test_decoded_pixels_are_pils(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    Image.fromarray(noise(61, 83)).convert(mode).save(path)
    assert np.array_equal(read_picture(str(path)), np.asarray(Image.open(path).convert("RGB")))


def test_exif_does_not_turn_a_frame(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 40)).save(tmp_path / "p.jpg", exif=exif)
    assert read_picture(str(tmp_path / "p.jpg")).shape == (20, 40, 3)


def test_broken_frames_are_named(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "clip", 2)
    (folder / "1.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(SourceUnreadableError, match=r"1\.png: is no picture, or a damaged one"):
        read_clip(Clip(str(folder), 2, "fear", "l:1", kind="frames"), 4, None)
    (folder / "1.png").unlink()
    with pytest.raises(SourceUnreadableError, match="frame 1 is wanted of 1 that are there"):
        read_clip(Clip(str(folder), 2, "fear", "l:1", kind="frames"), 4, None)
    with pytest.raises(SourceUnreadableError, match="cannot be listed"):
        read_clip(Clip(str(tmp_path / "none"), 2, "fear", "l:1", kind="frames"), 4, None)
    with pytest.raises(ConfigError, match="at least one frame"):
        sample(0, 16, None)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, ten a second, each of a grey of its own."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, (np.full((32, 48, 3), 6 * number, np.uint8) for number in range(40)), 10)
    return path


def shown(pictures: Sequence[NDArray[np.uint8]]) -> list[int]:
    return [round(float(picture.mean()) / 6) for picture in pictures]


def test_video_is_sampled_as_frames_are(film: Path) -> None:
    clip = Clip(str(film), None, "fear", "l:1", kind="video")
    assert shown(read_clip(clip, 8, None)) == [2, 7, 12, 17, 22, 27, 32, 37]
    positions = sample(40, 8, random.Random(3))
    pictures = read_clip(clip, 8, random.Random(3))
    with PyAvReader(find_sources([str(film)])[0]) as reader:
        assert np.array_equal(np.stack(pictures), reader.read(positions))


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(1.0, 2.0, range(10, 20)), (None, 0.45, range(5)), (3.55, None, range(36, 40)), (0.0, 9.0, range(40))],
)
def test_parts_of_a_video_hold_their_seconds(film: Path, start: float, end: float, frames: range) -> None:
    clip = Clip(str(film), None, "fear", "l:1", start=start, end=end, kind="video")
    assert shown(read_clip(clip, len(frames), None)) == list(frames)


def test_a_part_beyond_the_end_is_named(film: Path) -> None:
    with pytest.raises(SourceUnreadableError, match=r"no frame between 7\.0 and 8\.0 s \(40 frames"):
        read_clip(Clip(str(film), None, "fear", "l:1", start=7.0, end=8.0, kind="video"), 4, None)


# Views --------------------------------------------------------------------------------------------------------


def reference(name: str, pictures: Sequence[NDArray[np.uint8]], size: int, rng: random.Random) -> NDArray[np.uint8]:
    """The authors' augmentation as the facts describe it, step by step on PIL images: (T, S, S, 3)."""
    images = [Image.fromarray(picture) for picture in pictures]
    if name == "ferv39k":
        angle = rng.uniform(-4.0, 4.0)
        images = [image.rotate(angle) for image in images]
    if name == "dfew":
        factor = rng.uniform(0.5, 1.5)
        images = [ImageEnhance.Brightness(image).enhance(factor) for image in images]
    width, height = images[0].size
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * width * height
        aspect = rng.uniform(0.75, 4 / 3)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rng.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            x, y = rng.randint(0, width - w), rng.randint(0, height - h)
            images = [i.crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BILINEAR) for i in images]
            break
    else:
        shorter = min(width, height)
        scaled = (int(size * width / shorter), int(size * height / shorter))
        x, y = rng.randint(0, scaled[0] - size), rng.randint(0, scaled[1] - size)
        images = [i.resize(scaled, Image.Resampling.BILINEAR).crop((x, y, x + size, y + size)) for i in images]
    if rng.random() < 0.5:
        images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw"])
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(24, 130), st.integers(24, 130))
def test_views_are_the_authors_draw_for_draw(name: Any, seed: int, width: int, height: int) -> None:
    pictures = [noise(height, width, seed), noise(height, width, seed + 1)]
    view = draw_view(name, width, height, SIZE, random.Random(seed))
    got = render(view, pictures, SIZE)
    assert got.shape == (2, 3, SIZE, SIZE)
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    wanted = reference(name, pictures, SIZE, random.Random(seed))
    assert_pils(got.permute(0, 2, 3, 1).numpy(), wanted)


def test_faces_of_224_pixels_differ_in_two_values_of_a_thousand() -> None:
    differences = []
    for seed in range(20):
        pictures = [noise(224, 224, seed)]
        got = render(draw_view("mafw", 224, 224, 224, random.Random(seed)), pictures, 224)
        wanted = reference("mafw", pictures, 224, random.Random(seed))
        differences.append(got.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
    assert np.abs(differences).max() <= 1
    assert (np.array(differences) != 0).mean() < 0.01
    assert abs(np.mean(differences)) < 1e-3


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw"])
def test_very_long_pictures_take_the_fallback(name: Any) -> None:
    taken = 0
    for seed in range(20):
        pictures = [noise(20, 400, seed)]
        view = draw_view(name, 400, 20, SIZE, random.Random(seed))
        taken += view.scale is not None
        wanted = reference(name, pictures, SIZE, random.Random(seed))
        got = render(view, pictures, SIZE).permute(0, 2, 3, 1).numpy()
        assert_pils(got, wanted)
    assert taken >= 10


@given(st.floats(0.5, 1.5))
def test_brightness_is_pils_to_the_bit(factor: float) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([ramp] * 3, axis=2))
    wanted = np.asarray(ImageEnhance.Brightness(image).enhance(factor))[:, :, 0]
    assert np.array_equal(brightness_table(factor)[ramp], wanted)


@given(st.floats(-4, 4), st.integers(5, 60), st.integers(5, 60))
def test_rotation_is_pils_to_the_bit(angle: float, width: int, height: int) -> None:
    picture = noise(height, width)
    # As large as the picture: nothing is resized after the turn.
    side = min(width, height)
    got = render(View(Box(1, 2, side, side), angle=angle), [picture], side)[0].permute(1, 2, 0).numpy()
    wanted = np.asarray(Image.fromarray(picture).rotate(angle).crop((1, 2, 1 + side, 2 + side)))
    assert np.array_equal(got, wanted)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_the_test_view_is_a_plain_squash(width: int, height: int) -> None:
    picture = noise(height, width)
    got = render(whole_view(width, height), [picture], SIZE)[0].permute(1, 2, 0).numpy()
    wanted = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert_pils(got, wanted)
    assert draw_view("none", width, height, SIZE, random.Random(0)) == whole_view(width, height)


def test_a_face_of_the_right_size_is_not_touched() -> None:
    picture = noise(SIZE, SIZE)
    assert np.array_equal(render(whole_view(SIZE, SIZE), [picture], SIZE)[0].permute(1, 2, 0).numpy(), picture)


def test_draws_have_the_stated_distribution() -> None:
    views = [draw_view("dfew", 224, 224, 224, random.Random(f"{seed}")) for seed in range(4000)]
    brightness = np.array([view.brightness for view in views])
    assert 0.5 <= brightness.min() < 0.51
    assert 1.49 < brightness.max() <= 1.5
    assert abs(brightness.mean() - 1) < 0.02
    assert abs(np.mean([view.flip for view in views]) - 0.5) < 0.03
    areas = np.array([view.box.width * view.box.height for view in views]) / 224**2
    assert 0.078 < areas.min() < 0.09
    aspects = np.array([view.box.width / view.box.height for view in views])
    assert 0.73 < aspects.min() < 0.78
    assert 1.28 < aspects.max() < 1.37
    # Exchanging width and height makes both orientations equally frequent.
    assert abs((aspects > 1).mean() - (aspects < 1).mean()) < 0.05
    assert {view.angle for view in views} == {None}
    angles = np.array([draw_view("ferv39k", 99, 99, 99, random.Random(seed)).angle for seed in range(2000)], float)
    assert -4 <= angles.min() < -3.9
    assert 3.9 < angles.max() <= 4
    assert draw_view("mafw", 99, 99, 99, random.Random(0)).brightness is None


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw"])
def test_all_frames_of_a_clip_are_seen_alike(name: Any) -> None:
    picture = noise(70, 60)
    for seed in range(5):
        view = draw_view(name, 60, 70, SIZE, random.Random(seed))
        got = render(view, [picture.copy() for _ in range(4)], SIZE)
        assert all(torch.equal(frame, got[0]) for frame in got)
        # Repeated frames of short clips are the same object, rendered once, in their places.
        other = noise(70, 60, 9)
        mixed = render(view, [picture, other, other, picture], SIZE)
        assert torch.equal(mixed[0], got[0])
        assert torch.equal(mixed[1], mixed[2])
        assert torch.equal(mixed[3], got[0])
        assert not torch.equal(mixed[0], mixed[1])


def test_frames_of_other_sizes_are_seen_through_the_same_box() -> None:
    large, small = noise(60, 60), noise(40, 30)
    view = View(Box(10, 10, 40, 40))
    got = render(view, [large, small], SIZE).permute(0, 2, 3, 1).numpy()
    for picture, frame in zip((large, small), got, strict=True):
        cut = Image.fromarray(picture).crop((10, 10, 50, 50)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        assert_pils(frame, np.asarray(cut))
    turned = View(Box(10, 10, 40, 40), angle=3.0)
    got = render(turned, [large, small], 40).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(got[1], np.asarray(Image.fromarray(small).rotate(3.0).crop((10, 10, 50, 50))))


# Faces --------------------------------------------------------------------------------------------------------

"""Composites: every kind of picture is made, reproducibly, with faces where the labels say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfer.errors import SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.faces import backgrounds, distractors
from streamfer_builtin.faces.compose import Composer, soft_ellipse
from streamfer_builtin.faces.degrade import degraded
from streamfer_builtin.faces.labels import Labels
from streamfer_builtin.faces.pool import augmented, compose_shard
from streamfer_builtin.faces.shards import Shard, coded_jpeg, coded_png
from streamfer_builtin.faces.sources import FaceSources, load_sources, split_of


def drawn_face(side: int) -> tuple[np.ndarray, Labels]:
    picture = np.full((side, side, 3), 90, np.uint8)
    middle = side // 2
    cv2.ellipse(picture, (middle, middle), (side // 3, int(side * 0.42)), 0, 0, 360, (220, 180, 150), -1)
    share = np.array([[0.38, 0.42], [0.62, 0.42], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)
    box = np.array([side * 0.17, side * 0.08, side * 0.83, side * 0.92], np.float32)
    return picture, Labels.single(box, share * side)


@pytest.fixture(scope="module")
def sources() -> FaceSources:
    """Drawn stand-ins for photographs and rendered heads."""
    photo, photo_labels = drawn_face(200)
    crop, crop_labels = drawn_face(128)
    head, head_labels = drawn_face(256)
    alpha = (head[..., :1] > 100).astype(np.uint8) * 255
    coded_head = coded_png(np.concatenate([head, alpha], axis=2))
    return FaceSources(
        scenes=Shard.of([coded_jpeg(photo)] * 3, [photo_labels] * 3),
        crops=Shard.of([coded_jpeg(crop)] * 3, [crop_labels] * 3),
        heads=Shard.of([coded_head] * 2, [head_labels] * 2),
        backs=Shard.of([coded_head], [Labels.none()]),
    )


@pytest.mark.parametrize("photographs", [True, False])
def test_pictures_are_reproducible_and_labels_lie_inside(sources: FaceSources, photographs: bool) -> None:
    composer = Composer(sources, 320, photographs=photographs)
    faces = []
    for seed in range(30):
        picture, labels = composer.picture(np.random.default_rng(seed))
        again, _ = composer.picture(np.random.default_rng(seed))
        assert np.array_equal(picture, again)
        assert picture.shape == (320, 320, 3)
        assert picture.dtype == np.uint8
        assert (labels.boxes >= 0).all()
        assert (labels.boxes <= 320).all()
        faces.append(len(labels))
    assert 0 in faces
    assert max(faces) > 2


def test_augmented_views_keep_labels_in_the_frame(sources: FaceSources) -> None:
    composer = Composer(sources, 320)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture, labels = augmented(*composer.picture(rng), 256, rng)
        assert picture.shape == (256, 256, 3)
        assert (labels.boxes >= 0).all()
        assert (labels.boxes <= 256).all()


def test_shards_are_read_back_as_written(sources: FaceSources, tmp_path: Path) -> None:
    compose_shard(Composer(sources, 320), tmp_path / "a.npz", count=4, seed=(1, 2))
    compose_shard(Composer(sources, 320), tmp_path / "b.npz", count=4, seed=(1, 2))
    first, second = Shard.load(tmp_path / "a.npz"), Shard.load(tmp_path / "b.npz")
    assert len(first) == 4
    for index in range(4):
        assert np.array_equal(first.picture(index), second.picture(index))
        assert np.array_equal(first.faces(index).boxes, second.faces(index).boxes)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_shard_and_absent_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(SourceUnreadableError, match=r"bad\.npz"):
        Shard.load(tmp_path / "bad.npz")
    with pytest.raises(SourceNotFoundError, match="compose"):
        load_sources(tmp_path, "train")


@pytest.mark.parametrize("kind", ["gradient", "clouds", "brickwork", "room", "stripes", "shelf", "facade", "blobs"])
def test_backgrounds_fill_the_frame_and_vary(kind: str) -> None:
    first, second = (getattr(backgrounds, kind)(np.random.default_rng(seed), 96, 128) for seed in (1, 2))
    assert first.shape == second.shape == (96, 128, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)


def test_packaged_pictures_of_both_splits_exist_and_are_apart() -> None:
    assert not set(backgrounds.TRAINING_PICTURES) & set(backgrounds.HELD_OUT_PICTURES)
    assert not {"astronaut", "camera"} & set(backgrounds.TRAINING_PICTURES + backgrounds.HELD_OUT_PICTURES)
    for name in backgrounds.TRAINING_PICTURES + backgrounds.HELD_OUT_PICTURES:
        assert backgrounds.packaged(np.random.default_rng(0), 64, 80, (name,)).shape == (64, 80, 3)


@pytest.mark.parametrize("seed", range(6))
def test_distractors_paint_on_the_canvas(seed: int) -> None:
    canvas = np.zeros((160, 160, 3), np.uint8)
    distractors.draw_random(canvas, np.random.default_rng(seed), (80, 80), 60)
    assert canvas.any()


def test_degrading_keeps_size_and_type() -> None:
    picture = backgrounds.clouds(np.random.default_rng(0), 90, 70)
    for seed in range(12):
        seen = degraded(picture, np.random.default_rng(seed))
        assert seen.shape == picture.shape
        assert seen.dtype == np.uint8


def test_the_mask_covers_the_face_and_fades_at_the_border() -> None:
    mask = soft_ellipse(200, 200, np.array([40, 30, 160, 180], np.float32), np.random.default_rng(0))
    assert mask[105, 100] == 255
    assert mask[0, 0] == 0
    assert mask[105, 0] == 0


def test_a_person_is_on_one_side_of_the_split() -> None:
    sides = [split_of(f"person {index}") for index in range(2000)]
    assert 0.04 < sides.count("val") / 2000 < 0.08
    assert split_of("person 1") == split_of("person 1")

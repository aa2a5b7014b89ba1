"""Alignment: known similarities are recovered, crops do not alias, edges repeat, boxes stand in for landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfer.faces.alignment import (
    box_transforms,
    crop_faces,
    crop_surface,
    crop_transforms,
    landmarks_within,
    similarity_transforms,
)
from streamfer.geometry import CropProfile, loose_crop, squashed_crop

TEMPLATE = np.array(loose_crop(128).landmarks)
NO_LANDMARKS = np.full((1, 5, 2), np.nan, np.float32)


def smoothed(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def similarity(scale: float, angle: float, x: float, y: float) -> NDArray[np.float64]:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def apply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(
    scale=st.floats(0.05, 20),
    angle=st.floats(-3.1, 3.1),
    x=st.floats(-2000, 2000),
    y=st.floats(-2000, 2000),
)
def test_a_known_similarity_is_recovered(scale: float, angle: float, x: float, y: float) -> None:
    true = similarity(scale, angle, x, y)
    found = similarity_transforms(TEMPLATE[None], apply(true, TEMPLATE))[0]
    np.testing.assert_allclose(found, true, rtol=1e-6, atol=1e-6 * max(1.0, scale, abs(x), abs(y)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_no_similarity_fits_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = TEMPLATE + rng.normal(0, 6, TEMPLATE.shape)
    found = similarity_transforms(points[None], TEMPLATE)[0]
    error = ((apply(found, points) - TEMPLATE) ** 2).sum()
    for _ in range(20):
        nudged = similarity(
            np.hypot(found[0, 0], found[1, 0]) * (1 + rng.normal(0, 0.02)),
            np.arctan2(found[1, 0], found[0, 0]) + rng.normal(0, 0.02),
            found[0, 2] + rng.normal(0, 0.5),
            found[1, 2] + rng.normal(0, 0.5),
        )
        assert ((apply(nudged, points) - TEMPLATE) ** 2).sum() >= error - 1e-9


def test_a_batch_gives_what_single_faces_give() -> None:
    rng = np.random.default_rng(3)
    points = TEMPLATE + rng.normal(0, 10, (7, 5, 2))
    together = similarity_transforms(points, TEMPLATE)
    alone = np.concatenate([similarity_transforms(face[None], TEMPLATE) for face in points])
    np.testing.assert_array_equal(together, alone)


def test_landmarks_that_coincide_fall_back_to_the_box() -> None:
    boxes = np.array([[10, 20, 110, 150]], np.float32)
    point = np.full((1, 5, 2), 40.0, np.float32)
    profile = loose_crop(64)
    np.testing.assert_array_equal(crop_transforms(boxes, point, profile), crop_transforms(boxes, NO_LANDMARKS, profile))


def test_box_and_landmarks_of_a_frontal_face_give_the_same_crop() -> None:
    rng = np.random.default_rng(0)
    image = smoothed(rng.integers(0, 255, (300, 300, 3), np.uint8), 3)
    boxes = np.array([[60, 50, 180, 200]], np.float32)
    profile = loose_crop(96)
    with_points = crop_faces(image, boxes, landmarks_within(boxes), profile)
    without = crop_faces(image, boxes, NO_LANDMARKS, profile)
    np.testing.assert_array_equal(with_points, without)


def test_box_profile_squashes_the_grown_box_to_the_square() -> None:
    matrix = box_transforms(np.array([[100, 50, 200, 250]]), 50, 0.1)[0]
    # Pixel centres: the grown box spans 90..210 by 30..270, its edges land on -0.5 and 49.5.
    np.testing.assert_allclose(apply(matrix, np.array([[89.5, 29.5], [209.5, 269.5]])), [[-0.5, -0.5], [49.5, 49.5]])


def test_box_profile_equals_a_plain_resize_of_the_box() -> None:
    image = smoothed(np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8), 2)
    crop = crop_faces(image, np.array([[40, 30, 104, 158]]), NO_LANDMARKS, CropProfile("box", 64, margin=0.0))[0]
    plain = cv2.resize(image[30:158, 40:104], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.astype(int) - plain.astype(int)).max() <= 12
    assert np.abs(crop.astype(int) - plain.astype(int)).mean() < 1.5


@pytest.mark.parametrize("factor", [3, 8, 20])
def test_large_faces_do_not_alias(factor: int) -> None:
    """A fine chequerboard shrinks to even grey; sampling single pixels would leave black and white."""
    side = 64 * factor
    board = (np.indices((side + 80, side + 80)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    boxes = np.array([[40, 40, 40 + side, 40 + side]], np.float32)
    for profile in (loose_crop(64), CropProfile("box", 64)):
        crop = crop_faces(image, boxes, NO_LANDMARKS, profile)[0]
        assert np.abs(crop.astype(int) - 127).max() <= 12


def test_outside_the_frame_the_edge_repeats() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50], image[:, 50:] = (200, 0, 0), (0, 0, 200)
    crop = crop_faces(image, np.array([[-60, 20, 40, 80]]), NO_LANDMARKS, CropProfile("box", 32, margin=0))[0]
    assert (crop == (200, 0, 0)).all()
    crop = crop_faces(image, np.array([[60, 20, 400, 80]]), NO_LANDMARKS, CropProfile("box", 32, margin=0))[0]
    assert (crop == (0, 0, 200)).all()


def test_a_box_wholly_outside_still_gives_a_crop() -> None:
    image = np.full((40, 40, 3), 77, np.uint8)
    crops = crop_faces(
        image, np.array([[500, 500, 560, 560], [-90, -90, -30, -30]]), np.repeat(NO_LANDMARKS, 2, 0), loose_crop(32)
    )
    assert crops.shape == (2, 32, 32, 3)
    assert (crops == 77).all()


def test_crops_follow_a_rotated_face() -> None:
    """The same picture turned by 30 degrees, with its landmarks turned too, gives the same crop."""
    rng = np.random.default_rng(5)
    image = smoothed(rng.integers(0, 255, (400, 400, 3), np.uint8), 6)
    points = landmarks_within(np.array([[150, 140, 250, 260]]))
    turn = cv2.getRotationMatrix2D((200, 200), 30, 1.0)
    turned = np.asarray(cv2.warpAffine(image, turn, (400, 400)), np.uint8)
    turned_points = apply(np.asarray(turn), points[0].astype(np.float64))[None]
    boxes = np.array([[150, 140, 250, 260]], np.float32)
    straight = crop_faces(image, boxes, points, loose_crop(64))[0].astype(int)
    again = crop_faces(turned, boxes, turned_points, loose_crop(64))[0].astype(int)
    assert np.abs(straight - again).mean() < 2


def test_no_faces_and_no_pixels() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    assert crop_faces(image, np.zeros((0, 4)), np.zeros((0, 5, 2)), loose_crop(32)).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="no pixels"):
        crop_faces(np.zeros((0, 10, 3), np.uint8), np.ones((1, 4)), NO_LANDMARKS, loose_crop(32))
    with pytest.raises(ValueError, match="not finite"):
        crop_faces(image, np.array([[0, 0, np.nan, 5]]), NO_LANDMARKS, loose_crop(32))


def scene(width: int, height: int) -> NDArray[np.uint8]:
    """Soft colours with a hard edge."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = [127 + 120 * np.sin(x / 23 + phase) * np.cos(y / (17 + phase)) for phase in (0, 2, 4)]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 40)
    return image


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("profile", [loose_crop(224), loose_crop(64), squashed_crop(112, 0.1)])
@pytest.mark.parametrize("size", [(1280, 720), (641, 359)])
def test_crops_of_a_picture_on_a_device_are_those_of_the_host(
    size: tuple[int, int], profile: CropProfile, device: str
) -> None:
    image = scene(*size)
    width, height = size
    boxes = np.array(
        [
            [width * 0.3, height * 0.1, width * 0.6, height * 0.8],
            [width * 0.45, height * 0.3, width * 0.5, height * 0.4],
            [-20, -10, 60, 80],
            [width - 50, height - 60, width + 30, height + 20],
            [width + 5, height + 5, width + 25, height + 30],
        ],
        np.float32,
    )
    points = np.full((5, 5, 2), np.nan, np.float32)
    points[1] = np.array([(0.3, 0.5), (0.7, 0.3), (0.55, 0.55), (0.4, 0.8), (0.8, 0.7)]) * 90 + boxes[1, :2]
    there = crop_surface(torch.from_numpy(image).to(device), boxes, points, profile)
    assert there.dtype == torch.uint8
    apart = np.abs(np.subtract(there.cpu().numpy(), crop_faces(image, boxes, points, profile), dtype=np.int16))
    assert apart.max() <= 2
    assert apart.mean() < 0.1


def test_a_box_of_no_numbers_is_refused_on_a_device_too() -> None:
    with pytest.raises(ValueError, match="not finite"):
        crop_surface(torch.zeros(8, 8, 3, dtype=torch.uint8), np.full((1, 4), np.nan), NO_LANDMARKS, loose_crop(16))


@pytest.mark.gpu
def test_cutting_on_a_gpu_waits_for_nothing() -> None:
    picture, box = torch.from_numpy(scene(640, 360)).cuda(), np.array([[100, 50, 300, 300]], np.float32)
    crop_surface(picture, box, NO_LANDMARKS, loose_crop(112))
    torch.cuda.set_sync_debug_mode("error")
    try:
        crop_surface(picture, box, NO_LANDMARKS, loose_crop(112))
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""Crops and augmentation of the mini model: geometry, range, determinism."""

from __future__ import annotations

import math

import cv2
import torch

from streamfer_builtin.mini import augment


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pictures(count: int = 6, size: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size), generator=_rng(9), dtype=torch.uint8)


def test_a_crop_as_large_as_the_picture_is_the_picture() -> None:
    pixels = _pictures()
    assert torch.allclose(augment.crop(pixels, 48.0)[:, 0] * 255, pixels.float(), atol=1e-3)


def test_a_smaller_picture_is_centred_and_its_edge_repeated() -> None:
    pixels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    pixels[:, :, 16:] = 255
    image = augment.crop(pixels, 36.0)[0, 0]
    assert image.shape == (48, 48)
    assert torch.equal(image[:, :22], torch.zeros(48, 22))
    assert torch.allclose(image[:, 26:], torch.ones(48, 22))


def test_a_rendered_frame_is_cut_at_its_margin() -> None:
    pixels = _pictures(2, 64)
    crops = augment.crop(pixels, augment.RENDER_EXTENT)[:, 0] * 255
    assert torch.allclose(crops, pixels[:, 8:56, 8:56].float(), atol=1e-2)


def test_small_crops_are_smoothed_and_full_ones_untouched() -> None:
    crops = augment.crop(_pictures(), 48.0)
    assert augment.resized(crops, 48) is crops
    assert augment.resized(crops, 32).shape == (6, 1, 32, 32)
    assert float(augment.resized(crops, 16).std()) < 0.7 * float(crops.std())


def test_mirroring_equals_a_flip() -> None:
    pixels, one = _pictures(1), torch.ones(1)
    theta = augment.similarity(one, 0 * one, torch.zeros(1, 2), torch.tensor([True]), one)
    assert torch.allclose(augment.crop(pixels, 48.0, theta), augment.crop(pixels, 48.0).flip(-1), atol=1e-4)


def test_scale_above_one_enlarges_the_face() -> None:
    pixels = torch.zeros(1, 48, 48, dtype=torch.uint8)
    pixels[:, 18:30, 18:30] = 255
    one = torch.ones(1)
    theta = augment.similarity(1.5 * one, 0 * one, torch.zeros(1, 2), torch.tensor([False]), one)
    enlarged = augment.crop(pixels, 48.0, theta).sum() / augment.crop(pixels, 48.0).sum()
    assert math.isclose(float(enlarged), 2.25, rel_tol=0.05)


def test_rotation_keeps_size_and_angle() -> None:
    pixels = torch.zeros(1, 48, 48, dtype=torch.uint8)
    pixels[:, 22:26, :] = 255
    one = torch.ones(1)
    theta = augment.similarity(one, one * (math.pi / 2), torch.zeros(1, 2), torch.tensor([False]), one)
    turned = augment.crop(pixels, 48.0, theta)
    assert torch.allclose(turned, augment.crop(pixels, 48.0).transpose(2, 3), atol=1e-3)


def test_augmentation_is_decided_by_the_seed_alone() -> None:
    def once(seed: int) -> torch.Tensor:
        rng = _rng(seed)
        theta, _ = augment.jitter(6, augment.Strength(), rng)
        images = augment.crop(_pictures(size=48), augment.FER_EXTENT, theta, augment.random_padding(rng))
        return augment.photometric(images, augment.Strength(jpeg=0.5, soften=0.5), rng)

    assert torch.equal(once(3), once(3))
    assert not torch.equal(once(3), once(4))


def test_pixels_stay_in_range_at_the_strongest_setting() -> None:
    strength = augment.Strength(gamma=1, contrast=1, brightness=0.5, soften=1, jpeg=1, noise=1, cutout=1)
    images = augment.photometric(augment.crop(_pictures(), 48.0), strength, _rng())
    assert images.shape == (6, 1, 48, 48)
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_compression_leaves_what_jpeg_leaves() -> None:
    smooth = torch.nn.functional.interpolate(
        torch.rand(400, 1, 12, 12, generator=_rng(4)), size=(48, 48), mode="bicubic"
    )
    crops = (smooth.clamp(0, 1) * 255).round() / 255
    made = augment._compress(crops.clone(), 1.0, _rng(5))
    quality = torch.randint(20, 70, (400,), generator=_after(400, 5))
    for crop, own, each in zip(crops, made, quality.tolist(), strict=True):
        jpeg = cv2.imencode(".jpg", (crop[0] * 255).byte().numpy(), [cv2.IMWRITE_JPEG_QUALITY, each])[1]
        theirs = torch.from_numpy(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)).float()
        assert float((own[0] * 255 - theirs).abs().mean()) < 1


def _after(count: int, seed: int) -> torch.Generator:
    """The generator of a seed after so many pictures were chosen."""
    rng = _rng(seed)
    torch.rand(count, generator=rng)
    return rng


def test_a_covered_part_is_one_rectangle_of_one_grey() -> None:
    crops = torch.rand(64, 1, 48, 48, generator=_rng(6))
    changed = augment._cut_out(crops, 1.0, _rng(7)) != crops
    for hidden, made in zip(changed[:, 0], augment._cut_out(crops, 1.0, _rng(7))[:, 0], strict=True):
        high, wide = hidden.any(1).nonzero(), hidden.any(0).nonzero()
        assert bool(hidden[high[0, 0] : high[-1, 0] + 1, wide[0, 0] : wide[-1, 0] + 1].all())
        assert made[hidden].unique().numel() == 1
        assert len(high) <= 19
    assert torch.equal(augment._cut_out(crops, 0.0, _rng(7)), crops)


def test_a_group_shares_its_light() -> None:
    strength = augment.Strength(soften=0, jpeg=0, noise=0, cutout=0)
    same = augment.crop(_pictures(1), 48.0).expand(4, -1, -1, -1)
    lit = augment.photometric(same, strength, _rng(), group=2)
    assert torch.equal(lit[0], lit[1])
    assert torch.equal(lit[2], lit[3])
    assert not torch.allclose(lit[0], lit[2], atol=1e-3)

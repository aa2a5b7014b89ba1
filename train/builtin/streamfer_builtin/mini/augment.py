"""Crops and augmentation of the mini model, on whole batches of grey pictures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CROP = 48
"""Side of a crop, pixels."""
FER_EXTENT = 48.0
"""FER2013's own framing is the crop: its pictures are read as they are."""
# The correlation of the two mean faces is highest where FER2013's frame is 52/64 of that of the aligned pictures.
FACES_EXTENT = 48.0 * 64 / 52
"""The aligned pictures of `faces` (`streamfer.geometry.loose_crop`) at the same size of face."""
RENDER_EXTENT = 64.0
"""Rendered frames have the crop's scale, and 8 pixels of margin around it."""
_TILT = 45.0
#: Sides in pixels to which a softened face was reduced.
_FEW = (9.0, 36.0)
_KERNEL = 9
_BAD = ("tilt", "soften", "blur", "dark")
_PADDING = ("border", "border", "reflection", "zeros")
#: Pictures that are reduced to the same size, and blocks of a compressed picture.
_ALIKE = 16
_BLOCK = 8
#: The quantisation of luma that JPEG suggests (ITU-T T.81, table K.1), at quality 50.
_QUANTA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@dataclass(frozen=True, slots=True)
class Strength:
    """How far augmentation goes; ranges are symmetric, angles in degrees, shifts in crop pixels.

    `tilt`, `soften` (few pixels enlarged), `blur`, `dark`, `jpeg`, `noise` and `cutout` are shares of the pictures; a
    tilted one is turned by up to 45 degrees, as a crop without good landmarks is.
    """

    scale: tuple[float, float] = (0.85, 1.25)
    aspect: float = 0.06
    rotation: float = 15.0
    shift: float = 3.0
    gamma: float = 0.4
    contrast: float = 0.4
    brightness: float = 0.15
    tilt: float = 0.12
    soften: float = 0.25
    blur: float = 0.15
    dark: float = 0.1
    jpeg: float = 0.08
    noise: float = 0.25
    cutout: float = 0.3

    def relaxed(self, factor: float) -> Strength:
        """Return every range and share multiplied by `factor` (0 switches augmentation off).

        Bad pictures stay at half their share at least, as long as there is any augmentation: videos are full of them.
        """
        low, high = self.scale
        kept = max(factor, 0.5) if factor > 0 else 0.0
        rest = {
            name: value * (kept if name in _BAD else factor) for name, value in asdict(self).items() if name != "scale"
        }
        return Strength(scale=(low**factor, high**factor), **rest)


def crop(pixels: Tensor, extent: float, theta: Tensor | None = None, padding: str = "border") -> Tensor:
    """Cut 48-pixel crops out of square pictures.

    `pixels` is uint8 (B, H, H); `extent` the size of the whole picture in crop pixels; `theta` float32 (B, 2, 3)
    moves crop coordinates in [-1, 1] (identity when None). Returns float32 (B, 1, 48, 48) in [0, 1].
    """
    images = pixels[:, None].float().div_(255)
    if theta is None:
        theta = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    # The grid is in units of the picture: a crop wider than the picture reads beyond its edge.
    grid = F.affine_grid(theta * (CROP / extent), [len(images), 1, CROP, CROP], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def resized(images: Tensor, side: int) -> Tensor:
    """Bring crops (B, 1, H, H) to `side` pixels as the pipeline does, smoothed where they shrink."""
    if side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)


def jitter(count: int, strength: Strength, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw similarity transforms (with a little aspect and mirroring).

    Returns theta float32 (count, 2, 3) for `crop` and the mirrored mask bool (count,).
    """
    low, high = strength.scale
    scale = torch.exp(_uniform(count, math.log(low), math.log(high), rng))
    aspect = torch.exp(_uniform(count, -strength.aspect, strength.aspect, rng))
    reach = torch.where(_rand(count, rng) < strength.tilt, _TILT, strength.rotation)
    angle = _uniform(count, -1.0, 1.0, rng) * reach * (math.pi / 180)
    shift = _uniform(2 * count, -strength.shift, strength.shift, rng).view(count, 2) * (2 / CROP)
    mirrored = _rand(count, rng) < 0.5
    return similarity(scale, angle, shift, mirrored, aspect), mirrored


def similarity(scale: Tensor, angle: Tensor, shift: Tensor, mirrored: Tensor, aspect: Tensor) -> Tensor:
    """Build theta (B, 2, 3) from zoom (> 1 enlarges the face), radians, shift in [-1, 1] units and mirroring."""
    x_zoom, y_zoom = 1 / (scale * aspect), aspect / scale
    sign = 1 - 2 * mirrored.float()
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([sign * cos * x_zoom, -sign * sin * x_zoom, shift[:, 0]], 1)
    row_y = torch.stack([sin * y_zoom, cos * y_zoom, shift[:, 1]], 1)
    return torch.stack([row_x, row_y], 1)


def random_padding(rng: torch.Generator) -> str:
    """Draw what lies beyond a picture's edge, so that no single kind of margin is learnt."""
    return _PADDING[int(torch.randint(len(_PADDING), (), generator=rng, device=rng.device))]


def photometric(images: Tensor, strength: Strength, rng: torch.Generator, group: int = 1) -> Tensor:
    """Change light, resolution and compression of float32 (B, 1, 48, 48) images in [0, 1].

    Each run of `group` images shares its light: the frames of one clip.
    """
    count = len(images)
    images = _light(images, strength, rng, group)
    images = _blur(images, strength.blur, rng)
    images = _soften(images, strength.soften, rng)
    images = _darken(images, strength.dark, rng)
    images = _compress(images, strength.jpeg, rng)
    noisy = (_rand(count, rng) < strength.noise).view(-1, 1, 1, 1)
    sigma = _uniform(count, 0.0, 0.05, rng).view(-1, 1, 1, 1) * noisy
    images = (images + sigma * torch.randn(images.shape, generator=rng, device=rng.device)).clamp(0, 1)
    return _cut_out(images, strength.cutout, rng)


def _rand(count: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, generator=rng, device=rng.device)


def _uniform(count: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return _rand(count, rng) * (high - low) + low


def _chosen(count: int, share: float, rng: torch.Generator) -> Tensor:
    return (_rand(count, rng) < share).nonzero()[:, 0]


def _light(images: Tensor, strength: Strength, rng: torch.Generator, group: int) -> Tensor:
    def drawn(reach: float) -> Tensor:
        values = _uniform(len(images) // group, -reach, reach, rng)
        return values.repeat_interleave(group).view(-1, 1, 1, 1)

    images = images.clamp(1e-4, 1).pow(torch.exp(drawn(strength.gamma)))
    contrast, shift = torch.exp(drawn(strength.contrast)), drawn(strength.brightness)
    middle = images.mean((2, 3), keepdim=True)
    return ((images - middle) * contrast + middle + shift).clamp(0, 1)


def _soften(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    low, high = (math.log(side) for side in _FEW)
    groups = _chosen(len(images), share, rng).split(_ALIKE)
    for chosen, size in zip(groups, _uniform(len(groups), low, high, rng).exp().tolist(), strict=True):
        if not len(chosen):
            break
        few = F.interpolate(images[chosen], size=(round(size),) * 2, mode="bilinear", antialias=True)
        images[chosen] = F.interpolate(few, size=(CROP, CROP), mode="bilinear").clamp(0, 1)
    return images


def _blur(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Blur a share of the pictures by ellipses of any direction: out of focus to moving."""
    chosen = _chosen(len(images), share, rng)
    count = len(chosen)
    if not count:
        return images
    long, short = _uniform(count, 0.6, 3.0, rng), _uniform(count, 0.3, 1.0, rng)
    angle = _uniform(count, 0.0, math.pi, rng)
    reach = torch.arange(_KERNEL, device=rng.device) - _KERNEL // 2
    down, right = torch.meshgrid(reach.float(), reach.float(), indexing="ij")
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    along, across = (
        (right * cos + down * sin) / long.view(-1, 1, 1),
        (down * cos - right * sin) / (long * short).view(-1, 1, 1),
    )
    kernel = torch.exp(-(along**2 + across**2) / 2)
    kernel = (kernel / kernel.sum((1, 2), keepdim=True))[:, None]
    padded = F.pad(images[chosen], (_KERNEL // 2,) * 4, mode="replicate")
    images[chosen] = F.conv2d(padded.transpose(0, 1), kernel, groups=count).transpose(0, 1)
    return images


def _darken(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Take most of the light of a share of the pictures, and leave the sensor's noise."""
    chosen = _chosen(len(images), share, rng)
    light = _uniform(len(chosen), 0.1, 0.6, rng).view(-1, 1, 1, 1)
    noise = torch.randn(images[chosen].shape, generator=rng, device=rng.device) * 0.015
    images[chosen] = (images[chosen] * light + noise).clamp(0, 1)
    return images


def _compress(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Leave of a share of the pictures what JPEG of a quality from 20 to 69 would."""
    chosen = _chosen(len(images), share, rng)
    quality = torch.randint(20, 70, (len(chosen), 1, 1, 1, 1), generator=rng, device=rng.device)
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    quanta = ((torch.tensor(_QUANTA, device=rng.device) * scale + 50) // 100).clamp(1, 255).float()
    place = torch.arange(_BLOCK, device=rng.device)
    waves = torch.cos((2 * place + 1) * place[:, None] * (math.pi / (2 * _BLOCK))) * math.sqrt(2 / _BLOCK)
    waves[0] /= math.sqrt(2)
    levels = (images[chosen] * 255).round() - 128
    blocks = levels.view(-1, CROP // _BLOCK, _BLOCK, CROP // _BLOCK, _BLOCK).transpose(2, 3)
    kept = (waves @ blocks @ waves.T / quanta).round() * quanta
    blocks = (waves.T @ kept @ waves + 128).round().clamp(0, 255) / 255
    images[chosen] = blocks.transpose(2, 3).reshape(-1, 1, CROP, CROP)
    return images


def _cut_out(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Cover a rectangle of 6 to 19 pixels a side in a share of the pictures with one grey."""
    count = len(images)

    def within(side: Tensor, first: Tensor) -> Tensor:
        place = torch.arange(CROP, device=rng.device)
        return (place >= first[:, None]) & (place < (first + side)[:, None])

    size = torch.randint(6, 20, (2, count), generator=rng, device=rng.device)
    first = torch.randint(0, CROP - 6, (2, count), generator=rng, device=rng.device)
    hidden = within(size[0], first[0])[:, :, None] & within(size[1], first[1])[:, None]
    hidden &= (_rand(count, rng) < share).view(-1, 1, 1)
    return torch.where(hidden[:, None], _rand(count, rng).view(-1, 1, 1, 1), images)

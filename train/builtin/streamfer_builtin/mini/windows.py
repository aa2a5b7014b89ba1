"""Windows of features for stage `clips`: made from views of single photographs, and read from rendered clips.

Shape suffixes: N pictures or clips, V views of a picture, B windows, T frames, D feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamfer_builtin.mini import augment, renders
from streamfer_builtin.mini.data import CLASSES, Pictures
from streamfer_builtin.mini.networks import FRAMES, JointModel
from streamfer_builtin.mini.recipe import ClipsPart
from streamfer_builtin.render.clips import RenderedClips

#: Where an expression fills this share of a window, the window shows it and nothing else.
_FILLED = 0.6
_MILD = augment.Strength(
    gamma=0.3, contrast=0.3, brightness=0.1, soften=0.15, blur=0.1, dark=0.05, jpeg=0.02, noise=0.15, cutout=0.05
)


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """Features of several views of each photograph: float16 (N, V, D); target probabilities float32 (N, C)."""

    views: Tensor
    targets: Tensor

    @property
    def neutral(self) -> Tensor:
        """Return the rows, int64, of faces at rest."""
        return (self.targets[:, CLASSES.index("neutral")] > 0.5).nonzero()[:, 0]


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """Features of rendered clips: float16 (N, T, D); labels and directions int64 (N,)."""

    frames: Tensor
    labels: Tensor
    directions: Tensor


def clip_views(pictures: Pictures, index: Tensor, views: int, rng: torch.Generator) -> Tensor:
    """Crop `views` frames of one drifting, shaking clip out of each picture.

    Light is shared by a clip; place, size and angle drift and tremble, as an aligned face does in a video.
    Returns float32 (B, V, 1, 48, 48) in [0, 1].
    """
    count = len(index)
    along = torch.linspace(-0.5, 0.5, views)

    def path(reach: float, drift: float, shake: float) -> Tensor:
        base = (torch.rand(count, 1, generator=rng) * 2 - 1) * reach
        slope = (torch.rand(count, 1, generator=rng) * 2 - 1) * drift
        return (base + slope * along + torch.randn(count, views, generator=rng) * shake).flatten()

    scale = torch.exp(path(0.08, 0.06, 0.015))
    angle = path(0.12, 0.12, 0.02)
    shift = torch.stack([path(1.5, 1.5, 0.25), path(1.5, 1.5, 0.25)], 1) * (2 / augment.CROP)
    mirrored = (torch.rand(count, generator=rng) < 0.5).repeat_interleave(views)
    theta = augment.similarity(scale, angle, shift, mirrored, torch.ones(count * views))
    pixels = pictures.pixels[index].repeat_interleave(views, 0)
    crops = augment.crop(pixels, pictures.extent, theta, augment.random_padding(rng))
    lit = augment.photometric(crops, _MILD, rng, group=views)
    return lit.view(count, views, 1, augment.CROP, augment.CROP)


@torch.no_grad()
def encode_pictures(
    model: JointModel, pictures: Pictures, index: Tensor, targets: Tensor, views: int, rng: torch.Generator
) -> PictureFeatures:
    """Encode the plain crop of each picture at `index` and `views` - 1 views of a clip made from it.

    `targets` float32 (N, C) are those of all `pictures`.
    """
    model.eval()
    parts = []
    for rows in torch.split(index, max(1, 256 // views)):
        plain = augment.crop(pictures.pixels[rows], pictures.extent)[:, None]
        moved = clip_views(pictures, rows, views - 1, rng) if views > 1 else plain[:, :0]
        crops = torch.cat([plain, moved], 1)
        parts.append(model.encode(augment.resized(crops.flatten(0, 1), model.image)).view(len(rows), views, -1).half())
    return PictureFeatures(torch.cat(parts), targets[index])


@torch.no_grad()
def encode_clips(model: JointModel, clips: RenderedClips, rng: torch.Generator | None = None) -> ClipFeatures:
    """Encode every frame of rendered clips; `rng` gives each clip a light and a compression of its own.

    Half of the clips are mirrored then.
    """
    model.eval()
    frames = renders.pictures(clips)
    parts = []
    for rows in torch.split(torch.arange(len(clips)), 256 // FRAMES):
        index = (rows[:, None] * FRAMES + torch.arange(FRAMES)).flatten()
        crops = augment.crop(frames.pixels[index], frames.extent)
        if rng is not None:
            mirrored = (torch.rand(len(rows), generator=rng) < 0.5).repeat_interleave(FRAMES)
            crops = torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
            crops = augment.photometric(crops, _MILD, rng, group=FRAMES)
        parts.append(model.encode(augment.resized(crops, model.image)).view(len(rows), FRAMES, -1).half())
    return ClipFeatures(torch.cat(parts), renders.labels_of(clips), torch.from_numpy(clips.direction).long())


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows made from photographs.

    Attributes:
        frames: float32 (B, T, D).
        rest: float32 (B, D), the neutral face that is mixed in.
        own: float32 (B,), how much of the window counts as the photograph's own.
        static: bool (B,), whether it is that photograph throughout.
    """

    frames: Tensor
    rest: Tensor
    own: Tensor
    static: Tensor


def synthesise(features: PictureFeatures, rows: Tensor, part: ClipsPart, rng: torch.Generator) -> Windows:
    """Make a window of each photograph in `rows`.

    A share `part.static` holds the expression throughout; the others start from, or return to, a neutral face.
    Some end in repeats of the last feature (short clips) or repeat one in the middle (a lost face).
    """
    count = len(rows)
    shown_BTD = _walk(features.views[rows], rng)
    neutral = features.neutral
    partner = neutral[torch.randint(len(neutral), (count,), generator=rng)]
    rest_BTD = _walk(features.views[partner], rng)
    weight_BT = _envelope(count, part.static, rng)
    windows_BTD = torch.lerp(rest_BTD, shown_BTD, weight_BT[..., None])
    order_BT = gapped(count, part, rng)
    own_B = (weight_BT.gather(1, order_BT).mean(1) / _FILLED).clamp(max=1)
    windows_BTD = windows_BTD.gather(1, order_BT[..., None].expand_as(windows_BTD))
    return Windows(windows_BTD, rest_BTD.mean(1), own_B, weight_BT.amin(1) >= 1)


def gapped(count: int, part: ClipsPart, rng: torch.Generator, *, padding: bool = True) -> Tensor:
    """Draw which frame stands at each place: repeats of the last one (padding) or of one in the middle (a gap).

    Returns int64 (count, T).
    """
    frames = torch.arange(FRAMES).expand(count, -1)
    real = torch.randint(4, FRAMES, (count, 1), generator=rng)
    padded = torch.rand(count, 1, generator=rng) < (part.padded if padding else 0.0)
    frames = torch.where(padded, torch.minimum(frames, real - 1), frames)
    first, length = torch.randint(1, 12, (count, 1), generator=rng), torch.randint(1, 5, (count, 1), generator=rng)
    lost = (frames >= first) & (frames < first + length) & (torch.rand(count, 1, generator=rng) < part.held)
    return torch.where(lost, first - 1, frames)


def _walk(views_BVD: Tensor, rng: torch.Generator) -> Tensor:
    # A straight path through the views, interpolated; half of the windows stand still at one of them, because a
    # constant window has to mean what its picture means.
    count, views, _ = views_BVD.shape
    start, end = torch.rand(2, count, 1, generator=rng) * (views - 1)
    still = torch.rand(count, 1, generator=rng) < 0.5
    place_BT = torch.where(still, start.round(), start + (end - start) * torch.linspace(0, 1, FRAMES))
    low_BT = place_BT.floor().long().clamp(max=max(views - 2, 0))
    part_BT1 = (place_BT - low_BT)[..., None]
    rows = torch.arange(count)[:, None]
    floats: Tensor = views_BVD.float()
    return torch.lerp(floats[rows, low_BT], floats[rows, (low_BT + 1).clamp(max=views - 1)], part_BT1)


def _envelope(count: int, static: float, rng: torch.Generator) -> Tensor:
    # Strength of the expression over time: ramp, plateau, ramp; at least four frames lie on the plateau.
    centre, plateau, ramp, floor = torch.rand(4, count, 1, generator=rng)
    centre, plateau, ramp = centre * (FRAMES - 1), 3 + plateau * 6, 1 + ramp * 4
    distance_BT = (torch.arange(FRAMES) - centre).abs()
    rising_BT = ((plateau + ramp - distance_BT) / ramp).clamp(0, 1)
    weight_BT = floor * 0.4 + (1 - floor * 0.4) * rising_BT
    still = torch.rand(count, 1, generator=rng) < static
    return torch.where(still, torch.ones_like(weight_BT), weight_BT)

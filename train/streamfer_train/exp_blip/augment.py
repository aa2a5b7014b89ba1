"""A picture as training sees it: a crop, a flip, and two operations of a RandAugment that spares faces.

Rotate and AutoContrast are left out, as Exp-BLIP's authors do. Strengths are those of LAVIS, whose levels go to 10:
at level 5 shear is 0.15, a shift is 5 pixels, and brightness and sharpness are multiplied by 1, that is, unchanged.
"""

from __future__ import annotations

import math
import random

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from streamfer_train.exp_blip.config import AugmentationConfig

OPERATIONS = ("identity", "brightness", "sharpness", "equalize", "shear_x", "shear_y", "translate_x", "translate_y")
#: Every operation that is drawn is carried out as often as not.
CHANCE = 0.5
#: Grey where a picture has moved away.
FILL = [128.0, 128.0, 128.0]
_ASPECT = (3 / 4, 4 / 3)


def draw_crop(width: int, height: int, scale: tuple[float, float], rng: random.Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random part: torchvision's ``RandomResizedCrop``, own generator."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    side = min(width, height)
    return (height - side) // 2, (width - side) // 2, side, side


def squashed(picture_3HW: Tensor, size: int) -> Tensor:
    """Return uint8 (3, size, size) of (3, H, W): bicubic, antialiased, whatever its aspect (the authors' test view)."""
    resized: Tensor = V.resize(picture_3HW, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def augmented(picture_3HW: Tensor, size: int, config: AugmentationConfig, rng: random.Random) -> Tensor:
    """Return one random view, uint8 (3, size, size); the same generator state gives the same pixels."""
    height, width = picture_3HW.shape[1:]
    top, left, h, w = draw_crop(width, height, config.scale, rng)
    view = squashed(picture_3HW[:, top : top + h, left : left + w], size)
    if config.flip and rng.random() < 0.5:
        view = view.flip(2)
    for _ in range(config.operations):
        name = rng.choice(OPERATIONS)
        sign = rng.choice((-1, 1))
        if rng.random() < CHANCE:
            view = apply(view, name, config.magnitude, sign, corner=config.shear == "corner")
    return view.contiguous()


def apply(view_3SS: Tensor, name: str, level: int, sign: int = 1, *, corner: bool = False) -> Tensor:
    """Carry out one operation at ``level`` (0-10) in the direction of ``sign``; LAVIS shears about the ``corner``."""
    changed = view_3SS
    if name == "equalize":
        changed = V.equalize(view_3SS)
    elif name == "brightness":
        changed = V.adjust_brightness(view_3SS, 0.1 + 1.8 * level / 10)
    elif name == "sharpness":
        changed = V.adjust_sharpness(view_3SS, 0.1 + 1.8 * level / 10)
    elif name != "identity":
        kind, _, axis = name.partition("_")
        shear = sign * math.degrees(math.atan(0.03 * level)) if kind == "shear" else 0.0
        shift = sign * level if kind == "translate" else 0
        changed = V.affine(
            view_3SS,
            angle=0.0,
            translate=[shift, 0] if axis == "x" else [0, shift],
            scale=1.0,
            shear=[shear, 0.0] if axis == "x" else [0.0, shear],
            interpolation=InterpolationMode.BILINEAR,
            fill=FILL,
            center=[0.5, 0.5] if corner else None,
        )
    return changed

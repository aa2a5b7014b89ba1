"""The authors' augmentation: one draw for all frames of a clip, applied with the pixels that PIL would give.

Everything stays uint8. Random numbers are drawn in the authors' order. Brightness and rotation give PIL's values
bit for bit. Resizing is torch's SIMD kernel for Pillow's antialiased bilinear: of faces of 224 pixels, two values in a
thousand differ, by one grey level and without bias (tests/train/test_dfer_data_pixels.py holds it).

Source: DFER-CLIP, dataloader/video_transform.py and video_dataloader.py.
Shape suffixes: T frames, H and W of a frame, S side of the result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from streamfer_train.dfer_clip.data_config import AugmentationName
from streamfer_train.dfer_clip.frames import Picture

BRIGHTNESS = 0.5
ROTATION_DEGREES = 4.0
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels of a picture: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class View:
    """One draw: how every frame of a clip is seen."""

    box: Box  #: the part that is seen
    #: degrees anticlockwise that the whole frame is turned by first, black where nothing was; or None
    angle: float | None = None
    brightness: float | None = None  #: factor on all pixels, or None
    #: (width, height) that the whole frame is resized to before ``box`` is cut from it, or None: ``box`` is cut from
    #: the frame and then resized to S x S
    scale: tuple[int, int] | None = None
    flip: bool = False  #: left and right exchanged, last


def draw_view(name: AugmentationName, width: int, height: int, size: int, rng: random.Random) -> View:
    """Draw how a training clip of ``width`` x ``height`` frames is seen at ``size`` pixels.

    DFEW: brightness, crop, flip. FERV39k: rotation, crop, flip. MAFW: crop, flip. ``none``: the test view.
    """
    if name == "none":
        return whole_view(width, height)
    angle = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES) if name == "ferv39k" else None
    brightness = rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS) if name == "dfew" else None
    box, scale = _draw_box(width, height, size, rng)
    return View(box, angle, brightness, scale, flip=rng.random() < 0.5)


def whole_view(width: int, height: int) -> View:
    """Return the test view: the whole frame, squashed to a square."""
    return View(Box(0, 0, width, height))


def render(view: View, pictures: Sequence[Picture], size: int) -> Tensor:
    """Return uint8 (T, 3, S, S), contiguous: every picture, uint8 (H, W, 3), as ``view`` sees it.

    A picture of another size than the first is seen through the same box, black where it ends.
    """
    if len({picture.shape for picture in pictures}) == 1:
        # Frames that were sampled twice (short clips) are rendered once.
        distinct: dict[int, int] = {}
        places = [distinct.setdefault(id(picture), len(distinct)) for picture in pictures]
        unique = list({id(picture): picture for picture in pictures}.values())
        seen = _seen(view, unique, size)
        if len(unique) < len(pictures):
            seen = seen[places]
    else:
        seen = torch.cat([_seen(view, [picture], size) for picture in pictures])
    seen_TSSC = seen.permute(0, 2, 3, 1).numpy()
    # One pass flips and puts the channels first: half the time of torch's flip and contiguous.
    return torch.from_numpy(
        np.ascontiguousarray((seen_TSSC[:, :, ::-1] if view.flip else seen_TSSC).transpose(0, 3, 1, 2))
    )


def _draw_box(width: int, height: int, size: int, rng: random.Random) -> tuple[Box, tuple[int, int] | None]:
    for _ in range(ATTEMPTS):
        area = rng.uniform(*AREA) * (width * height)
        aspect = rng.uniform(*ASPECT)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rng.random() < 0.5:
            w, h = h, w
        # The authors let a side of a tiny picture round to nothing, and crash.
        if 0 < w <= width and 0 < h <= height:
            return Box(rng.randint(0, width - w), rng.randint(0, height - h), w, h), None
    # The shorter side becomes the crop's, as torchvision's Resize rounds it.
    scale = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    return Box(rng.randint(0, scale[0] - size), rng.randint(0, scale[1] - size), size, size), scale


def _seen(view: View, pictures: Sequence[Picture], size: int) -> Tensor:
    """Return uint8 (T, 3, S, S) of pictures of one size, without the flip."""
    height, width = pictures[0].shape[:2]
    if view.scale is not None:
        whole = Box(0, 0, width, height)
        large = _resize(_cut(view, pictures, whole), *view.scale)
        box = view.box
        return large[:, :, box.y : box.y + box.height, box.x : box.x + box.width]
    return _resize(_cut(view, pictures, view.box), size, size)


def _cut(view: View, pictures: Sequence[Picture], box: Box) -> NDArray[np.uint8]:
    """Return the box of every picture, uint8 (T, h, w, 3), turned and brightened."""
    if view.angle is not None:
        pictures = [np.asarray(Image.fromarray(picture).rotate(view.angle)) for picture in pictures]
    cut = np.zeros((len(pictures), box.height, box.width, 3), np.uint8)
    for place, picture in zip(cut, pictures, strict=True):
        part = picture[box.y : box.y + box.height, box.x : box.x + box.width]
        place[: part.shape[0], : part.shape[1]] = part
    if view.brightness is not None:
        cut = np.asarray(cv2.LUT(cut.reshape(len(pictures), -1), brightness_table(view.brightness)), np.uint8)
    return cut.reshape(len(pictures), box.height, box.width, 3)


def brightness_table(factor: float) -> NDArray[np.uint8]:
    """Return what each of the 256 values becomes: PIL's ``ImageEnhance.Brightness``, which cuts fractions off."""
    products: NDArray[np.float32] = np.float32(factor) * np.arange(256, dtype=np.float32)
    return products.clip(0, 255).astype(np.uint8)


def _resize(cut_THWC: NDArray[np.uint8], width: int, height: int) -> Tensor:
    """Return uint8 (T, 3, height, width): Pillow's bilinear resize, antialiased where it shrinks."""
    cut = torch.from_numpy(cut_THWC).permute(0, 3, 1, 2)
    if cut.shape[2:] == (height, width):
        return cut
    return F.interpolate(cut, (height, width), mode="bilinear", align_corners=False, antialias=True)

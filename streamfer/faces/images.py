"""What a detector accepts as a picture, and how large it looks at it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError

#: A face of this many pixels of a 1080p frame has to stay findable.
FACE_TO_FIND = 32
#: Below this many pixels of its input a detector loses recall quickly (docs/results/tracking.md, "Small faces").
SMALLEST_SEEN = 16.0
#: Longer side of the detector's input that the rule starts from, for frames and for stills, and where it stops.
USUAL_SIDE, STILL_SIDE, LARGEST_SIDE = 640, 1280, 1920
#: Frames up to this longer side are read at 640: docs/results/faces.md has the recall on videos of that size, and
#: a larger input takes two to three times as long.
MODEST_SIDE = 960


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``image`` as uint8 RGB (H, W, 3); grey is repeated, a fourth channel (alpha) is dropped.

    A frame with a side of zero pixels comes back as (0, 0, 3): it has no faces, and that is no error.

    Raises:
        ValueError: not a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"frame is {kind}; expected a uint8 array, RGB (H, W, 3)")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(f"frame has shape {image.shape}; expected (H, W, 3), or grey (H, W), or RGBA (H, W, 4)")
    if image.size == 0:
        return np.zeros((0, 0, 3), np.uint8)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


@dataclass(frozen=True, slots=True)
class DetectionSize:
    """At which size a detector sees a frame."""

    #: Pixels of the longer side of the input, larger frames being shrunk to it. None: 640 for frames up to 960, for
    #: larger ones as much more as a face of 32 pixels needs to keep ``smallest``, up to 1920. So a detector that finds
    #: faces of 16 pixels reads a 1080p frame at 960 x 540. Stills: 1280 in place of 640, as nobody waits for the next.
    longer_side: int | None = None
    smallest: float = SMALLEST_SEEN  #: pixels of the input from which the detector finds faces reliably
    least_side: int = 0  #: without ``longer_side``, frames whose longer side is less are enlarged to it

    def __post_init__(self) -> None:
        if self.longer_side is not None and self.longer_side < 32:
            raise ConfigError(f"det_size: {self.longer_side} is too small; use at least 32 pixels, or leave it out")

    def reading(self, smallest: float, least_side: int = 0) -> DetectionSize:
        """Return the same rule for a detector that needs ``smallest`` pixels, and frames of ``least_side``."""
        return replace(self, smallest=smallest, least_side=least_side)

    def scale(self, height: int, width: int, *, still: bool = False) -> float:
        """Return the factor by which a frame of this size, or a still, is resized; more than 1 enlarges it."""
        longer = max(height, width)
        if self.longer_side is not None:
            return min(1.0, self.longer_side / longer)
        if longer < self.least_side:
            return self.least_side / longer
        needed = 0.0 if longer <= MODEST_SIDE else longer * self.smallest / FACE_TO_FIND
        return min(1.0, min(max(STILL_SIDE if still else USUAL_SIDE, needed), LARGEST_SIDE) / longer)

    def resize(self, image: NDArray[np.uint8], *, still: bool = False) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Return the picture at the detector's size and the factors (x, y) that lead to it."""
        return resize_by(image, self.scale(*image.shape[:2], still=still))


def resize_by(image: NDArray[np.uint8], scale: float) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return a picture resized by a factor, and the factors (x, y) that lead to its whole pixels."""
    if scale == 1.0:
        return image, (1.0, 1.0)
    height, width = image.shape[:2]
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    # Area averaging keeps small faces from dissolving into aliases where plain bilinear skips pixels.
    method = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
    small = cv2.resize(image, (new_width, new_height), interpolation=method)
    return np.asarray(small, np.uint8), (new_width / width, new_height / height)


def thinned(image: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return every ``step``-th pixel of every ``step``-th row of a picture (H, W, 3)."""
    # As items of three bytes: NumPy would copy single ones.
    pixels = np.ascontiguousarray(image).view("V3")[::step, ::step]
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(*pixels.shape[:2], 3)


def planes(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Return the colours of a picture (H, W, 3) apart, black beyond its sides: float32 (1, 3, height, width)."""
    result = np.zeros((1, 3, height, width), np.float32)
    for plane, colour in zip(result[0], cv2.split(picture), strict=True):
        plane[: picture.shape[0], : picture.shape[1]] = colour
    return result

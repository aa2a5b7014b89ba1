"""Crop geometry that travels with a model's weights: which pixels of a face the model was trained to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfer.errors import CheckpointError

CropKind = Literal["similarity", "box"]

#: Five landmarks in a 128-pixel crop (x, y), as seen in the picture: left eye, right eye, nose tip, left and
#: right mouth corner. The ArcFace template scaled to 128, shrunk to 0.9 about the centre and moved up by 8
#: pixels, so that chin and forehead stay inside: expressions need them, face recognition does not.
LOOSE_TEMPLATE_128: tuple[tuple[float, float], ...] = (
    (45.79, 51.57),
    (82.03, 51.37),
    (64.03, 72.19),
    (49.14, 93.40),
    (79.15, 93.24),
)


@dataclass(frozen=True, slots=True)
class CropProfile:
    """How a face is cut out of a frame.

    ``similarity``: five landmarks are mapped onto ``landmarks`` (pixels of the crop) by the least-squares
    similarity transform. ``box``: the detection box, grown by ``margin`` of its size on each side and
    squashed to a square (DFER-CLIP reads the datasets' face crops that way: facts of its data loader,
    "plain bilinear resize ignoring aspect ratio"). A face without landmarks always falls back to its box.
    """

    kind: CropKind  #: ``similarity`` or ``box``
    size: int  #: side of the square crop, pixels
    landmarks: tuple[tuple[float, float], ...] = ()  #: five (x, y) targets in crop pixels; empty for ``box``
    margin: float = 0.1  #: fraction of the box added on each side (``box``, and the fallback of ``similarity``)

    def __post_init__(self) -> None:
        if self.size < 8:
            raise CheckpointError(f"crop profile: size is {self.size}; expected at least 8 pixels")
        if self.kind == "similarity" and len(self.landmarks) != 5:
            raise CheckpointError(f"crop profile: {len(self.landmarks)} landmarks; a similarity crop needs 5")


def loose_crop(size: int) -> CropProfile:
    """Return the loosened ArcFace similarity crop at ``size`` pixels (the built-in models' profile)."""
    scale = size / 128
    return CropProfile(
        kind="similarity",
        size=size,
        landmarks=tuple((x * scale, y * scale) for x, y in LOOSE_TEMPLATE_128),
    )


def squashed_crop(size: int, margin: float = 0.0) -> CropProfile:
    """Return the crop that squashes the detection box, grown by ``margin`` on each side, to ``size`` pixels."""
    return CropProfile(kind="box", size=size, margin=margin)


#: Exp-BLIP reads pictures of faces with some surroundings, resized to 224 whatever their aspect (its evaluation).
EXP_BLIP_CROP = squashed_crop(224, margin=0.25)

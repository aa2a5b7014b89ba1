"""The end of a source's front: what the faces that are read are worth, and their crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfer.config import FacesConfig
from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import TrackedFace, TrackedFrame
from streamfer.faces.quality import measured
from streamfer.geometry import CropProfile
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, FrameFacts
from streamfer.pipeline.observer import ObserverPlan


@dataclass(frozen=True, slots=True, eq=False)
class TrackedPicture:
    """One frame whose faces are known, with the picture that they are cut out of.

    Attributes:
        source_id, epoch, tick, facts, left_out: as in :class:`~streamfer.pipeline.items.AnalysedFrame`.
        image: uint8 RGB (H, W, 3).
        tracked: what the tracker says of it.
    """

    source_id: str
    epoch: int
    tick: int | None
    facts: FrameFacts
    image: NDArray[np.uint8]
    tracked: TrackedFrame
    left_out: int


@dataclass(frozen=True, slots=True)
class CropCutter:
    """Turns tracked pictures into analysed frames.

    Attributes:
        faces: which faces are read.
        crop: geometry of the crops the model eats.
        observed: whose portraits are kept; None where nobody watches.
        clock: counts the crops' time.
    """

    faces: FacesConfig
    crop: CropProfile
    observed: ObserverPlan | None
    clock: StageClock

    def analysed(self, picture: TrackedPicture) -> AnalysedFrame:
        """Measure and cut the faces of one frame."""
        with self.clock.measure("crop", len(picture.tracked.faces)):
            found = picture.tracked.faces
            large = measured(picture.image, [face for face in found if self._readable(face)])
            faces = tuple(face for face in large if face.quality >= self.faces.min_quality)
            crops = _cut(picture.image, faces if picture.tick is not None else (), self.crop)
            portraits = self._portraits(picture.image, faces, crops)
        return AnalysedFrame(
            source_id=picture.source_id,
            epoch=picture.epoch,
            tick=picture.tick,
            facts=picture.facts,
            faces=faces,
            too_small=tuple(face for face in found if not self._readable(face)),
            renamed=picture.tracked.renamed,
            crops=crops,
            portraits=portraits,
            left_out=picture.left_out,
        )

    def _readable(self, face: TrackedFace) -> bool:
        return bool(min(face.box[2:] - face.box[:2]) >= self.faces.min_size)

    def _portraits(
        self, image: NDArray[np.uint8], faces: Sequence[TrackedFace], crops: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8] | None, ...]:
        """Return one portrait a crop: of the largest faces where somebody watches, of none otherwise."""
        portraits: list[NDArray[np.uint8] | None] = [None] * len(crops)
        observed = self.observed
        if observed is not None and observed.crop is not None and portraits:
            order = sorted(range(len(faces)), key=lambda place: -faces[place].side)
            largest = order[: observed.captions.max_faces]
            # An observer that looks at the very crops of the expression model costs no second cut.
            same = observed.crop == self.crop
            cut = crops[largest] if same else _cut(image, [faces[place] for place in largest], observed.crop)
            for place, portrait in zip(largest, cut, strict=True):
                portraits[place] = portrait
        return tuple(portraits)


def _cut(image: NDArray[np.uint8], faces: Sequence[TrackedFace], profile: CropProfile) -> NDArray[np.uint8]:
    """Cut faces out of a frame: uint8 RGB (F, S, S, 3)."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2)
    return crop_faces(image, boxes, landmarks, profile)

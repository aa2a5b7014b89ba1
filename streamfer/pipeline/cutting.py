"""The end of a source's front: what its faces are worth, and their crops, beside the search in the next frame."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfer.config import FacesConfig
from streamfer.faces.alignment import crop_faces
from streamfer.faces.detections import TrackedFace, TrackedFrame
from streamfer.faces.quality import measured
from streamfer.geometry import CropProfile
from streamfer.pipeline.clock import StageClock
from streamfer.pipeline.items import AnalysedFrame, FrameFacts, Item
from streamfer.pipeline.observer import ObserverPlan

#: Frames that wait for their crops: one keeps both threads busy.
_WAITING = 1


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


class CropCutter:
    """Turns tracked pictures into analysed frames and hands everything on in its order, from a thread of its own.

    Live, the caller waits for it: what waits between two threads grows old.

    Args:
        live: tells whether the source is, which may turn out as it opens.
        faces: which faces are read.
        crop: geometry of the crops the model eats.
        observed: whose portraits are kept; None where nobody watches.
        out: takes the items; may block.
        clock: counts the crops' time.
        name: of the thread.
    """

    def __init__(
        self,
        live: Callable[[], bool],
        faces: FacesConfig,
        crop: CropProfile,
        observed: ObserverPlan | None,
        out: Callable[[Item], None],
        clock: StageClock,
        name: str,
    ) -> None:
        self._live, self._faces, self._crop, self._observed = live, faces, crop, observed
        self._out, self._clock = out, clock
        self._waiting: queue.Queue[TrackedPicture | Item | None] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: TrackedPicture | Item) -> None:
        """Take the next item; waits while another waits.

        Raises:
            Exception: what went wrong with an item before.
        """
        self._waiting.put(item)
        if self._live():
            self._waiting.join()
        if self._error is not None:
            raise self._error

    def close(self) -> Exception | None:
        """Hand on what waits, end the thread, and return what went wrong."""
        self._waiting.put(None)
        self._thread.join()
        return self._error

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    self._out(self._analysed(item) if isinstance(item, TrackedPicture) else item)
            except Exception as error:
                self._error = error
            finally:
                self._waiting.task_done()

    def _analysed(self, picture: TrackedPicture) -> AnalysedFrame:
        with self._clock.measure("crop", len(picture.tracked.faces)):
            found = picture.tracked.faces
            large = measured(picture.image, [face for face in found if self._readable(face)])
            faces = tuple(face for face in large if face.quality >= self._faces.min_quality)
            crops = _cut(picture.image, faces if picture.tick is not None else (), self._crop)
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
        return bool(min(face.box[2:] - face.box[:2]) >= self._faces.min_size)

    def _portraits(
        self, image: NDArray[np.uint8], faces: Sequence[TrackedFace], crops: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8] | None, ...]:
        """Return one portrait a crop: of the largest faces where somebody watches, of none otherwise."""
        portraits: list[NDArray[np.uint8] | None] = [None] * len(crops)
        observed = self._observed
        if observed is not None and observed.crop is not None and portraits:
            order = sorted(range(len(faces)), key=lambda place: -faces[place].side)
            largest = order[: observed.captions.max_faces]
            # An observer that looks at the very crops of the expression model costs no second cut.
            same = observed.crop == self._crop
            cut = crops[largest] if same else _cut(image, [faces[place] for place in largest], observed.crop)
            for place, portrait in zip(largest, cut, strict=True):
                portraits[place] = portrait
        return tuple(portraits)


def _cut(image: NDArray[np.uint8], faces: Sequence[TrackedFace], profile: CropProfile) -> NDArray[np.uint8]:
    """Cut faces out of a frame: uint8 RGB (F, S, S, 3)."""
    boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2)
    return crop_faces(image, boxes, landmarks, profile)

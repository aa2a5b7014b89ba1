"""Which detection continues which track from one frame to the next: ByteTrack of roboflow trackers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from trackers import BaseIoU, BIoU, ByteTrackTracker

from streamfer.faces.appearance import similarity
from streamfer.faces.detections import Detections

#: Boxes grow by this share of their size on each side before they are compared: at 8 sampled frames a second
#: a face may leave its own box between two frames.
BUFFER = 0.5
#: Overlap counts in full from this far below a person's usual likeness, and at the floor from this far. The floor
#: lets only a face at the very same place go on after its looks have changed all at once (a light goes on).
FULL, NONE, FLOOR = 0.03, 0.2, 0.12


@dataclass(frozen=True, slots=True)
class Person:
    """What a track's person looks like: a descriptor (P, D), and the least likeness seen so far."""

    template: NDArray[np.float32]
    least_alike: float


class AppearanceIoU(BaseIoU):
    """Overlap of grown boxes, lowered where the person in the detection looks unlike the track's person.

    The library's extension point hands over boxes alone; rows and columns are recognised by their boxes.
    """

    def __init__(self, buffer: float = BUFFER) -> None:
        self._overlap = BIoU(buffer)
        self._engine: Any = None
        self._seen: dict[bytes, NDArray[np.float32]] = {}
        self._people: dict[int, Person] = {}

    def attach(self, engine: Any) -> None:
        """Remember the tracker whose tracks the rows are."""
        self._engine = engine

    def prepare(
        self,
        boxes: NDArray[np.float64],
        descriptors: NDArray[np.float32] | None,
        people: dict[int, Person],
    ) -> None:
        """Set what the next frame's detections look like, and each library id's person."""
        self._seen = {}
        if descriptors is not None:
            self._seen = {box.tobytes(): row for box, row in zip(boxes, descriptors, strict=True)}
        self._people = people

    def _compute(self, boxes_1: NDArray[np.float64], boxes_2: NDArray[np.float64]) -> NDArray[np.float64]:
        overlap = np.asarray(self._overlap.compute(boxes_1, boxes_2), np.float64)
        if not self._seen or not self._people:
            return overlap
        ids = {_key(track.get_state_bbox()): track.tracker_id for track in self._engine.tracks}
        rows = [self._people.get(ids.get(_key(box), -1)) for box in boxes_1]
        columns = [self._seen.get(_key(box)) for box in boxes_2]
        known_rows = [index for index, row in enumerate(rows) if row is not None]
        known_columns = [index for index, column in enumerate(columns) if column is not None]
        if known_rows and known_columns:
            alike = similarity(
                np.stack([row.template for row in rows if row is not None]),
                np.stack([column for column in columns if column is not None]),
            )
            least = np.array([[row.least_alike] for row in rows if row is not None])
            factor = np.clip((alike - (least - NONE)) / (NONE - FULL), FLOOR, 1.0)
            overlap[np.ix_(known_rows, known_columns)] *= factor
        return overlap


class Associator:
    """One library tracker, told the sampled rate.

    It counts time in detected frames, not in timestamps: by timestamps it would drop every track whose last
    frame is further back than its buffer, which at one frame a second is each of them.
    """

    def __init__(self, *, fps: float, lost_seconds: float, least_score: float) -> None:
        self._iou = AppearanceIoU()
        self._engine: Any = ByteTrackTracker(
            # The library counts the buffer in frames of 30 a second whatever the real rate.
            lost_track_buffer=max(round(30 * lost_seconds), round(60 / fps)),
            frame_rate=fps,
            minimum_consecutive_frames=1,
            high_conf_det_threshold=least_score,
            track_activation_threshold=least_score,
            minimum_iou_threshold=0.1,
            iou=self._iou,
        )
        self._iou.attach(self._engine)

    def step(
        self,
        detections: Detections,
        descriptors: NDArray[np.float32] | None,
        people: dict[int, Person],
    ) -> NDArray[np.int64]:
        """Return the library's id of every detection (N,), -1 where it has none yet.

        Args:
            detections: faces of this frame.
            descriptors: (N, P, D), or ``None`` to go by boxes alone.
            people: what each library id's person looks like.
        """
        boxes = detections.boxes.astype(np.float64)
        self._iou.prepare(boxes, descriptors, people)
        found = self._engine.update(
            sv.Detections(
                xyxy=boxes,
                confidence=detections.scores.astype(np.float64),
                data={"row": np.arange(len(detections))},
            )
        )
        ids = np.full(len(detections), -1, np.int64)
        if len(found):
            ids[found.data["row"]] = found.tracker_id
        return ids

    def reset(self) -> None:
        """Forget every track."""
        self._engine.reset()


def _key(box: Any) -> bytes:
    return np.ascontiguousarray(box, np.float64).tobytes()

"""Which detection continues which track from one frame to the next: ByteTrack of roboflow trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from trackers import BaseIoU, BIoU, ByteTrackTracker

from streamfer.faces.appearance import similarity
from streamfer.faces.detections import Detections
from streamfer.faces.tracks import Track

#: Boxes grow by this share of their size on each side before they are compared: at 8 sampled frames a second
#: a face may leave its own box between two frames.
BUFFER = 0.5
#: Overlap counts in full from this far below a person's usual likeness, and at the floor from this far. The floor
#: lets only a face at the very same place go on after its looks have changed all at once (a light goes on).
FULL, NONE, FLOOR = 0.03, 0.2, 0.12


class Associator(BaseIoU):
    """The library's tracker, told the sampled rate, and what it compares boxes by.

    That is the overlap of grown boxes, lowered where a detection looks unlike the track's person. The library's
    extension point hands over boxes alone, but in a known order: rows are the tracks as the engine holds them, columns
    the frame's detections, all in its first round because none is below its threshold.

    The engine counts time in detected frames, not in timestamps: by timestamps it would drop every track whose last
    frame is further back than its buffer, which at one frame a second is each of them.
    """

    def __init__(self, *, fps: float, lost_seconds: float, least_score: float) -> None:
        self._overlap = BIoU(BUFFER)
        self._descriptors: NDArray[np.float32] | None = None
        self._tracks: Mapping[int, Track] = {}
        self._engine: Any = ByteTrackTracker(
            # The library counts the buffer in frames of 30 a second whatever the real rate.
            lost_track_buffer=max(round(30 * lost_seconds), round(60 / fps)),
            frame_rate=fps,
            minimum_consecutive_frames=1,
            # Whom the caller brings is good enough to be compared with every track.
            high_conf_det_threshold=0.0,
            track_activation_threshold=least_score,
            minimum_iou_threshold=0.1,
            iou=self,
        )

    def step(
        self, detections: Detections, descriptors: NDArray[np.float32] | None, tracks: Mapping[int, Track]
    ) -> NDArray[np.int64]:
        """Return the library's id of every detection (N,), -1 where it has none yet.

        Descriptors are (N, P, D), or ``None`` to go by boxes alone; ``tracks`` are by the library's ids.
        """
        self._descriptors, self._tracks = descriptors, tracks
        found = self._engine.update(
            sv.Detections(
                xyxy=detections.boxes.astype(np.float64),
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

    def _compute(self, boxes_1: NDArray[np.float64], boxes_2: NDArray[np.float64]) -> NDArray[np.float64]:
        overlap = np.asarray(self._overlap.compute(boxes_1, boxes_2), np.float64)
        rows, templates, least = [], [], []
        for row, one in enumerate(self._engine.tracks):
            track = self._tracks.get(one.tracker_id)
            if track is not None and track.template is not None:
                rows.append(row)
                templates.append(track.template)
                least.append([track.least_alike])
        if self._descriptors is not None and rows:
            alike = similarity(np.stack(templates), self._descriptors)
            overlap[rows] *= np.clip((alike - (np.array(least) - NONE)) / (NONE - FULL), FLOOR, 1.0)
        return overlap

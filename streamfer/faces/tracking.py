"""One person, one number: tracks over the sampled frames of one source and epoch.

roboflow trackers joins detections from frame to frame (:mod:`streamfer.faces.association`). This module adds
what faces at a low sampled rate need: confirmation that loses no frame, numbers that survive short absences,
prediction on frames without detection, and an end at every scene cut. docs/results/tracking.md has the numbers
by which method and defaults were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from streamfer.errors import ConfigError
from streamfer.faces.appearance import Appearance, colours_and_gradients, similarity
from streamfer.faces.association import Associator
from streamfer.faces.cuts import CutDetector
from streamfer.faces.detections import Detections, Expectation, TrackedFace, TrackedFrame
from streamfer.faces.images import as_rgb
from streamfer.faces.tracks import NEVER_ALIKE, Sight, Track, centre, side

#: A predicted face is worth this much less with every sample since its detection.
PREDICTED_SCORE = 0.9
#: While nobody moves by more than this share of the face's side in less than these seconds, and nobody else is within
#: so many sides, every n-th look is enough.
STAYS, MOMENT, APART, LOOK_EVERY = 0.3, 0.3, 1.5, 4
#: Of fewer frames nobody can be confirmed; a source that has more has lied about its length.
BRIEF = 4
#: No track is over before it was missed in so many detected frames.
MISSED_CHANCES = 2


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """What the tracker believes and for how long."""

    least_score: float = 0.4  #: detections below it neither start nor feed a track
    confirm_hits: int = 3  #: detections a track needs before it is a person; a still needs one
    #: Sum over the detections of (score - 0.4) / 0.5, each 0 to 1, that it needs besides: three sure faces, or four
    #: doubtful ones.
    confirm_evidence: float = 1.8
    confirm_seconds: float = 0.2  #: since its first detection, besides: at a full rate three frames are one glance
    confirm_density: float = 0.5  #: share of the detected frames since its first in which it was seen
    tentative_seconds: float = 0.4  #: a track without confirmation is dropped after this long unseen
    lost_seconds: float = 0.5  #: the association library keeps a lost track this long, by its motion
    forget_seconds: float = 2.5  #: a confirmed track is over after this long unseen; until then it may be brought back


class FaceTracker:
    """Tracks the faces of one source and epoch; numbers from 1 in order of first confirmed appearance.

    Numbers depend on the frames alone, never on how they were batched for detection. Memory is O(open tracks).
    """

    def __init__(
        self,
        sampled_fps: float,
        *,
        still: bool = False,
        settings: TrackerSettings | None = None,
        appearance: Appearance | None = colours_and_gradients,
    ) -> None:
        """Start with no tracks.

        Args:
            sampled_fps: sampled frames a second, as :meth:`update` will see them.
            still: a picture, or a source with fewer frames than confirmation takes: every face counts at once.
            settings: thresholds and times; the defaults if unset.
            appearance: what tells people apart; boxes alone if None.

        Raises:
            ConfigError: the rate is not a positive number.
        """
        if not np.isfinite(sampled_fps) or sampled_fps <= 0:
            raise ConfigError(f"sampled_fps: {sampled_fps} frames a second; expected a positive number")
        self._settings = settings or TrackerSettings()
        self._period = 1.0 / sampled_fps
        self._still = still
        self._appearance = appearance
        self._cuts = CutDetector()
        self._associator = Associator(
            fps=sampled_fps, lost_seconds=self._settings.lost_seconds, least_score=self._settings.least_score
        )
        self._tracks: list[Track] = []
        self._sample = -1
        self._detected_sample = -1
        self._detected_frames = 0
        self._serial = 0
        self._next_number = 1
        #: whether a scene begins with the frame that was taken and waits for its faces
        self._begins: bool | None = None

    def expect(self, image: NDArray[np.uint8]) -> Expectation:
        """Take the next sampled frame ahead of :meth:`update`, and say where its faces should be.

        Raises:
            ValueError: the frame is not a picture.
        """
        cut = self._begin(as_rgb(image))
        time = self._sample * self._period
        boxes = [track.last.box + np.tile(track.shift(time), 2) for track in self._tracks]
        seen = [self._detected_frames - track.last_detected < MISSED_CHANCES for track in self._tracks]
        return Expectation(
            time=time,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            seen=np.array(seen, bool),
            doubtful=any(here and not track.number for here, track in zip(seen, self._tracks, strict=True)),
            cut=cut,
            thumbnail=self._cuts.thumbnail,
        )

    def _begin(self, image: NDArray[np.uint8]) -> bool:
        """Take the next frame, once; return whether a scene begins, and all tracks ended with the old one."""
        if self._begins is None:
            self._sample += 1
            self._begins = self._cuts.step(image)
            if self._begins:
                self._tracks = []
                self._associator.reset()
        return self._begins

    def update(self, image: NDArray[np.uint8], detections: Detections | None) -> TrackedFrame:
        """Take the next sampled frame (uint8 RGB (H, W, 3)); without detections confirmed tracks are predicted.

        Raises:
            ValueError: the frame is not a picture.
        """
        image = as_rgb(image)
        self._begin(image)
        self._begins = None
        time = self._sample * self._period
        if detections is None:
            self._forget(time)
            # Nobody is seen in the dark, whatever their track says.
            return TrackedFrame(() if self._cuts.black else self._predict(time))
        self._detected_sample = self._sample
        self._detected_frames += 1
        rows = np.flatnonzero(detections.scores >= self._settings.least_score)
        seen, renamed = self._associate(image, detections.take(rows), time)
        renamed += self._confirm(seen)
        faces = [
            TrackedFace(track.name, int(row), track.last.box, track.last.score, track.last.landmarks)
            for track, row in zip(seen, rows, strict=True)
        ]
        self._forget(time)
        return TrackedFrame(_in_order(faces), tuple(renamed))

    def _associate(
        self, image: NDArray[np.uint8], faces: Detections, time: float
    ) -> tuple[list[Track], list[tuple[int, int]]]:
        """Give every detection to a track, an old or a new one; return those, one a detection, and who was renamed."""
        described = None
        if self._appearance is not None and not self._settled(faces, time):
            described = self._appearance(image, faces.boxes, faces.landmarks)
        by_library = {track.library_id: track for track in self._tracks if track.library_id >= 0}
        ids = self._associator.step(faces, described, by_library)
        owners: list[Track | None] = [by_library.get(int(key)) for key in ids]
        renamed = []
        for row, track in self._reunite(owners, faces, described, time):
            newcomer = owners[row]
            if newcomer is not None:
                renamed.append((newcomer.name, track.name))
                self._tracks.remove(newcomer)
            owners[row] = track
        result = []
        for row, known in enumerate(owners):
            look = None if described is None else described[row]
            sight = Sight(time, self._sample, faces.boxes[row], faces.landmarks[row], float(faces.scores[row]), look)
            if known is None:
                self._serial += 1
                owner = Track(sight, serial=self._serial, detected_frames=self._detected_frames)
                self._tracks.append(owner)
            else:
                owner = known
                owner.observe(sight, detected_frames=self._detected_frames)
            owner.evidence += float(np.clip((sight.score - 0.4) / 0.5, 0.0, 1.0))
            if ids[row] >= 0:
                owner.library_id = int(ids[row])
            result.append(owner)
        return result, renamed

    def _settled(self, faces: Detections, time: float) -> bool:
        """Tell whether each face is where one person was a moment ago, nobody else near: looks decide nothing."""
        tracks = self._tracks
        if not tracks or len(faces) != len(tracks) or not self._detected_frames % LOOK_EVERY:
            return False
        if not all(track.number and time - track.last.time <= MOMENT for track in tracks):
            return False
        places = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        expected = np.array([track.centre + track.shift(time) for track in tracks])
        sides = np.array([track.size for track in tracks])
        distances = np.linalg.norm(places[:, None] - expected[None], axis=2) / sides
        stay, close = distances <= STAYS, distances <= APART
        return bool((stay.sum(axis=0) == 1).all() and (close.sum(axis=0) == 1).all() and stay.any(axis=1).all())

    def _reunite(
        self, owners: list[Track | None], faces: Detections, described: NDArray[np.float32] | None, time: float
    ) -> list[tuple[int, Track]]:
        """Find which detections continue a track that nothing else continues in this frame.

        Detections without an owner may continue any such track. Those of a tentative track may turn out to be a
        person known before, who came back half hidden and looks like itself only now.
        """
        free = [track for track in self._tracks if not any(track is owner for owner in owners)]
        rows = [row for row, owner in enumerate(owners) if owner is None or not owner.number]
        if not free or not rows:
            return []
        kin = np.zeros((len(free), len(rows)))
        for i, track in enumerate(free):
            for j, row in enumerate(rows):
                if owners[row] is None or track.number:
                    look = None if described is None else described[row]
                    kin[i, j] = kinship(track, faces.boxes[row], look, time)
        pairs = zip(*linear_sum_assignment(kin, maximize=True), strict=True)
        return [(rows[j], free[i]) for i, j in pairs if kin[i, j] > 0]

    def _is_person(self, track: Track) -> bool:
        if self._still and self._sample < BRIEF:
            return True
        frames = self._detected_frames - track.first_detected + 1
        lasted = (self._sample - track.first_sample) * self._period
        return (
            lasted >= self._settings.confirm_seconds
            and track.hits >= self._settings.confirm_hits
            and track.evidence >= self._settings.confirm_evidence
            and track.hits >= self._settings.confirm_density * frames
        )

    def _confirm(self, seen: Sequence[Track]) -> list[tuple[int, int]]:
        """Number the tracks that are people from now on; return their provisional and their new numbers."""
        confirmed = []
        # First seen first, left to right within a frame.
        for track in sorted(seen, key=lambda track: (track.number, track.first_sample, float(track.last.box[0]))):
            if not track.number and self._is_person(track):
                confirmed.append((track.name, self._next_number))
                track.number = self._next_number
                self._next_number += 1
        return confirmed

    def _predict(self, time: float) -> tuple[TrackedFace, ...]:
        """Return the faces of the last detected frame, moved to where they are by now."""
        fade, faces = PREDICTED_SCORE ** (self._sample - self._detected_sample), []
        for track in self._tracks:
            if track.last.sample == self._detected_sample:
                box, points, shift = track.last.box, track.last.landmarks, track.shift(time)
                score = track.last.score * fade
                faces.append(TrackedFace(track.name, None, box + np.tile(shift, 2), score, points + shift))
        return _in_order(faces)

    def _forget(self, time: float) -> None:
        """End the tracks that were away too long."""
        self._tracks = [track for track in self._tracks if not self._is_over(track, time)]

    def _is_over(self, track: Track, time: float) -> bool:
        long = self._settings.forget_seconds if track.number else self._settings.tentative_seconds
        # At a low rate the seconds are over before the face had a chance to be seen again.
        return time - track.last.time > long and self._detected_frames - track.last_detected >= MISSED_CHANCES


def kinship(track: Track, box: NDArray[np.float32], look: NDArray[np.float32] | None, time: float) -> float:
    """Return how likely a detection continues a track seen a while ago: 0 (no) to 1.

    Place and size set what is possible, appearance what is likely: a face may move 0.6 of its size at once and
    1.5 a second more, and grow or shrink by 40 % plus 30 % a second. The further and longer ago, the more it has
    to look the same.
    """
    gap = max(time - track.last.time, 0.0)
    size = side(box)
    place = centre(box)
    expected = track.centre + track.shift(time)
    unit = (size + track.size) / 2
    distance = min(float(np.linalg.norm(place - expected)), float(np.linalg.norm(place - track.centre))) / unit
    reach = 0.6 + 1.5 * gap
    growth = abs(float(np.log(size / track.size)))
    if distance > reach or growth > 0.4 + 0.3 * gap:
        return 0.0
    near = float(np.exp(-((distance / reach) ** 2)))
    if look is None or track.template is None:
        return near
    alike = float(similarity(track.template[None], look[None])[0, 0])
    leniency = 0.06 + 0.07 * (1 - min(1.0, gap)) + 0.03 * (1 - min(1.0, distance))
    needed = max(NEVER_ALIKE, track.least_alike - leniency)
    return near * alike if alike >= needed else 0.0


def _in_order(faces: Sequence[TrackedFace]) -> tuple[TrackedFace, ...]:
    """Return one frame's faces, confirmed ones first, by number."""
    return tuple(sorted(faces, key=lambda face: (not face.confirmed, abs(face.track))))

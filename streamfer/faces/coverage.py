"""Where faces are or may be in every frame of a video, known from both sides in time: what a blur has to cover.

A detector at a low threshold looks at every frame. Where it loses a face, the place stays covered until it is sure
that the face is gone: nothing has moved there for a while and nothing looks like a face, or a cut came. The same is
done against the course of time, so that a face is covered before it is first found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.cuts import CutDetector
from streamfer.faces.detections import Detector, overlap
from streamfer.faces.privacy import MARGIN
from streamfer.files import Spill

#: Score from which a box is covered, and from which it keeps a lost face covered and makes a frame doubtful; chosen on
#: films of crowds, measured on others (docs/results/blur.md).
COVERED_SCORE, LIKELY_SCORE = 0.11, 0.09
#: A box that never scored as much counts, when it is lost, as a flicker and not as a lost face.
_A_FACE = 0.7
#: Seconds: a flicker stays covered; a lost face does whatever happens; it is gone when nothing moved or looked like
#: a face for so long; and when nothing looked like one, whatever moved. A hole up to the last is bridged without doubt.
_FLICKER, _HELD, _QUIET, _SEARCHED, _BRIDGED = 0.25, 0.75, 1.0, 3.0, 0.5
#: A person reaches so many sizes of the face beyond it; motion there of this share of the face's area is a person's.
_REACH, _PERSON = 2.0, 0.25
#: A box that lies to this share in a likelier one shows a part of the same face.
_PART = 0.3
#: A box that shrinks below this share of its area may show what is left of a face that something hides by and by.
_WHOLE = 0.75
#: A box that is covered to this share is.
_HIDDEN = 0.5
#: Cells of the map of what moved, and the change of their mean grey level that is motion.
_GRID = (64, 36)
_MOTION = 5

Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Moment:
    """What one frame shows."""

    seconds: float  #: its time in its epoch
    scene: int  #: rises with every cut and epoch
    boxes: Boxes  #: (N, 4), x1 y1 x2 y2 as fractions of the frame
    scores: NDArray[np.float32]  #: (N,), 0 to 1
    moved: NDArray[np.uint8]  #: bits of the cells that changed since the frame before; row by row

    def faces(self) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes of single faces, and their scores: of several on one face the highest."""
        order = np.argsort(-self.scores, kind="stable")
        order = order[self.scores[order] >= COVERED_SCORE]
        part = overlap(self.boxes[order], self.boxes[order]) >= _PART
        alone = np.zeros(len(order), bool)
        for place in range(len(order)):
            alone[place] = not part[place, alone].any()
        return self.boxes[order[alone]], self.scores[order[alone]]

    def likely(self, box: Boxes, taken: Boxes) -> Boxes:
        """Return the boxes near one that may show the same face, those of other faces not counted."""
        near = _near(grown(box, _REACH)[None], self.boxes)[0] & _alike(box[None], self.boxes)[0]
        return np.asarray(self.boxes[near & (overlap(self.boxes, taken) < _PART).all(axis=1)])

    def motion(self, box: Boxes) -> Boxes | None:
        """Return what moved within a box: the box around it if it is as large as a share of the face's, else None."""
        width, height = _GRID
        moved = np.unpackbits(self.moved, count=width * height).reshape(height, width)
        x1, y1 = np.floor(np.clip(box[:2], 0, 1) * _GRID).astype(int)
        x2, y2 = np.ceil(np.clip(box[2:], 0, 1) * _GRID).astype(int)
        rows, columns = np.nonzero(moved[y1:y2, x1:x2])
        face = np.prod((box[2:] - box[:2]) * _GRID) / (1 + 2 * _REACH) ** 2
        if len(rows) < max(1.0, _PERSON * face):
            return None
        corners = (columns.min() + x1, rows.min() + y1, columns.max() + x1 + 1, rows.max() + y1 + 1)
        return np.asarray(np.array(corners) / np.tile(_GRID, 2), np.float32)


def _moment(plain: tuple[float, int, bytes, bytes, bytes]) -> Moment:
    seconds, scene, boxes, scores, moved = plain
    corners = np.frombuffer(boxes, np.float32).reshape(-1, 4)
    return Moment(seconds, scene, corners, np.frombuffer(scores, np.float32), np.frombuffer(moved, np.uint8))


@dataclass(slots=True, eq=False)
class Cover:
    """What is covered in one frame: boxes as fractions of it, and whether a face may be elsewhere."""

    boxes: list[Boxes]
    doubtful: bool = False

    def pixels(self, width: int, height: int, *, strict: bool) -> NDArray[np.float64]:
        """Return the boxes to blur (K, 4) in pixels of a frame; the whole frame where in doubt if ``strict``."""
        boxes = [(0, 0, 1, 1)] if strict and self.doubtful else self.boxes
        return np.array(boxes, np.float64).reshape(-1, 4) * (width, height, width, height)


class Watch:
    """Looks at every frame of a file, in order, for what a blur has to cover, by a detector from LIKELY_SCORE on."""

    def __init__(self, detector: Detector, *, still: bool = False) -> None:
        self._detector, self._still = detector, still
        self._moments: Spill[Moment] = Spill(_moment)
        self._cuts = CutDetector()
        self._epoch: int | None = None
        self._before: NDArray[np.float32] | None = None
        self._scene = 0

    def look(self, image: NDArray[np.uint8], epoch: int, seconds: float, known: Iterable[Sequence[float]] = ()) -> None:
        """Take the next frame, uint8 RGB, with faces found elsewhere: x, y, width, height as fractions of it."""
        cut = self._cuts.step(image)
        small = cv2.resize(image, _GRID, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if cut or epoch != self._epoch or self._before is None:
            self._scene += 1
            self._before = grey
        self._epoch = epoch
        (faces,) = self._detector.detect([image], still=self._still)
        scale = np.tile(np.array(image.shape[1::-1], np.float32), 2)
        more = [(x, y, x + width, y + height) for x, y, width, height in known]
        boxes = np.concatenate([faces.boxes / scale, np.array(more, np.float32).reshape(-1, 4)])
        scores = np.concatenate([faces.scores, np.ones(len(more), np.float32)])
        moved = np.packbits(np.abs(grey - self._before) >= _MOTION)
        self._before = grey
        self._moments.append((seconds, self._scene, boxes.tobytes(), scores.tobytes(), moved.tobytes()))

    def covers(self) -> list[Cover]:
        """Return what to cover in each frame, in the order in which they were seen."""
        return covers(self._moments)


@dataclass(slots=True, eq=False)
class _Lost:
    """A face that the detector no longer finds; times are seconds."""

    box: Boxes  #: where it was last
    step: int  #: the first without it
    since: float  #: when it was seen last
    credible: bool  #: it was seen long or clearly enough to be a face
    evident: float  #: when something looked like it last
    quiet: float  #: since when nothing has moved near it
    moved: bool = False  #: something has moved where it was, so that it may be elsewhere
    hidden: dict[int, list[Boxes]] = field(
        default_factory=dict
    )  #: what may be it in the frames since, by their numbers

    def look(self, moment: Moment, number: int, others: Boxes) -> bool:
        """Note what may be it in a frame that also shows ``others``; False when it is sure to be gone."""
        now = moment.seconds
        elapsed = abs(now - self.since)
        if not self.credible:
            self.hidden[number] = [self.box]
            return elapsed <= _FLICKER
        self.moved = self.moved or moment.motion(self.box) is not None
        motion = moment.motion(grown(self.box, _REACH))
        alike = moment.likely(self.box, others)
        if len(alike):
            self.evident = now
        if motion is not None or len(alike):
            self.quiet = now
        if self.moved and abs(now - self.evident) > _SEARCHED:
            return False
        if self.moved and elapsed > _HELD and abs(now - self.quiet) > _QUIET:
            return False
        held = [self.box] if elapsed <= _HELD or not self.moved else []
        self.hidden[number] = [*held, *alike, *([] if motion is None else [motion])]
        return True


def covers(moments: Sequence[Moment]) -> list[Cover]:
    """Return what to cover in each of the frames, in order: what was found, and what was lost, both ways in time."""
    result = [Cover(list(moment.boxes[moment.scores >= COVERED_SCORE])) for moment in moments]
    for numbers in (range(len(moments)), range(len(moments) - 1, -1, -1)):
        _Sweep(result).run(moments, numbers)
    for moment, cover in zip(moments, result, strict=True):
        hidden = np.array([grown(box, MARGIN) for box in cover.boxes], np.float32).reshape(-1, 4)
        seen = overlap(moment.boxes[moment.scores >= LIKELY_SCORE], hidden).max(axis=1, initial=0) < _HIDDEN
        cover.doubtful = cover.doubtful or bool(seen.any())
    return result


def grown(boxes: Boxes, share: float) -> Boxes:
    """Return boxes (..., 4) with ``share`` of their size more on each side."""
    more = (boxes[..., 2:] - boxes[..., :2]) * share
    return np.concatenate([boxes[..., :2] - more, boxes[..., 2:] + more], axis=-1)


@dataclass(slots=True)
class _Sweep:
    """Follows the faces through frames in one direction of time, and adds what is lost to their covers."""

    covers: list[Cover]  #: of all frames
    lost: list[_Lost] = field(default_factory=list)  #: and not sure to be gone
    #: Boxes of the last frame, with their highest scores so far, and the steps in which they came.
    faces: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    best: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    #: Where they are as wholes, and when these were seen, seconds.
    wholes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    seen: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def run(self, moments: Sequence[Moment], numbers: Sequence[int]) -> None:
        """Take frames by their numbers, in order."""
        before: Moment | None = None
        for step, number in enumerate(numbers):
            moment = moments[number]
            boxes, scores = moment.faces()
            if before is None or moment.scene != before.scene:
                self._end()
            # The middle of one lies in the other.
            linked = _near(grown(self.faces, 0.1), boxes) & _alike(self.faces, boxes)
            if before is not None:
                self._lose(linked, boxes, before.seconds, step)
            # Of the links, the one from each box to the box that covers most of it.
            shared = np.where(linked, overlap(self.faces, boxes), -1)
            heirs = linked & (shared == shared.max(axis=1, keepdims=True, initial=-1))
            self.best = np.maximum(scores, np.where(heirs, self.best[:, None], 0).max(axis=0, initial=0))
            self.first = np.where(heirs, self.first[:, None], step).min(axis=0, initial=step)
            self._remember(np.where(heirs, shared, -1), boxes, moment.seconds)
            self.covers[number].boxes += list(self.wholes[self.seen != moment.seconds])
            self.faces = boxes
            for one in list(self.lost):
                self._seek(one, moment, number)
            before = moment
        self._end()

    def _remember(self, shared: NDArray[np.float32], boxes: Boxes, now: float) -> None:
        """Keep for a while the places of faces of which a frame's boxes show parts; they move so as to hold these."""
        wholes, seen = boxes.copy(), np.full(len(boxes), now)
        for place in np.flatnonzero(shared.max(axis=0, initial=-1) > 0):
            former, box = shared[:, place].argmax(), boxes[place]
            whole = self.wholes[former]
            part = np.prod(box[2:] - box[:2]) < _WHOLE * np.prod(whole[2:] - whole[:2])
            if part and abs(now - self.seen[former]) <= _HELD:
                shift = np.maximum(box[2:] - whole[2:], 0) + np.minimum(box[:2] - whole[:2], 0)
                wholes[place], seen[place] = whole + np.tile(shift, 2), self.seen[former]
        self.wholes, self.seen = wholes, seen

    def _lose(self, linked: NDArray[np.bool_], boxes: Boxes, earlier: float, step: int) -> None:
        """Take those of the last frame's faces that this one does not show for lost."""
        for row in np.flatnonzero(~linked.any(axis=1)):
            face = self.faces[row]
            credible = bool(self.best[row] >= _A_FACE and not (overlap(face[None], boxes) >= _PART).any())
            self.lost.append(_Lost(face, step, earlier, credible, earlier, earlier))

    def _seek(self, one: _Lost, moment: Moment, number: int) -> None:
        """Cover what a lost face may be in a frame, or settle what became of it."""
        # Faces that were there when it was lost are others; each that came since may be it.
        newer = self.first >= one.step
        if self._again(one, self.faces[newer & (self.best >= _A_FACE)], moment.seconds):
            self.lost.remove(one)
            return
        if not one.look(moment, number, self.faces[~newer]):
            self._give_up(one)

    def _again(self, one: _Lost, candidates: Boxes, now: float) -> bool:
        """Whether a lost face is one of a frame's; the frames since then show it somewhere between."""
        elapsed = abs(now - one.since)
        reach = grown(one.box, 0.5 + 1.5 * elapsed)
        fitting = candidates[_near(reach[None], candidates)[0] & _alike(one.box[None], candidates)[0]]
        if not len(fitting):
            return False
        for place, (number, hidden) in enumerate(one.hidden.items(), start=1):
            part = place / (len(one.hidden) + 1)
            hidden.append(grown((1 - part) * one.box + part * fitting[0], 0.25))
            if elapsed <= _BRIDGED:
                self.covers[number].boxes += [one.box, hidden[-1]]
        if elapsed > _BRIDGED:
            self._doubt(one)
        return True

    def _give_up(self, one: _Lost) -> None:
        self.lost.remove(one)
        self._doubt(one)

    def _doubt(self, one: _Lost) -> None:
        """Cover everything that may be a face that was lost; it may be elsewhere all the same."""
        for number, hidden in one.hidden.items():
            self.covers[number].boxes += hidden
            self.covers[number].doubtful |= one.credible

    def _end(self) -> None:
        """Nothing outlives a cut."""
        for one in list(self.lost):
            self._give_up(one)
        self.faces, self.best, self.first = self.faces[:0], self.best[:0], self.first[:0]
        self.wholes, self.seen = self.wholes[:0], self.seen[:0]


def _near(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Return in which of ``boxes`` (N, 4) the middle of each of ``others`` (M, 4) lies: (N, M)."""
    middles = ((others[:, :2] + others[:, 2:]) / 2)[None]
    return np.asarray(((middles >= boxes[:, None, :2]) & (middles <= boxes[:, None, 2:])).all(axis=2))


def _alike(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Return which of ``boxes`` (N, 4) and ``others`` (M, 4) are of about one size: (N, M)."""
    sizes = (boxes[:, None, 2:] - boxes[:, None, :2]) / np.maximum(others[:, 2:] - others[:, :2], 1e-6)[None]
    return np.asarray((sizes.min(axis=2) >= 0.4) & (sizes.max(axis=2) <= 2.5))

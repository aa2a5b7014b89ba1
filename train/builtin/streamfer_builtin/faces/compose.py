"""Composite pictures: known faces on backgrounds without faces, several to a picture, between distractors.

Faces keep exact labels because every one is placed by one affine matrix that moves pixels and labels alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer_builtin.faces import distractors
from streamfer_builtin.faces.backgrounds import random_background, random_colour
from streamfer_builtin.faces.degrade import colour_shifted, degraded, greyed, lit_unevenly, tinted
from streamfer_builtin.faces.labels import FloatArray, Labels, Picture, overlaps, similarity
from streamfer_builtin.faces.shards import Shard
from streamfer_builtin.faces.sources import FaceSources
from streamfer_builtin.faces.warp import presized


@dataclass(frozen=True, slots=True)
class Patch:
    """A face cut out: RGB ``picture``, ``alpha`` (uint8, same size) and the labels in its own pixels."""

    picture: Picture
    alpha: Picture
    labels: Labels
    rendered: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """A patch, the matrix that carries it onto the canvas, and its labels there."""

    patch: Patch
    matrix: FloatArray
    labels: Labels


class Composer:
    """Makes labelled pictures of ``side`` x ``side`` pixels from the faces of one split.

    ``photographs`` False leaves every photographed face out, so that only rendered heads are shown.
    """

    def __init__(
        self, sources: FaceSources, side: int = 320, *, held_out: bool = False, photographs: bool = True
    ) -> None:
        self._sources = sources
        self._side = side
        self._held_out = held_out
        self._photographs = photographs

    def picture(self, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """One picture (RGB uint8) and its labels, framed."""
        kind = rng.random()
        if kind < 0.14:
            canvas, labels = self._without_faces(rng)
        elif kind < 0.28 and self._photographs:
            canvas, labels = self._whole_picture(rng)
        elif kind < 0.36 and self._photographs:
            canvas, labels = self._mosaic(rng)
        else:
            canvas, labels = self._pasted(rng)
        if rng.random() < 0.12:
            canvas = greyed(canvas)
        return degraded(canvas, rng), labels.framed(self._side, self._side)

    def _background(self, rng: np.random.Generator) -> Picture:
        return random_background(rng, self._side, self._side, held_out=self._held_out).copy()

    def _without_faces(self, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """Background and distractors, heads from behind, and faces torn into pieces: all to be left alone."""
        canvas = self._background(rng)
        for _ in range(int(rng.integers(0, 7))):
            self._distract(canvas, rng)
        if rng.random() < 0.4:
            back = self._sources.backs.picture(int(rng.integers(len(self._sources.backs))))
            scale = np.exp(rng.uniform(np.log(0.15), np.log(1.2)))
            spot = rng.uniform(0, self._side, size=2)
            matrix = similarity((128, 128), (spot[0], spot[1]), scale, rng.normal() * 12)
            canvas = pasted(canvas, back[..., :3], back[..., 3], matrix)
        if rng.random() < 0.5 and self._photographs:
            for _ in range(int(rng.integers(1, 4))):
                self._tear(canvas, rng)
        return canvas, Labels.none()

    def _distract(self, canvas: Picture, rng: np.random.Generator) -> None:
        x, y = rng.uniform(0, self._side, size=2)
        distractors.draw_random(canvas, rng, (x, y), float(np.exp(rng.uniform(np.log(14), np.log(200)))))

    def _tear(self, canvas: Picture, rng: np.random.Generator) -> None:
        """A face whose ninths are shuffled, or a single enlarged piece of it: skin and hair, but no face."""
        crops = self._sources.crops
        face = self._skin_toned(crops.picture(int(rng.integers(len(crops)))), rng)
        if rng.random() < 0.5:
            order = rng.permutation(9)
            while (order == np.arange(9)).sum() > 2:
                order = rng.permutation(9)
            ninths = [face[r * 42 : r * 42 + 42, c * 42 : c * 42 + 42] for r in range(3) for c in range(3)]
            face = np.vstack([np.hstack([ninths[order[r * 3 + c]] for c in range(3)]) for r in range(3)])
        else:
            top, left = rng.choice([0, 88]), rng.integers(0, 88)
            face = np.ascontiguousarray(face[top : top + 40, left : left + 40])
        size = int(np.exp(rng.uniform(np.log(16), np.log(160))))
        x, y = (int(value) for value in rng.integers(0, self._side - size, size=2))
        canvas[y : y + size, x : x + size] = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)

    def _whole_picture(self, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """One photograph with its own hair, neck and background, from a third of the canvas to beyond it."""
        canvas = self._background(rng)
        if rng.random() < 0.4:
            canvas[:] = random_colour(rng)
        index = int(rng.integers(len(self._sources.scenes)))
        photo = self._sources.scenes.picture(index)
        photo = self._skin_toned(photo, rng) if rng.random() < 0.5 else photo
        height, width = photo.shape[:2]
        scale = np.exp(rng.uniform(np.log(0.25), np.log(1.5))) * self._side / max(height, width)
        slack = max(self._side - scale * min(height, width), 0) / 2
        target = self._side / 2 + rng.uniform(-1, 1, size=2) * slack
        turn = rng.normal() * 8 if rng.random() < 0.4 else 0.0
        matrix = similarity((width / 2, height / 2), (target[0], target[1]), scale, turn, mirror=rng.random() < 0.5)
        alpha = np.full((height, width), 255, np.uint8)
        canvas = pasted(canvas, photo, alpha, matrix)
        return canvas, self._sources.scenes.faces(index).transformed(matrix)

    def _mosaic(self, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """A wall of photographs in a grid with gaps, as in a video conference."""
        canvas = self._background(rng)
        cells = int(rng.integers(2, 6))
        pitch, parts = self._side / cells, []
        for row in range(cells):
            for column in range(cells):
                if rng.random() < 0.25:
                    continue
                index = int(rng.integers(len(self._sources.scenes)))
                photo = self._sources.scenes.picture(index)
                photo = self._skin_toned(photo, rng) if rng.random() < 0.5 else photo
                height, width = photo.shape[:2]
                scale = pitch / max(height, width) * rng.uniform(0.6, 1.0)
                target = ((column + 0.5) * pitch, (row + 0.5) * pitch)
                mirror = bool(rng.random() < 0.5)
                matrix = similarity((width / 2, height / 2), target, scale, 0.0, mirror=mirror)
                canvas = pasted(canvas, photo, np.full((height, width), 255, np.uint8), matrix)
                parts.append(self._sources.scenes.faces(index).transformed(matrix))
        return canvas, Labels.joined(parts)

    def _pasted(self, rng: np.random.Generator) -> tuple[Picture, Labels]:
        """Background, distractors, then people: bodies and hair of all, then faces from far to near."""
        canvas = self._background(rng)
        for _ in range(int(rng.integers(0, 4))):
            self._distract(canvas, rng)
        placements = self._placements(rng)
        for placement in placements:
            self._surround(canvas, placement, rng)
        for placement in placements:
            picture = colour_shifted(placement.patch.picture, rng, 0.7)
            if rng.random() < 0.3:
                picture = lit_unevenly(picture, rng)
            canvas = pasted(canvas, picture, placement.patch.alpha, placement.matrix)
            if rng.random() < 0.25:
                occlude(canvas, rng, placement.labels)
        return canvas, Labels.joined([placement.labels for placement in placements])

    def _placements(self, rng: np.random.Generator) -> list[Placement]:
        count = int(rng.choice([1, 2, 3, 4, 6, 9], p=[0.34, 0.24, 0.16, 0.12, 0.09, 0.05]))
        largest = min(320.0, 560.0 / count**0.7)
        placements: list[Placement] = []
        for _ in range(count * 2):
            if len(placements) == count:
                break
            patch = self._patch(rng)
            box = patch.labels.boxes[0]
            size = np.exp(rng.uniform(np.log(12), np.log(largest)))
            scale = size / float(np.sqrt(np.prod(box[2:] - box[:2])))
            turn = rng.uniform(-65, 65) if rng.random() < 0.15 else rng.normal() * 12
            centre = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
            reach = self._side - size * 0.6
            x, y = rng.uniform(size * 0.3, max(reach, size * 0.3 + 1), size=2)
            matrix = similarity(centre, (x, y), scale, turn, mirror=rng.random() < 0.5)
            labels = patch.labels.transformed(matrix)
            taken = Labels.joined([placement.labels for placement in placements]).boxes
            if len(taken) and _too_close(labels.boxes, taken):
                continue
            placements.append(Placement(patch, matrix, labels))
        return sorted(placements, key=lambda placement: float(placement.labels.sizes()[0]))

    def _patch(self, rng: np.random.Generator) -> Patch:
        kind = rng.random()
        if kind < 0.3 or not self._photographs:
            heads = self._sources.heads
            index = int(rng.integers(len(heads)))
            rgba = heads.picture(index)
            return Patch(np.ascontiguousarray(rgba[..., :3]), rgba[..., 3], heads.faces(index), rendered=True)
        shard: Shard = self._sources.scenes if kind < 0.7 else self._sources.crops
        index = int(rng.integers(len(shard)))
        labels = shard.faces(index)
        picture = self._skin_toned(shard.picture(index), rng)
        first = Labels(labels.boxes[:1], labels.landmarks[:1], labels.ignored[:1], labels.precise[:1])
        return Patch(picture, soft_ellipse(picture.shape[0], picture.shape[1], first.boxes[0], rng), first, False)

    def _skin_toned(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Grey photographs mostly get a skin-like ramp of colour: nearly all videos are in colour."""
        if np.abs(picture[..., 0].astype(np.int16) - picture[..., 2]).mean() > 3 or rng.random() < 0.3:
            return picture
        light = np.array([235, 190, 160]) * rng.uniform(0.85, 1.08, size=3)
        dark = np.array([110, 65, 45]) * rng.uniform(0.7, 1.25, size=3)
        return tinted(picture, dark, light)

    def _surround(self, canvas: Picture, placement: Placement, rng: np.random.Generator) -> None:
        """Hair and body around a photographed face; a rendered head brings its own hair and only gets a body."""
        box = placement.labels.boxes[0]
        if rng.random() < 0.75:
            inner = placement.patch.picture[placement.patch.alpha > 200]
            mean = inner.mean(axis=0) if len(inner) else np.array([170.0, 130, 110])
            skin = (float(mean[0]), float(mean[1]), float(mean[2]))
            distractors.draw_body(canvas, rng, box, skin)
        if not placement.patch.rendered and rng.random() < 0.65:
            distractors.draw_hair(canvas, rng, box)


def soft_ellipse(height: int, width: int, box: FloatArray, rng: np.random.Generator) -> Picture:
    """An elliptical mask around ``box`` with a soft edge that also fades at the picture's border: uint8 H x W."""
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    wide, tall = (box[2] - box[0]) / 2 * rng.uniform(1.0, 1.3), (box[3] - box[1]) / 2 * rng.uniform(1.0, 1.2)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    power = rng.choice([2.0, 2.5, 4.0])
    away = np.abs((columns - centre[0]) / wide) ** power + np.abs((rows - centre[1]) / tall) ** power
    soft = rng.uniform(0.04, 0.2)
    inside = np.clip((1.0 + soft - away) / (2 * soft), 0, 1)
    border = np.minimum.reduce([rows + 1, columns + 1, height - rows, width - columns])
    return np.asarray(inside * np.clip(border / (0.03 * width + 1), 0, 1) * 255, np.uint8)


def pasted(canvas: Picture, picture: Picture, alpha: Picture, matrix: FloatArray) -> Picture:
    """``canvas`` with ``picture`` laid over it through ``alpha``, both carried by ``matrix`` (patch to canvas)."""
    alpha, _ = presized(alpha, matrix)
    picture, moved = presized(picture, matrix)
    left, top, right, bottom = _reach(moved, picture.shape[1], picture.shape[0], canvas.shape[1], canvas.shape[0])
    if right <= left or bottom <= top:
        return canvas
    moved[:, 2] -= [left, top]
    size = (right - left, bottom - top)
    laid = cv2.warpAffine(picture, moved, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(alpha, moved, size, flags=cv2.INTER_LINEAR)[..., None].astype(np.uint16)
    under = canvas[top:bottom, left:right]
    mixed = laid * weight + under * (255 - weight)
    result = canvas.copy()
    result[top:bottom, left:right] = (mixed + 127) // 255
    return result


def _reach(matrix: NDArray[np.float64], wide: int, tall: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The canvas rectangle (left, top, right, bottom) that a patch of ``wide`` x ``tall`` pixels can touch."""
    corners = np.array([[-1, -1, 1], [wide, -1, 1], [-1, tall, 1], [wide, tall, 1]]) @ matrix.T
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1
    return int(max(low[0], 0)), int(max(low[1], 0)), int(min(high[0], width)), int(min(high[1], height))


def occlude(canvas: Picture, rng: np.random.Generator, labels: Labels) -> None:
    """Something in front of a part of the face: a hand, a bar, dark glasses, a mask, the brim of a hat."""
    box, points = labels.boxes[0], labels.landmarks[0]
    size = float(labels.sizes()[0])
    kind = rng.random()
    if kind < 0.35:
        spot = points[rng.choice([2, 3, 4])] + rng.normal(size=2) * size * 0.15 + [0, size * 0.15]
        distractors.draw_hand(canvas, rng, (float(spot[0]), float(spot[1])), size * rng.uniform(0.4, 0.8))
    elif kind < 0.55:
        side = rng.integers(4)
        inward = size * rng.uniform(0.05, 0.35)
        x1, y1, x2, y2 = (float(value) for value in box)
        rim = size * 0.12
        bars = [(x1 - rim, y1 - rim, x1 + inward, y2 + rim), (x2 - inward, y1 - rim, x2 + rim, y2 + rim),
                (x1 - rim, y2 - inward, x2 + rim, y2 + rim), (x1 - rim, y1 - rim, x2 + rim, y1 + inward)]  # fmt: skip
        bar = [int(value) for value in bars[side]]
        cv2.rectangle(canvas, (bar[0], bar[1]), (bar[2], bar[3]), random_colour(rng), -1)
    elif kind < 0.72:
        dark = tuple(rng.uniform(0, 60, size=3))
        across = points[1] - points[0]
        gap, tilt = float(np.hypot(*across)), float(np.degrees(np.arctan2(across[1], across[0])))
        for eye in points[:2]:
            axes = (int(gap * rng.uniform(0.28, 0.45)) + 1, int(gap * rng.uniform(0.2, 0.32)) + 1)
            cv2.ellipse(canvas, (int(eye[0]), int(eye[1])), axes, tilt, 0, 360, dark, -1, cv2.LINE_AA)
        cv2.line(canvas, points[0].astype(int).tolist(), points[1].astype(int).tolist(), dark, max(1, int(gap / 12)))
    elif kind < 0.82:
        mouth = (points[3] + points[4]) / 2
        axes = (int(size * 0.4) + 1, int(size * 0.28) + 1)
        cv2.ellipse(canvas, mouth.astype(int).tolist(), axes, 0, 0, 360, random_colour(rng), -1, cv2.LINE_AA)
    else:
        top = ((box[0] + box[2]) / 2, box[1] + size * rng.uniform(-0.1, 0.1))
        axes = (int(size * rng.uniform(0.5, 0.75)) + 1, int(size * rng.uniform(0.25, 0.5)) + 1)
        centre = (int(top[0]), int(top[1]))
        cv2.ellipse(canvas, centre, axes, 0, 180, 360, random_colour(rng), -1, cv2.LINE_AA)


def _too_close(box: FloatArray, taken: FloatArray) -> bool:
    """Whether a new face would hide an earlier one or be inside it."""
    upper, lower = np.maximum(box[:, :2], taken[:, :2]), np.minimum(box[:, 2:], taken[:, 2:])
    common = np.prod(np.maximum(lower - upper, 0), axis=1)
    smaller = np.minimum(np.prod(taken[:, 2:] - taken[:, :2], axis=1), np.prod(box[:, 2:] - box[:, :2]))
    return bool((common > 0.12 * smaller).any() or (overlaps(box, taken) > 0.1).any())

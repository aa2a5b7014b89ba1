"""Rendered heads: the ICT face model with random identity, expression, pose, skin, hair and light.

Rendered pictures carry exact landmarks at any pose, in colour, which photographs of the training set hardly do.
The renderer splats samples of every triangle in depth order, which is enough at the sizes a detector sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import SourceNotFoundError
from streamfer_builtin.faces.labels import FloatArray, Picture

SIDE = 256
"""Side of a rendered picture, pixels."""
_SAMPLES = np.array(
    [[1 / 3, 1 / 3], [0.6, 0.2], [0.2, 0.6], [0.2, 0.2], [0.0, 0.5], [0.5, 0.5], [0.5, 0.0], [0.85, 0.08], [0.08, 0.85]]
)
_SKIN = np.array([[255, 224, 200], [241, 194, 160], [224, 172, 130], [198, 134, 90], [141, 85, 55], [90, 56, 38]])
_HAIR = np.array([[20, 18, 18], [60, 40, 25], [110, 70, 40], [190, 150, 90], [150, 150, 150], [130, 50, 25]])


@dataclass(frozen=True, slots=True)
class RenderedHead:
    """One head: RGB ``picture`` and ``alpha`` (uint8), the face's ``box`` (4) and ``landmarks`` (5 x 2).

    ``facing`` is the cosine between the face's forward direction and the viewer: below about -0.2 no face is seen.
    """

    picture: Picture
    alpha: Picture
    box: FloatArray
    landmarks: FloatArray
    facing: float


class HeadRenderer:
    """Random heads from ``ict_face.npz``.

    Raises:
        SourceNotFoundError: the file is absent.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SourceNotFoundError(f"{path}: no such file; point data.heads at the ICT face model (ict_face.npz)")
        with np.load(path, allow_pickle=False) as data:
            self._neutral = data["neutral"]
            self._triangles = data["triangles"]
            materials = data["material_names"].tolist()
            self._material = data["triangle_material"]
            self._landmarks = data["landmarks68"]
            self._identity = data["identity_deltas"]
            self._expression = data["expression_deltas"]
            parts = data["part_names"].tolist()
            self._part = data["vertex_part"]
        self._names = {name: materials.index(name) for name in materials}
        self._face_part = parts.index("face")
        self._skin_vertices = np.isin(self._part, [parts.index("face"), parts.index("head_neck")])
        jaw_bottom = self._neutral[self._landmarks[8], 1]
        brow = self._neutral[self._landmarks[17:27], 1].mean()
        forehead = brow + 0.42 * (brow - jaw_bottom)
        height, depth = self._neutral[:, 1], self._neutral[:, 2]
        jaw_depth = self._neutral[self._landmarks[[1, 15]], 2].mean()
        self._box_vertices = np.flatnonzero(
            self._skin_vertices & (height > jaw_bottom) & (height < forehead) & (depth > jaw_depth)
        )
        self._hairline = float(brow + 0.5 * (brow - jaw_bottom))
        self._ear_depth = float(jaw_depth)

    def render(self, rng: np.random.Generator, *, from_behind: bool = False) -> RenderedHead:
        """One random head; ``from_behind`` turns it so far that no face is seen."""
        vertices = self._shape(rng)
        colours = self._colours(vertices, rng)
        vertices, colours = self._with_hair(vertices, colours, rng)
        rotation = _pose(rng, from_behind=from_behind)
        turned = (vertices - vertices[self._skin_vertices].mean(axis=0)) @ rotation.T
        projected = _projected(turned, rng)
        picture, alpha = self._splat(turned, projected, colours, rng)
        return RenderedHead(picture, alpha, self._box(projected), self._five_points(projected), float(rotation[2, 2]))

    def _shape(self, rng: np.random.Generator) -> FloatArray:
        shape = self._neutral.copy()
        for index in rng.choice(len(self._identity), 24, replace=False):
            shape += self._identity[index].astype(np.float32) * np.float32(rng.normal() * 0.9)
        for index in rng.choice(55, rng.integers(0, 6), replace=False):
            shape += self._expression[index].astype(np.float32) * np.float32(rng.uniform(0, 0.8))
        return np.asarray(shape, np.float32)

    def _colours(self, vertices: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Skin with lips, brows, cheeks and blotches, one RGB row a vertex."""
        tone = _SKIN[rng.integers(len(_SKIN))] * rng.uniform(0.85, 1.1)
        blotches = np.zeros(len(vertices))
        for _ in range(4):
            direction = rng.normal(size=3) * rng.uniform(0.3, 1.6)
            blotches += np.sin(vertices @ direction + rng.uniform(0, 6.3)) * 0.02
        colours = tone[None] * (1 + blotches[:, None])
        points = vertices[self._landmarks]
        lips = _near(vertices, points[48:60], 0.55)
        colours = _mixed(colours, tone * [0.8, 0.5, 0.5] * rng.uniform(0.8, 1.2), lips * rng.uniform(0.5, 1))
        hair = _HAIR[rng.integers(len(_HAIR))]
        brows = _near(vertices, np.concatenate([points[17:27], (points[17:26] + points[18:27]) / 2]), 0.45)
        brows[np.abs(vertices[:, 0]) < 0.7] = 0
        colours = _mixed(colours, hair * 0.8, brows * rng.uniform(0.4, 1))
        sockets = _near(vertices, points[36:48], 0.8) * rng.uniform(0, 0.45)
        colours = _mixed(colours, tone * 0.45, sockets)
        if rng.random() < 0.25:
            beard = _near(vertices, points[2:15], 2.6) * (vertices[:, 1] < points[33, 1])
            colours = _mixed(colours, hair, np.clip(beard, 0, 1) * (1 - lips) * rng.uniform(0.3, 0.9))
        return colours.astype(np.float32)

    def _with_hair(
        self, vertices: FloatArray, colours: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """A cap of hair: the skull's vertices above a slanted line move outwards and take the hair's colour."""
        if rng.random() < 0.15:
            return vertices, colours
        rise = rng.uniform(-0.2, 1.0)
        line = self._hairline + rise - np.maximum(0, self._ear_depth + 1.0 - vertices[:, 2]) * rng.uniform(0.8, 3.0)
        if rng.random() < 0.35:
            line = np.where(vertices[:, 2] < self._ear_depth - 1.5, -30.0, line)
        hair = self._skin_vertices & (vertices[:, 1] > line)
        centre = vertices[self._skin_vertices].mean(axis=0)
        centre[1] = self._hairline - 3
        outward = vertices - centre
        outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-6
        thickness = rng.uniform(0.1, 1.8) * (1 + 0.3 * np.sin(vertices @ rng.normal(size=3) * 1.5))
        moved = vertices + (outward * (thickness * hair)[:, None]).astype(np.float32)
        colour = _HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.7, 1.2)
        strands = 1 + 0.25 * np.sin(vertices[:, 0] * rng.uniform(4, 12) + vertices[:, 2] * rng.uniform(2, 8))
        painted = np.where(hair[:, None], colour[None] * strands[:, None], colours)
        return moved.astype(np.float32), painted.astype(np.float32)

    def _splat(
        self, turned: FloatArray, projected: FloatArray, colours: FloatArray, rng: np.random.Generator
    ) -> tuple[Picture, Picture]:
        corners = turned[self._triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        facing = normals[:, 2] > -0.1
        triangles, normals, material = self._triangles[facing], normals[facing], self._material[facing]
        flat = colours[triangles].mean(axis=1)
        flat = self._painted_inside(flat, material, rng)
        light = rng.normal(size=3) * [1.0, 0.7, 0.3] + [0, 0.4, 0.9]
        light /= np.linalg.norm(light)
        ambient = rng.uniform(0.25, 0.75)
        shade = ambient + (1 - ambient) * np.maximum(normals @ light, 0)
        shine = np.maximum(normals @ light, 0) ** 12 * rng.uniform(0, 60)
        lit = np.clip(flat * shade[:, None] * rng.uniform(0.9, 1.2) + shine[:, None], 0, 255)
        weights = np.concatenate([1 - _SAMPLES.sum(axis=1, keepdims=True), _SAMPLES], axis=1)
        places = np.einsum("sk,tkc->stc", weights, projected[triangles]).reshape(-1, 2)
        depth = np.einsum("sk,tk->st", weights, turned[triangles][..., 2]).reshape(-1)
        cells = np.floor(places).astype(np.int64)
        inside = ((cells >= 0) & (cells < SIDE)).all(axis=1)
        order = np.argsort(depth[inside], kind="stable")
        index = (cells[inside, 1] * SIDE + cells[inside, 0])[order]
        picture = np.zeros((SIDE * SIDE, 3), np.uint8)
        covered = np.zeros(SIDE * SIDE, np.uint8)
        picture[index] = np.tile(lit.astype(np.uint8), (len(weights), 1))[inside][order]
        covered[index] = 255
        return _without_holes(picture.reshape(SIDE, SIDE, 3), covered.reshape(SIDE, SIDE))

    def _painted_inside(
        self, flat: NDArray[np.float64], material: NDArray[np.uint8], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        iris = rng.choice([[60, 40, 25], [70, 95, 120], [60, 80, 50]])
        paints = {"M_IrisLeft": iris, "M_IrisRight": iris, "M_ScleraLeft": [215, 210, 205]}
        paints |= {"M_ScleraRight": [215, 210, 205], "M_Teeth": [225, 215, 195], "M_GumsTongue": [130, 60, 60]}
        paints |= {"M_EyeLashes": [25, 20, 20]}
        for name, colour in paints.items():
            flat[material == self._names[name]] = colour
        return flat

    def _box(self, projected: FloatArray) -> FloatArray:
        points = projected[self._box_vertices]
        return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)

    def _five_points(self, projected: FloatArray) -> FloatArray:
        points = projected[self._landmarks]
        five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
        return five.astype(np.float32)


def _pose(rng: np.random.Generator, *, from_behind: bool) -> FloatArray:
    yaw = rng.choice([rng.normal() * 25, rng.uniform(-95, 95)])
    if from_behind:
        yaw = rng.uniform(130, 230)
    pitch, roll = np.clip(rng.normal() * 18, -50, 50), rng.normal() * 6
    a, b, c = np.deg2rad([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y, np.float32)


def _projected(turned: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Perspective projection of camera-frame centimetres to pixels of the square picture, y down."""
    distance = rng.uniform(45, 160)
    focal = SIDE / 36 * distance
    flat = turned[:, :2] * (focal / (distance - turned[:, 2:]))
    return (flat * np.array([1, -1], np.float32) + SIDE / 2).astype(np.float32)


def _near(vertices: FloatArray, points: FloatArray, radius: float) -> FloatArray:
    nearest = np.full(len(vertices), np.inf, np.float32)
    for point in points:
        nearest = np.minimum(nearest, ((vertices - point) ** 2).sum(axis=1))
    return np.clip(1.5 - np.sqrt(nearest) / radius, 0, 1).astype(np.float32)


def _mixed(
    colours: NDArray[np.floating], other: NDArray[np.floating], weight: NDArray[np.floating]
) -> NDArray[np.float64]:
    return np.asarray(colours * (1 - weight[:, None]) + other[None] * weight[:, None], np.float64)


def _without_holes(picture: Picture, covered: Picture) -> tuple[Picture, Picture]:
    """Close single-pixel gaps between splats with the largest neighbour's colour."""
    kernel = np.ones((3, 3), np.uint8)
    closed = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, kernel, iterations=2)
    spread = cv2.dilate(cv2.dilate(picture, kernel), kernel)
    filled = np.where((covered == 0)[..., None], spread, picture)
    smooth = cv2.GaussianBlur(filled, (3, 3), 0.6)
    return np.asarray(smooth, np.uint8), np.asarray(cv2.GaussianBlur(closed, (3, 3), 0.8), np.uint8)

"""Surfels: small pictures of a dense mesh without a loop over its triangles.

At 64 pixels most triangles of a head are smaller than a pixel. So the mesh is covered once with sample points (surfels),
dense enough for every cell of a picture of twice the size to be hit; for a frame the points are moved with their
triangles, and of the points in a cell the nearest to the viewer wins. What wins is shaded, and two by two cells
are averaged to a pixel.

Shape suffixes: V vertices, F triangles, S surfels, P cells that were hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from streamfer_train.render.model import FaceModel, FloatArray

OVERSAMPLING = 2
"""Cells along each side of a pixel."""
_FACE, _HEAD, _EYE = 58.0, 46.0, 110.0
_DENSITY = {
    "face": _FACE, "head_neck": _HEAD, "mouth_socket": 30.0, "eye_socket_left": 20.0, "eye_socket_right": 20.0,
    "gums_tongue": 30.0, "teeth": 45.0, "eyeball_left": _EYE, "eyeball_right": _EYE, "eyelashes_left": 25.0,
    "eyelashes_right": 25.0,
}  # fmt: skip
"""Surfels on a square centimetre: a face of 64 pixels shows 28 cells on one."""
_INNER_EYE = ("M_IrisLeft", "M_IrisRight")
_BACK = -0.6
_FINE_POINTS, _FINE_REACH, _FINE_GAIN = slice(36, 68), 1.1, 2.4
"""Around the landmarks of eyes and mouth, where something bright or dark lies behind the skin, surfels are denser."""


@dataclass(frozen=True, slots=True)
class Surfels:
    """Sample points that cover the mesh.

    Attributes:
        triangle_S: the triangle each lies on.
        spread_SV: sparse weights of the triangle's three vertices.
        rest_S3: places on the mean face at rest, for painting.
        part_S: part of the model.
        both_sides_S: seen from behind too (lashes).
    """

    triangle_S: NDArray[np.int64]
    spread_SV: csr_array
    rest_S3: FloatArray
    part_S: NDArray[np.int8]
    both_sides_S: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.triangle_S)


@dataclass(frozen=True, slots=True)
class Splat:
    """What the cells of a picture show.

    Attributes:
        side: cells along each side.
        cell_P: numbers (row x side + column) of the cells that were hit.
        surfel_P: the surfel that is seen there.
        normal_P3: its unit normal in the viewer's frame.
        inner_P: the mouth's inside or an eye: what skin should cover unless lips or lids are open.
    """

    side: int
    cell_P: NDArray[np.int64]
    surfel_P: NDArray[np.int64]
    normal_P3: FloatArray
    inner_P: NDArray[np.bool_]


class Rasteriser:
    """Covers a face model with surfels and finds which of them a viewer sees."""

    def __init__(self, model: FaceModel, *, seed: int = 0) -> None:
        self.triangles_F3 = model.triangles_F3.astype(np.int64)
        self.surfels = cover(model, seed=seed)
        skin = [model.parts.index(name) for name in ("face", "head_neck", "eyelashes_left", "eyelashes_right")]
        self._inner_S = ~np.isin(self.surfels.part_S, skin)
        corners, count = self.triangles_F3.reshape(-1), len(self.triangles_F3)
        ones = np.ones(len(corners), np.float32)
        self._gather_VF = csr_array(
            (ones, (corners, np.repeat(np.arange(count), 3))), shape=(len(model.neutral_V3), count)
        )

    def splat(
        self, vertices_V3: FloatArray, affine_23: FloatArray, distance: float, side: int, raised_S3: FloatArray | None
    ) -> Splat:
        """Find the surfel in each cell of a square picture of ``side`` pixels.

        Args:
            vertices_V3: in the viewer's frame, centimetres, viewer on +z.
            affine_23: from perspective coordinates (:func:`perspective`) to pixel indices.
            distance: of the viewer from the origin, centimetres.
            side: of the picture, pixels; cells are `OVERSAMPLING` times finer.
            raised_S3: how far each surfel stands off the skin (hair), in the viewer's frame.
        """
        flat_F3 = _triangle_normals(vertices_V3, self.triangles_F3)
        surfels = self.surfels
        places_S3 = np.asarray(surfels.spread_SV @ vertices_V3)
        facing_S = _facing(flat_F3[surfels.triangle_S], places_S3, distance) | surfels.both_sides_S
        if raised_S3 is not None:
            places_S3 = places_S3 + raised_S3
        seen = np.flatnonzero(facing_S)
        places = places_S3[seen]
        pixels = perspective(places, distance) @ affine_23[:, :2].T + affine_23[:, 2]
        cells = np.floor((pixels + 0.5) * OVERSAMPLING).astype(np.int64)
        wide = side * OVERSAMPLING
        inside = ((cells >= 0) & (cells < wide)).all(axis=1)
        seen, cells, depth = seen[inside], cells[inside], places[inside, 2]
        # Depth in 1/2000 cm above the surfel's number: the largest key is the nearest surfel.
        keys = (((depth + 60) * 2000).astype(np.int64) << 20) | seen
        nearest = np.full(wide * wide, -1, np.int64)
        np.maximum.at(nearest, cells[:, 1] * wide + cells[:, 0], keys)
        hit = np.flatnonzero(nearest >= 0)
        winner = nearest[hit] & ((1 << 20) - 1)
        normals_V3 = np.asarray(self._gather_VF @ flat_F3)
        normals_P3 = np.asarray(surfels.spread_SV[winner] @ normals_V3)
        normals_P3 /= np.linalg.norm(normals_P3, axis=1, keepdims=True) + 1e-9
        return Splat(wide, hit, winner, normals_P3.astype(np.float32), self._inner_S[winner])


def cover(model: FaceModel, *, seed: int) -> Surfels:
    """Spread surfels over the visible part of the mesh, evenly by area on the mean face."""
    rng = np.random.default_rng(seed)
    corners = model.neutral_V3[model.triangles_F3]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1) / 2
    part_F = model.part_V[model.triangles_F3[:, 0]]
    density = np.array([_DENSITY[name] for name in model.parts])[part_F]
    wanted = areas * density
    fine = model.neutral_V3[model.landmarks[_FINE_POINTS]]
    from_fine = np.linalg.norm(corners.mean(axis=1)[:, None] - fine[None], axis=2).min(axis=1)
    wanted[from_fine < _FINE_REACH] *= _FINE_GAIN
    # The eyeball is two shells; the outer one is enough.
    wanted[np.isin(model.material_F, [model.materials.index(name) for name in _INNER_EYE])] = 0
    head = model.of_part("head_neck")[model.triangles_F3[:, 0]]
    wanted[head & (normals[:, 2] < _BACK * 2 * areas)] = 0
    count = np.floor(wanted + rng.random(len(wanted))).astype(np.int64)
    triangle = np.repeat(np.arange(len(count)), count)
    weights = _spread_points(count, triangle)
    vertices = model.triangles_F3[triangle]
    rows = np.repeat(np.arange(len(triangle)), 3)
    spread = csr_array(
        (weights.astype(np.float32).reshape(-1), (rows, vertices.reshape(-1))),
        shape=(len(triangle), len(model.neutral_V3)),
    )
    lashes = model.of_part("eyelashes_left", "eyelashes_right")[vertices[:, 0]]
    rest = np.asarray(spread @ model.neutral_V3, np.float32)
    return Surfels(triangle, spread, rest, model.part_V[vertices[:, 0]], lashes)


def perspective(points: FloatArray, distance: float) -> FloatArray:
    """Points (..., 3) in centimetres to the picture plane through the origin (..., 2), centimetres, y down."""
    scale = distance / (distance - points[..., 2:])
    return np.asarray(points[..., :2] * scale * np.array([1, -1], np.float32), np.float32)


def resolved(splat: Splat, values_P: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Average the cells' values to pixels: grey values and how much of each pixel the head covers, both (side, side).

    Single cells that no surfel hit, or where the inside shows through a gap in the skin, take the mean of the skin
    around them.
    """
    shape = (splat.side, splat.side)
    values, covered, skin = np.zeros((3, splat.side * splat.side), np.float32)
    values[splat.cell_P], covered[splat.cell_P], skin[splat.cell_P] = values_P, 1, ~splat.inner_P
    values, covered, skin = values.reshape(shape), covered.reshape(shape), skin.reshape(shape)
    for source, least in ((skin, 6.5 / 9), (covered, 0.5)):
        around = cv2.blur(source, (3, 3))
        holes = (source == 0) & (around > least)
        mean = cv2.blur(values * source, (3, 3)) / np.maximum(around, 1e-6)
        values = np.where(holes, mean, values)
        covered = np.where(holes, np.float32(1), covered)
    small = (splat.side // OVERSAMPLING, splat.side // OVERSAMPLING)
    share = cv2.resize(covered, small, interpolation=cv2.INTER_AREA)
    total = cv2.resize(values, small, interpolation=cv2.INTER_AREA)
    return np.asarray(total / np.maximum(share, 1e-6), np.float32), np.asarray(share, np.float32)


def _spread_points(count: NDArray[np.int64], triangle: NDArray[np.int64]) -> NDArray[np.float64]:
    """Barycentric weights (S, 3) of evenly spread points in each triangle: the R2 sequence, folded.

    M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018).
    """
    first = np.repeat(np.cumsum(count) - count, count)
    number = np.arange(len(triangle)) - first
    u = (0.5 + number * 0.7548776662466927 + triangle * 0.618) % 1
    v = (0.5 + number * 0.5698402909980532 + triangle * 0.414) % 1
    folded = u + v > 1
    u, v = np.where(folded, 1 - u, u), np.where(folded, 1 - v, v)
    return np.stack([1 - u - v, u, v], axis=1)


def _triangle_normals(vertices: FloatArray, triangles: NDArray[np.int64]) -> FloatArray:
    """Normals (F, 3) whose length is twice the area: large triangles count more where they are averaged."""
    a, b, c = vertices[triangles[:, 0]], vertices[triangles[:, 1]], vertices[triangles[:, 2]]
    p, q = b - a, c - a
    return np.stack(
        [
            p[:, 1] * q[:, 2] - p[:, 2] * q[:, 1],
            p[:, 2] * q[:, 0] - p[:, 0] * q[:, 2],
            p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0],
        ],
        axis=1,
    )


def _facing(normals: FloatArray, places: FloatArray, distance: float) -> NDArray[np.bool_]:
    towards_viewer = np.einsum("sc,sc->s", normals, places)
    return np.asarray(normals[:, 2] * distance - towards_viewer > 0)

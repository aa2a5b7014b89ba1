"""Surfels: small pictures of a dense mesh without a loop over its triangles.

At 64 pixels most triangles of a head are smaller than a pixel. So the mesh is covered once with sample points
(surfels), dense enough for every cell of a picture of twice the size to be hit; for a frame the points are moved
with their triangles, and of the points in a cell the nearest to the viewer wins. What wins is shaded, and two by two
cells are averaged to a pixel.

Shape suffixes: V vertices, F triangles, S surfels, P cells that were hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from streamfer_builtin.render.model import FaceModel, FloatArray

OVERSAMPLING = 2
"""Cells along each side of a pixel."""
_FACE, _HEAD, _EYE = 75.0, 55.0, 100.0
_DENSITY = {
    "face": _FACE, "head_neck": _HEAD, "mouth_socket": 30.0, "eye_socket_left": 20.0, "eye_socket_right": 20.0,
    "gums_tongue": 30.0, "teeth": 45.0, "eyeball_left": _EYE, "eyeball_right": _EYE, "eyelashes_left": 25.0,
    "eyelashes_right": 25.0,
}  # fmt: skip
"""Surfels on a square centimetre: a face of 64 pixels shows 28 cells on one."""
_INNER_EYE = ("M_IrisLeft", "M_IrisRight")
_BACK = -0.6
_GAP, _SURROUNDED = 0.6, 6
"""A cell this much (cm) behind so many of its eight neighbours is a gap between surfels."""
_FINE_POINTS, _FINE_REACH, _FINE_GAIN = slice(36, 68), 1.0, 1.8
"""Around the landmarks of eyes and mouth, where something bright or dark lies behind the skin, surfels are denser."""


@dataclass(frozen=True, slots=True)
class Surfels:
    """Sample points that cover the mesh.

    Attributes:
        triangle_S: the triangle each lies on.
        vertices_3S: that triangle's vertices.
        weights_3S: weights of the three vertices.
        rest_S3: places on the mean face at rest, for painting.
        part_S: part of the model.
    """

    triangle_S: NDArray[np.int64]
    vertices_3S: NDArray[np.int64]
    weights_3S: FloatArray
    rest_S3: FloatArray
    part_S: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.triangle_S)

    def of(self, values_V3: FloatArray, chosen: NDArray[np.int64]) -> FloatArray:
        """Three values (K, 3) at the surfels ``chosen`` (K,) of what is given at the vertices (V, 3)."""
        weights = self.weights_3S[:, chosen, None]
        return np.asarray(sum(weights[k] * values_V3[self.vertices_3S[k, chosen]] for k in range(3)))


@dataclass(frozen=True, slots=True)
class Splat:
    """What the cells of a picture show.

    Attributes:
        side: cells along each side.
        cell_P: numbers (row x side + column) of the cells that were hit.
        surfel_P: the surfel that is seen there.
        normal_3P: its unit normal in the viewer's frame.
        depth_P: its place along the viewer's axis, centimetres; larger is nearer.
    """

    side: int
    cell_P: NDArray[np.int64]
    surfel_P: NDArray[np.int64]
    normal_3P: FloatArray
    depth_P: FloatArray


class Rasteriser:
    """Covers a face model with surfels and finds which of them a viewer sees."""

    def __init__(self, model: FaceModel, *, seed: int = 0) -> None:
        self.surfels = cover(model, seed=seed)
        # Only triangles that carry surfels, and those around them, are worth moving.
        carrying = np.zeros(len(model.neutral_V3), bool)
        carrying[self.surfels.vertices_3S] = True
        self._kept = np.flatnonzero(carrying[model.triangles_F3].all(axis=1))
        number = np.zeros(len(model.triangles_F3), np.int64)
        number[self._kept] = np.arange(len(self._kept))
        self._triangle_S = number[self.surfels.triangle_S]
        self._corners_3F = np.ascontiguousarray(model.triangles_F3[self._kept].T.astype(np.int64))
        count = len(self._kept)
        rows, columns = self._corners_3F.T.reshape(-1), np.repeat(np.arange(count), 3)
        self._gather_VF = csr_array(
            (np.ones(3 * count, np.float32), (rows, columns)), shape=(len(model.neutral_V3), count)
        )
        surfels = self.surfels
        rows, columns = np.repeat(np.arange(len(surfels)), 3), surfels.vertices_3S.T.reshape(-1)
        self._spread_SV = csr_array(
            (surfels.weights_3S.T.reshape(-1), (rows, columns)), shape=(len(surfels), len(model.neutral_V3))
        )
        lashes = [model.parts.index(name) for name in ("eyelashes_left", "eyelashes_right")]
        self._both_sides_S = np.isin(self.surfels.part_S, lashes)

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
        x_V, y_V, z_V = np.ascontiguousarray(vertices_V3.T)
        to_cells = affine_23 * np.float32(OVERSAMPLING)
        scale_V = np.float32(distance) / (np.float32(distance) - z_V)
        across_V, down_V = scale_V * x_V, -scale_V * y_V
        u_V = to_cells[0, 0] * across_V + to_cells[0, 1] * down_V + (to_cells[0, 2] + OVERSAMPLING / 2)
        v_V = to_cells[1, 0] * across_V + to_cells[1, 1] * down_V + (to_cells[1, 2] + OVERSAMPLING / 2)
        i, j, k = self._corners_3F
        # Seen from outside a triangle's corners run clockwise in a picture whose rows grow downwards.
        facing_F = (u_V[j] - u_V[i]) * (v_V[k] - v_V[i]) < (u_V[k] - u_V[i]) * (v_V[j] - v_V[i])
        places_S3 = np.asarray(self._spread_SV @ np.stack([u_V, v_V, z_V], axis=1))
        if raised_S3 is not None:
            places_S3[:, :2] += raised_S3[:, :2] @ (to_cells[:, :2] * np.array([1, -1], np.float32)).T
            places_S3[:, 2] += raised_S3[:, 2]
        u, v, depth = places_S3.T
        wide = side * OVERSAMPLING
        seen = facing_F[self._triangle_S] | self._both_sides_S
        seen = np.flatnonzero(seen & (u >= 0) & (u < wide) & (v >= 0) & (v < wide))
        depth = depth[seen]
        cells = v[seen].astype(np.int64) * wide + u[seen].astype(np.int64)
        # Depth in 1/2000 cm above the surfel's number: the largest key is the nearest surfel.
        keys = (((depth + 60) * 2000).astype(np.int64) << 20) | seen
        nearest = np.full(wide * wide, -1, np.int64)
        np.maximum.at(nearest, cells, keys)
        hit = np.flatnonzero(nearest >= 0)
        winner = nearest[hit] & ((1 << 20) - 1)
        reach = np.asarray((nearest[hit] >> 20) / 2000 - 60, np.float32)
        return Splat(wide, hit, winner, self._normals(x_V, y_V, z_V, winner), reach)

    def _normals(self, x_V: FloatArray, y_V: FloatArray, z_V: FloatArray, chosen: NDArray[np.int64]) -> FloatArray:
        """Smooth unit normals (3, K) at the surfels ``chosen``: large triangles count more."""
        i, j, k = self._corners_3F
        px, py, pz = x_V[j] - x_V[i], y_V[j] - y_V[i], z_V[j] - z_V[i]
        qx, qy, qz = x_V[k] - x_V[i], y_V[k] - y_V[i], z_V[k] - z_V[i]
        flat_F3 = np.stack([py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx], axis=1)
        normals = self.surfels.of(np.asarray(self._gather_VF @ flat_F3), chosen).T
        return np.asarray(normals / (np.sqrt((normals * normals).sum(axis=0)) + 1e-9), np.float32)


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
    # What faces away on the mean face is seen by nobody: the back of the head, of the teeth and of the eyes.
    wanted[normals[:, 2] < _BACK * 2 * areas] = 0
    count = np.floor(wanted + rng.random(len(wanted))).astype(np.int64)
    triangle = np.repeat(np.arange(len(count)), count)
    weights = _spread_points(count, triangle).astype(np.float32)
    vertices = model.triangles_F3[triangle].astype(np.int64)
    rest = np.einsum("sk,skc->sc", weights, model.neutral_V3[vertices]).astype(np.float32)
    part = model.part_V[vertices[:, 0]]
    return Surfels(triangle, np.ascontiguousarray(vertices.T), np.ascontiguousarray(weights.T), rest, part)


def perspective(points: FloatArray, distance: float) -> FloatArray:
    """Points (..., 3) in centimetres to the picture plane through the origin (..., 2), centimetres, y down."""
    scale = distance / (distance - points[..., 2:])
    return np.asarray(points[..., :2] * scale * np.array([1, -1], np.float32), np.float32)


def resolved(splat: Splat, values_P: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Average the cells' values to pixels: grey values and how much of each pixel the head covers, both (side, side).

    A cell that no surfel hit, or where one far behind its surroundings shows through a gap, takes their mean.
    """
    shape = (splat.side, splat.side)
    values, covered = np.zeros((2, splat.side * splat.side), np.float32)
    depth = np.full(splat.side * splat.side, -1e3, np.float32)
    values[splat.cell_P], covered[splat.cell_P], depth[splat.cell_P] = values_P, 1, splat.depth_P
    values, covered, depth = values.reshape(shape), covered.reshape(shape), depth.reshape(shape)
    framed = np.pad(depth, 1, constant_values=-1e3)
    side, before = splat.side, np.zeros(shape, np.float32)
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        before += framed[row : row + side, column : column + side] > depth + _GAP
    holes = (before >= _SURROUNDED) | ((covered == 0) & (cv2.blur(covered, (3, 3)) > 0.5))
    sound = np.where(holes, np.float32(0), covered)
    mean = cv2.blur(values * sound, (3, 3)) / np.maximum(cv2.blur(sound, (3, 3)), 1e-6)
    values, covered = np.where(holes, mean, values), np.where(holes, np.float32(1), covered)
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

"""The ICT face: who it is and what it does, as vertices.

Shape suffixes: V vertices, F triangles, E expression shapes, I identity shapes, T frames.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import SourceNotFoundError, SourceUnreadableError

FloatArray = NDArray[np.float32]
_ARRAYS = (
    "neutral", "triangles", "triangle_material", "material_names", "vertex_part", "part_names", "landmarks68",
    "identity_deltas", "expression_deltas", "expression_names",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FaceModel:
    """A linear face model in centimetres: x to the right of the picture, y up, z towards the viewer.

    Attributes:
        neutral_V3: the mean face at rest.
        triangles_F3: vertex numbers, counter-clockwise seen from outside.
        material_F: index into ``materials``.
        part_V: index into ``parts``.
        landmarks: the 68 landmarks' vertex numbers, in the usual (iBUG) order.
        identity_IV3: shape of each identity component, one standard deviation.
        expression_EV3: shape of each expression at weight one, named by ``shapes``.
    """

    neutral_V3: FloatArray
    triangles_F3: NDArray[np.int32]
    material_F: NDArray[np.uint8]
    materials: tuple[str, ...]
    part_V: NDArray[np.int8]
    parts: tuple[str, ...]
    landmarks: NDArray[np.int32]
    identity_IV3: FloatArray
    expression_EV3: FloatArray
    shapes: tuple[str, ...]

    def person(self, weights_I: FloatArray) -> FloatArray:
        """Vertices (V, 3) of a person at rest."""
        return self.neutral_V3 + np.tensordot(weights_I, self.identity_IV3, axes=1)

    def performed(self, person_V3: FloatArray, weights_TE: FloatArray) -> FloatArray:
        """Vertices (T, V, 3) of a person who shows the expression weights."""
        flat = self.expression_EV3.reshape(len(self.shapes), -1)
        used = np.flatnonzero(weights_TE.any(axis=0))
        moved = weights_TE[:, used] @ flat[used]
        return moved.reshape(len(weights_TE), -1, 3) + person_V3


def load_face_model(path: Path) -> FaceModel:
    """Read ``ict_face.npz``.

    Raises:
        SourceNotFoundError: the file is absent.
        SourceUnreadableError: the file is not the face model.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file; give the folder that holds ict_face/ with --set data=FOLDER")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in _ARRAYS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceUnreadableError(f"{path}: not the ICT face model (ict_face.npz); fetch it again") from error
    return FaceModel(
        neutral_V3=held["neutral"].astype(np.float32),
        triangles_F3=held["triangles"],
        material_F=held["triangle_material"],
        materials=tuple(held["material_names"].tolist()),
        part_V=held["vertex_part"],
        parts=tuple(held["part_names"].tolist()),
        landmarks=held["landmarks68"],
        identity_IV3=held["identity_deltas"].astype(np.float32),
        expression_EV3=held["expression_deltas"].astype(np.float32),
        shapes=tuple(held["expression_names"].tolist()),
    )


def identity_weights(number: int, split: str, components: int) -> FloatArray:
    """Identity weights (I,) of person ``number`` of a split, about normal.

    Training people are made of the even components and validation people of the odd ones, so that no validation
    face is near a training face by chance. Half of the components carry about half of the variance: hence the gain.
    """
    odd = {"train": 0, "val": 1}[split]
    weights = np.zeros(components, np.float32)
    rng = np.random.default_rng([number, odd, 0x1D])
    drawn = rng.normal(size=len(weights[odd::2])) * rng.uniform(0.8, 1.35)
    weights[odd::2] = np.clip(drawn, -2.5, 2.5)
    return weights

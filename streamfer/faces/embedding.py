"""ArcFace embeddings as an optional appearance cue, where an insightface pack is at hand.

Embeddings identify people. They stay in this process: the tracker compares them and keeps one a track while the
track lives; nothing here writes, logs or publishes them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import CheckpointError
from streamfer.faces import registry
from streamfer.faces.alignment import crop_faces
from streamfer.faces.pulling import ensure_pack, pack_file
from streamfer.faces.sessions import open_session
from streamfer.geometry import CropProfile

log = logging.getLogger(__name__)

#: The template ArcFace was trained on, 112 pixels: J. Deng et al., "ArcFace" (CVPR 2019), insightface's face_align.
ARCFACE_CROP = CropProfile(
    kind="similarity",
    size=112,
    landmarks=(
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
)


class ArcFaceAppearance:
    """An :data:`~streamfer.faces.appearance.Appearance` whose descriptor is one ArcFace embedding.

    A cosine of ArcFace embeddings is about 0 for strangers and 0.3 to 0.9 for one person from frame to frame; the
    tracker's limits are made for the colour descriptor, where strangers reach 0.7. :func:`anchored` moves the one
    scale onto the other.
    """

    def __init__(self, path: Path, *, licence: str, provider: str = "auto") -> None:
        self._session, self.provider = open_session(path, provider=provider, threads=1)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or list(inputs[0].shape[1:]) != [3, 112, 112]:
            raise CheckpointError(
                f"{path}: not an ArcFace network (one 3 x 112 x 112 input, one output); a pack's recognition "
                "network is the w600k_*.onnx or glintr*.onnx one"
            )
        self._input = inputs[0].name
        log.info("embedding.loaded", extra={"model": path.name, "provider": self.provider, "licence": licence})

    @classmethod
    def from_pack(cls, name: str, *, provider: str = "auto") -> ArcFaceAppearance:
        """Load the recognition network of an insightface pack, downloading the pack when absent.

        Raises:
            ModelError: the pack is unknown to the registry, absent, or lacks the network.
        """
        entry = registry.find(name)
        if entry is None or not entry.pack:
            raise CheckpointError(
                f"{name!r}: not an insightface pack; ArcFace comes with buffalo_l, buffalo_s, ...; without one "
                "faces.appearance is colour or none"
            )
        path = pack_file(ensure_pack(entry), "recognition")
        return cls(path, licence=entry.licence, provider=provider)

    def __call__(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32], landmarks: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return descriptors float32 (F, 1, D + 1) of length 1 of the faces of one uint8 RGB frame."""
        if not len(boxes):
            return np.zeros((0, 1, 1), np.float32)
        crops = crop_faces(image, boxes, landmarks, ARCFACE_CROP)
        blob = cv2.dnn.blobFromImages(list(crops), 1 / 127.5, (112, 112), (127.5, 127.5, 127.5), swapRB=False)
        # Old packs fix the batch to 1: one face at a time costs little beside detection and works with all.
        rows = [self._session.run(None, {self._input: face[None]})[0] for face in blob]
        return anchored(np.concatenate(rows).astype(np.float32))[:, None]


def anchored(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings (N, D) as unit vectors (N, D + 1) whose dot product is 0.7 + 0.3 times their cosine."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(length, 1e-9) * np.sqrt(0.3)
    constant = np.full((len(unit), 1), np.sqrt(0.7), np.float32)
    return np.asarray(np.concatenate([unit, constant], axis=1), np.float32)

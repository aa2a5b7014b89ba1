"""SCRFD networks (insightface packs, the built-in detector, or a file) through insightface's adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import CheckpointError
from streamfer.faces.detections import Detections
from streamfer.faces.images import SMALLEST_SEEN, DetectionSize, as_rgb
from streamfer.faces.sessions import open_session

#: The coarsest stride of a three-level SCRFD: its input has to be a multiple of it.
STRIDE = 32
#: Score from which a box counts, for networks that state none (insightface's own default).
USUAL_THRESHOLD = 0.5
#: Numbers that a network may state in its ONNX metadata.
THRESHOLD, TRACKING_THRESHOLD = "threshold", "tracking_threshold"
SMALLEST_FACE, LEAST_SIDE = "smallest_face", "least_side"


class ScrfdDetector:
    """SCRFD: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (ICLR 2022).

    Decoding is insightface's (``model_zoo.scrfd.SCRFD``); the picture is prepared here, so that small faces of
    large frames survive the shrinking, and the session is ours, so that provider and threads are known.

    Attributes:
        threshold: score from which a box counts.
        metadata: the network's ONNX metadata: of the built-in detector its name, licence, threshold, and the sizes
            of face and frame that it needs.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        licence: str,
        threshold: float | None = None,
        det_size: DetectionSize | None = None,
        max_faces: int = 64,
        threads: int = 1,
        provider: str = "auto",
        for_tracking: bool = False,
    ) -> None:
        """Load the network and look at its outputs.

        Raises:
            DeviceError: the provider was asked for by name and is absent.
            CheckpointError: the file is damaged, or its outputs are not SCRFD's.
        """
        from insightface.model_zoo.scrfd import SCRFD

        session, self._provider = open_session(path, provider=provider, threads=threads)
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._name, self._licence = name, licence
        outputs = session.get_outputs()
        inputs = session.get_inputs()
        if len(outputs) not in (6, 9, 10, 15) or len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise CheckpointError(
                f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a SCRFD face detector has 1 and 6, 9, "
                "10 or 15: this network does something else (packs hold several: name the det_*.onnx one)"
            )
        self._fixed = _fixed_size(inputs[0].shape)
        # One session serves every size: a graph rewritten per size, insightface's default, costs memory a size.
        self._network: Any = SCRFD(model_file=str(path), session=session, static_shape_sessions=False)
        stated = self._stated(THRESHOLD, USUAL_THRESHOLD)
        if for_tracking:
            stated = self._stated(TRACKING_THRESHOLD, stated)
        self.threshold = stated if threshold is None else threshold
        self._det_size = (det_size or DetectionSize()).reading(
            self._stated(SMALLEST_FACE, SMALLEST_SEEN), int(self._stated(LEAST_SIDE, 0))
        )
        self._max_faces = max_faces

    @property
    def name(self) -> str:
        """Registered name with the version that the network states, or the file's name."""
        version = self.metadata.get("version")
        return f"{self._name} {version}" if version else self._name

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that runs the network."""
        return self._provider

    @property
    def licence(self) -> str:
        """Licence of the weights in plain words."""
        return self.metadata.get("licence") or self.metadata.get("license") or self._licence

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the faces of each image (uint8 RGB, (H, W, 3), any sizes); one result an image, in order."""
        return [self._detect(as_rgb(image)) for image in images]

    def _detect(self, image: NDArray[np.uint8]) -> Detections:
        if image.size == 0:
            return Detections.empty()
        canvas, factors = self._prepare(image)
        scores, boxes, points = self._network.forward(canvas, self.threshold)
        found = np.concatenate([np.asarray(level, np.float32).reshape(-1) for level in scores])
        if not len(found):
            return Detections.empty()
        corners = np.concatenate(boxes).astype(np.float32) / np.tile(factors, 2)
        order: NDArray[np.int64] = np.argsort(-found, kind="stable")
        rows = np.hstack([corners, found[:, None]])[order]
        kept = self._network.nms(rows)
        landmarks = np.concatenate(points)[order][kept] / factors if points else None
        return Detections.ranked(rows[kept, :4], rows[kept, 4], landmarks, self._max_faces)

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the picture as BGR on a canvas of the network's size, and the factors (x, y) that lead there."""
        if self._fixed is None:
            small, factors = self._det_size.resize(image)
            height, width = (math.ceil(side / STRIDE) * STRIDE for side in small.shape[:2])
        else:
            height, width = self._fixed
            fit = DetectionSize(max(32, int(max(image.shape[:2]) * min(1, self._fit(image)))))
            small, factors = fit.resize(image)
            small = small[:height, :width]
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[:, :, ::-1]
        return canvas, np.asarray(factors, np.float32)

    def _fit(self, image: NDArray[np.uint8]) -> float:
        if self._fixed is None:
            return 1.0
        return float(min(self._fixed[0] / image.shape[0], self._fixed[1] / image.shape[1]))

    def _stated(self, key: str, usual: float) -> float:
        value = self.metadata.get(key)
        if value is None:
            return usual
        try:
            return float(value)
        except ValueError as error:
            raise CheckpointError(
                f"{self._name}: {key} {value!r} in the network's metadata is no number; export the network again"
            ) from error


def _fixed_size(shape: Sequence[int | str | None]) -> tuple[int, int] | None:
    """Return (height, width) when the network accepts one size only."""
    height, width = shape[2], shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None

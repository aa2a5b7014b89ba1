"""SCRFD networks: the built-in detector, insightface packs, or a file."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import CheckpointError
from streamfer.faces.finder import WORTH, DetectorSettings, Finder, Found, merged
from streamfer.faces.images import SMALLEST_SEEN, DetectionSize, planes
from streamfer.faces.registry import DetectorEntry
from streamfer.faces.sessions import open_session, readable

#: The finest stride, and the coarsest one of three levels: an input has to be a multiple of it.
FINEST, STRIDE = 8, 32
#: Score from which a box counts, for networks that state none (insightface's own default).
USUAL_THRESHOLD = 0.5
#: Where a track leads, so much less is enough, unless a threshold was asked for: at the scale of places some faces
#: score lower than in their frame (docs/results/tracking.md, "A lower score at places").
LENIENCY = 0.1


class ScrfdDetector(Finder):
    """SCRFD: J. Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (ICLR 2022).

    Outputs are those of insightface's packs: at each stride scores, then distances of each cell's centre to the sides
    of its box, then offsets of five landmarks, in cells. The built-in detector's ONNX metadata state its version,
    licence, thresholds, the sizes of face and frame that it needs, and from which a face is large for it.
    """

    def __init__(self, entry: DetectorEntry, path: Path, settings: DetectorSettings) -> None:
        self._session, runs = open_session(
            path, provider=settings.provider, threads=settings.threads, wide=settings.whole_threads
        )
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        outputs, inputs = self._session.get_outputs(), self._session.get_inputs()
        if len(outputs) not in (6, 9, 10, 15) or len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise CheckpointError(
                f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a SCRFD face detector has 1 and 6, 9, "
                "10 or 15: this network does something else (packs hold several: name the det_*.onnx one)"
            )
        height, width = inputs[0].shape[2:]
        #: Height and width of a network that accepts one size only.
        self._fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self.worth = -1.0 if self._fixed else WORTH  # one of one size saves nothing on a small picture
        self._input = inputs[0].name
        name = " ".join(filter(None, (entry.name, self.metadata.get("version"))))
        licence = self.metadata.get("licence") or self.metadata.get("license") or entry.licence
        super().__init__(name, runs, licence, settings.size, settings.max_faces)
        usual = self._stated("threshold", USUAL_THRESHOLD, 1)
        self.threshold = settings.least_score(usual, self._stated("tracking_threshold", usual, 1))
        self._of_stills, self._leniency = (usual, LENIENCY) if settings.threshold is None else (settings.threshold, 0.0)
        smallest, least = self._stated("smallest_face", SMALLEST_SEEN), int(self._stated("least_side", 0))
        self._size = settings.size.reading(smallest, least)
        self.large = self._stated("large_face", 10_000)
        self._try(path)

    def _try(self, path: Path) -> None:
        """Refuse a foreign network, which loads and fails on its first picture, and one that answers no numbers."""
        height, width = self._fixed or (2 * STRIDE, 2 * STRIDE)
        blob = np.linspace(-1, 1, 3 * height * width, dtype=np.float32).reshape(1, 3, height, width)
        with readable(path):
            answers = self._session.run(None, {self._input: blob})
            if not all(np.isfinite(answer).all() for answer in answers):
                raise ValueError("its answers are not finite")
            self._decoded(answers, width, -math.inf)

    def _shrink(self, image: NDArray[np.uint8], *, still: bool) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        if self._fixed is None:
            return super()._shrink(image, still=still)
        fit = min(1.0, self._fixed[0] / image.shape[0], self._fixed[1] / image.shape[1])
        small, factors = DetectionSize(max(32, int(max(image.shape[:2]) * fit))).resize(image)
        return small[: self._fixed[0], : self._fixed[1]], factors

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        return self._above(picture, self.threshold)

    def _find_still(self, picture: NDArray[np.uint8]) -> Found:
        return self._above(picture, self._of_stills)

    def _find_expected(self, picture: NDArray[np.uint8]) -> Found:
        return self._above(picture, self.threshold - self._leniency)

    def _above(self, picture: NDArray[np.uint8], least: float) -> Found:
        height, width = self._fixed or (math.ceil(side / STRIDE) * STRIDE for side in picture.shape[:2])
        blob = planes(picture, height, width)
        blob -= np.float32(127.5)
        blob *= np.float32(1 / 128)
        return merged(*self._decoded(self._session.run(None, {self._input: blob}), width, least))

    def _decoded(self, outputs: list[Any], width: int, least: float) -> Found:
        """Return corners (N, 4), scores (N,) and landmarks (N, 5, 2), in pixels of the canvas, of what counts."""
        levels, anchors = (3, 2) if len(outputs) in (6, 9) else (5, 1)
        found: list[list[NDArray[np.float32]]] = [[], [], []]
        for level in range(levels):
            stride = FINEST << level
            scores, *distances = outputs[level::levels]
            chosen = np.flatnonzero(scores >= least)
            if level and not len(chosen):
                continue
            rows, columns = np.divmod(chosen // anchors, width // stride)
            centres = (np.stack([columns, rows], axis=1) * stride).astype(np.float32)
            sides, *offsets = (one.reshape(scores.size, -1)[chosen] * stride for one in distances)
            found[0].append(np.hstack([centres - sides[:, :2], centres + sides[:, 2:]]))
            found[1].append(scores.reshape(-1)[chosen])
            found[2] += [centres[:, None] + one.reshape(-1, 5, 2) for one in offsets]
        return np.concatenate(found[0]), np.concatenate(found[1]), np.concatenate(found[2]) if found[2] else None

    def _stated(self, key: str, usual: float, most: float = 10_000) -> float:
        """Return a number that the network may state in its metadata."""
        value = self.metadata.get(key, usual)
        with contextlib.suppress(ValueError):
            if 0 <= float(value) <= most:
                return float(value)
        raise CheckpointError(
            f"{self.name}: {key} {value!r} in the network's metadata is no number from 0 to {most}; export it again"
        )

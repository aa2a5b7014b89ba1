"""Faces made unrecognisable, and track numbers that say nothing outside their run."""

from __future__ import annotations

import hashlib
import math
import secrets

import cv2
import numpy as np
from numpy.typing import NDArray

#: A blurred face keeps at most so many blocks along each side.
BLOCKS = 8
#: The box grows by this share of its size on each side, so that hair, ears and chin go as well.
MARGIN = 0.25
#: Characters of a public track id: 40 bits, so that ten thousand tracks collide with a chance of 1 in 20,000.
ID_CHARACTERS = 8
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def blur_faces(image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return a copy of a picture (uint8 RGB) in which every face is at most 8 x 8 blocks, smoothed.

    Averaging over blocks throws the detail away; a Gaussian blur alone could be deconvolved. Boxes (F, 4) are
    x1 y1 x2 y2 in pixels, grown by a quarter on each side; those off the frame are skipped.
    """
    result = image.copy()
    height, width = image.shape[:2]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    # The largest last: blocks of an eye that was taken for a face must not show again what those of the face hide.
    for box in boxes[np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")]:
        grown = np.tile((box[2:] - box[:2]) * MARGIN, 2) * (-1, -1, 1, 1) + box
        x1, y1 = max(0, math.floor(grown[0])), max(0, math.floor(grown[1]))
        x2, y2 = min(width, math.ceil(grown[2])), min(height, math.ceil(grown[3]))
        if x2 <= x1 or y2 <= y1:
            continue
        # Blocks are counted over the whole face: a face half outside gets half of them.
        across = _blocks(x2 - x1, grown[2] - grown[0])
        down = _blocks(y2 - y1, grown[3] - grown[1])
        blocks = cv2.resize(image[y1:y2, x1:x2], (across, down), interpolation=cv2.INTER_AREA)
        coarse = cv2.resize(blocks, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
        spread = max(x2 - x1, y2 - y1) / (2 * BLOCKS)
        result[y1:y2, x1:x2] = cv2.GaussianBlur(coarse, (0, 0), max(0.5, spread))
    return result


class TrackNames:
    """Public ids of tracks: short, random-looking, the same for the same salt.

    Without a salt each instance draws its own, so that ids of two runs cannot be joined; with a fixed salt the
    ids repeat from run to run.
    """

    def __init__(self, salt: str | bytes | None = None) -> None:
        chosen = secrets.token_bytes(16) if salt is None else salt
        self._key = hashlib.sha256(chosen.encode() if isinstance(chosen, str) else chosen).digest()

    def name(self, source: str, epoch: int, track: int) -> str:
        """Return the id of a track, by the tracker's number: 8 characters of Crockford's base 32."""
        text = f"{len(source)}:{source}:{epoch}:{track}".encode()
        value = int.from_bytes(hashlib.blake2b(text, key=self._key, digest_size=8).digest(), "big")
        return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in range(ID_CHARACTERS))


def _blocks(seen: int, whole: float) -> int:
    return max(1, min(seen, math.floor(BLOCKS * seen / max(whole, 1.0))))

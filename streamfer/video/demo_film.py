"""The demo's film: two photographs of real people, filmed with a moving camera.

The pictures come with installed packages: scikit-image's portrait of Eileen Collins (NASA, public domain) and
insightface's sample group photograph. Nothing is downloaded and nothing is stored in this repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer.extras import needs

WIDTH, HEIGHT, FPS = 960, 540, 25.0
_SHOT_SECONDS = 4.0


def film() -> Iterator[NDArray[np.uint8]]:
    """Yield the frames, uint8 RGB (540, 960, 3): a slow zoom on a portrait, a cut, a slow pan over a group.

    Raises:
        ConfigError: a package that should carry a picture does not.
    """
    from skimage import data

    portrait, group = np.asarray(data.astronaut(), dtype=np.uint8), _group()
    # From one view to another: centre x, centre y and height, in fractions of the picture.
    shots = (
        (portrait, np.array([0.50, 0.30, 0.56]), np.array([0.45, 0.25, 0.42])),
        (group, np.array([0.50, 0.41, 0.80]), np.array([0.50, 0.385, 0.76])),
    )
    count = round(_SHOT_SECONDS * FPS)
    for picture, start, end in shots:
        for number in range(count):
            # A slow start and end, as a hand-held zoom has: half a cosine.
            ease = 0.5 - 0.5 * np.cos(np.pi * number / (count - 1))
            yield _view(picture, *((1 - ease) * start + ease * end))


def _view(picture: NDArray[np.uint8], x: float, y: float, part: float) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = HEIGHT / (part * height)
    matrix = np.array(
        [[scale, 0, WIDTH / 2 - scale * x * width], [0, scale, HEIGHT / 2 - scale * y * height]], np.float64
    )
    frame = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(frame, dtype=np.uint8)


def _group() -> NDArray[np.uint8]:
    with needs("insightface", "demo (for its picture of a group)"):
        import insightface
    path = Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"
    picture = cv2.imread(str(path)) if path.is_file() else None
    if picture is None:
        raise ConfigError(f"demo: the installed insightface carries no sample picture ({path}); reinstall insightface")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)

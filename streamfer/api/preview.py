"""Pictures of a run's sources for those who look: made only while somebody asks, and gone seconds later."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.closing import Closing
from streamfer.faces.detections import Detections, TrackedFace
from streamfer.faces.privacy import blur_faces
from streamfer.publish import Publisher
from streamfer.redaction import redact_text

_EVERY_SECONDS = 1.0
#: For so long a place stays blurred where a face was found, and no picture is shown before as much was seen.
_BLURRED_SECONDS = 1.0
_LONGER_SIDE = 640
_QUALITY = 75
_END_SECONDS = 1.0

log = logging.getLogger(__name__)
Boxes = NDArray[np.float32]


class Previews(Closing):
    """Publishes a picture a second of each source that somebody asks for, from a thread of its own.

    Who looks sets :meth:`~streamfer.publish.keys.Keys.asked` to expire soon, and reads
    :meth:`~streamfer.publish.keys.Keys.preview`. Analysers leave what they have and never wait. Where faces are
    ``blurred``, one that the detector does not find is seen.
    """

    def __init__(self, publisher: Publisher, sources: Callable[[], Iterable[str]], *, blurred: bool = True) -> None:
        self._publisher, self._sources, self._blurred = publisher, sources, blurred
        self._seen: dict[str, _Seen] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="streamfer preview", daemon=True)
        self._thread.start()

    def take(
        self, source_id: str, image: NDArray[np.uint8], found: Detections | None, faces: Sequence[TrackedFace]
    ) -> None:
        """Take an analysed picture, uint8 RGB (H, W, 3), which nobody changes, with the faces in it."""
        if (seen := self._seen.get(source_id)) is not None:
            boxes = [face.box for face in faces] + ([] if found is None else list(found.boxes))
            seen.take(image, np.array(boxes, np.float32).reshape(-1, 4))

    def close(self) -> None:
        """Show nothing any more; waits a second at most."""
        self._closed.set()
        self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        while not self._closed.wait(_EVERY_SECONDS):
            try:
                asked = self._publisher.asked(list(self._sources()))
                self._seen = {source_id: self._seen.get(source_id) or _Seen() for source_id in asked}
                for source_id, seen in self._seen.items():
                    if (picture := seen.picture(blurred=self._blurred)) is not None:
                        self._publisher.show(source_id, picture)
            except Exception as error:
                # A picture that is late is of no use to anybody.
                self._seen = {}
                log.info("preview.lost", extra={"reason": redact_text(str(error))})


class _Seen:
    """The newest picture of a source, and where faces were in the last second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._image: NDArray[np.uint8] | None = None
        self._faces: deque[tuple[float, tuple[int, ...], Boxes]] = deque()

    def take(self, image: NDArray[np.uint8], boxes: Boxes) -> None:
        now = time.monotonic()
        with self._lock:
            self._image = image
            self._faces.append((now, image.shape, boxes))
            while self._faces[0][0] < now - _BLURRED_SECONDS:
                self._faces.popleft()

    def picture(self, *, blurred: bool) -> bytes | None:
        """Return what is new as JPEG; None where nothing is, or not enough to know where faces are."""
        with self._lock:
            if self._image is None or (blurred and time.monotonic() - self._since < _BLURRED_SECONDS):
                return None
            image, self._image = self._image, None
            boxes = [boxes for _, shape, boxes in self._faces if shape == image.shape]
        if blurred:
            image = blur_faces(image, np.concatenate(boxes))
        height, width = image.shape[:2]
        scale = min(1.0, _LONGER_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])

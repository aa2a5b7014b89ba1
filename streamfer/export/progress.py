"""What a batch that is killed need not compute again: faces found and features read in files that it had not finished.

Every minute they go to a file in the output folder. The next run decodes from the start, which takes a small part of
the time, and looks up what was computed by the bytes it was computed from: it goes on exactly where the other stopped,
whatever state that was in. What belongs to finished files is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from streamfer.files import write_whole

if TYPE_CHECKING:
    import torch

    from streamfer.faces.detections import Detections

#: Seconds between two checkpoints.
EVERY = 60.0
#: What a part that cannot be read raises; it costs the time that it would have saved.
_UNREADABLE = (OSError, ValueError, SafetensorError)
_FOLDER = ".streamfer-progress"


class Progress:
    """Remembers results by the bytes that they come from, in memory and, minute by minute, on the disk.

    ``identity`` is what else they depend on; where others work at other sources, it is about one ``alone``.
    """

    def __init__(self, output: Path, identity: str, alone: str | None = None) -> None:
        self._folder = output / _FOLDER
        self._name = "all" if alone is None else hashlib.sha256(alone.encode()).hexdigest()[:16]
        self._alone = alone
        self._identity = identity
        #: Values by key: which part of the disk, which the system keeps in memory as long as there is room.
        self._known: dict[bytes, tuple[Any, int, int]] = {}
        self._fresh: dict[bytes, NDArray[np.float32]] = {}
        self._lock = threading.Lock()
        self._parts: dict[Path, set[str]] = {}
        self._numbers = itertools.count(time.time_ns())
        self._last: float | None = None

    def over(self, models: Any) -> Any:
        """Return loaded models that remember; what an earlier run left is read first."""
        self.find()
        for path in self._parts:
            with contextlib.suppress(*_UNREADABLE):
                part: Any = safe_open(path, "np")
                keys, ends = part.get_tensor("keys"), part.get_tensor("ends").tolist()
                values = part.get_slice("values")
                self._known |= {key.tobytes(): (values, *ends[at : at + 2]) for at, key in enumerate(keys)}
        detectors = tuple(_Detector(detector, self, f"faces {self._identity}") for detector in models.detectors)
        features = _Model(models.expression, self, f"features {self._identity}")
        return replace(models, expression=features, detectors=detectors)

    def find(self) -> None:
        """See what earlier runs left, and of which sources."""
        for name in ("*",) if self._alone is None else ("all", self._name):
            for path in sorted(self._folder.glob(f"{name}-*.safetensors")):
                with contextlib.suppress(*_UNREADABLE):
                    part: Any = safe_open(path, "np")
                    sources = set(json.loads(part.metadata()["sources"]))
                    if self._alone is None or self._alone in sources:
                        self._parts[path] = sources

    def checkpoint(self, unfinished: Iterable[str]) -> None:
        """Write what is new, once a minute has passed; ``unfinished`` are the sources that it may belong to.

        Raises:
            OutputError: it cannot be written.
        """
        now = time.monotonic()
        self._last = now if self._last is None else self._last
        if now - self._last < EVERY:
            return
        self._last = now
        # What is computed ahead of the first picture's event belongs to a source that is about to be one of these.
        if not (sources := set(unfinished)):
            return
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if not fresh:
            return
        path = self._folder / f"{self._name}-{next(self._numbers)}.safetensors"
        content = {
            "keys": np.frombuffer(b"".join(fresh), np.uint8).reshape(len(fresh), -1),
            "ends": np.cumsum([0, *map(len, fresh.values())]),
            "values": np.concatenate(list(fresh.values())),
        }
        part = save(content, {"sources": json.dumps(sorted(sources))})
        write_whole(path, lambda stream: stream.write(part))
        self._parts[path] = sources

    def finished(self, source_id: str) -> None:
        """Forget what only a finished source needed."""
        for path, sources in list(self._parts.items()):
            sources.discard(source_id)
            if not sources:
                del self._parts[path]
                # Windows removes no file that is being read.
                with contextlib.suppress(OSError):
                    path.unlink()
        # As long as something is in it, it stays.
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """Return what is known under a key."""
        if (place := self._known.get(key)) is None:
            return None
        values, begin, end = place
        with self._lock:
            found: NDArray[np.float32] = values[begin:end]
        return found

    def put(self, key: bytes, value: NDArray[np.float32]) -> None:
        """Remember a result until the next checkpoint."""
        with self._lock:
            self._fresh[key] = value


class _Memory:
    """Something that is loaded, everything of it but what a subclass remembers."""

    def __init__(self, inner: Any, progress: Progress, identity: str) -> None:
        self._inner = inner
        self._progress = progress
        self._identity = identity.encode()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _key(self, picture: NDArray[np.uint8], *how: bool) -> bytes:
        digest = hashlib.blake2b(self._identity, digest_size=16)
        digest.update(repr((picture.shape, *how)).encode())
        digest.update(np.ascontiguousarray(picture).data)
        return digest.digest()


class _Detector(_Memory):
    def detect(self, images: Sequence[NDArray[np.uint8]], *, still: bool = False) -> list[Detections]:
        from streamfer.faces.detections import Detections

        found: list[Detections] = []
        for image in images:
            key = self._key(image, still)
            known = self._progress.get(key)
            if known is None:
                (faces,) = self._inner.detect([image], still=still)
                parts = (faces.boxes, faces.scores[:, None], faces.landmarks.reshape(-1, 10))
                flat = np.concatenate([[faces.left_out], np.concatenate(parts, axis=1).ravel()])
                self._progress.put(key, flat.astype(np.float32))
            else:
                rows = known[1:].reshape(-1, 15)
                faces = Detections(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(-1, 5, 2), int(known[0]))
            found.append(faces)
        return found


class _Model(_Memory):
    def encode(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        import torch

        crops = crops.cpu().numpy() if isinstance(crops, torch.Tensor) else crops
        keys = [self._key(crop) for crop in crops]
        rows = [self._progress.get(key) for key in keys]
        missing = [at for at, row in enumerate(rows) if row is None]
        if missing or not keys:
            encoded: torch.Tensor = self._inner.encode(crops[missing])
            for at, row in zip(missing, encoded.cpu().numpy(), strict=True):
                self._progress.put(keys[at], row)
                rows[at] = row
            if len(missing) == len(keys):
                return encoded
        return torch.from_numpy(np.stack(rows)).to(self._inner.info.device)  # type: ignore[arg-type]

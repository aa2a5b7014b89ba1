"""Files out: tables and record lines of annotated sources, whole or not at all."""

from streamfer.export.folder import Settings, SourceFolder
from streamfer.export.tables import FORMATS, Writer, check_formats

__all__ = ["FORMATS", "Settings", "SourceFolder", "Writer", "check_formats"]

"""Video in: where sources are, frames out of them, which frames are looked at, random access, encoding."""

from streamfer.video.files import FileSource
from streamfer.video.frames import (
    Frame,
    FrameFilter,
    Source,
    SourceState,
    StateChange,
    TimeOrigin,
    VideoInfo,
)
from streamfer.video.locate import SourceKind, SourceSpec, find_sources
from streamfer.video.sampling import TimeSampler, segment_centres, segment_random
from streamfer.video.sources import open_source

__all__ = [
    "FileSource",
    "Frame",
    "FrameFilter",
    "Source",
    "SourceKind",
    "SourceSpec",
    "SourceState",
    "StateChange",
    "TimeOrigin",
    "TimeSampler",
    "VideoInfo",
    "find_sources",
    "open_source",
    "segment_centres",
    "segment_random",
]

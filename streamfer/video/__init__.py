"""Video in: where sources are, frames out of them, which frames are looked at, random access, encoding."""

from streamfer.video.encode import write_video
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
from streamfer.video.live import Backoff, LiveSource
from streamfer.video.locate import SourceKind, SourceSpec, find_sources
from streamfer.video.readers import ClipReader, DecordReader, PyAvReader, open_reader
from streamfer.video.sampling import TimeSampler, segment_centres, segment_random
from streamfer.video.sources import open_source

__all__ = [
    "Backoff",
    "ClipReader",
    "DecordReader",
    "FileSource",
    "Frame",
    "FrameFilter",
    "LiveSource",
    "PyAvReader",
    "Source",
    "SourceKind",
    "SourceSpec",
    "SourceState",
    "StateChange",
    "TimeOrigin",
    "TimeSampler",
    "VideoInfo",
    "find_sources",
    "open_reader",
    "open_source",
    "segment_centres",
    "segment_random",
    "write_video",
]

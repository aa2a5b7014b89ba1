"""What the pipeline hands to its consumer, in order for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamfer.errors import StreamferError
from streamfer.records import Record
from streamfer.video.frames import VideoInfo


@dataclass(frozen=True, slots=True)
class FaceRow:
    """One face of one analysed frame, as frame tables list it."""

    track: int  #: number of the track within source and epoch
    track_id: str
    box: tuple[float, float, float, float]  #: x, y, width, height as fractions of the frame
    score: float  #: detection score, 0 to 1
    quality: float  #: crop quality, 0 to 1
    #: unit to intensity in this frame, as in :class:`~streamfer.records.FaceReading`; None where the model reads none,
    #: or the frame only helped tracking and its faces were not encoded
    action_units: Mapping[str, float] | None = None
    #: the five points as fractions of the frame; None where the detector finds none
    landmarks: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class FrameFaces:
    """The faces of one analysed frame."""

    source_id: str
    epoch: int
    index: int  #: number of the frame among the decoded ones
    seconds: float  #: time from the epoch's first frame
    faces: tuple[FaceRow, ...]
    too_small: tuple[int, ...] = ()  #: numbers of the tracks whose faces in this frame were too small to be read
    media_seconds: float | None = None  #: the container's own time, as in :class:`~streamfer.video.frames.Frame`
    wall_time: float | None = None  #: Unix time of its capture; None for files
    #: of the newest frame analysed when this one was settled; with it, in dropped, the source's losses by cause
    newest: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceOpened:
    """A source is open; comes before what is analysed of its epoch."""

    source_id: str
    epoch: int
    info: VideoInfo
    classes: tuple[str, ...]  #: labels that its clips may get, in the model's order
    action_units: tuple[str, ...] = ()  #: names of the action units that its faces are read for, in the model's order
    #: for each of them, the intensity from which it counts as present; may be empty
    action_thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceStats:
    """What a source came to."""

    frames_decoded: int = 0  #: like the next two a count over all epochs
    frames_analysed: int = 0
    frames_dropped: int = 0
    seconds: float = 0.0  #: video time covered, summed over epochs
    clips: int = 0
    tracks: int = 0  #: distinct tracks that gave at least one labelled clip
    faces_left_out: int = 0  #: faces beyond the cap
    faces_too_small: int = 0  #: faces of people that were smaller than ``faces.min_size``, so followed and not read
    tracks_too_small: int = 0  #: people of whom no face was large enough
    captions: int = 0
    captions_replaced: int = 0  #: of these, measured words that stand in for a model's text which failed its checks
    captions_dropped: int = 0  #: clips that were to be described and were not, because the captioner was busy
    captions_failed: int = 0  #: clips that were to be described and were not, because the captioner failed

    @property
    def unread(self) -> str:
        """Who was too small to be read, in words; empty where nobody was."""
        if not self.faces_too_small:
            return ""
        faces = f"{self.faces_too_small} face{'s' if self.faces_too_small > 1 else ''}"
        if not self.tracks_too_small:
            return f"{faces} too small to read (below faces.min_size)"
        people = "1 person" if self.tracks_too_small == 1 else f"{self.tracks_too_small} people"
        return f"{people} too small to read ({faces} below faces.min_size)"


@dataclass(frozen=True, slots=True)
class SourceDone:
    """A source has ended; nothing of it follows."""

    source_id: str
    error: StreamferError | None = None  #: why it failed, or None when it ended by itself or was stopped
    stopped: bool = False  #: the run was stopped before the source's end
    note: str = ""  #: one line about an end that was not clean, such as a truncated file
    cut_off: bool = False  #: not everything came that the source promises; the note says how
    stats: SourceStats = field(default_factory=SourceStats)


Event = Record | FrameFaces | SourceOpened | SourceDone

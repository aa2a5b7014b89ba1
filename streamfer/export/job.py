"""What is to be made of a source: the settings that decide its results, and the names that their files have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from streamfer.errors import ConfigError

if TYPE_CHECKING:
    FormatNames = str | Iterable[str]
    from streamfer.export.baseline import Baseline
    from streamfer.video.locate import SourceSpec

#: Format name to the ends of the names of its files; :func:`streamfer.export.tables.writer_of` writes them.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "csv": (".clips.csv", ".frames.csv", ".tracks.csv", ".segments.csv"),
    "parquet": (".clips.parquet", ".frames.parquet", ".tracks.parquet", ".segments.parquet"),
    "xlsx": (".xlsx",),
    "jsonl": (".records.jsonl",),
    "srt": (".srt",),
    "vtt": (".vtt",),
    "eaf": (".eaf",),
    "textgrid": (".TextGrid",),
    "boris": (".boris",),
    "bids": ("_events.tsv", "_events.json", "_recording-faces_physio.tsv.gz", "_recording-faces_physio.json"),
    "html": (".html",),
    "overlay": (".overlay.mp4",),
}
#: In whose words the frame table speaks, and for whom CSV files are written.
PROFILES = ("streamfer", "openface", "pyfeat")
DIALECTS = ("plain", "excel")
#: Whether faces are made unrecognisable: those that are found, or the whole frame where one may be elsewhere, too.
Blur = Literal["off", "normal", "strict"]
_PICTURES = frozenset({"overlay", "html"})

_BIDS = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_[A-Za-z]+\.\w+$")


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the contents of the files besides the video: equal settings, equal results."""

    config: str  #: digest of the configuration that matters
    model: str  #: digest of the weights
    detector: str
    formats: tuple[str, ...]  #: formats asked for, the overlay among them
    blurred: Blur = "off"  #: whether faces in pictures are unrecognisable
    profile: str = "streamfer"
    dialect: str = "plain"
    baseline: str = ""  #: what measurements are held against: a length of time, a file's digest, or nothing
    values: Mapping[str, Any] = field(default_factory=dict)  #: what of the configuration matters, for people to read


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a source's files before they are written."""

    base: Path  #: path of the results without the ends of their names
    settings: Settings
    spec: SourceSpec  #: the video itself
    captions: bool = False  #: clips are described
    baseline: Baseline | None = None
    #: tells the licence of each model by its name, once they are loaded
    licences: Callable[[], Mapping[str, str]] = dict

    def files(self) -> dict[str, Path]:
        """Return the files by the ends of their names; those of BIDS keep the entities of a video named by it."""
        found = [suffix for name in self.settings.formats for suffix in FORMATS[name]]
        found += [f".captions.{name}" for name in ("csv", "parquet") if self.captions and name in self.settings.formats]
        renamed = f".{self.settings.profile}." if self.settings.profile != "streamfer" else ".frames."
        picture = "overlay.png" if self.spec.still else "overlay.mp4"
        ends = [suffix.replace(".frames.", renamed).replace("overlay.mp4", picture) for suffix in found]
        name = self.base.name
        entities = _BIDS.match(name)
        bids = entities[1] if entities else name
        return {end: self.base.with_name(f"{bids if end.startswith('_') else name}{end}") for end in ends}


def check_formats(names: FormatNames) -> tuple[str, ...]:
    """Return the formats of a list, or of one text with commas; a ConfigError where one is unknown."""
    given: Any = names.split(",") if isinstance(names, str) else names
    if not isinstance(given, Iterable):
        raise ConfigError(f"formats: a {type(names).__name__}; choose from {', '.join(FORMATS)}")
    chosen = tuple(dict.fromkeys(found for name in given if (found := str(name).strip().lower())))
    for name in chosen:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}: unknown; choose from {', '.join(FORMATS)}")
    if not chosen:
        raise ConfigError(f"no output format; choose from {', '.join(FORMATS)}")
    return chosen


def choose(
    settings: Settings,
    formats: FormatNames,
    *,
    overlay: bool = False,
    blur_faces: bool | str = False,
    profile: str = "streamfer",
    csv_dialect: str = "plain",
) -> Settings:
    """Return settings with what was chosen of their results, in the words of ``Session.annotate_folder``.

    Raises:
        ConfigError: a name is unknown, or faces are to be blurred in no picture.
    """
    names = check_formats(formats)
    names += ("overlay",) if overlay and "overlay" not in names else ()
    blur = ("normal" if blur_faces else "off") if isinstance(blur_faces, bool) else blur_faces
    if blur != "off" and not _PICTURES.intersection(names):
        raise ConfigError("blur_faces: there is no picture to blur; ask for the overlay, too")
    options = (
        ("profile", profile, PROFILES),
        ("csv_dialect", csv_dialect, DIALECTS),
        ("blur_faces", blur, get_args(Blur)),
    )
    for option, value, known in options:
        if value not in known:
            raise ConfigError(f"{option} {value!r}: unknown; choose from {', '.join(known)}")
    return replace(settings, formats=names, blurred=cast("Blur", blur), profile=profile, dialect=csv_dialect)

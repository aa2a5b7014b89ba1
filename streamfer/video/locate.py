"""Turning what a user typed (files, folders, patterns, URLs, webcams) into descriptions of sources."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from streamfer.addresses import AddressError, address_name, fill, read_address, with_credentials
from streamfer.config import Config, Transport
from streamfer.errors import ConfigError, SourceDeniedError, SourceError, SourceNotFoundError
from streamfer.redaction import redact_url
from streamfer.video.structure import is_picture, looks_like_media

SourceKind = Literal["file", "live", "webcam"]
Place = str | os.PathLike[str]

# fmt: off
STILL_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm",
    ".pgm", ".qoi",
})
RAW_SUFFIXES = frozenset({".yuv"})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg",
    ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".mxf", ".gif", ".apng", ".264",
    ".h264", ".avc", ".265", ".h265", ".hevc", ".ivf", ".obu", ".y4m", ".mjpeg", ".mjpg",
    ".dv", ".m2t", ".mod", ".tod", ".m2v", ".dav", ".ogm", ".divx", ".rm", ".rmvb", ".wtv", ".nut", ".amv",
})
# fmt: on
# Files of these may be what a video is (Ogg, MP4, Matroska), and hold sound.
_SOUND_SUFFIXES = frozenset({".m4a", ".m4b", ".mka", ".ogg", ".oga", ".opus", ".weba", ".wma", ".aax"})
MEDIA_SUFFIXES = VIDEO_SUFFIXES | STILL_SUFFIXES | RAW_SUFFIXES

RTSP_SCHEMES = frozenset({"rtsp", "rtsps"})
LIVE_SCHEMES = RTSP_SCHEMES | {"rtmp", "rtmps", "udp", "rtp", "tcp"}
HTTP_SCHEMES = frozenset({"http", "https"})
ALLOWED_SCHEMES = LIVE_SCHEMES | HTTP_SCHEMES | {"file", "webcam"}

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_UNICODE = re.compile("[\ud800-\udfff]")
_LONGEST_SHOWN = 200
# Over HTTP these are cameras and encoders more often than downloads; whether they end is seen once they are open.
_HTTP_LIVE_SUFFIXES = frozenset({".mjpg", ".mjpeg", ".ts", ".flv"})
_SESSION_SUFFIX = ".sdp"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where frames come from, before anything is opened."""

    url: str = field(repr=False)  #: path, URL (credentials included, hence not in ``repr``) or device
    source_id: str  #: stable, unique among the sources found together, free of credentials
    kind: SourceKind  #: ``file`` ends by itself, ``live`` and ``webcam`` do not
    raw_size: tuple[int, int] | None = None  #: (width, height) in pixels of headerless planar video
    #: frames a second of headerless video; also overrides the assumed rate of raw H.264 and HEVC
    raw_fps: Fraction | None = None
    raw_pixel_format: str = "yuv420p"  #: FFmpeg name of the pixel layout of headerless video
    #: transport, open_timeout, stall_timeout: of this source where they differ from ``live``'s.
    transport: Transport | None = None
    open_timeout: float | None = None
    stall_timeout: float | None = None
    paused: bool = False  #: it is known, and not opened
    place: str = ""  #: where it comes from, where that is a bucket and the url perhaps a copy; free of credentials
    version: str = ""  #: tells what lies at that place from what lay there before

    @property
    def location(self) -> str:
        """How messages, logs and records call it: a server's address may hold secrets anywhere, so by its id."""
        return self.place or (self.source_id if self.remote else self.url)

    @property
    def remote(self) -> bool:
        """Whether the url names a server."""
        return "://" in self.url

    @property
    def scheme(self) -> str:
        """The url's scheme in lower case, as in ``rtsp``; empty where it names no server."""
        return self.url.partition("://")[0].lower() if self.remote else ""

    @property
    def live(self) -> bool:
        """Whether frames arrive in real time."""
        return self.kind != "file"

    @property
    def session(self) -> bool:
        """Whether it is a file that says which streams of RTP to receive (SDP)."""
        return self.live and not self.remote and Path(self.url).suffix.lower() == _SESSION_SUFFIX

    @property
    def received(self) -> bool:
        """Whether it comes to a port of this machine, asked for or not."""
        return self.session or self.scheme in ("udp", "rtp")

    @property
    def downloadable(self) -> bool:
        """Whether its address ends like a media file's."""
        return PurePosixPath(urlsplit(self.url).path).suffix.lower() in MEDIA_SUFFIXES - _HTTP_LIVE_SUFFIXES

    @property
    def address_key(self) -> str:
        """Sha256 (hex) of the address without its secrets."""
        return hashlib.sha256(redact_url(self.url).encode()).hexdigest()

    def whole(self) -> SourceSpec:
        """Return this source as one that is read to its end, whatever its address looks like.

        Raises:
            ConfigError: a webcam, which has none.
        """
        if self.kind == "webcam" or self.session:
            raise ConfigError(f"{self.location}: a live source, which does not end; watch it with run or stream")
        return replace(self, kind="file")

    @property
    def still(self) -> bool:
        """Whether it is a picture: by a file's content, else by its name."""
        told = None if self.remote else is_picture(Path(self.url))
        return Path(self.url).suffix.lower() in STILL_SUFFIXES if told is None else told

    @property
    def stored(self) -> bool:
        """Whether it is a file on a disk, which can be read again; a pipe or device cannot."""
        return not self.remote and Path(self.url).is_file()


def find_sources(arguments: Sequence[str]) -> list[SourceSpec]:
    """Describe every source that ``arguments`` name, in a deterministic order, each one once.

    An argument is a file of any name, a folder (media files in it, by suffix or content, sorted, hidden ones left
    out; stills count, links are followed), a pattern, a URL of one of :data:`ALLOWED_SCHEMES`, an SDP file (``.sdp``),
    ``webcam:N`` or ``/dev/videoN``. An http URL is a file when its path ends in a media suffix (``.mp4``), else live.

    Raises:
        SourceNotFoundError: no such file, no media file in a folder, or no match of a pattern.
        SourceDeniedError: the URL's scheme is not one of :data:`ALLOWED_SCHEMES`.
    """
    specs: list[SourceSpec] = []
    seen: set[str] = set()
    for argument in arguments:
        for spec in _expand(argument):
            key = spec.url if spec.remote or spec.kind == "webcam" else os.path.realpath(spec.url)
            if key not in seen:
                seen.add(key)
                specs.append(spec)
    return with_unique_ids(specs)


def placed(place: Place, what: str) -> str:
    """Return a path as a text."""
    if not isinstance(place, str | os.PathLike):
        raise ConfigError(f"{what}: a {type(place).__name__}; expected a path")
    path = os.fsdecode(place)
    with contextlib.suppress(UnicodeEncodeError):
        if path and b"\0" not in os.fsencode(path):
            return path
    raise ConfigError(f"{what}: {path!r} can be no path; name one (this folder is .)")


def listed(places: Place | Sequence[Place]) -> list[str]:
    """Return one place or several as texts; a ConfigError where something is no path."""
    several: Any = [places] if isinstance(places, str | os.PathLike) else places
    if not isinstance(several, Iterable) or isinstance(several, bytes) or hasattr(several, "__array__"):
        raise ConfigError(f"sources: a {type(places).__name__}; expected a path, a URL, or a list of them")
    found: list[str] = []
    for place in several:
        if not isinstance(place, str | os.PathLike):
            raise ConfigError(f"sources: a {type(place).__name__} among them; expected a path or URL")
        found.append(os.fsdecode(place))
    return found


def find_file(place: Place) -> SourceSpec:
    """Describe the one source that a place names, to be read to its end.

    Raises:
        ConfigError: it is no path, it never ends, or they are several.
        SourceError: it is not there.
    """
    places = listed(place)
    if len(places) != 1:
        raise ConfigError(f"sources: {len(places)} places; expected one path or URL (annotate_folder takes several)")
    specs = find_sources(places)
    if len(specs) != 1:
        raise ConfigError(f"{places[0]}: holds {len(specs)} sources: use annotate_folder")
    return specs[0].whole()


def find_each(places: Sequence[str]) -> tuple[list[SourceSpec], dict[str, SourceError]]:
    """Return the sources that exist, and what is wrong with each other place, addresses called by their number."""
    good: list[str] = []
    failed: dict[str, SourceError] = {}
    for number, place in enumerate(places, 1):
        try:
            find_sources([place])
        except SourceError as error:
            failed[f"source-{number}" if "://" in place or "@" in place else place] = error
        else:
            good.append(place)
    return (find_sources(good) if good else []), failed


def configured_sources(config: Config) -> list[SourceSpec]:
    """Return the sources that a configuration lists.

    Raises:
        ConfigError: there is none, or two share an id.
        SourceError: one is not there.
    """
    if not config.sources:
        raise ConfigError("no source: name one (rtsp://...), or list them under 'sources:' in the configuration")
    specs: list[SourceSpec] = []
    for source in config.sources:
        own = {name: getattr(source, name) for name in ("transport", "open_timeout", "stall_timeout", "paused")}
        for spec in (found := find_sources([source.url])):
            url = spec.url
            if spec.remote and (source.user is not None or source.password is not None):
                url = with_credentials(url, *(secret and fill(secret) for secret in (source.user, source.password)))
            specs.append(replace(spec, url=url, source_id=(len(found) == 1 and source.id) or spec.source_id, **own))
    ids = [source.id for source in config.sources if source.id]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ConfigError(f"sources: the id {twice[0]!r} is used twice; give each source an id of its own")
    return with_unique_ids(specs)


def _expand(argument: str) -> Iterable[SourceSpec]:
    if not argument:
        raise SourceNotFoundError("an empty path; name a file, a folder (this one is .), or a URL")
    written = fill(argument) if argument.startswith("${") else argument
    if webcam := _webcam(written):
        return [webcam]
    scheme = _SCHEME.match(written)
    # What stands before an "@" is a user, not a scheme.
    if scheme and "@" not in written.partition("://")[0] and not os.path.exists(argument):
        name = scheme.group(1).lower()
        if name in ALLOWED_SCHEMES - {"file"} and "://" not in written:
            example = "webcam:0" if name == "webcam" else f"{name}://10.0.0.5/live"
            raise SourceDeniedError(
                f"{name}: is followed by no {'number' if name == 'webcam' else '//HOST'}; write {example}"
            )
        if name not in ALLOWED_SCHEMES:
            raise SourceDeniedError(
                f"the scheme {name!r} is not allowed; give a path, or one of "
                f"{', '.join(sorted(ALLOWED_SCHEMES - {'file', 'webcam'}))}, or webcam:0"
            )
        if name != "file":
            return [_from_url(argument, name)]
        parts = urlsplit(argument)
        argument = unquote(parts.path)
    path = Path(argument).expanduser()
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        shown = argument if len(argument) <= _LONGEST_SHOWN else f"{argument[:_LONGEST_SHOWN]}…"
        raise SourceNotFoundError(f"{shown}: cannot be looked at ({error.strerror}); check path and rights") from error
    if folder:
        return _from_folder(path)
    if there:
        return [_from_file(path, path.name)]
    if _GLOB.search(argument):
        return _from_pattern(str(path))
    if "@" in argument or "://" in argument:
        # An address without its scheme, perhaps with a password.
        shown = f"@{argument.rpartition('@')[2]}" if "://" not in argument else ""
        raise SourceNotFoundError(f"***{shown}: no such file; a URL begins with its scheme")
    raise SourceNotFoundError(f"{argument}: no such file or folder; check the path (relative to {Path.cwd()})")


def _webcam(argument: str) -> SourceSpec | None:
    match = re.fullmatch(r"(?:webcam:(?://)?|/dev/video)(\d+)", argument)
    if match is None:
        return None
    return SourceSpec(url=f"/dev/video{match[1]}", source_id=f"webcam-{match[1]}", kind="webcam")


def _from_url(url: str, scheme: str) -> SourceSpec:
    filled = fill(url)
    try:
        # The name is that of what was written, so that it holds nothing of a secret that stands elsewhere.
        read_address(filled)
        spec = SourceSpec(url=filled, source_id=address_name(filled if url.startswith("$") else url), kind="live")
    except AddressError as error:
        raise SourceDeniedError(f"{scheme}://...: not a valid URL ({error})") from None
    return spec.whole() if scheme in HTTP_SCHEMES and spec.downloadable else spec


def _from_file(path: Path, source_id: str) -> SourceSpec:
    # Records are Unicode; names of files need not be. Their odd bytes are written as in URLs.
    plain = _NOT_UNICODE.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", source_id)
    kind: SourceKind = "live" if path.suffix.lower() == _SESSION_SUFFIX else "file"
    spec = SourceSpec(url=str(path), source_id=plain, kind=kind)
    return _with_raw_layout(spec) if path.suffix.lower() in RAW_SUFFIXES else spec


def _with_raw_layout(spec: SourceSpec) -> SourceSpec:
    """Read size and rate from a name such as ``people_320x192_12fps.yuv``, the custom of test sequences."""
    name = Path(spec.url).stem
    size = re.search(r"(?<!\d)(\d{2,5})[xX](\d{2,5})(?!\d)", name)
    rate = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)\s*(?:fps|hz)", name, re.IGNORECASE)
    return replace(
        spec, raw_size=(int(size[1]), int(size[2])) if size else None, raw_fps=Fraction(rate[1]) if rate else None
    )


def _from_folder(folder: Path) -> list[SourceSpec]:
    found = sorted(path.relative_to(folder) for path in _walk(folder) if _is_media(path))
    if not found:
        raise SourceNotFoundError(
            f"{folder}: no video in this folder (looked for {', '.join(sorted(MEDIA_SUFFIXES))}); "
            f"name the file itself if its suffix is unusual"
        )
    return [_from_file(folder / path, path.as_posix()) for path in found]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and below it, through links, too, but for hidden names and folders seen before."""
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if real not in seen and not name.startswith("."))
        if real not in seen:
            yield from (Path(place, name) for name in names if not name.startswith("."))
        seen.add(real)


def _is_media(path: Path) -> bool:
    """Whether a file, pipe or link that leads nowhere is a video or picture; the last two by their names."""
    suffix = path.suffix.lower()
    return suffix in MEDIA_SUFFIXES or (suffix not in _SOUND_SUFFIXES and looks_like_media(path))


def _from_pattern(pattern: str) -> list[SourceSpec]:
    paths = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in paths if not path.is_dir()]
    if not files:
        raise SourceNotFoundError(f"{pattern}: no file matches this pattern; check it, or quote it less")
    fixed = Path(_GLOB.split(pattern)[0])
    root = fixed if fixed.is_dir() else fixed.parent
    return [_from_file(path, path.relative_to(root).as_posix()) for path in files]


def with_unique_ids(specs: list[SourceSpec]) -> list[SourceSpec]:
    """Give every one of several equal ids a hash of its place, so that the order of arguments plays no part."""
    counts = Counter(spec.source_id for spec in specs)
    used: Counter[str] = Counter()
    unique: list[SourceSpec] = []
    for spec in specs:
        name = spec.source_id
        if counts[name] > 1 and (spec.place or not spec.remote):
            place = (spec.place or os.path.realpath(spec.url)).encode(errors="surrogateescape")
            name = f"{name}-{hashlib.sha256(place).hexdigest()[:8]}"
        used[name] += 1
        # Two URLs that differ in nothing but a secret: only their order can tell them apart.
        unique.append(replace(spec, source_id=name if used[name] == 1 else f"{name}-{used[name]}"))
    return unique

"""What a source is and does, measured: which transport works, how long its first picture takes, and what to set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from streamfer.config import Config, Transport
from streamfer.errors import SourceDeniedError, SourceError
from streamfer.video.frames import Frame, Source, VideoInfo
from streamfer.video.locate import RTSP_SCHEMES, SourceSpec, configured_sources, find_sources
from streamfer.video.sources import open_source

_SLOW_FPS = 1.0


@dataclass(frozen=True, slots=True)
class Checked:
    """How one attempt to read a source went."""

    source_id: str
    transport: str  #: of RTSP; empty where there is no choice
    error: SourceError | None = None  #: why it gives no picture; None where it does
    info: VideoInfo | None = None
    first: float = 0.0  #: seconds to the first picture
    fps: float | None = None  #: pictures a second, measured
    clock: str = ""  #: what its wall time is measured by
    advice: tuple[str, ...] = ()  #: what to set; empty where the defaults serve


def check_source(place: str | None, config: Config, seconds: float = 3.0) -> Iterator[Checked]:
    """Read a source for a few seconds, an RTSP one over TCP and over UDP.

    Args:
        place: a path or URL, or the id of a configured source; None for every configured one.
        config: ``live``, and ``sources``.
        seconds: how long to watch each.

    Raises:
        ConfigError: none is named, and none is configured.
        SourceError: there is no such source.
    """
    known = configured_sources(config) if config.sources or place is None else []
    chosen = [spec for spec in known if place in (None, spec.source_id)]
    for spec in chosen or find_sources([str(place)]):
        transports: Sequence[Transport | None] = ("tcp", "udp") if spec.scheme in RTSP_SCHEMES else (None,)
        worked: list[Transport | None] = []
        for transport in transports:
            found = _read(spec, config, transport, seconds)
            if found.error is None and transport == "udp" and not worked:
                found = replace(found, advice=(*found.advice, "transport: udp  # tcp gives nothing"))
            worked += [transport] if found.error is None else []
            yield found
            if isinstance(found.error, SourceDeniedError):
                # A second refusal at once may lock the account.
                break


def _read(spec: SourceSpec, config: Config, transport: Transport | None, seconds: float) -> Checked:
    live = config.live.model_copy(update={"wait": False})
    source = open_source(replace(spec, transport=transport), live)
    try:
        return _watch(source, transport or "", seconds)
    except SourceError as error:
        return Checked(spec.source_id, transport or "", error=error)
    finally:
        source.close()


def _watch(source: Source, transport: str, seconds: float) -> Checked:
    began = time.monotonic()
    info: VideoInfo | None = None
    first: float | None = None
    latest: Frame | None = None
    for item in source.stream(lambda _epoch, _seconds, _index: True):
        if isinstance(item, Frame):
            latest = item
            first = time.monotonic() - began if first is None else first
        else:
            info = item.info or info
        if first is not None and time.monotonic() - began - first > seconds:
            break
        if first is not None and not isinstance(item, Frame) and item.state != "online":
            break
    fps = latest.index / latest.seconds if latest is not None and latest.seconds > 0 else None
    clock = latest.time_origin if latest is not None else ""
    slow = fps is not None and fps < _SLOW_FPS and info is not None and info.live
    advice = (f"stall_timeout: {5 / fps:.0f}  # it sends a picture in {1 / fps:.1f} s",) if slow and fps else ()
    return Checked(source.source_id, transport, None, info, first or 0.0, fps, clock, advice)

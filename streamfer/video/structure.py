"""What a file is, and whether it has all the bytes that its own structure promises: by its content, not its name.

Every container states the sizes of its parts. The parts are walked, without reading what is in them, to the end of the
file; one that reaches beyond it was cut off, and so was a file whose closing mark is missing.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

#: What begins an ASF file, and what begins its properties.
_ASF, _ASF_FILE = bytes.fromhex("3026b2758e66cf11"), bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: How much of the end of a file is searched for its last part where parts cannot be walked.
_TAIL = 1 << 18
_PICTURE_BYTES = 64 << 20
#: EBML (RFC 8794): the segment and its clusters may be of unknown size; their parts then follow directly.
_EBML, _SEGMENT, _CLUSTER = b"\x1aE\xdf\xa3", 0x18538067, 0x1F43B675
#: All that stands in a segment or cluster (RFC 9559), their checks and fillings included.
_ELEMENTS = frozenset((
    int.from_bytes(_EBML), _SEGMENT, _CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770,
    0x1254C367, 0xEC, 0xBF, 0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF,
))  # fmt: skip
#: Clusters and the index of their places: what can be found again behind damage.
_LARGE = (_CLUSTER.to_bytes(4), bytes.fromhex("1c53bb6b"))
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))
_DV_FRAMES = {False: 120_000, True: 144_000}

_Step = Callable[[BinaryIO, int, int], "int | None"]


#: Marks of pictures, where they stand, and of others that are long enough not to be chance.
_PICTURES = (
    (0, b"\xff\xd8\xff"), (0, b"\x89PNG\r\n"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (8, b"WEBP"), (4, b"ftypavif"),
    (4, b"ftypmif1"), (4, b"ftyphei"), (4, b"JXL "), (0, b"\xff\x0a"), (4, b"jP  "), (0, b"qoif"), (0, b"P5\n"),
    (0, b"P6\n"),
)  # fmt: skip
_VIDEOS = (
    (4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (8, b"AVI "), (0, b"\x1aE\xdf\xa3"), (0, b"FLV\1"), (0, b"\0\0\1\xba"),
    (0, _ASF), (0, b"OggS"), (0, b"GIF87a"), (0, b"GIF89a"), (0, b"DKIF"),
    (0, b"DHAV"), (0, b".RMF"), (0, b"\x1f\x07\0"), (0, bytes.fromhex("060e2b3402050101")), (0, b"YUV4MPEG2 "),
)  # fmt: skip
_MOVING = (b"acTL", b"ANIM")
_MOVING_SUFFIXES = (".mjpeg", ".mjpg")


class _Cut(Exception):
    """A part reaches beyond the end of its file."""


def is_cut_off(path: Path) -> bool:
    """Whether bytes that a media file's own structure promises are missing; False where it promises nothing.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return False
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
        try:
            return _told(stream, size, head)
        except _Cut:
            return True


def is_torn(path: Path) -> bool:
    """Whether parts of a Matroska, FLV or ASF file are none, with whole ones behind: FFmpeg says nothing of it.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(16)
        try:
            if head.startswith(_EBML):
                return _matroska(stream, size, blocks=True)[0]
            for mark, step in ((b"FLV", _flv), (_ASF, _asf_packets)):
                if head.startswith(mark):
                    _walk(stream, size, step)
        except _Cut:
            return True
    return False


def is_picture(path: Path) -> bool | None:
    """Whether a file is a picture rather than a video, by its content; None where that does not tell."""
    head = _head(path)
    if _marked(head, _PICTURES):
        return not any(mark in head for mark in _MOVING) and path.suffix.lower() not in _MOVING_SUFFIXES
    return False if looks_like_media(path) else None


def looks_like_media(path: Path) -> bool:
    """Whether a file's content is that of a video or picture, whatever it is called."""
    head = _head(path)
    strong = [(at, mark) for at, mark in _PICTURES if len(mark) > 2]
    transport = any(
        len(head) > at + 2 * packet and head[at] == head[at + packet] == head[at + 2 * packet] == 0x47
        for packet, at in _TS_PACKETS
    )
    return transport or _marked(head, (*_VIDEOS, *strong))


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(1024)
    except OSError:
        return b""


def _marked(head: bytes, marks: Sequence[tuple[int, bytes]]) -> bool:
    return any(head[at : at + len(mark)] == mark for at, mark in marks)


def _told(stream: BinaryIO, size: int, head: bytes) -> bool:
    for begin, steps, step in _WALKED:
        if head[begin : begin + len(steps)] == steps:
            _walk(stream, size, step)
            return False
    if head.startswith(_EBML):
        return _matroska(stream, size, blocks=False)[1]
    if head[:3] == b"\x1f\x07\x00":
        # The frame's size follows from bit 7 of the fourth byte (IEC 61834: 525/60 or 625/50).
        return size % _DV_FRAMES[bool(head[3] & 0x80)] != 0
    for mark, ended in _CLOSED:
        if head.startswith(mark):
            return not ended(stream, size)
    for packet, at in _TS_PACKETS:
        marks = {_byte(stream, at + number * packet) for number in range(min(5, max(2, size // packet)))}
        if marks == {b"G"}:
            return size % packet != 0 or _pes_lacks(_tail(stream, size - size % packet, 2000 * packet), packet, at)
    return False


def _walk(stream: BinaryIO, size: int, step: _Step) -> None:
    place = 0
    while place < size:
        following = step(stream, place, size)
        if following is None:
            return
        if following <= place or following > size:
            raise _Cut
        place = following


def _read(stream: BinaryIO, place: int, count: int) -> bytes:
    stream.seek(place)
    data = stream.read(count)
    if len(data) < count:
        raise _Cut
    return data


def _byte(stream: BinaryIO, place: int) -> bytes:
    stream.seek(place)
    return stream.read(1)


def _pes_lacks(data: bytes, packet: int, at: int) -> bool:
    """Whether the last PES packet of a transport stream's programme, where it states its length, has not come whole."""
    data = data[len(data) % packet :]
    missing: dict[int, int] = {}
    for place in range(at, len(data), packet):
        head = data[place : place + 4]
        pid, payload = int.from_bytes(head[1:3]) & 0x1FFF, 4
        if head[3] & 0x20:
            payload += 1 + data[place + 4]
        if not head[3] & 0x10 or payload >= 188:
            continue
        content = data[place + payload : place + 188]
        if head[1] & 0x40:
            length = int.from_bytes(content[4:6]) if content[:3] == b"\0\0\x01" else 0
            missing[pid] = length + 6 - len(content) if length else 0
        elif missing.get(pid, 0) > 0:
            missing[pid] -= len(content)
    return any(rest > 0 for rest in missing.values())


def _tail(stream: BinaryIO, size: int, count: int = _TAIL) -> bytes:
    stream.seek(max(0, size - count))
    return stream.read(count)


def _riff(stream: BinaryIO, place: int, size: int) -> int | None:
    """AVI and WebP; files above 1 GB are several RIFFs. A recorder that was stopped leaves a size of 0."""
    stream.seek(place)
    head = stream.read(8)
    if head[:4] != b"RIFF":
        return None  # what follows a whole RIFF is not of it
    (length,) = struct.unpack("<I", head[4:]) if len(head) == 8 else (size,)
    return place + 8 + length + length % 2 if length not in (0, 0xFFFFFFFF) else size + 1


def _matroska(stream: BinaryIO, size: int, *, blocks: bool) -> tuple[bool, bool]:
    """Go through all parts: whether some are none with whole ones behind them, and whether the last is not whole.

    With ``blocks``, also those of clusters whose size is known.
    """
    torn = cut = False
    place = 0
    while place < size:
        try:
            element, after = _vint(stream, place, keep=True)
            length, begin = _vint(stream, after, keep=False)
        except _Cut:
            element, length, begin = 0, 0, place
        unknown = length == (1 << 7 * (begin - after)) - 1 if element else False
        ending = begin if unknown else begin + length
        if element == _SEGMENT:
            cut |= ending > size
        elif element not in _ELEMENTS or ending > size:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                place = min((at for mark in _LARGE if (at := data.find(mark, place + 1)) > 0), default=size)
            if place == size:
                return torn, True
            torn = True
            continue
        place = begin if element == _SEGMENT or (element == _CLUSTER and blocks) else ending
    return torn, cut


def _vint(stream: BinaryIO, place: int, *, keep: bool) -> tuple[int, int]:
    first = _read(stream, place, 1)[0]
    length = 9 - first.bit_length()
    if length > 8:
        raise _Cut
    value = int.from_bytes(_read(stream, place, length))
    return (value if keep else value & ((1 << 7 * length) - 1)), place + length


def _boxes(stream: BinaryIO, place: int, _size: int) -> int | None:
    """MP4, MOV, 3GP, HEIF and AVIF: a size of 0 reaches to the end, one of 1 is written in 64 bits."""
    length, kind = struct.unpack(">I4s", _read(stream, place, 8))
    if not kind.isascii() or kind == bytes(4):
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # No part of it: what the file ends with, or damage, and whatever stands behind it is lost to FFmpeg.
            if any(data.find(mark, place) >= 0 for mark in (b"moof", b"mdat", b"moov", b"mfra")):
                raise _Cut
        return None
    if length == 1:
        (length,) = struct.unpack(">Q", _read(stream, place + 8, 8))
    return None if length == 0 else place + length


def _flv(stream: BinaryIO, place: int, _size: int) -> int | None:
    """Tags of FLV: behind each stands its size."""
    if place == 0:
        return 13
    length = 11 + int.from_bytes(_read(stream, place, 11)[1:4])
    if int.from_bytes(_read(stream, place + length, 4)) != length:
        raise _Cut
    return place + length + 4


def _flv_ends(stream: BinaryIO, size: int) -> bool:
    """The last tag is whole: the size that stands behind it is the one at its begin."""
    length = int.from_bytes(_read(stream, max(0, size - 4), 4))
    return 11 <= length <= size - 17 and int.from_bytes(_read(stream, size - 4 - length, 4)[1:]) == length - 11


def _asf(stream: BinaryIO, place: int, _size: int) -> int | None:
    return place + int(struct.unpack("<Q", _read(stream, place, 24)[16:])[0])


def _asf_packets(stream: BinaryIO, place: int, size: int) -> int | None:
    """Packets of ASF, all of one size: each begins with its own kind of checksum, or none."""
    if place == 0:
        head = _read(stream, 0, min(size, _TAIL))
        at, begin = head.find(_ASF_FILE), int.from_bytes(head[16:24], "little") + 50
        length = int.from_bytes(head[at + 92 : at + 96], "little") if at > 0 else 0
        ending = min(size, begin + length * int.from_bytes(_read(stream, begin - 10, 8), "little"))
        if length and any(_byte(stream, one)[0] & 0xF0 != 0x80 for one in range(begin, ending, length)):
            raise _Cut
    return None


def _rmf(stream: BinaryIO, place: int, size: int) -> int | None:
    """RealMedia; FFmpeg counts the head of a part twice."""
    ending = place + int.from_bytes(_read(stream, place + 4, 4))
    return size if size < ending <= size + 10 else ending


def _y4m_ends(stream: BinaryIO, size: int) -> bool:
    """Frames of one size, each behind a line of its own."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = data.find(b"FRAME")
        second = data.find(b"FRAME", first + 5)
        return second < 0 or (size - first) % (second - first) == 0


def _klv(stream: BinaryIO, place: int, _size: int) -> int | None:
    """MXF: keys of 16 bytes, lengths in BER."""
    first = _read(stream, place, 17)[16]
    if first < 0x80:
        return place + 17 + first
    return place + 17 + (first & 0x7F) + int.from_bytes(_read(stream, place + 17, first & 0x7F))


def _ivf(stream: BinaryIO, place: int, _size: int) -> int | None:
    if place == 0:
        return 32
    return place + 12 + int(struct.unpack("<I", _read(stream, place, 12)[:4])[0])


def _png(stream: BinaryIO, place: int, size: int) -> int | None:
    if place == 0:
        return 8
    length, kind = struct.unpack(">I4s", _read(stream, place, 8))
    ending = place + 12 + int(length)
    if kind == b"IEND":
        return None if ending <= size else size + 1
    return ending if ending < size else size + 1


#: Where a mark stands, the mark, and how to get from one part of such a file to the next.
_WALKED: tuple[tuple[int, bytes, _Step], ...] = (
    (0, b"RIFF", _riff),
    (4, b"ftyp", _boxes),
    (4, b"moov", _boxes),
    (4, b"mdat", _boxes),
    (4, b"wide", _boxes),
    (4, b"free", _boxes),
    (0, _ASF, _asf),
    (0, b".RMF", _rmf),
    (0, bytes.fromhex("060e2b3402050101"), _klv),
    (0, b"DKIF", _ivf),
    (0, b"\x89PNG", _png),
)


def _program_stream_ends(stream: BinaryIO, size: int) -> bool:
    """MPEG program streams (.mpg, .vob, .mod): packets from the last pack on."""
    data = _tail(stream, size)
    place = data.rfind(b"\0\0\x01\xba")
    if place < 0:
        return True
    while (place := data.find(b"\0\0\x01", place)) >= 0:
        kind = data[place + 3 : place + 4]
        if kind == b"\xb9":
            return True
        if kind and kind[0] >= 0xBB:
            if place + 6 > len(data):
                return False
            place += 6 + int.from_bytes(data[place + 4 : place + 6])
            if place > len(data):
                return False
        else:
            place += 4
    return True


def _ogg_ends(stream: BinaryIO, size: int) -> bool:
    """The last page is whole and says that it is the last."""
    data = _tail(stream, size)
    place = data.rfind(b"OggS")
    if place < 0 or place + 27 > len(data):
        return False
    table = data[place + 27 : place + 27 + data[place + 26]]
    return bool(data[place + 5] & 4) and place + 27 + len(table) + sum(table) <= len(data)


def _gif_ends(stream: BinaryIO, size: int) -> bool:
    return _tail(stream, size, 1024).rstrip(b"\0").endswith(b";")


def _jpeg_ends(stream: BinaryIO, size: int) -> bool:
    """The end of the image comes after the last scan; cameras write more behind it."""
    data = _tail(stream, size, _PICTURE_BYTES)
    return data.rfind(b"\xff\xd9") > max(data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd8\xff"))


def _bmp_ends(stream: BinaryIO, size: int) -> bool:
    return int(struct.unpack("<I", _read(stream, 2, 4))[0]) <= size


#: Marks of files that are closed otherwise, and whether one is.
_CLOSED: tuple[tuple[bytes, Callable[[BinaryIO, int], bool]], ...] = (
    (b"\0\0\x01\xba", _program_stream_ends),
    (b"OggS", _ogg_ends),
    (b"FLV", _flv_ends),
    (b"YUV4MPEG2 ", _y4m_ends),
    # Its index comes last.
    (b"nut/multimedia container", lambda stream, size: b"NX\xdd\x67\x2f\x23\xe6\x4e" in _tail(stream, size)),
    (b"GIF8", _gif_ends),
    (b"\xff\xd8\xff", _jpeg_ends),
    (b"BM", _bmp_ends),
)

"""As much of an RTMP server as one player needs: handshake, four replies, and an FLV muxer's tags as messages.

Adobe's Real Time Messaging Protocol 1.0 (2012); commands are AMF 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

_HEADERS = (11, 7, 3, 0)
_COMMAND = 20
_PEER_CHUNK = 128


class Player:
    """A player that has connected and asked for a stream; ``write`` takes what an FLV muxer writes.

    Args:
        peer: the connection, as a binary file.

    Attributes:
        asked: the stream that it named.
    """

    def __init__(self, peer: Any) -> None:
        self._peer, self._flv, self._header_seen = peer, b"", False
        self._read: Callable[[int], bytes] = peer.read
        hello = self._read(1537)
        self._put(b"\x03" + bytes(1536) + hello[1:])
        self._read(1536)
        self.asked = ""
        while not self.asked:
            self._answer(self._command())

    def write(self, data: bytes) -> int:
        """Send the tags that are complete; called by the muxer."""
        self._flv += data
        if not self._header_seen and len(self._flv) >= 13:
            self._flv, self._header_seen = self._flv[13:], True
        while self._header_seen and len(self._flv) >= 11:
            size = int.from_bytes(self._flv[1:4])
            if len(self._flv) < size + 15:
                break
            time = int.from_bytes(self._flv[7:8] + self._flv[4:7])
            self._send(self._flv[0], self._flv[11 : 11 + size], time, stream=1)
            self._flv = self._flv[size + 15 :]
        return len(data)

    def _send(self, kind: int, body: bytes, time: int = 0, stream: int = 0) -> None:
        head = b"\x04" + time.to_bytes(3) + len(body).to_bytes(3) + bytes([kind]) + stream.to_bytes(4, "little")
        self._put(head + body)

    def _put(self, data: bytes) -> None:
        self._peer.write(data)
        self._peer.flush()

    def _command(self) -> bytes:
        """Return the next command, put together from its chunks."""
        bodies: dict[int, tuple[int, int, bytes]] = {}
        while True:
            first = self._read(1)[0]
            head = self._read(_HEADERS[first >> 6])
            kind, size, body = bodies.get(first & 63, (0, 0, b""))
            if len(head) >= 7:
                kind, size = head[6], int.from_bytes(head[3:6])
            body += self._read(min(_PEER_CHUNK, size - len(body)))
            bodies[first & 63] = (kind, size, body if len(body) < size else b"")
            if len(body) == size and kind == _COMMAND:
                return body

    def _answer(self, command: bytes) -> None:
        length = int.from_bytes(command[1:3])
        name, number = command[3 : 3 + length], command[3 + length : 12 + length]
        if name == b"connect":
            self._send(1, (1 << 24).to_bytes(4))  # this side's chunks are whole messages
            self._send(_COMMAND, _text(b"_result") + number + b"\x05\x05")
        elif name == b"createStream":
            self._send(_COMMAND, _text(b"_result") + number + b"\x05" + b"\x00" + struct.pack(">d", 1))
        elif name == b"play":
            place = command[13 + length :]
            self.asked = place[3 : 3 + int.from_bytes(place[1:3])].decode()
            status = b"\x03" + _field(b"level", b"status") + _field(b"code", b"NetStream.Play.Start") + b"\0\0\x09"
            self._send(_COMMAND, _text(b"onStatus") + b"\x00" + bytes(8) + b"\x05" + status, stream=1)


def _text(text: bytes) -> bytes:
    return b"\x02" + len(text).to_bytes(2) + text


def _field(name: bytes, text: bytes) -> bytes:
    return len(name).to_bytes(2) + name + _text(text)

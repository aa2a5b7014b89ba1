"""A camera's server that sends whoever asks elsewhere."""

from __future__ import annotations

import contextlib
import socketserver
import threading

import pytest
from command_line import wait_for

from streamfer.config import LiveConfig
from streamfer.errors import SourceUnreachableError
from streamfer.video import LiveSource, find_sources


class _Circle(socketserver.StreamRequestHandler):
    """An RTSP server that sends whoever asks back to itself."""

    asked = 0

    def handle(self) -> None:
        head = b""
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline():
                head += line
                if line == b"\r\n":
                    _Circle.asked += 1
                    number = next(part for part in head.splitlines() if part.startswith(b"CSeq"))
                    options = head.startswith(b"OPTIONS")
                    itself = b"Location: rtsp://127.0.0.1:%d/x" % self.request.getsockname()[1]
                    place = b"Public: DESCRIBE" if options else itself
                    status = b"200 OK" if options else b"302 Moved"
                    self.wfile.write(b"\r\n".join((b"RTSP/1.0 " + status, number, place, b"", b"")))
                    head = b""


def test_a_server_that_redirects_in_a_circle_is_not_asked_for_ever() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Circle) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (spec,) = find_sources([f"rtsp://127.0.0.1:{server.server_address[1]}/x"])
        source = LiveSource(spec, LiveConfig(wait=False, open_timeout=0.5))
        with pytest.raises(SourceUnreachableError, match="no picture"):
            list(source.stream())
        wait_for(lambda: not any(connection.alive for connection in source._stuck), "whoever asks gives up")
        server.shutdown()
    assert _Circle.asked > 1

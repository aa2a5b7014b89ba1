"""A bad network between a client and a real RTSP server: packets that are lost, links that are slow."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from types import TracebackType
from typing import Self


class BadNetwork:
    """Relays RTSP to a local server; what it loses and how slow it is can be changed while it runs.

    Attributes:
        loss: share of the RTP packets over UDP that never come.
        damage: share of them in which a byte is another one.
        rate: bytes a second from the server over TCP; None without a limit.
        port: where clients connect.
    """

    def __init__(self, port: int, *, loss: float = 0.0, damage: float = 0.0, rate: float | None = None) -> None:
        self.loss, self.damage, self.rate = loss, damage, rate
        self._server = port
        self._over = threading.Event()
        self._chance = random.Random(7)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._begin(self._accept)

    def url(self, mount: str = "live") -> str:
        """Address of a mount through this network."""
        return f"rtsp://127.0.0.1:{self.port}/{mount}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for one in self._open:
            one.close()

    def _begin(self, target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            self._open += [client, server]
            self._begin(self._relay, client, server, True)
            self._begin(self._relay, server, client, False)

    def _relay(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        # Either side may hang up at any time.
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(65536 if asks or self.rate is None else 1024):
                if asks:
                    data = re.sub(rb"client_port=(\d+)-\d+", self._through, data)
                elif self.rate is not None:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)

    def _through(self, asked: re.Match[bytes]) -> bytes:
        """Open two ports in the place of the client's, and send on to those what comes there."""
        wanted = int(asked[1])
        rtp, rtcp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        while True:
            rtp.bind(("127.0.0.1", 0))
            port = rtp.getsockname()[1]
            try:
                rtcp.bind(("127.0.0.1", port + 1))
                break
            except OSError:
                rtp.close()
                rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._open += [rtp, rtcp]
        self._begin(self._forward, rtp, wanted, True)
        self._begin(self._forward, rtcp, wanted + 1, False)
        return b"client_port=%d-%d" % (port, port + 1)

    def _forward(self, source: socket.socket, port: int, bad: bool) -> None:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._open.append(sender)
        while not self._over.is_set():
            try:
                data = bytearray(source.recv(65536))
                if bad and self._chance.random() < self.loss:
                    continue
                if bad and self._chance.random() < self.damage:
                    # Behind the headers of RTP and of the picture's slice.
                    data[len(data) // 2] ^= 0xFF
                sender.sendto(data, ("127.0.0.1", port))
            except OSError:
                return

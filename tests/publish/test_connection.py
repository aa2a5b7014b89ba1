"""Connecting: one clear line for every way in which it can fail, and never a password in it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from streamfer.errors import PublishError
from streamfer.publish import EmbeddedRedis, connect
from streamfer.publish.connection import can_pass

SECRET = "hunter2"


def failure(url: str, **settings: Any) -> str:
    with pytest.raises(PublishError) as caught:
        connect(url, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


@contextmanager
def service(answer: bytes | None) -> Iterator[int]:
    """A TCP service that answers each first message with ``answer``, or never; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            opened.append(peer)
            if answer is not None:
                peer.recv(1024)
                peer.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for peer in opened:
            peer.close()
        thread.join(5)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://:{SECRET}@127.0.0.1:1/0", ("127.0.0.1:1", "cannot be reached", "embedded")),
        (f"redis://:{SECRET}@no-such-host.invalid/0", ("no-such-host.invalid", "cannot be reached")),
        ("unix:///nowhere/redis.sock", ("/nowhere/redis.sock", "cannot be reached")),
        (f"http://user:{SECRET}@host/", ("scheme 'http'", "redis://", "rediss://", "unix://")),
        ("localhost:6379", ("no scheme", "redis://HOST:PORT/0")),
        (f"user:{SECRET}@localhost", ("no scheme",)),
        (f"user:{SECRET}@redis://localhost", ("no scheme",)),
        (f"redis://:{SECRET}@localhost:99999999", ("cannot be read",)),
        (f"redis://:{SECRET}@[::1", ("cannot be read",)),
        (f"redis://:{SECRET}@localhost/{SECRET}", ("database is no number",)),
        (f"redis://localhost/0?colour={SECRET}", ("cannot be read",)),
        (f"rediss://localhost/0?ssl_cert_reqs={SECRET}", ("cannot be read",)),
    ],
)
def test_wrong_urls(url: str, words: tuple[str, ...]) -> None:
    message = failure(url)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak Redis"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak Redis"),
        (b"-DENIED Redis is running in protected mode because ...\r\n", "set its protected-mode to no"),
        (b"-ERR max number of clients reached\r\n", "raise its maxclients"),
        (b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n", "does not know a command"),
        (b"-NOPERM this user has no permissions to run the 'ping' command\r\n", "as in docs/records.md"),
        (b"-ERR odd, as redis://me:hunter2@h/0 says\r\n", "refuses: odd, as redis://***@h/0 says"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "try again in a moment"),
    ],
)
def test_what_answers_is_of_no_use(answer: bytes, words: str) -> None:
    with service(answer) as port:
        message = failure(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert words in message
    assert message.startswith(f"Redis at redis://***@127.0.0.1:{port}/0 ")


def test_what_a_script_says_is_understood() -> None:
    """There the server has its own words for it, and waiting would not help."""
    for line in ("Unknown Redis command called from script", "The user executing the script can't run this command"):
        assert not can_pass(redis.ResponseError(line))
    assert can_pass(redis.ResponseError("BUSY Redis is busy running a script"))


def test_a_service_that_never_answers() -> None:
    with service(None) as port:
        assert "does not answer" in failure(f"redis://127.0.0.1:{port}/0", socket_timeout=0.2)


def test_passwords(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server:
        with closing(connect(server.url)) as client:
            client.config_set("requirepass", "other")
        for url in (server.url, server.url.replace("unix://", f"unix://:{SECRET}@")):
            message = failure(url)
            assert "denies access" in message
            assert "redis://USER:PASSWORD@HOST" in message
        # The file may hold another password while a run lasts.
        secret = tmp_path / "secret"
        secret.write_text("other\n")
        with closing(connect(server.url.replace("unix://", f"unix://:${{file:{secret}}}@"))) as client:
            client.config_set("requirepass", "another")
            secret.write_text("another\n")
            client.connection_pool.disconnect()
            assert client.ping()


def test_a_working_connection(redis_url: str) -> None:
    with closing(connect(redis_url)) as client:
        assert client.client_getname() == "streamfer"
        assert client.get_connection_kwargs()["health_check_interval"] > 0


def test_a_client_is_never_retried_below(client: redis.Redis) -> None:
    """Retries within retries once made a deadline of seconds one of minutes."""
    assert isinstance(client, redis.Redis)
    assert client.get_connection_kwargs()["retry"].get_retries() == 0

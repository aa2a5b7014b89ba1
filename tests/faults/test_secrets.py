"""Twelve kinds of secrets, planted where users write them, and nowhere to be found afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import av.error
import httpx2
import psutil
import pytest
from command_line import Program, streamfer
from free_ports import free_port

from streamfer.addresses import AddressError, address_name, fill, read_address, with_credentials
from streamfer.cli.terminal import crash
from streamfer.config import Config, LiveConfig, SourceConfig
from streamfer.errors import ConfigError, StreamferError
from streamfer.publish import connect, subscribe
from streamfer.video.live import LiveSource
from streamfer.video.locate import configured_sources

SECRET = "hunter2"
PORT = 9
#: Addresses that can be read: what is secret stands in none of their names.
READABLE = {
    "user name": f"rtsp://{SECRET}@127.0.0.1:{PORT}/live",
    "password": f"rtsp://me:{SECRET}@127.0.0.1:{PORT}/live",
    "encoded": f"rtsp://me:%23{SECRET}%2F@127.0.0.1:{PORT}/live",
    "colon": f"rtsp://me:a:{SECRET}@127.0.0.1:{PORT}/live",
    "path": f"rtsp://127.0.0.1:{PORT}/{SECRET}/live",
    "in the path": f"rtsp://127.0.0.1:{PORT}/user=admin&password={SECRET}&channel=1.sdp",
    "query": f"http://127.0.0.1:{PORT}/video.mjpg?user={SECRET}",
    "before the query": f"rtsp://127.0.0.1:{PORT}/live;{SECRET}?real_stream",
    "fragment": f"rtsp://127.0.0.1:{PORT}/live#{SECRET}",
}
#: Addresses that a character makes ambiguous, and what is said to write for it.
AMBIGUOUS = {
    "hash": (f"://me:a#{SECRET}@127.0.0.1:{PORT}/0", "# as %23"),
    "slash": (f"://me:a/{SECRET}@127.0.0.1:{PORT}/0", "/ as %2F"),
    "question mark": (f"://me:a?{SECRET}@127.0.0.1:{PORT}/0", "? as %3F"),
    "bracket": (f"://me:[{SECRET}@127.0.0.1:{PORT}/0", "[ as %5B"),
    "other bracket": (f"://me:a]{SECRET}@127.0.0.1:{PORT}/0", "] as %5D"),
    "percent": (f"://me:100%{SECRET}@127.0.0.1:{PORT}/0", "% as %25"),
    "at": (f"://me:a@{SECRET}/b@127.0.0.1:{PORT}/0", "@ as %40"),
    "no host": (f"://{SECRET}@/0", "names no host"),
    "port": (f"://127.0.0.1:{SECRET}/0", "port is no number"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
@pytest.mark.parametrize("scheme", ["rtsp", "redis"])
def test_what_cannot_be_read_is_never_repeated(kind: str, scheme: str, tmp_path: Path) -> None:
    url, words = AMBIGUOUS[kind]
    with pytest.raises(AddressError, match=r".") as caught:
        read_address(scheme + url)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    arguments = ("run", scheme + url) if scheme == "rtsp" else ("tail", scheme + url)
    done = streamfer(*arguments)
    assert (done.code, len(done.complaints)) == (2, 1)
    assert words in done.complaints[0]
    config = tmp_path / "run.yaml"
    config.write_text(f"publish: {{redis: '{scheme}{url}'}}\nsources: [{{url: '{scheme}{url}'}}]\n")
    again = streamfer("run", "-c", config)
    assert SECRET not in done.out + done.err + again.out + again.err


@pytest.fixture
def guarded_url(redis_url: str) -> Iterator[str]:
    """The server by a user of its own, with a password."""
    with closing(connect(redis_url)) as client:
        client.acl_setuser("me", enabled=True, passwords=[f"+{SECRET}"], keys="*", categories=["+@all"])
        yield redis_url.replace("unix://", f"unix://me:{SECRET}@")
        client.acl_deluser("me")


def test_nothing_that_runs_shows_one(tmp_path: Path, tiny_model: Path, redis_url: str, guarded_url: str) -> None:
    """Cameras that are away, everything logged: output, records, keys, statuses, metrics, children's command lines."""
    port = free_port()
    config = tmp_path / "run.yaml"
    words = [f"  - {{url: '{url}'}}" for url in READABLE.values()]
    words += [f"  - {{url: 'rtsp://${{CAMERA}}@127.0.0.1:{PORT}/a', id: lobby, password: '${{file:{tmp_path}/pass}}'}}"]
    (tmp_path / "pass").write_text(f"a/b#{SECRET}\n")
    config.write_text(
        "sources:\n"
        + "\n".join(words)
        + f"\npublish: {{redis: '{guarded_url}'}}\nlive: {{backoff_first: 0.1}}\n"
        + f"health: {{address: {port}, token: {SECRET}-token}}\n"
    )
    program = Program("-v", "run", "-c", config, "--model", tiny_model, "--detector", "lbp", CAMERA=SECRET)
    with program, subscribe(redis_url, since="start", idle_s=150) as subscription:
        seen: dict[str, int] = {}
        records = []
        for record in subscription:
            records.append(record)
            seen[record.subject] = seen.get(record.subject, 0) + 1
            if len(seen) == len(words) and min(seen.values()) >= 3:
                break
        argv = [
            " ".join(child.cmdline())
            for child in psutil.Process().children(recursive=True)
            if child.status() != "zombie"
        ]
        asked = httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {SECRET}-token"})
        with asked:
            answers = [asked.get(path).text for path in ("/metrics", "/livez", "/readyz", "/v1/sources")]
        program.signal(signal.SIGTERM)
        done = program.wait()
    assert done.code == 0
    assert "streamfer_reconnects_total" in answers[0]
    with closing(connect(redis_url)) as client:
        keys: Any = client.keys("*")
        statuses = [client.hgetall(key) for key in keys if client.type(key) == b"hash"]
    everything = "\n".join(
        [done.out, done.err, *answers, *(record.to_json() for record in records), repr(keys), repr(statuses), *argv]
    )
    assert len(statuses) == len(words)
    assert SECRET not in everything
    assert "127.0.0.1-" in done.out


def test_tracebacks_and_names_show_none() -> None:
    specs = configured_sources(Config(sources=tuple(SourceConfig(url=url) for url in READABLE.values())))
    assert SECRET not in repr(specs) + repr([(spec.source_id, spec.location) for spec in specs])
    assert len({spec.source_id for spec in specs}) == len(specs)
    given = SourceConfig(url="rtsp://h/a", user="me", password=SECRET)
    assert SECRET not in repr(given) + repr(Config(sources=(given,)))
    with pytest.raises(StreamferError) as caught:
        Config.model_validate({}) and configured_sources(
            Config(sources=(SourceConfig(url=f"rtsp://me:a#{SECRET}@h/x"),))
        )
    assert SECRET not in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize("kind", READABLE)
def test_a_traceback_shows_none(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What PyAV and redis-py raise quotes whole addresses, and stands behind the errors of streamfer."""
    spec = configured_sources(Config(sources=(SourceConfig(url=READABLE[kind]),)))[0]
    with pytest.raises(StreamferError) as caught:
        list(LiveSource(spec, LiveConfig(wait=False)).stream())
    assert SECRET not in "".join(traceback.format_exception(caught.value)), "nor to who calls it from Python"
    crash(caught.type, caught.value, caught.tb)
    with pytest.raises(av.error.FFmpegError) as raw:
        av.open(READABLE[kind], timeout=5)
    assert SECRET in str(raw.value) or "#" in READABLE[kind]
    crash(raw.type, raw.value, raw.tb)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "127.0.0.1-" in said
    assert SECRET not in said


def test_a_changed_password_changes_no_name() -> None:
    assert address_name("rtsp://a:b@cam/live") == address_name("rtsp://c:d%23@cam/live")
    assert address_name("rtsp://cam/one") != address_name("rtsp://cam/two")
    assert address_name("rtsp://[fe80::1]:554/live").startswith("fe80-1-")


def test_a_download_is_called_by_its_file_where_that_is_made_of_words() -> None:
    for place, shown in (
        ("h/a/session%2012.mp4?token=x", "h-session-12.mp4"),
        ("h:80/Interview_3.final.mkv", "h-Interview_3.final.mkv"),
        (f"h/user=a;password={SECRET}.mp4", "h"),
        (f"h/{SECRET}/0123456789abcdef0123456789abcdef.mp4", "h"),
        (f"h/api-key-{SECRET}.mp4", "h"),
        (f"u:{SECRET}@h", "h"),
        (f"h/a.mp4/{SECRET}", "h"),
    ):
        name, _, digest = address_name(f"https://{place}").rpartition("-")
        assert name == shown
        assert len(digest) == 8
    assert address_name("rtsp://h/talk.mp4").count("-") == 1


def test_secrets_that_stand_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("p@ss/w#1\n")
    environment = {"USER": "me", "URL": "rtsp://me:x@h/live"}
    assert fill(f"rtsp://${{USER}}:${{file:{tmp_path}/pass}}@h/live", environment) == "rtsp://me:p%40ss%2Fw%231@h/live"
    assert fill("${URL}", environment) == "rtsp://me:x@h/live"
    assert with_credentials("rtsp://old:one@h:1/live?a=b", "new", "p@ss") == "rtsp://new:p%40ss@h:1/live?a=b"
    for text, words in (("${NO_SUCH}", "no such variable"), (f"${{file:{tmp_path}/none}}", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            fill(text, environment)


def test_the_keyring_is_asked_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="not installed: pip install keyring"):
        fill("${keyring:cameras:hall}")
    command = tmp_path / "keyring"
    command.write_text('#!/bin/sh\n[ "$*" = "get cameras hall" ] && echo "p@ss/w" || { echo none >&2; exit 1; }\n')
    command.chmod(0o700)
    assert fill("rtsp://me:${keyring:cameras:hall}@h/live") == "rtsp://me:p%40ss%2Fw@h/live"
    with pytest.raises(ConfigError, match="no such entry; keyring set cameras door"):
        fill("${keyring:cameras:door}")


def test_the_program_that_reads_a_password_from_the_environment_hides_it_from_ps(tmp_path: Path) -> None:
    found: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found.add(" ".join(child.cmdline()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    os.environ["CAMERA_PASSWORD"] = SECRET
    try:
        with Program("check", "rtsp://me:${CAMERA_PASSWORD}@127.0.0.1:9/live") as program:
            done = program.wait()
    finally:
        del os.environ["CAMERA_PASSWORD"]
        over.set()
        watcher.join()
    assert done.code == 2
    assert all(line.count("127.0.0.1-") == 1 for line in done.complaints)
    assert SECRET not in done.out + done.err + "".join(found)
    assert any("CAMERA_PASSWORD" in line for line in found)

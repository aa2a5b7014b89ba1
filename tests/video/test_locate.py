"""Sources from arguments: order, ids, refusals."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import pytest

from streamfer.errors import SourceDeniedError, SourceNotFoundError
from streamfer.video import find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ["b/one.mp4", "a/one.mp4", "z.MKV", ".hidden.mp4", ".git/x.mp4", "notes.txt", "one.json", "a/p.jpg"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_gives_its_media_files_sorted_with_ids_relative_to_it(folder: Path) -> None:
    found = find_sources([str(folder)])
    assert [spec.source_id for spec in found] == ["a/one.mp4", "a/p.jpg", "b/one.mp4", "z.MKV"]
    assert {spec.kind for spec in found} == {"file"}


def test_any_name_is_accepted_when_it_is_given_explicitly(folder: Path) -> None:
    assert [spec.source_id for spec in find_sources([str(folder / "notes.txt")])] == ["notes.txt"]
    assert [spec.source_id for spec in find_sources([f"file://{folder}/notes.txt"])] == ["notes.txt"]


def test_a_pattern_gives_ids_relative_to_its_fixed_part(folder: Path) -> None:
    found = find_sources([f"{folder}/*/one.mp4"])
    assert [spec.source_id for spec in found] == ["a/one.mp4", "b/one.mp4"]


def test_a_file_named_twice_is_read_once(folder: Path) -> None:
    assert len(find_sources([f"{folder}/z.MKV", f"{folder}/a/../z.MKV", str(folder)])) == 4


def test_colliding_ids_get_a_hash_that_does_not_depend_on_the_order(folder: Path) -> None:
    pair = [f"{folder}/a/one.mp4", f"{folder}/b/one.mp4"]
    forwards = {spec.url: spec.source_id for spec in find_sources(pair)}
    backwards = {spec.url: spec.source_id for spec in find_sources(pair[::-1])}
    assert forwards == backwards
    assert len(set(forwards.values())) == 2
    assert all(source_id.startswith("one.mp4-") for source_id in forwards.values())


def test_raw_video_reads_its_layout_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "people_320x192_12fps.yuv").touch()
    (tmp_path / "bare.yuv").touch()
    bare, people = find_sources([str(tmp_path)])
    assert (people.raw_size, people.raw_fps) == ((320, 192), Fraction(12))
    assert (bare.raw_size, bare.raw_fps) == (None, None)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("rtsp://cam.local/live", "live"),
        ("rtsps://cam.local:322/live", "live"),
        ("rtmp://cam.local/app/live", "live"),
        ("udp://@239.1.1.1:1234", "live"),
        ("udp://:1234?fifo_size=1000", "live"),
        ("rtp://[ff15::1]:5004", "live"),
        ("tcp://encoder.local:1234", "live"),
        ("http://encoder.local/live.ts", "live"),
        ("https://example.org/clip.mp4", "file"),
        ("https://example.org/clip.mp4?token=1", "file"),
        ("https://example.org/stream.m3u8", "live"),
        ("http://cam.local/video.mjpg", "live"),
        ("http://cam.local/axis-cgi", "live"),
        ("webcam:0", "webcam"),
        ("webcam://1", "webcam"),
        ("/dev/video2", "webcam"),
    ],
)
def test_kinds(argument: str, kind: str) -> None:
    assert find_sources([argument])[0].kind == kind


def test_ids_and_descriptions_of_urls_hold_no_credentials() -> None:
    urls = ["rtsp://admin:hunter2@cam.local:554/live?token=hunter2", "rtsp://other:hunter2@cam.local:554/live?token=b"]
    first, second = find_sources(urls)
    assert re.fullmatch(r"cam\.local-[0-9a-f]{8}", first.source_id), "host and digest, never the path"
    assert first.source_id != second.source_id
    assert first.source_id == find_sources(urls[:1])[0].source_id
    for spec in (first, second):
        assert "hunter2" not in f"{spec!r} {spec.source_id} {spec.location}"


@pytest.mark.parametrize(
    "argument",
    [
        "concat:/etc/passwd|/etc/hosts",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "subfile:x",
        "ftp://u:hunter2@example.org/a.mp4",
        "gopher://example.org",
        "srt://encoder.local:9000",
        "rtsp:/hunter2",
        "udp://239.1.1.1",
        "udp://@:99999",
        "lavfi:testsrc",
        "http:foo",
        "rtsp://",
        "rtsp://cam:notaport/live",
    ],
)
def test_other_schemes_are_refused(argument: str) -> None:
    with pytest.raises(SourceDeniedError) as refused:
        find_sources([argument])
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "argument",
    ["admin:hunter2@cam/live", "hunter2:x@cam", "hunter2@cam", " rtsp://cam/hunter2", "a:hunter2@rtsp://cam"],
)
def test_an_address_without_its_scheme_is_not_repeated(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA", argument)
    for written in (argument, "${CAMERA}"):
        with pytest.raises(SourceNotFoundError, match=r"no such file") as refused:
            find_sources([written])
        assert "hunter2" not in str(refused.value)


def test_a_whole_address_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, kind in (("rtsp://me:hunter2@cam/live", "live"), ("webcam:3", "webcam")):
        monkeypatch.setenv("CAMERA", address)
        (spec,) = find_sources(["${CAMERA}"])
        assert (spec.url, spec.kind) == (address if kind == "live" else "/dev/video3", kind)
        assert "hunter2" not in spec.source_id


@pytest.mark.parametrize("name", ["missing.mp4", "*.avi", "empty"])
def test_nothing_to_read_is_said_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFoundError, match=r"[^ ]+: no ") as missing:
        find_sources([str(tmp_path / name)])
    assert name in str(missing.value)


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:1.mp4").touch()
    assert find_sources(["take:1.mp4"])[0].kind == "file"


def test_names_that_are_no_unicode_become_ids_that_are(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"latin\xe9.mp4")
    path.touch()
    (spec,) = find_sources([str(tmp_path)])
    assert (spec.url, spec.source_id) == (str(path), "latin%E9.mp4")

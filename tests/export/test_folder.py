"""The files of one source: all or none, inside the folder, and known again by the next run."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from film_events import OPENED
from hypothesis import given
from hypothesis import strategies as st
from record_examples import labelled

from streamfer.errors import OutputError, SourceUnreadableError
from streamfer.export import FORMATS, Settings, SourceFolder
from streamfer.pipeline.events import FrameFaces, SourceDone, SourceStats
from streamfer.records import Record
from streamfer.video import find_sources
from streamfer.video.locate import SourceSpec

SETTINGS = Settings("c0ffee", "ab" * 32, "lbp", ("csv", "jsonl"))
DONE = SourceDone("a.mp4", stats=SourceStats(clips=1))
FILES = {
    f"a.mp4.{name}"
    for name in ("clips.csv", "frames.csv", "tracks.csv", "segments.csv", "records.jsonl", "streamfer.json")
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def named(folder: Path, source_id: str = "a.mp4", settings: Settings = SETTINGS) -> SourceFolder:
    return SourceFolder(folder, SourceSpec(source_id, source_id, "file"), settings)


def begun(folder: Path, source_id: str = "a.mp4") -> SourceFolder:
    source = named(folder, source_id)
    source.open()
    source.add(replace(OPENED, source_id=source_id))
    source.add(FrameFaces(source_id, 0, 0, 0.0, ()))
    source.add(Record.of(labelled(), source_id=source_id))
    return source


def test_all_files_appear_together(tmp_path: Path) -> None:
    source = begun(tmp_path)
    assert not names(tmp_path) & FILES
    source.commit("d1", DONE)
    assert names(tmp_path) == FILES
    assert {path.name for path in source.paths} == FILES - {"a.mp4.streamfer.json"}


def test_the_table_of_tracks_has_its_rows(tmp_path: Path) -> None:
    begun(tmp_path).commit("d1", DONE)
    header, *rows = (tmp_path / "a.mp4.tracks.csv").read_text().splitlines()
    assert header.startswith("source,track_id,track,")
    assert len(rows) == len(labelled().faces) > 0


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path).discard()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_a_full_disk_leaves_none_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    calls: list[int] = []

    def fsync(number: int) -> None:
        calls.append(number)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="No space left"):
        begun(tmp_path).commit("d1", DONE)
    assert names(tmp_path) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux only")
def test_a_disk_that_fills_while_rows_are_written(tmp_path: Path) -> None:
    source = begun(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    found: Any = source._found
    os.dup2(full, found.frames._file.fileno())
    os.close(full)

    def write_on() -> None:
        for number in range(10_000):
            source.add(FrameFaces("a.mp4", 0, number, 0.0, ()))

    with pytest.raises(OutputError, match=r"a\.mp4: cannot be written \(No space left on device\)"):
        write_on()
    assert names(tmp_path) == set()


def unreadable() -> str:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_later_run_knows_what_is_done(tmp_path: Path) -> None:
    begun(tmp_path).commit("d1", DONE)
    again = named(tmp_path)
    assert again.is_done(lambda: "d1")
    assert not again.is_done(lambda: "d2"), "other bytes"
    assert not again.is_done(unreadable), "bytes that cannot be read"
    for change in ({"config": "x"}, {"model": "x"}, {"detector": "x"}, {"formats": ("csv",)}):
        assert not named(tmp_path, settings=replace(SETTINGS, **change)).is_done(lambda: "d1")
    assert not named(tmp_path, "b.mp4").is_done(lambda: "d1")


@pytest.mark.parametrize("missing", sorted(FILES))
def test_a_missing_file_is_not_done(tmp_path: Path, missing: str) -> None:
    begun(tmp_path).commit("d1", DONE)
    (tmp_path / missing).unlink()
    assert not named(tmp_path).is_done(lambda: "d1")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"config": "c0ffee"}', "\x00\x01"])
def test_a_damaged_manifest_is_not_done(tmp_path: Path, content: str) -> None:
    begun(tmp_path).commit("d1", DONE)
    (tmp_path / "a.mp4.streamfer.json").write_text(content)
    assert not named(tmp_path).is_done(lambda: "d1")


def test_folders_in_a_source_id_are_kept(tmp_path: Path) -> None:
    begun(tmp_path, "day/one/a.mp4").commit("d1", DONE)
    assert names(tmp_path / "day" / "one") == FILES


@pytest.mark.parametrize(
    "source_id", ["../../etc/a.mp4", "/etc/a.mp4", "..", ".", "a/../../../b.mp4", "..\\..\\a.mp4", "a/", "//"]
)
def test_no_source_id_leads_out_of_the_folder(tmp_path: Path, source_id: str) -> None:
    out = tmp_path / "deep" / "out"
    begun(out, source_id).commit("d1", DONE)
    assert len(names(out)) == len(FILES)
    assert len(names(tmp_path)) == len(FILES)


@given(st.text(alphabet="./\\ab", max_size=12))
def test_paths_stay_inside_whatever_the_source_is_called(source_id: str) -> None:
    root = Path("/nowhere/out")
    for path in named(root, source_id).paths:
        assert path.resolve().is_relative_to(root)
        assert path.name.endswith(tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes))


def test_a_folder_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ("a.mp4.frames.csv")).mkdir()
    source = begun(tmp_path / "out")
    with pytest.raises(OutputError, match=r"a\.mp4\.frames\.csv: cannot be written \(Is a directory\)"):
        source.commit("d1", DONE)
    assert not [name for name in names(tmp_path) if name.endswith(".part") or name.endswith("streamfer.json")]


def test_of_a_pipe_there_is_no_second_look(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "film.mkv")
    (spec,) = find_sources([str(tmp_path / "film.mkv")])
    for name in ("html", "overlay"):
        settings = Settings("c0ffee", "ab" * 32, "lbp", (name,))
        with pytest.raises(SourceUnreadableError, match=r"film\.mkv: a pipe is read but once, .*; write it to a file"):
            SourceFolder(tmp_path / "out", spec, settings).open()

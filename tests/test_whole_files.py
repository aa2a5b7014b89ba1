"""A file appears whole under its name, or there is no trace of it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamfer.errors import OutputError
from streamfer.files import WholeFile, open_text, replacing, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_only_when_committed(tmp_path: Path) -> None:
    target = WholeFile(tmp_path / "deep" / "er" / "a.csv")
    target.part.write_text("one\n")
    assert names(tmp_path / "deep" / "er") != ["a.csv"]
    target.commit()
    assert names(tmp_path / "deep" / "er") == ["a.csv"]
    assert target.path.read_text() == "one\n"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    target = WholeFile(path)
    target.part.write_text("new")
    target.prepare()
    assert path.read_text() == "old"
    target.commit()
    assert path.read_text() == "new"


def test_discarding_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    target = WholeFile(path)
    target.part.write_text("new")
    target.discard()
    target.discard()
    assert names(tmp_path) == ["a.csv"]
    assert path.read_text() == "old"


def test_a_full_disk_at_the_end_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = WholeFile(tmp_path / "a.csv")
    target.part.write_text("new")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OutputError, match=r"a\.csv: cannot be written \(No space left on device\)"):
        target.commit()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux only")
def test_a_full_disk_while_what_is_in_memory_is_written(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a.csv") as part, open_text(part) as file:
            # The kernel's own full disk in place of the file: every write that leaves the memory fails.
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, file.fileno())
            os.close(full)
            file.write("new")

    with pytest.raises(OutputError, match="No space left on device"):
        write()
    assert names(tmp_path) == []


def test_a_folder_that_has_gone(tmp_path: Path) -> None:
    target = WholeFile(tmp_path / "out" / "a.csv")
    target.part.write_text("new")
    target.prepare()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (tmp_path / "out").rmdir()
    with pytest.raises(OutputError, match="No such file"):
        target.commit()


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(OutputError, match=r"out/a\.csv: cannot be written .*; choose another folder$"):
        WholeFile(tmp_path / "out" / "a.csv")
    assert (tmp_path / "out").read_text() == "I am a file"


def test_names_that_are_no_utf8_are_escaped(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.jsonl") as part, open_text(part) as file:
        file.write(os.fsdecode(b"caf\xe9.mp4"))
    assert (tmp_path / "a.jsonl").read_text() == "caf\\udce9.mp4"


def test_bytes_and_what_writes_to_a_path_appear_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.bin", lambda stream: stream.write(b"abc"))
    with replacing(tmp_path / "clip.mp4", ".mp4") as part:
        assert part.suffix == ".mp4"
        part.write_bytes(b"video")
        assert names(tmp_path) == sorted([part.name, "a.bin"])
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert names(tmp_path) == ["a.bin", "clip.mp4"]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"No space left.*the file that was there before is untouched"):
        write_whole(tmp_path / "a.bin", lambda _stream: disk_full())
    with contextlib.suppress(ZeroDivisionError), replacing(tmp_path / "a.bin") as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_two_writers_of_one_place_do_not_meet(tmp_path: Path) -> None:
    first, second = WholeFile(tmp_path / "a.csv"), WholeFile(tmp_path / "a.csv")
    first.part.write_text("first")
    second.part.write_text("second")
    first.commit()
    second.commit()
    assert (tmp_path / "a.csv").read_text() == "second"
    assert names(tmp_path) == ["a.csv"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = tmp_path / f".t.csv.{gone.pid}.part", tmp_path / f".t.csv.{os.getppid()}.part"
    foreign = tmp_path / ".t.csv.notes.part"
    for leftover in (dead, living, foreign):
        leftover.write_text("half")
    target = WholeFile(tmp_path / "t.csv")
    target.part.write_text("whole")
    target.commit()
    assert not dead.exists()
    assert living.exists()
    assert foreign.exists()
    assert (tmp_path / "t.csv").read_text() == "whole"

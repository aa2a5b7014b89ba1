"""Faults around ``annotate``: folders that refuse, full disks, signals, servers that die. Nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import Finished, discover, streamfer, when

from streamfer import build
from streamfer.errors import InternalError
from streamfer.publish import EmbeddedRedis

QUICK = ("--detector", "lbp", "--fps", "4", "--track-salt", "s")


def annotate(film: Path, model: Path, out: Path, *words: str | Path) -> Finished:
    return streamfer("annotate", film, "-o", out, "--model", model, *QUICK, *words)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_in_the_folders_place(face_film: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    done = annotate(face_film, tiny_model, tmp_path / "out")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "cannot be written" in done.complaints[0]
    assert "choose another folder" in done.complaints[0]
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(face_film: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    done = annotate(face_film, tiny_model, tmp_path / "out")
    assert (done.code, len(done.complaints)) == (2, 1)
    assert "Permission denied" in done.complaints[0]


def test_a_folder_that_refuses_files(
    face_film: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refuse(self: Path, mode: str = "r", *rest: object, **named: object) -> object:
        if "w" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, mode, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    done = annotate(face_film, tiny_model, tmp_path / "out")
    assert (done.code, len(done.complaints)) == (2, 1)
    assert "cannot be written (Permission denied); choose another folder" in done.complaints[0]
    assert left(tmp_path) == []


def test_a_full_disk(face_film: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = annotate(face_film, tiny_model, tmp_path / "out")
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
    assert "No space left on device" in done.complaints[0]
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_partial_file(long_face_film: Path, tiny_model: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    with when(lambda: any(out.glob(".*.part")), lambda: os.kill(os.getpid(), number)) as signalled:
        done = annotate(long_face_film, tiny_model, out)
    assert signalled
    assert (done.code, done.out, done.complaints) == (128 + number, "", [])
    assert "0 done, stopped with 1 to do (the same command goes on)" in done.err
    assert left(tmp_path) == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis.start(tmp_path / "redis") as server:
        yield server


def test_redis_dies_during_annotate(
    short_face_film: Path, tiny_model: Path, tmp_path: Path, server: EmbeddedRedis
) -> None:
    """The tables are written; the records wait on disk, and are said to."""
    out = tmp_path / "out"

    def kill() -> None:
        # The guard would start the server again: it goes first.
        facts = discover(server.folder)
        assert facts is not None
        for who in ("guard", "server"):
            with contextlib.suppress(ProcessLookupError):  # a server ends when its guard does
                os.kill(int(facts[who]), signal.SIGKILL)

    with when(lambda: any(out.glob(".*.part")), kill) as killed:
        done = annotate(short_face_film, tiny_model, out, "--redis", server.url, "--set", "shutdown.seconds=1")
    assert killed
    assert (done.code, done.out) == (2, "")
    (line,) = [line for line in done.complaints if "Redis at" in line]
    assert server.url in line
    assert "records wait in " in line
    assert any(name.endswith(".records.jsonl") for name in left(out))


def refuse_to_load(*_: object) -> None:
    raise InternalError("the models were loaded first")


@pytest.mark.parametrize("command", ["annotate", "demo"])
def test_an_unreachable_redis_is_said_before_any_work(
    command: str, long_face_film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = () if command == "demo" else (long_face_film,)
    monkeypatch.setattr(build, "load_all", refuse_to_load)
    done = streamfer(command, *words, "--redis", "redis://me:hunter2@127.0.0.1:1/0")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert done.complaints[0].startswith("Redis at redis://***@127.0.0.1:1/0 cannot be reached: ")
    assert left(tmp_path) == []


class Bomb:
    """Pickles as a command that makes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("name", ["bomb.pth", "bomb.safetensors", "bomb"])
@pytest.mark.parametrize("archive", [True, False], ids=["torch.save", "pickle"])
def test_a_pickle_for_a_model_is_refused_and_runs_nothing(
    face_film: Path, tmp_path: Path, name: str, archive: bool
) -> None:
    witness, bomb = tmp_path / "witness", tmp_path / name
    if archive:
        torch.save({"state_dict": {"a": torch.ones(2)}, "recorder": Bomb(witness)}, bomb)
    else:
        bomb.write_bytes(pickle.dumps(Bomb(witness)))
    done = annotate(face_film, bomb, tmp_path / "out")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert str(bomb) in done.complaints[0]
    assert left(tmp_path) == [name]


def test_demo_in_a_place_that_refuses(tmp_path: Path, tiny_model: Path, redis_url: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = streamfer("demo", "-o", tmp_path / "file", "--redis", redis_url, "--model", tiny_model)
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
    assert "choose another folder" in done.complaints[0]

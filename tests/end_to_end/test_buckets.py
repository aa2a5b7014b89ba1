"""Videos from a bucket, results into one, through the workers of a cluster; the cluster is this process here."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Finished, streamfer

from streamfer.api import cluster

NAMES = ("a.mp4", "b/clip.mp4")


@pytest.fixture
def store(face_film: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store in memory with two films and a file that is none; Ray's part is played by one worker."""
    fsspec = pytest.importorskip("fsspec", reason="the extra 'ray' is not installed")

    def outcomes(_self: Any, _ray: Any, specs: list[Any], _workers: int, work: tuple[Any, ...]) -> Iterator[Any]:
        worker = cluster.Worker(*work)
        yield from (worker({"file": spec}) for spec in specs)

    node = {"Alive": True, "Resources": {"CPU": 1.0}}
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=ZeroDivisionError), nodes=lambda: [node])
    monkeypatch.setattr(cluster.RayRun, "_outcomes", outcomes)
    monkeypatch.setattr(cluster, "_connected", lambda _address: contextlib.nullcontext(ray))
    files = fsspec.filesystem("memory")
    for name in NAMES:
        files.pipe_file(f"/in/{name}", face_film.read_bytes())
    files.pipe_file("/in/notes.txt", b"no video")
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def words(tiny_model: Path) -> tuple[str | Path, ...]:
    return ("--model", tiny_model, "--detector", "lbp", "--fps", "4", "--track-salt", "s")


def run(*arguments: str | Path) -> Finished:
    return streamfer("annotate", *arguments)


def listed(store: Any, folder: str) -> dict[str, bytes]:
    return {path.removeprefix(f"/{folder}/"): store.cat_file(path) for path in store.find(f"/{folder}")}


def test_a_bucket_gets_the_bytes_that_a_folder_gets(
    store: Any, face_film: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(face_film, tmp_path / "in" / name)
    assert run(tmp_path / "in", "-o", tmp_path / "out", *words, "-f", "csv,parquet").code == 0
    done = run("memory://in", "-o", "memory://out", *words, "-f", "csv,parquet", "--ray")
    assert (done.code, "2 done; results in memory://out/" in done.err) == (0, True), done.err
    there = listed(store, "out")
    here = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(there) == set(here)
    assert all(there[name] == path.read_bytes() for name, path in here.items() if not name.endswith(".json"))
    manifest = json.loads(there["b/clip.mp4.streamfer.json"])
    assert manifest["path"] == "memory:///in/b/clip.mp4"
    assert manifest["source_sha256"] == json.loads(here["b/clip.mp4.streamfer.json"].read_text())["source_sha256"]


def test_what_lies_in_a_bucket_is_not_done_again_before_it_changes(
    store: Any, face_film: Path, words: tuple[str, ...]
) -> None:
    arguments = ("memory://in", "-o", "memory://out", *words, "--ray")
    assert run(*arguments).code == 0
    before = listed(store, "out")
    assert "2 already done" in run(*arguments).err
    assert listed(store, "out") == before
    store.pipe_file("/in/a.mp4", face_film.read_bytes() + b"\0" * 16)
    again = run(*arguments)
    assert "1 done, 1 already done" in again.err
    assert set(listed(store, "out")) == set(before), "its results take the place of the old ones"
    # Another folder's file of that name does not.
    store.pipe_file("/other/a.mp4", face_film.read_bytes() + b"\0" * 32)
    assert run("memory://other/a.mp4", *arguments[1:]).code == 0
    extra = set(listed(store, "out")) - set(before)
    assert len({name.partition(".mp4-")[2][:8] for name in extra if ".mp4-" in name}) == 1


def test_broken_and_absent_files_of_a_bucket_are_named(store: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    store.pipe_file("/in/broken.mp4", b"no video " * 100)
    done = run("memory://in", "memory://nowhere", "-o", tmp_path / "out", *words, "--ray")
    assert done.code == 3
    assert "2 done, 2 failed" in done.err
    assert any(line.startswith("memory:///in/broken.mp4: not a video") for line in done.complaints)
    assert "memory://nowhere: no such file, or no video in this folder" in done.complaints
    assert (tmp_path / "out" / "b" / "clip.mp4.clips.csv").is_file()


def test_a_bucket_that_nothing_reads_is_one_line(words: tuple[str, ...], face_film: Path) -> None:
    pytest.importorskip("fsspec", reason="the extra 'ray' is not installed")
    [line] = run(face_film, "-o", "nosuch://out", *words, "--ray").complaints
    assert line.startswith("nosuch://out: Protocol not known")
    done = run(face_film, "-o", "s3://user:secret@bucket/out", *words)
    assert (done.code, "secret" in done.err) == (2, False)
    assert "results go to buckets from a cluster (--ray)" in done.complaints[0]


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("memory://USER:s3%23cret@bucket/in", 2, "memory://***@bucket/in: such an address holds no credentials"),
        ("ftp://USER:s3%23cret@127.0.0.1:1/in", 3, "ftp://***@127.0.0.1:1/in: ConnectionRefusedError"),
    ],
)
def test_credentials_of_an_address_are_never_shown(
    words: tuple[str, ...], tmp_path: Path, address: str, code: int, said: str
) -> None:
    pytest.importorskip("fsspec", reason="the extra 'ray' is not installed")
    done = run(address, "-o", tmp_path / "out", *words, "--ray")
    assert (done.code, len(done.complaints)) == (code, 1)
    assert done.complaints[0].startswith(said)
    assert not any(secret in done.err + done.out for secret in ("USER", "s3%23cret", "s3#cret"))


@pytest.fixture
def s3(store: Any, face_film: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server of S3 with one film and a file that is none; what it says goes over HTTP, as that of a real one."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0
    )
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    port = server.get_host_and_port()[1]
    for name, value in {
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("study")
    files.pipe_file("study/in/b/clip 'é'.mp4", face_film.read_bytes())
    files.pipe_file("study/in/broken.mp4", b"no video " * 100)
    yield files
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


KEYS = {"AWS_ACCESS_KEY_ID": "AKIAOFNOBODY", "AWS_SECRET_ACCESS_KEY": "oneSecretOfMine"}


def test_a_real_server_of_s3(s3: Any, words: tuple[str, ...]) -> None:
    arguments = ("s3://study/in", "-o", "s3://study/out", *words, "--ray")
    done, again = run(*arguments), run(*arguments)
    assert ("1 done, 1 failed" in done.err, "1 already done" in again.err) == (True, True), done.err + again.err
    assert (done.code, again.code) == (3, 3)
    there = {path: s3.cat_file(path) for path in s3.find("study/out")}
    assert {path.rpartition(".mp4.")[2] for path in there if ".mp4." in path} >= {"clips.csv", "streamfer.json"}
    assert b"not a video" in there["study/out/study.files.csv"]
    texts = [done.err, done.out, again.err, *(content.decode() for content in there.values())]
    assert not any(secret in text for secret in KEYS.values() for text in texts)
    gone = run("s3://nowhere/in", *arguments[1:])
    assert (gone.code, len(gone.complaints)) == (3, 1)
    assert gone.complaints[0].startswith("s3://nowhere/in: ")

"""``streamfer demo`` as a newcomer runs it: a program in an empty folder, with a server of its own."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest
from command_line import Finished, Program, streamfer, streamfer_while, wait_for
from free_ports import free_port

from streamfer.faces import TrackNames
from streamfer.models.registry import DEFAULT_MODEL, built_in_folder


@pytest.fixture(scope="module")
def redis_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("demo_redis"))


@pytest.fixture(scope="module")
def demo(tiny_model: Path, redis_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """The demo's end, and the folder of its film; a random model where the checkout holds no built-in one."""
    folder = tmp_path_factory.mktemp("demo") / "my demo"
    built_in = (built_in_folder() / f"{DEFAULT_MODEL}.safetensors").is_file()
    words = () if built_in else ("--model", tiny_model)
    with Program("demo", "-o", folder, *words, STREAMFER_REDIS_FOLDER=redis_folder) as program:
        return program.wait(), folder


def table(done: Finished) -> list[str]:
    """Rows of the table of clips."""
    lines = done.out.splitlines()
    return lines[1 : lines.index("")]


def captions(done: Finished) -> list[str]:
    """First lines of the table of captions."""
    lines = done.out.splitlines()
    below = lines[lines.index("") + 1 :]
    assert below[0].split() == ["track", "time", "caption"]
    return [line for line in below[1 : below.index("")] if not line.startswith(" ")]


def test_a_model_that_is_not_there_is_said_before_a_film_is_made(tmp_path: Path) -> None:
    done = streamfer("demo", "--model", tmp_path / "none.safetensors", "-o", tmp_path / "out")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "none.safetensors" in done.complaints[0]
    assert list(tmp_path.iterdir()) == []


def test_an_empty_path_is_not_the_folder_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    for words in (("demo", "-o", ""), ("annotate", "a.mp4", "-o", ""), ("annotate", "a.mp4", "--baseline", "")):
        done = streamfer(*words)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), words
        assert "'' can be no path; name one" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_it_shows_clips_of_several_people(demo: tuple[Finished, Path]) -> None:
    done, folder = demo
    assert done.code == 0
    assert done.complaints == []
    assert done.out.splitlines()[0].split() == ["track", "time", "label", "probability", "then"]
    tracks = {row.split()[0] for row in table(done)}
    assert len(tracks) >= 4
    # The same in every run, so that what an earlier one left in Redis and what is new speak of the same people.
    assert TrackNames("demo").name("demo.mp4", 0, 1) in tracks
    rows = r"\d+\.\d–\d+\.\d s  (\S+ +[█░]{10} \d+%|unsure +(small|turned|blurred|uncertain))"
    assert all(re.search(rows, row) for row in table(done))
    assert (folder / "demo.mp4").stat().st_size > 100_000
    made = {"demo.mp4", "demo.mp4.overlay.mp4", "demo.mp4.html", "demo.mp4.streamfer.json"}
    assert {path.name for path in folder.iterdir()} == made


def test_the_page_plays_it_on(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("STREAMFER_REDIS_FOLDER", str(tmp_path / "redis"))
    monkeypatch.setenv("STREAMFER_SERVE__ADDRESS", str(port))

    def up() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    def look() -> None:
        wait_for(up, "the page", 240)
        asked = time.time()
        with httpx2.stream("GET", f"{page}/events", trust_env=False, timeout=60) as answer:
            told = (one for line in answer.iter_lines() if line[:5] == "data:" for one in json.loads(line[5:]))
            assert next(one for one in told if one["kind"] == "clip" and one["t"] > asked)["source"] == "demo.mp4"

    words = ("demo", "--serve", "-o", tmp_path, "--model", tiny_model, "--detector", "builtin")
    done = streamfer_while(look, *words, number=signal.SIGINT)
    assert done.code == 130
    assert [line for line in done.err.splitlines() if "error" in line or "warning" in line] == []


def test_it_says_what_it_does_on_standard_error(demo: tuple[Finished, Path]) -> None:
    lines = demo[0].err.splitlines()
    assert [line.split()[0] for line in lines] == ["making", "analysing,", "model", "drawing"]


def test_it_ends_with_the_commands_that_go_on(demo: tuple[Finished, Path]) -> None:
    done, _ = demo
    clips, again, follow, look, label, own = done.out.splitlines()[-6:]
    found = re.fullmatch(r"(\d+) clips( and \d+ captions)? in Redis\. Read them again, or follow new ones:", clips)
    assert found is not None
    assert int(found[1]) == len(table(done))
    assert (again, follow) == ("  streamfer tail --from start --idle 1", "  streamfer tail")
    assert re.fullmatch(r"Look at .*demo\.mp4\.overlay\.mp4 and, in a browser, at .*demo\.mp4\.html", look)
    assert label == "Label a video of your own:"
    assert own == "  streamfer annotate VIDEO"


def test_tail_in_another_process_reads_the_records(demo: tuple[Finished, Path], redis_folder: str) -> None:
    words = ("tail", "--from", "start", "--idle", "1", "--json")
    with Program(*words, STREAMFER_REDIS_FOLDER=redis_folder) as program:
        done = program.wait()
    assert (done.code, done.err) == (0, "")
    records = [json.loads(line) for line in done.out.splitlines()]
    clips = [record for record in records if record["type"].endswith("clip.labelled.v1")]
    assert len(clips) == len(table(demo[0]))
    shown = {row.split()[0] for row in table(demo[0])}
    assert {face["track_id"] for clip in clips for face in clip["data"]["faces"]} == shown
    described = [record for record in records if record["type"].endswith("clip.captioned.v1")]
    assert len({record["data"]["track_id"] for record in described}) == len(captions(demo[0]))
    states = [record["data"]["state"] for record in records if record["type"].endswith("source.state.v1")]
    assert states == ["online", "ended"]


def test_the_smiling_astronaut_is_happy(demo: tuple[Finished, Path]) -> None:
    if "model mini " not in demo[0].err:
        pytest.skip("this checkout holds no built-in expression model")
    first_shot = [row for row in table(demo[0]) if float(re.search(r"–(\d+\.\d) s", row)[1]) <= 4]  # type: ignore[index]
    track = max(
        {row.split()[0] for row in first_shot}, key=lambda name: sum(row.startswith(name) for row in first_shot)
    )
    labels = [row.split()[3] for row in first_shot if row.startswith(track)]
    assert labels.count("happiness") > len(labels) / 2


def test_every_face_is_described_once_in_the_table(demo: tuple[Finished, Path]) -> None:
    done, _ = demo
    rows = captions(done)
    assert "words by measured" in done.err
    assert {row.split()[0] for row in rows} == {row.split()[0] for row in table(done)}
    assert all(re.search(r"\d+\.\d–\d+\.\d s  [A-Z]\w+ \w+", row) for row in rows)

"""``streamfer annotate`` on a real face: what it writes, skips, repeats, publishes, and refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from command_line import Finished, streamfer
from tiny_models import INVERTED, tiny_weights

from streamfer.cli.progress import Progress
from streamfer.export.batch import BatchReport
from streamfer.pipeline.events import SourceDone, SourceStats
from streamfer.publish import subscribe
from streamfer.records import FramesAnalysed
from streamfer.video import Frame, find_sources, open_source

SUFFIXES = (".clips.csv", ".frames.csv", ".tracks.csv", ".segments.csv", ".records.jsonl", ".streamfer.json")


@pytest.fixture
def words(tiny_model: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """Settings that are quick, and a folder of the test's own."""
    return ("-o", tmp_path / "out", "--model", tiny_model, "--detector", "lbp", "--fps", "4", "--track-salt", "s")


def annotate(films: Path | tuple[Path, ...], *words: str | Path) -> Finished:
    return streamfer("annotate", *(films if isinstance(films, tuple) else (films,)), *words)


def results(folder: Path) -> dict[str, str]:
    """Contents of the tables, by file name."""
    return {path.name: path.read_text() for path in folder.rglob("*.csv")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_single_file_is_a_table_of_clips_and_six_files(
    face_film: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    done = annotate(face_film, *words)
    assert (done.code, done.complaints) == (0, [])
    assert done.out.splitlines()[0].split() == ["track", "time", "label", "probability", "then"]
    assert done.err == f"1 done; results in {tmp_path}/out/\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"astronaut.mp4{suffix}" for suffix in SUFFIXES}
    clips = rows(tmp_path / "out" / "astronaut.mp4.clips.csv")
    spans = {(row["start_s"], row["end_s"]) for row in clips if row["track"] == clips[0]["track"]}
    assert spans == {("0.000", "1.800"), ("1.000", "2.800")}
    assert {row["label"] for row in clips} <= {"joy", "gloom", "calm"}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = annotate(face_film, *words)
    assert (again.code, again.out) == (0, "")
    assert "0 done, 1 already done (--overwrite does them again)" in again.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    first = results(tmp_path / "out")
    forced = annotate(face_film, *words, "--overwrite", "--quiet")
    assert (forced.code, forced.out, forced.err) == (0, "", "")
    assert all(path.stat().st_mtime_ns > before[path] for path in (tmp_path / "out").iterdir())
    assert results(tmp_path / "out") == first

    # Other settings, other results: done again without being told.
    changed = annotate(face_film, *words, "--stride", "0.5", "--track-salt", "t")
    assert "1 done;" in changed.err
    assert results(tmp_path / "out").keys() == first.keys()
    assert rows(tmp_path / "out" / "astronaut.mp4.clips.csv")[0]["track_id"] != clips[0]["track_id"]


def test_an_overlay_has_every_frame_and_can_hide_the_faces(
    face_film: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    def frames(path: Path) -> list[np.ndarray]:
        (spec,) = find_sources([str(path)])
        return [item.image for item in open_source(spec).stream() if isinstance(item, Frame)]

    drawn = tmp_path / "out" / "astronaut.mp4.overlay.mp4"
    assert annotate(face_film, *words, "--overlay").code == 0
    shown = frames(drawn)
    assert len(shown) == len(frames(face_film)) == 30
    assert annotate(face_film, *words, "--overlay", "--blur-faces").code == 0
    (face, *_) = rows(tmp_path / "out" / "astronaut.mp4.frames.csv")
    x, y, width, height = (round(float(face[name]) * 240) for name in ("x", "y", "width", "height"))
    inside = (slice(y + height // 4, y + 3 * height // 4), slice(x + width // 4, x + 3 * width // 4))
    sharp, hidden = (
        np.abs(np.diff(picture[0][inside].astype(int), axis=0)).mean() for picture in (shown, frames(drawn))
    )
    assert hidden < 0.6 * sharp
    refused = annotate(face_film, *words, "--blur-faces")
    assert (refused.code, len(refused.complaints)) == (2, 1)


def test_a_whole_clip_is_one_clip_of_segment_centres(face_film: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    done = annotate(face_film, *words, "--whole-clip", "-f", "csv")
    assert done.code == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".json"}
    clips = rows(tmp_path / "out" / "astronaut.mp4.clips.csv")
    # The tiny model reads four frames: of thirty, those at the centres of four segments.
    assert {(row["start_s"], row["end_s"], row["frames_sampled"]) for row in clips} == {("0.300", "2.600", "4")}
    assert len({row["track_id"] for row in clips}) == len(clips) >= 1


def test_records_are_published_as_they_are_written(
    face_film: Path, words: tuple[str, ...], tmp_path: Path, redis_url: str
) -> None:
    done = annotate(face_film, *words, "--redis", redis_url, "--set", "publish.site=lab")
    assert done.code == 0
    lines = (tmp_path / "out" / "astronaut.mp4.records.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    with subscribe(redis_url, since="start", idle_s=0.3) as subscription:
        published = {record.id: record for record in subscription}
    clips = [entry for entry in written if entry["type"].endswith("clip.labelled.v1")]
    assert clips
    for entry in clips:
        assert json.loads(published[entry["id"]].data.to_json()) == entry["data"]
        assert published[entry["id"]].source == entry["source"] == "/streamfer/lab"
    # The same results published again are duplicates: stored once.
    assert annotate(face_film, *words, "--redis", redis_url, "--set", "publish.site=lab", "--overwrite").code == 0
    with subscribe(redis_url, since="start", idle_s=0.3, streams=("clips",)) as subscription:
        assert sorted(record.id for record in subscription) == sorted(entry["id"] for entry in clips)


def test_every_frame_is_published_on_request(
    face_film: Path, words: tuple[str, ...], tmp_path: Path, redis_url: str
) -> None:
    """One record a second: the same faces in the same frames as in the table, with landmarks and action units."""
    more = (
        "--model",
        tiny_weights(tmp_path / "units.safetensors", vision=INVERTED, actions=("AU06", "AU12")),
        "--redis",
        redis_url,
        "--set",
        "publish.frames=100",
        "--detector",
        "builtin",
        "-f",
        "csv",
        "--purpose",
        "art",
    )
    assert annotate(face_film, *words, *more).code == 0
    with subscribe(redis_url, since="start", idle_s=0.3, streams=("frames",)) as subscription:
        seconds = [record.data for record in subscription]
    assert len(seconds) == 3
    # By the run that wrote them, a reader sees that none is missing.
    assert len({document.producer.run_id for document in seconds if isinstance(document, FramesAnalysed)}) == 1
    assert all(isinstance(document, FramesAnalysed) and document.producer.purpose == "art" for document in seconds)
    table = rows(tmp_path / "out" / "astronaut.mp4.frames.csv")
    faces: list[tuple[str, str, list[float]]] = []
    indices: list[str] = []
    for document in seconds:
        assert isinstance(document, FramesAnalysed)
        assert len({int(frame.seconds) for frame in document.frames}) == 1
        for frame in document.frames:
            indices.append(str(frame.index))
            faces += [
                (str(frame.index), face.track_id, [*face.box, *(face.action_units or {}).values()])
                for face in frame.faces
            ]
            for face in frame.faces:
                assert face.landmarks is not None
                (left, top, width, height), (x, y) = face.box, face.landmarks[2]
                assert left < x < left + width
                assert top < y < top + height, "the nose is in the face"
    assert indices == list(dict.fromkeys(row["frame"] for row in table)), "every one, also without a face"
    expected = [row for row in table if row["track_id"]]
    assert [face[:2] for face in faces] == [(row["frame"], row["track_id"]) for row in expected]
    columns = ("x", "y", "width", "height", "AU06_r", "AU12_r")
    for (_, _, numbers), row in zip(faces, expected, strict=True):
        assert numbers == pytest.approx([float(row[column]) for column in columns], abs=1e-3)
    assert annotate(face_film, *words, *more, "--overwrite").code == 0
    with subscribe(redis_url, since="start", idle_s=0.3) as subscription:
        assert {record.data.kind for record in subscription} == {"clip.labelled.v1", "source.state.v1"}


def test_bad_files_are_named_and_the_good_one_is_done(face_film: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    good = Path(shutil.copy(face_film, films / "good.mp4"))
    (films / "cut.mp4").write_bytes(face_film.read_bytes()[:400])
    (films / "text.mp4").write_text("I am a text file.\n" * 100)
    (films / "empty.mp4").touch()
    (films / "deep").mkdir()
    done = annotate((films / "absent.mp4", films, films / "deep", good), *words)
    assert done.code == 3
    names = {"absent.mp4", "cut.mp4", "text.mp4", "empty.mp4", "deep"}
    assert len(done.complaints) == len(names)
    for name in names:
        (line,) = [line for line in done.complaints if line.startswith(f"{films / name}: ")]
        assert len(line) > len(f"{films / name}: ") + 15
    assert "no video in this folder" in done.err
    assert "1 done, 5 failed; results in" in done.err
    study = {f"study.{table}.csv" for table in ("clips", "tracks", "segments", "files")}
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {f"good.mp4{suffix}" for suffix in SUFFIXES} | study
    assert [row["status"] for row in rows(tmp_path / "out" / "study.files.csv")] == ["done", *["failed"] * 5]


def test_what_came_of_a_file_that_is_cut_off_is_kept_and_never_counts_as_done(
    face_film: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    half = tmp_path / "half.mkv"
    with av.open(str(face_film)) as whole, av.open(str(half), "w") as copy:
        track = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            packet.stream = track
            if packet.dts is not None:
                copy.mux(packet)
    complete = half.read_bytes()
    half.write_bytes(complete[: int(len(complete) * 0.8)])
    for _ in range(2):
        done = annotate(half, *words)
        assert (done.code, len(done.complaints)) == (3, 1)
        assert re.search(r"half\.mkv: cut off at 2\.\d s.*half\.mkv\.partial", done.complaints[0])
        assert {path.name for path in (tmp_path / "out").iterdir()} == {f"half.mkv.partial{end}" for end in SUFFIXES}
    assert rows(tmp_path / "out" / "half.mkv.partial.clips.csv")
    half.write_bytes(complete)
    assert annotate(half, *words).code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"half.mkv{end}" for end in SUFFIXES}


def test_nothing_is_made_when_nothing_can_be_done(words: tuple[str, ...], tmp_path: Path) -> None:
    done = annotate(tmp_path / "absent.mp4", *words)
    assert (done.code, done.out, len(done.complaints)) == (2, "", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--model", "nothing"), "model 'nothing' is unknown"),
        (("--model", "nothing.safetensors"), "model 'nothing.safetensors': no such file"),
        (("--detector", "nobody"), "nobody"),
        (("--detector", "nobody.onnx"), "nobody.onnx"),
        (("--device", "cuda:77"), "cuda:77"),
        (("--device", "abacus"), "abacus"),
        (("--format", "ods"), "format 'ods': unknown; choose from csv"),
        (("--raw-size", "big"), "--raw-size big: expected WIDTHxHEIGHT, e.g. 320x192"),
        (("--raw-size", "0x10"), "--raw-size 0x10: expected WIDTHxHEIGHT"),
        (("--redis", "redis://me:hunter2@127.0.0.1:1"), "Redis at redis://***@127.0.0.1:1 cannot be reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_choices_are_one_line_and_leave_nothing(
    face_film: Path, words: tuple[str, ...], tmp_path: Path, extra: tuple[str, ...], message: str
) -> None:
    done = annotate(face_film, *words, *extra)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.complaints[0]
    assert "hunter2" not in done.err
    assert not (tmp_path / "out").exists()


def test_sources_without_a_header_follow_their_flags(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "grey.yuv").write_bytes(bytes(64 * 48 * 3 // 2) * 10)
    without = annotate(tmp_path / "grey.yuv", *words)
    assert without.code == 3
    assert "--raw-size" in without.err or "size" in without.complaints[0]
    done = annotate(tmp_path / "grey.yuv", *words, "--raw-size", "64x48", "--raw-fps", "5")
    assert done.code == 0
    frames = rows(tmp_path / "out" / "grey.yuv.frames.csv")
    assert frames[-1]["seconds"] == "1.800"
    faster = annotate(tmp_path / "grey.yuv", *words, "--raw-size", "64x48", "--raw-fps", "10")
    assert "1 done" in faster.err
    assert rows(tmp_path / "out" / "grey.yuv.frames.csv")[-1]["seconds"] == "0.800"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def web(face_film: Path) -> Iterator[str]:
    """Address of a web server over the film's folder, host and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(face_film.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_a_file_and_its_password_is_nowhere(
    web: str, words: tuple[str, ...], tmp_path: Path, redis_url: str
) -> None:
    done = streamfer("annotate", f"http://me:hunter2@{web}/astronaut.mp4?token=hunter2", *words, "--redis", redis_url)
    assert (done.code, done.complaints) == (0, [])
    assert len(list((tmp_path / "out").iterdir())) == len(SUFFIXES)
    with subscribe(redis_url, since="start", idle_s=0.3) as subscription:
        told = [record.to_json() for record in subscription]
    assert told
    told += [path.read_text() + path.name for path in (tmp_path / "out").iterdir()]
    assert "hunter2" not in "".join([*told, done.out, done.err])
    absent = streamfer("annotate", f"http://me:hunter2@{web}/absent.mp4", *words)
    assert (absent.code, len(absent.complaints)) == (2, 1)
    # An address is named by its host and a digest: a path may hold a secret, too.
    assert re.match(r"127\.0\.0\.1-absent\.mp4-[0-9a-f]{8}: .*404", absent.complaints[0])


@pytest.mark.parametrize(
    "name", ["spaces and, commas.mp4", "naïve Ж.mp4", '"quoted".mp4', os.fsdecode(b"latin\xe9.mp4")]
)
def test_any_file_name_will_do(face_film: Path, words: tuple[str, ...], tmp_path: Path, name: str) -> None:
    film = Path(shutil.copy(face_film, tmp_path / name))
    done = annotate(film, *words)
    assert (done.code, done.complaints) == (0, [])
    shown = name.replace("\udce9", "%E9")
    assert {row["source"] for row in rows(tmp_path / "out" / f"{shown}.clips.csv")} == {shown}
    lines = (tmp_path / "out" / f"{shown}.records.jsonl").read_text().splitlines()
    assert {json.loads(line)["subject"] for line in lines} == {shown}


def test_no_name_writes_on_the_terminal_what_it_likes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "talk [final] [/b]\x1b[31m\n\u202e.mp4"
    ends = [SourceDone(one, note="odd", stats=SourceStats(clips=1, tracks=1)) for one in (name, "b.mp4")]
    progress = Progress(quiet=False)
    for end in ends:
        progress.watch(end)
    progress.report(BatchReport(tmp_path, 2, done=ends, doubtful={name: 3}))
    told = capsys.readouterr()
    shown = r"talk [final] [/b]\x1b[31m\n\u202e.mp4"
    assert shown in "".join(line.strip() for line in told.out.splitlines())
    assert f"{shown}: odd" in told.err
    assert f"{shown}: 3 frames of the overlay" in told.err
    assert "\u202e" not in told.out + told.err

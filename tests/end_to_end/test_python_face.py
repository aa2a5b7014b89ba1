"""What Python programs use: sessions, annotations, streams, and how they refuse."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas
import pytest

import streamfer
from streamfer.config import Config, PublishConfig, load_config
from streamfer.errors import (
    ClosedError,
    ConfigError,
    InternalError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnknownModelError,
    UserError,
)
from streamfer.export import BatchReport
from streamfer.publish import Publisher
from streamfer.records import ClipLabelled, SourceStateChanged
from streamfer.video import Frame, find_sources, open_source
from streamfer.video.files import FileSource


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> Config:
    return load_config(
        None, {"model.name": str(tiny_model), "faces.detector": "lbp", "sampling.fps": 4, "clip.seconds": 1}, {}
    )


@pytest.fixture(scope="module")
def session(config: Config) -> Iterator[streamfer.Session]:
    with streamfer.Session(config, salt="s") as opened:
        yield opened


@pytest.fixture(scope="module")
def annotation(session: streamfer.Session, face_film: Path) -> streamfer.Annotation:
    return session.annotate(face_film)


@pytest.fixture(scope="module")
def pictures(face_film: Path) -> np.ndarray:
    """The film's frames, uint8 RGB (30, 240, 240, 3), ten a second."""
    (spec,) = find_sources([str(face_film)])
    return np.stack([item.image for item in open_source(spec).stream() if isinstance(item, Frame)])


def labels(records: Any) -> list[ClipLabelled]:
    return [record.data for record in records if isinstance(record.data, ClipLabelled)]


def reasons(records: Any) -> dict[str, str]:
    """What is said of sources that ended with a reason."""
    return {
        record.subject: record.data.reason
        for record in records
        if isinstance(record.data, SourceStateChanged) and record.data.state == "ended" and record.data.reason
    }


def test_an_annotation_shows_itself(annotation: streamfer.Annotation) -> None:
    assert (annotation.source, annotation.info.width, annotation.info.height) == ("astronaut.mp4", 240, 240)
    shown = repr(annotation)
    assert shown.startswith("Annotation(astronaut.mp4: 2.8 s, ")
    assert f"{annotation.stats.clips} clips; " in shown
    assert len(shown) < 120
    assert "<table" in annotation._repr_html_()


def test_a_plot_refuses_what_it_cannot_draw(annotation: streamfer.Annotation) -> None:
    with pytest.raises(ConfigError, match="units: Input should be a valid integer"):
        annotation.plot(units=cast("Any", "x"))
    with pytest.raises(ConfigError, match="axes: a int; expected axes of matplotlib"):
        annotation.plot(cast("Any", 3))


def test_tables_are_data_frames(annotation: streamfer.Annotation) -> None:
    clips, frames, tracks = annotation.clips, annotation.frames, annotation.tracks
    assert annotation.stats.clips == len(clips) == len(annotation.records) >= 2
    assert (clips.probability == clips[["p_joy", "p_gloom", "p_calm"]].max(axis=1)).all()
    assert not any(str(name).startswith("AU") for name in clips)
    assert frames.frame.nunique() == annotation.stats.frames_analysed == 12
    assert tracks.clips.sum() == len(clips)
    assert set(tracks.track_id) >= set(clips.track_id)
    assert annotation.captions.empty


def test_what_is_saved_is_what_a_batch_writes(
    annotation: streamfer.Annotation, session: streamfer.Session, face_film: Path, tmp_path: Path
) -> None:
    saved = annotation.save(tmp_path / "saved")
    report = session.annotate_folder(face_film, tmp_path / "batch")
    assert (len(report.done), report.complete) == (1, True)
    assert sorted(path.name for path in saved) == sorted(
        path.name for path in (tmp_path / "batch").iterdir() if path.suffix != ".json"
    )
    for path in saved:
        if path.suffix == ".csv":
            assert path.read_bytes() == (tmp_path / "batch" / path.name).read_bytes()
    read = pandas.read_csv(tmp_path / "saved" / "astronaut.mp4.clips.csv")
    pandas.testing.assert_frame_equal(annotation.clips, read, check_dtype=False)
    manifests = [tmp_path / name / "astronaut.mp4.streamfer.json" for name in ("saved", "batch")]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    # And a batch knows it again.
    again = session.annotate_folder([face_film], tmp_path / "saved")
    assert (again.done, again.skipped) == ([], ["astronaut.mp4"])
    with pytest.raises(ConfigError, match="format 'ods': unknown"):
        annotation.save(tmp_path, formats=["ods"])


def test_action_units_are_columns(face_film: Path, config: Config, tmp_path: Path) -> None:
    from tiny_models import tiny_weights

    path = tiny_weights(tmp_path / "reader.safetensors", actions=("AU06", "AU12"))
    found = streamfer.annotate(face_film, config, model=path)
    assert list(found.clips)[-6:-2] == ["AU06_mean", "AU12_mean", "AU06_peak", "AU12_peak"]
    for unit in ("AU06", "AU12"):
        assert found.clips[f"{unit}_mean"].between(0, 1).all()
        assert (found.clips[f"{unit}_mean"] <= found.clips[f"{unit}_peak"]).all()
    assert found.frames.AU06_r.max() == pytest.approx(found.clips.AU06_peak.max(), abs=1e-6)
    assert {"AU06_mean", "AU12_mean", "AU12_peak", "AU12_present"} < set(found.tracks)


def test_a_folder_names_what_fails_and_does_the_rest(
    session: streamfer.Session, face_film: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("I am a text file. " * 100)
    told: list[Any] = []
    report = session.annotate_folder(
        [face_film, tmp_path, tmp_path / "absent.mp4"], tmp_path / "out", formats="csv", watch=told.append
    )
    assert isinstance(report, BatchReport)
    assert [end.source_id for end in report.done] == ["astronaut.mp4"]
    assert {one.source_id for one in report.failed} == {"text.mp4", str(tmp_path / "absent.mp4")}
    assert not report.complete
    assert repr(report).startswith("BatchReport(1 done, 0 already done, 2 failed, 0 to do; ")
    assert (told[0].total, len(told) > 10) == (3, True)
    with pytest.raises(ConfigError, match="no picture to blur"):
        session.annotate_folder(face_film, tmp_path, blur_faces=True)


def test_annotate_refuses_with_our_exceptions(session: streamfer.Session, tmp_path: Path, face_film: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"absent\.mp4"):
        session.annotate(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("I am a text file. " * 100)
    with pytest.raises(SourceUnreadableError, match=r"text\.mp4"):
        session.annotate(tmp_path / "text.mp4")
    (tmp_path / "more.mp4").write_text("x")
    with pytest.raises(ConfigError, match=r"holds 2 sources: use annotate_folder"):
        session.annotate(tmp_path)
    with pytest.raises(ConfigError, match="a live source, which does not end"):
        session.annotate("webcam:0")
    with pytest.raises(UnknownModelError, match="nothing"):
        streamfer.annotate(face_film, model="nothing")


def test_a_closed_session_says_so(config: Config, face_film: Path, tmp_path: Path) -> None:
    closed = streamfer.Session(config)
    assert repr(closed).endswith("not loaded yet)")
    closed.close()
    closed.close()
    deeds: list[Callable[[], object]] = [
        lambda: closed.annotate(face_film),
        lambda: closed.annotate_folder(face_film, tmp_path),
        lambda: closed.stream(face_film),
        lambda: closed.publish(face_film),
        lambda: closed.ask(face_film, "who?"),
        closed.models,
    ]
    for deed in deeds:
        with pytest.raises(ClosedError, match="this session is closed; open a new one"):
            deed()


@pytest.mark.parametrize("wrong", [7, None, b"film.mp4", [7], np.zeros((4, 4))])
def test_what_is_no_path_is_named_by_its_type(session: streamfer.Session, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"sources: an? \w+( among them)?; expected a path"):
        session.annotate(wrong)


def test_stream_yields_records_and_may_be_left(session: streamfer.Session, face_film: Path) -> None:
    records = list(session.stream(face_film))
    assert all(isinstance(record, streamfer.Record) and record.subject == "astronaut.mp4" for record in records)
    assert [record.data.state for record in records if isinstance(record.data, SourceStateChanged)] == [
        "online",
        "ended",
    ]
    clips = labels(records)
    assert len(clips) >= 2
    left = session.stream([str(face_film)])
    first = next(record for record in left if isinstance(record.data, ClipLabelled))
    with pytest.raises(ConfigError, match="this session is at work"):
        session.annotate(face_film)
    left.close()
    assert isinstance(first.data, ClipLabelled)
    assert first.data.clip == clips[0].clip
    assert session.annotate(face_film).stats.clips == len(clips)


def test_a_bad_source_is_a_record_and_ends_nobody_else(
    session: streamfer.Session, face_film: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("I am a text file. " * 100)
    records = list(session.stream(["absent.mp4", tmp_path / "text.mp4", face_film]))
    told = reasons(records)
    assert set(told) == {"absent.mp4", "text.mp4"}
    assert "no such file" in told["absent.mp4"]
    assert {record.subject for record in records if isinstance(record.data, ClipLabelled)} == {"astronaut.mp4"}
    (alone,) = session.stream("rtsp://me:hunter2@")
    assert "hunter2" not in alone.to_json()


def test_a_defect_is_raised_and_is_no_record(
    session: streamfer.Session, face_film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: FileSource, wanted: object = None) -> Iterator[Frame]:
        raise TypeError("'NoneType' object is not subscriptable")

    monkeypatch.setattr(FileSource, "stream", broken)
    with pytest.raises(InternalError, match=r"astronaut\.mp4: TypeError: 'NoneType'") as error:
        list(session.stream(face_film))
    assert isinstance(error.value.__cause__, TypeError)


def test_frames_of_ones_own_are_analysed(
    session: streamfer.Session, pictures: np.ndarray, annotation: streamfer.Annotation
) -> None:
    from_file = [face.top for clip in labels(annotation.records) for face in clip.faces]
    records = list(session.stream(frames=pictures, frame_rate=10, name="mine"))
    assert {record.subject for record in records} == {"mine"}
    assert [face.top for clip in labels(records) for face in clip.faces] == from_file
    one_by_one = session.stream(frames=((number / 10, picture) for number, picture in enumerate(pictures)))
    spans = [(clip.clip.start_time, clip.clip.end_time) for clip in labels(one_by_one)]
    assert spans == [(clip.clip.start_time, clip.clip.end_time) for clip in labels(records)]
    listed = labels(session.stream(frames=list(pictures), frame_rate=10))
    assert spans == [(clip.clip.start_time, clip.clip.end_time) for clip in listed]


def test_frames_that_change_their_size_begin_a_new_epoch(session: streamfer.Session, pictures: np.ndarray) -> None:
    smaller = pictures[:, ::2, ::2]
    pairs = [(number / 10, one) for number, one in enumerate([*pictures[:20], *smaller[:20]])]
    records = list(session.stream(frames=pairs))
    epochs = [record.data.epoch for record in records if isinstance(record.data, SourceStateChanged)]
    assert epochs == [0, 1, 1]


@pytest.mark.parametrize(
    ("frames", "rate", "message"),
    [
        (
            np.zeros((5, 8, 8), np.uint8),
            10,
            r"shape \(5, 8, 8\); expected uint8 RGB of shape \(frames, height, width, 3\)",
        ),
        (np.zeros((5, 8, 8, 4), np.uint8), 10, r"shape \(8, 8, 4\); expected uint8 RGB of shape \(height, width, 3\)"),
        (np.zeros((5, 8, 8, 3), np.float32), 10, r"float32 of shape \(8, 8, 3\); expected uint8 RGB .*astype"),
        (np.zeros((5, 3, 8, 8), np.uint8), 10, r"channels go last: numpy.moveaxis"),
        (np.zeros((8, 8, 3), np.uint8), 10, r"one picture is numpy.expand_dims"),
        (np.zeros((5, 8, 8, 3), np.uint8), None, "how many frames of the array make a second"),
        ([(0.0, np.zeros((8, 8), np.uint8))], None, r"frame 0: shape \(8, 8\); expected uint8 RGB"),
        ([np.zeros((8, 8, 3), np.uint8)], None, r"frame 0: a ndarray; expected a pair \(seconds, frame\)"),
        ([], None, "frames: there is none"),
        ("film.mp4", None, "frames: a str; expected an array"),
        ([(0.0, np.zeros((8, 8, 3), np.uint8))], 25, "pairs of .* bring their own times"),
        (np.zeros((5, 8, 8, 3), np.uint8), "10", "how many frames of the array make a second"),
        ([(0.0, np.zeros((8, 8, 3), np.uint8)), (np.nan, np.zeros((8, 8, 3), np.uint8))], None, "its time is nan"),
    ],
)
def test_frames_of_another_shape_name_the_one_expected(
    session: streamfer.Session, frames: Any, rate: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        list(session.stream(frames=frames, frame_rate=rate))
    assert "[" not in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_callers_own_code_raises_is_told_with_its_cause(
    session: streamfer.Session, pictures: np.ndarray
) -> None:
    def camera() -> Iterator[tuple[float, np.ndarray]]:
        yield 0.0, pictures[0]
        raise KeyError("mine")

    with pytest.raises(ConfigError, match=r"what gives them failed \(KeyError: 'mine'\)") as error:
        list(session.stream(frames=camera()))
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda session: streamfer.Session(cast("Any", {"clip": {}})), "config: a dict; expected a Config or a YAML"),
        (lambda session: streamfer.Session(salt=cast("Any", 5)), "salt: 5; expected a word"),
        (lambda session: streamfer.Session(salt=""), "salt: ''; expected a word, or none for a random one"),
        (lambda session: session.annotate_folder("a.mp4", ""), "output: '' can be no path; name one"),
        (lambda session: session.annotate([]), "0 places; expected one path or URL"),
        (lambda session: session.annotate(["a.mp4", "b.mp4"]), "2 places; expected one path or URL"),
        (lambda session: session.annotate(""), "an empty path; name a file"),
        (lambda session: session.ask(["a.mp4", "b.mp4"], "is the person smiling?"), "2 places; expected one"),
        (lambda session: session.annotate_folder("a.mp4", workers=-1), "workers: Input should be greater than or"),
        (lambda session: session.annotate_folder("a.mp4", raw_size="320x200"), "raw_size: Input should be a valid tup"),
        (lambda session: session.annotate_folder("a.mp4", raw_size=(0, 5)), "raw_size.0: Input should be greater than"),
        (lambda session: session.annotate_folder("a.mp4", raw_fps=float("nan")), "raw_fps: Input should be "),
        (lambda session: list(session.stream(frames=[], name="")), "name: expected a word"),
        (lambda _: streamfer.Session(model__emotions=False).ask("a.mp4", "who?"), "answers are about expressions; ask"),
        (
            lambda _: streamfer.annotate_folder("a", "b", captioner="openai:seer", overlay=True, blur_faces=True),
            "blur_faces: openai:seer would be sent pictures of the faces",
        ),
        (lambda session: session.annotate_folder("a.mp4", None), "output: a NoneType; expected a path"),
        (lambda session: session.annotate_folder("a.mp4", formats=3), "formats: a int; choose from csv"),
        (lambda session: session.annotate_folder("a.mp4", baseline=3), "baseline: a int; expected a path"),
        (lambda session: session.ask("a.mp4", None), "question: Input should be a valid string"),
        (lambda session: session.ask("a.mp4", "is she happy?", at="x"), "at: Input should be a valid number"),
        (lambda session: session.annotate("a" * 5000), "cannot be looked at"),
        (lambda session: streamfer.Session("mini"), "settings go by their names, as model='mini'"),
        (lambda _session: streamfer.subscribe(idle_s=cast("Any", "x")), "idle_s: Input should be a valid number"),
        (lambda _session: streamfer.subscribe(sources=cast("Any", [3])), "sources: Input should be a valid string"),
        (
            lambda _session: streamfer.Config(clip=cast("Any", {"strid": 1})),
            "clip.strid: unknown setting",
        ),
        (lambda _session: streamfer.load_model(device=cast("Any", None)), "device: Input should be a valid string"),
        (lambda _session: streamfer.Record.from_json(cast("Any", 3)), "malformed record: not JSON"),
        (lambda session: session.publish(watch=3), "watch: Input should be callable"),
        (lambda _session: streamfer.Session(fps=True), r"sampling.fps: Input should be a number \(got True\)"),
        (copy.deepcopy, "a Session can be neither copied nor sent elsewhere"),
        (lambda session: session.annotate_folder("a.mp4", "a\0b"), "can be no path"),
        (lambda session: streamfer.subscribe(cast("Any", 3)), r"url: Input should be a valid string \(got 3\)"),
    ],
)
def test_what_cannot_be_meant_is_one_line(session: streamfer.Session, call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        call(session)
    assert "\n" not in str(error.value)


def test_stop_ends_a_run_in_order(session: streamfer.Session, long_face_film: Path, tmp_path: Path) -> None:
    def watch(event: Any) -> None:
        if isinstance(event, streamfer.Record) and isinstance(event.data, ClipLabelled):
            threading.Thread(target=session.stop).start()

    report = session.annotate_folder(long_face_film, tmp_path / "out", watch=watch)
    assert (report.done, report.failed, report.unreached) == ([], [], 1)
    assert list(tmp_path.rglob("*.csv")) == []
    assert not session.stop()


def test_stream_follows_a_camera(
    rtsp_server: Callable[..., Any], long_face_film: Path, session: streamfer.Session
) -> None:
    camera = session.stream(rtsp_server("--file", str(long_face_film)).url())
    clip = next(record.data for record in camera if isinstance(record.data, ClipLabelled))
    camera.close()
    assert clip.clip.time_origin in ("wallclock", "rtcp")
    assert clip.faces[0].top in ("joy", "gloom", "calm")


def test_live_settings_are_honoured(config: Config, redis_url: str) -> None:
    del redis_url
    with streamfer.Session(config, live__wait=True, live__backoff_first=0.1, live__open_timeout=1) as patient:
        camera = patient.stream("rtsp://127.0.0.1:9/live")
        states = [next(camera).data.state for _ in range(2)]  # type: ignore[union-attr]
        camera.close()
    assert states == ["connecting", "backoff"]
    (refused,) = [
        record
        for record in streamfer.stream("rtsp://127.0.0.1:9/live", config, live__wait=False)
        if record.data.state == "ended"  # type: ignore[union-attr]
    ]
    assert refused.subject.startswith("127.0.0.1")
    assert refused.subject in refused.data.reason  # type: ignore[union-attr]


def test_subscribe_follows_what_annotate_found(annotation: streamfer.Annotation, redis_url: str) -> None:
    with Publisher.open(PublishConfig(redis=redis_url)) as publisher:
        publisher.publish_many(annotation.records)
    with streamfer.subscribe(redis_url, since="start", idle_s=0.2) as subscription:
        received = list(subscription)
    assert all(isinstance(record, streamfer.Record) for record in received)
    assert [record.id for record in received] == [record.id for record in annotation.records]
    assert [record.data for record in received] == [record.data for record in annotation.records]

"""What stands in the tables, byte by byte where it matters."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from film_events import findings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_examples import examples, labelled, labelled_with_units, span

from streamfer.errors import ConfigError
from streamfer.export import check_formats
from streamfer.export.columns import columns_of
from streamfer.export.job import Job, Settings
from streamfer.export.segments import Film
from streamfer.export.tables import table_of, write
from streamfer.pipeline.events import Event, FaceRow, FrameFaces, SourceDone, SourceOpened
from streamfer.records import Record
from streamfer.video.frames import VideoInfo
from streamfer.video.locate import SourceSpec

INFO = VideoInfo("hall", "hall.mp4", 64, 48, "mpeg4", 25.0, 2.0, 0, False, "key")
PLAIN = SourceOpened("hall", 0, INFO, ("happiness", "neutral"))
OPENED = replace(PLAIN, action_units=("AU06", "AU12"), action_thresholds=(0.5, 0.5))
SETTINGS = Settings("c0ffee", "ab" * 32, "lbp", ("csv",))
MEDIA_SPAN, MEDIA_MOMENT = ("media_start_s", "media_end_s"), ("media_seconds",)
CLIP_COLUMNS, FRAME_COLUMNS, TRACK_COLUMNS = (
    [name for name in columns_of(table) if not name.startswith("media_")] for table in ("clips", "frames", "tracks")
)


def maker(end: str) -> Any:
    return lambda path: (end, path)


ClipCsv, FrameCsv, TrackCsv = (maker(f".{name}.csv") for name in ("clips", "frames", "tracks"))


def written(writer: tuple[str, Path], *events: Any) -> Path:
    """Write one file; of a model without action units, unless the events say what was opened."""
    end, path = writer
    if not any(isinstance(event, SourceOpened) for event in events):
        events = (PLAIN, *events)
    write(end, path, Film(findings(*events), Job(path, SETTINGS, SourceSpec("hall.mp4", "hall", "file"))))
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clip(source_id: str = "hall", **changes: Any) -> Record:
    return Record.of(labelled(span(**changes)), source_id=source_id)


def frame(source_id: str = "hall", faces: int = 1) -> FrameFaces:
    row = FaceRow(3, "0-3", (0.25, 0.125, 0.2, 0.3), 0.987654, 0.5)
    return FrameFaces(source_id, 1, 42, 1.6800001, (row,) * faces)


def test_a_clip_is_a_row(tmp_path: Path) -> None:
    record = clip(start_time=1.0, end_time=2.875, time_origin="file")
    (row,) = table(written(ClipCsv(tmp_path / "a.csv"), record, frame(), examples()["gap.v1"]))
    assert list(row) == [*CLIP_COLUMNS, "p_happiness", "p_neutral", *MEDIA_SPAN]
    assert row["clip_id"] == record.id
    assert (row["source"], row["track_id"], row["track"], row["epoch"]) == ("hall", "0-3", "3", "0")
    assert (row["start_s"], row["end_s"]) == ("1.000", "2.875")
    assert (row["label"], row["probability"], row["p_neutral"]) == ("happiness", "0.700000", "0.333333")
    assert (row["frames_sampled"], row["frames_real"]) == ("16", "15")
    assert (row["x"], row["y"], row["det_score"]) == ("0.250000", "0.123457", "0.9800")


def test_a_face_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    unsure = Record.of(labelled(top=None, reason="turned"), source_id="hall")
    rows = table(written(ClipCsv(tmp_path / "a.csv"), unsure, clip()))
    assert [(row["label"], row["reason"], row["probability"]) for row in rows] == [
        ("unsure", "turned", "0.700000"),
        ("happiness", "", "0.700000"),
    ]
    frame_ = table_of("clips", findings(PLAIN, unsure, clip())).data_frame()
    assert frame_["reason"].isna().tolist() == [False, True]
    assert frame_["reason"][0] == "turned"


def test_a_table_without_clips_has_its_header(tmp_path: Path) -> None:
    path = written(ClipCsv(tmp_path / "a.csv"), SourceOpened("hall", 0, INFO, ("joy", "calm")), frame())
    assert path.read_text().splitlines() == [",".join([*CLIP_COLUMNS, "p_joy", "p_calm", *MEDIA_SPAN])]


def test_action_units_of_a_clip_have_columns_after_the_probabilities(tmp_path: Path) -> None:
    (row,) = table(written(ClipCsv(tmp_path / "a.csv"), OPENED, labelled_with_units()))
    more = ["p_happiness", "p_neutral", "AU06_mean", "AU12_mean", "AU06_peak", "AU12_peak"]
    assert list(row) == [*CLIP_COLUMNS, *more, *MEDIA_SPAN]
    assert [row[name] for name in more[2:]] == ["0.456789", "0.500000", "0.875000", "1.000000"]
    empty = written(ClipCsv(tmp_path / "c.csv"), OPENED)
    assert empty.read_text().splitlines() == [",".join([*CLIP_COLUMNS, *more, *MEDIA_SPAN])]


def test_action_units_of_a_frame_have_columns_after_the_others(tmp_path: Path) -> None:
    read = replace(frame().faces[0], action_units={"AU06": 0.25, "AU12": 0.1234567})
    both = replace(frame(), faces=(read, replace(read, action_units=None)))
    rows = table(written(FrameCsv(tmp_path / "a.csv"), OPENED, both, frame(faces=0)))
    assert list(rows[0]) == [*FRAME_COLUMNS, "AU06_r", "AU12_r", *MEDIA_MOMENT]
    assert [(row["AU06_r"], row["AU12_r"]) for row in rows] == [("0.250000", "0.123457"), ("", ""), ("", "")]
    assert all(None not in row and None not in row.values() for row in rows)


def test_a_model_without_action_units_has_no_columns_for_them(tmp_path: Path) -> None:
    clips, frames = ClipCsv(tmp_path / "clips.csv"), FrameCsv(tmp_path / "frames.csv")
    assert "AU" not in written(clips, clip()).read_text()
    assert "AU" not in written(frames, frame(), frame(faces=0)).read_text()


def test_a_frame_table_of_nothing_has_its_header(tmp_path: Path) -> None:
    assert written(FrameCsv(tmp_path / "a.csv")).read_text().splitlines() == [",".join([*FRAME_COLUMNS, *MEDIA_MOMENT])]


def test_every_face_of_a_frame_is_a_row_and_an_empty_frame_too(tmp_path: Path) -> None:
    rows = table(written(FrameCsv(tmp_path / "a.csv"), frame(faces=2), clip(), frame(faces=0)))
    assert [row["faces"] for row in rows] == ["2", "2", "0"]
    assert list(rows[0]) == [*FRAME_COLUMNS, *MEDIA_MOMENT]
    assert (rows[0]["seconds"], rows[0]["frame"], rows[0]["epoch"]) == ("1.680", "42", "1")
    assert (rows[0]["det_score"], rows[0]["width"]) == ("0.9877", "0.200000")
    assert (rows[2]["track_id"], rows[2]["x"]) == ("", "")


def test_a_track_is_a_row_with_its_times_and_the_means_of_its_clips(tmp_path: Path) -> None:
    first = replace(frame(), epoch=0)
    later = replace(first, seconds=4.5)
    clips = [labelled_with_units(), clip()]
    (row,) = table(written(TrackCsv(tmp_path / "a.csv"), OPENED, first, *clips, later, SourceDone("hall")))
    means = ["p_happiness", "p_neutral", "AU06_mean", "AU12_mean"]
    shares = ["share_happiness", "share_neutral", "share_unsure"]
    more = [*means, *shares, "AU06_peak", "AU12_peak", "AU06_present", "AU12_present"]
    assert list(row) == [*TRACK_COLUMNS, *more, *MEDIA_SPAN]
    assert [row[name] for name in more[4:]] == [
        *("1.000000", "0.000000", "0.000000"),
        *("0.875000", "1.000000"),
        *("0.000000", "0.500000"),
    ]
    assert (row["source"], row["track_id"], row["track"], row["epoch"]) == ("hall", "0-3", "3", "0")
    assert (row["start_s"], row["end_s"], row["frames"], row["clips"]) == ("1.680", "4.500", "2", "2")
    assert (row["label"], row["share"], row["p_happiness"]) == ("happiness", "1.000000", "0.700000")
    unlabelled = table(written(TrackCsv(tmp_path / "b.csv"), OPENED, first, SourceDone("hall")))
    assert [(row["label"], row["share"], row["p_neutral"]) for row in unlabelled] == [("", "", "")]


@pytest.mark.parametrize("name", ["clips", "frames", "tracks"])
def test_a_data_frame_holds_what_the_file_holds(tmp_path: Path, name: str) -> None:
    events: list[Event] = [OPENED, frame(), frame(faces=0), labelled_with_units(), SourceDone("hall")]
    path = written(maker(f".{name}.csv")(tmp_path / "a.csv"), *events)
    read = pandas.read_csv(path, dtype={"track_id": str, "clip_id": str})
    pandas.testing.assert_frame_equal(table_of(name, findings(*events)).data_frame(), read, check_dtype=False)


def test_every_record_is_a_line_whatever_it_is(tmp_path: Path) -> None:
    records = list(examples().values())
    path = written((".records.jsonl", tmp_path / "a.jsonl"), *records, frame())
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [record.to_json() for record in records]
    assert [json.loads(line)["type"] for line in lines] == [record.type for record in records]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_source_name_comes_back_from_the_tables(tmp_path: Path, name: str) -> None:
    (row,) = table(written(FrameCsv(tmp_path / "frames.csv"), frame(name)))
    assert row["source"] == name
    assert row["track_id"] == "0-3"


@pytest.mark.parametrize("name", ['a,b";c.mp4', "two\nlines.mp4", "=1+1.mp4", " spaces ", "Ж,é.mp4"])
def test_names_that_need_quotes(tmp_path: Path, name: str) -> None:
    (row,) = table(written(ClipCsv(tmp_path / "a.csv"), clip(name)))
    assert row["source"] == name
    assert row["label"] == "happiness"


def test_formats_are_split_and_checked() -> None:
    assert check_formats("csv,jsonl") == ("csv", "jsonl")
    assert check_formats(" JSONL, csv,csv,") == ("jsonl", "csv")
    with pytest.raises(ConfigError, match=r"format 'ods': unknown; choose from csv, parquet, xlsx, jsonl"):
        check_formats("csv,ods")
    with pytest.raises(ConfigError, match="no output format"):
        check_formats(" , ")

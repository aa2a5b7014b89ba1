"""Files for other programs, read back by other people's readers."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas
import pyarrow.parquet
import pysubs2
import pytest
import webvtt
from film_events import CAPTION, DONE, EVENTS, LEAD, OPENED, SETTINGS, clip, findings, frame, saved
from hypothesis import given
from hypothesis import strategies as st
from pympi.Elan import Eaf
from pympi.Praat import TextGrid

from streamfer.export.folder import SourceFolder
from streamfer.export.job import Job
from streamfer.export.segments import Film, Segment, segments_of
from streamfer.export.tables import table_of, write
from streamfer.pipeline.events import Event, SourceOpened
from streamfer.records import ClipLabelled, Record
from streamfer.video.locate import SourceSpec


def segments(*events: Event) -> list[tuple[str, float, float, str]]:
    return [(one.tier, one.begin, one.end, one.value) for one in segments_of(findings(OPENED, *events))]


def test_the_clip_whose_centre_is_nearest_speaks() -> None:
    found = [one for one in segments(*EVENTS[41:45]) if one[0] == "emotion"]
    # Centres lie at 0.9375, 1.9375, 2.9375, 3.9375.
    assert found == [("emotion", 0.0, 2.438, "neutral"), ("emotion", 2.438, 4.875, "happiness")]


def test_clips_that_follow_without_overlap_touch_and_distant_ones_do_not() -> None:
    one, next_, later = clip(0.0, "neutral"), clip(2.0, "neutral"), clip(6.0, "neutral")
    assert segments(one, next_) == [("emotion", 0.0, 3.875, "neutral")]
    assert segments(one, later) == [("emotion", 0.0, 1.875, "neutral"), ("emotion", 6.0, 7.875, "neutral")]


def test_no_segment_goes_on_after_its_person_was_seen_last() -> None:
    # Clips end at 2.875 and 3.875, the last frame is at 3.5.
    seen = [frame(number) for number in range(29)]
    assert segments(*seen, clip(1.0, "neutral"), clip(2.0, "neutral")) == [("emotion", 1.0, 3.5, "neutral")]
    assert segments(*seen, clip(1.0, "neutral"), clip(4.0, "neutral")) == [("emotion", 1.0, 2.875, "neutral")]


def test_a_unit_has_a_segment_only_while_it_is_present() -> None:
    found = [one for one in segments(*EVENTS[41:45]) if one[0] == "AU12"]
    assert found == [("AU12", 2.438, 4.875, "AU12")]
    assert not [one for one in segments(*EVENTS[41:45]) if one[0] == "AU06"]


@given(st.lists(st.tuples(st.integers(0, 80), st.sampled_from(["happiness", "neutral"])), max_size=30))
def test_segments_of_a_tier_never_overlap_and_never_leave_the_clips(clips: list[tuple[int, str]]) -> None:
    records = [clip(begin / 4, label) for begin, label in clips]
    found = segments(*records)
    for one, other in pairwise(found):
        assert one[2] <= other[1]
        assert one[2] < other[1] or one[3] != other[3]
    covered = {moment / 4 for begin, _ in clips for moment in range(begin, begin + 7)}
    assert all(any(begin <= moment <= end for _, begin, end, _ in found) for moment in covered)


def test_an_intensity_at_the_threshold_is_present() -> None:
    for smile, present in ((0.5, True), (0.499, False)):
        assert bool([one for one in segments(clip(0.0, "neutral", smile=smile)) if one[0] == "AU12"]) == present


def test_people_and_the_file_have_both_times() -> None:
    for name in ("tracks", "files"):
        row = table_of(name, findings(*EVENTS, DONE)).data_frame().iloc[0]
        assert (row.media_start_s, row.media_end_s) == (LEAD, 39 / 8 + LEAD)


def test_the_table_of_segments_has_both_times_and_the_mean_over_time() -> None:
    table = table_of("segments", findings(*EVENTS, DONE)).data_frame()
    row = table[(table.tier == "emotion") & (table.track == 1)].iloc[0]
    assert (row.begin_s, row.end_s, row.media_begin_s, row.media_end_s) == (0.0, 2.438, 2.0, 4.438)
    assert row.probability == pytest.approx((0.5 * 1.4375 + 0.75 * 1.0) / 2.4375, abs=1e-3)


def test_elan_reads_its_file(tmp_path: Path) -> None:
    eaf = Eaf(saved(tmp_path, "eaf")(".eaf"))
    assert "Person 1 emotion" in eaf.get_tier_names()
    assert eaf.get_annotation_data_for_tier("Person 1 emotion") == [(2000, 4438, "neutral"), (4438, 6875, "happiness")]
    assert eaf.get_annotation_data_for_tier("Person 1 AU12") == [(4438, 6875, "AU12")]
    assert eaf.get_annotation_data_for_tier("Person 1 caption") == [(4000, 5875, CAPTION)]
    assert eaf.get_parameters_for_tier("Person 2 emotion")["PARTICIPANT"] == "t2"
    (media,) = eaf.get_linked_files()
    assert (media["RELATIVE_MEDIA_URL"], media["MIME_TYPE"]) == ("../videos/film.mp4", "video/mp4")
    assert media["MEDIA_URL"] == (tmp_path / "videos" / "film.mp4").as_uri()
    _, entries = eaf.controlled_vocabularies["emotion"][:2]
    assert {values[0][0] for values, _ in entries.values()} == {"happiness", "neutral"}
    assert eaf.get_parameters_for_linguistic_type("emotion")["CONTROLLED_VOCABULARY_REF"] == "emotion"


def test_a_name_that_xml_cannot_hold_is_still_a_link(tmp_path: Path) -> None:
    spec = SourceSpec(str(tmp_path / "a\x01\udce9 b.mp4"), "film.mp4", "file")
    write(".eaf", tmp_path / "film.eaf", Film(findings(*EVENTS), Job(tmp_path / "film", SETTINGS, spec=spec)))
    (media,) = Eaf(tmp_path / "film.eaf").get_linked_files()
    assert (media["RELATIVE_MEDIA_URL"], Path(media["MEDIA_URL"]).name) == ("./a%01%E9 b.mp4", "a%01%E9%20b.mp4")


def test_praat_reads_its_file(tmp_path: Path) -> None:
    grid = TextGrid(saved(tmp_path, "textgrid")(".TextGrid"))
    tiers = {tier.name: list(tier.get_intervals()) for tier in grid.tiers}
    assert (grid.xmin, grid.xmax) == (0, 12)
    told = [one for one in tiers["Person 1 emotion"] if one[2]]
    assert told == [(2.0, 4.438, "neutral"), (4.438, 6.875, "happiness")]
    assert all(one[1] == other[0] for one, other in pairwise(tiers["Person 1 AU12"]))


@pytest.mark.parametrize("described", [True, False])
def test_subtitles_are_valid_and_short(tmp_path: Path, described: bool) -> None:
    path = saved(tmp_path, "srt", "vtt", events=EVENTS if described else EVENTS[:-1])
    srt, vtt = pysubs2.load(str(path(".srt"))), webvtt.read(str(path(".vtt"))).captions
    assert len(srt) == len(vtt) > 1
    for line, cue in zip(srt, vtt, strict=True):
        assert cue.start_in_seconds <= line.start / 1000 < line.end / 1000
        assert all(len(part) <= 42 for part in line.plaintext.splitlines())
        assert len(line.plaintext.splitlines()) <= 2
    spoken = " ".join(line.plaintext.replace("\n", " ") for line in srt)
    if described:
        assert "She says" in spoken
        assert " ".join(cue.text.replace("\n", " ") for cue in vtt).startswith('She says "hello"')
        assert (srt[0].start, srt[-1].end) == (4000, 5875)
    else:
        assert (srt[0].start, srt[0].end, srt[0].plaintext) == (2000, 4438, "Person 1: neutral 60%")
        assert vtt[0].voice == "Person 1"


def test_boris_has_a_start_and_a_stop_for_each_segment(tmp_path: Path) -> None:
    project = json.loads(saved(tmp_path, "boris")(".boris").read_text())
    (observation,) = project["observations"].values()
    codes = {behaviour["code"] for behaviour in project["behaviors_conf"].values()}
    subjects = {subject["name"] for subject in project["subjects_conf"].values()}
    assert codes == {"happiness", "neutral", "AU12", "caption"}
    assert CAPTION in [comment for *_, comment in observation["events"]]
    for behaviour in project["behaviors_conf"].values():
        assert behaviour["category"] in project["behavioral_categories"]
    assert subjects == {"Person 1", "Person 2"}
    running: set[tuple[str, str]] = set()
    for _, subject, code, _, _ in observation["events"]:
        assert code in codes
        assert subject in subjects
        running ^= {(subject, code)}
    assert not running
    assert [event[0] for event in observation["events"]] == sorted(event[0] for event in observation["events"])
    assert observation["file"]["1"] == [str(tmp_path / "videos" / "film.mp4")]


def test_bids_has_events_and_a_recording(tmp_path: Path) -> None:
    path = saved(tmp_path, "bids")
    events = pandas.read_csv(path("_events.tsv"), sep="\t", na_values="n/a")
    assert list(events.columns[:3]) == ["onset", "duration", "trial_type"]
    assert events.onset.is_monotonic_increasing
    # What bids-validator-deno 3.0 refuses: values that are no level, columns of the standard redefined.
    sidecar = json.loads(path("_events.json").read_text())
    assert set(sidecar) >= set(events.columns[2:])
    assert not {"onset", "duration"} & set(sidecar)
    assert set(events.trial_type) <= set(sidecar["trial_type"]["Levels"])
    assert CAPTION in events.text[events.trial_type == "caption"].tolist()
    facts = json.loads(path("_recording-faces_physio.json").read_text())
    assert (facts["SamplingFrequency"], facts["StartTime"]) == (8.0, 2.0)
    with gzip.open(path("_recording-faces_physio.tsv.gz"), "rt") as file:
        values = pandas.read_csv(io.StringIO(file.read()), sep="\t", names=facts["Columns"], na_values="n/a")
    assert values.shape == (40, 4)
    assert values["P1_AU12"].isna().sum() == 1
    assert values["P2_AU06"].dropna().eq(0.1).all()


def test_files_of_bids_keep_the_entities_of_the_video(tmp_path: Path) -> None:
    name = "sub-01/sub-01_task-talk_video.mp4"
    source = SourceFolder(tmp_path, SourceSpec(name, name, "file"), replace(SETTINGS, formats=("bids", "eaf")))
    assert [path.name for path in source.paths][::4] == [
        "sub-01_task-talk_events.tsv",
        "sub-01_task-talk_video.mp4.eaf",
    ]


@pytest.mark.parametrize("name", ["clips", "frames", "tracks", "segments", "captions"])
def test_parquet_and_excel_hold_what_csv_holds(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, "csv", "parquet", "xlsx")
    text = {"track_id": str, "clip_id": str, "reason": str, "caption": str, "keyframes_s": str}
    csv = pandas.read_csv(path(f".{name}.csv"), dtype=text)
    parquet = pandas.read_parquet(path(f".{name}.parquet"))
    excel = pandas.read_excel(path(".xlsx"), sheet_name=name, dtype=text)
    pandas.testing.assert_frame_equal(parquet.replace({None: np.nan}), csv, check_dtype=False)
    pandas.testing.assert_frame_equal(excel, csv, check_dtype=False)
    schema = pyarrow.parquet.read_schema(path(f".{name}.parquet"))
    assert str(schema.field("track").type) == "int64"
    assert str(schema.field("source").type) == "string"


def test_other_readers_of_parquet(tmp_path: Path) -> None:
    path = saved(tmp_path, "parquet")(".frames.parquet")
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    assert polars.read_parquet(path)["AU12_r"].mean() == 0.5
    assert duckdb.sql(f"select count(*), max(media_seconds) from '{path}'").fetchall() == [(79, 6.875)]


@pytest.mark.parametrize("name", ["=1+1.mp4", "+x.mp4", "-x.mp4", "@x.mp4", "\tx.mp4", "x.mp4", 'ü;,"x.mp4'])
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    events = [replace(event, source_id=name) if not isinstance(event, Record) else event for event in EVENTS[:8]]
    path = saved(tmp_path, "csv", "xlsx", events=events, dialect="excel")
    raw = path(".frames.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbfsource,")
    assert raw.count(b"\r\n") == len(raw.decode().splitlines()) if "\n" not in name else True
    rows = pandas.read_csv(path(".frames.csv"), encoding="utf-8-sig")
    assert set(rows.source) == {name if name[0] in "xü" else f"'{name}"}
    sheet = openpyxl.load_workbook(path(".xlsx"))["frames"]
    cell = sheet.cell(2, 1)
    assert (cell.data_type, cell.value) == ("s", name)


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    formats = ("csv", "parquet", "xlsx", "srt", "vtt", "eaf", "textgrid", "boris", "bids")
    first = saved(tmp_path, *formats)("")
    before = {path.name: path.read_bytes() for path in first.parent.iterdir()}
    saved(tmp_path, *formats)
    assert before == {path.name: path.read_bytes() for path in first.parent.iterdir()}


def test_openface_scripts_find_their_columns(tmp_path: Path) -> None:
    path = saved(tmp_path, "csv", profile="openface")
    assert not path(".frames.csv").exists()
    table = pandas.read_csv(path(".openface.csv"))
    units = ["01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45"]
    assert list(table.columns[:5]) == ["frame", "face_id", "timestamp", "confidence", "success"]
    assert list(table.columns[5:22]) == [f"AU{unit}_r" for unit in units]
    assert list(table.columns[22:]) == [f"AU{unit}_c" for unit in [*units[:-1], "28", units[-1]]]
    good = table[table.success == 1]
    assert (good.AU12_r.unique().tolist(), good.AU12_c.unique().tolist()) == ([2.5], [1])
    assert (len(table), len(good), good.face_id.unique().tolist(), good.frame.iloc[0]) == (79, 78, [0, 1], 1)


def test_pyfeat_scripts_find_their_columns(tmp_path: Path) -> None:
    table = pandas.read_parquet(saved(tmp_path, "parquet", profile="pyfeat")(".pyfeat.parquet"))
    assert list(table.columns[:6]) == ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore", "AU01"]
    assert {"anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "frame", "input"} < set(table)
    row = table[(table.Identity == 1) & (table.approx_time == 3.0)].iloc[0]
    assert (row.FaceRectX, row.FaceRectWidth, row.AU12, row.happiness, row.neutral) == (160.0, 128.0, 0.5, 0.875, 0.0)


@pytest.mark.parametrize("profile", ["streamfer", "openface", "pyfeat"])
def test_where_emotions_are_withheld_no_file_speaks_of_them(tmp_path: Path, profile: str) -> None:
    def withheld(event: Event) -> Event:
        if isinstance(event, SourceOpened):
            return replace(event, classes=())
        if not (isinstance(event, Record) and isinstance(event.data, ClipLabelled)):
            return event
        blank: dict[str, Any] = {"emotions": {}, "top": None, "reason": "withheld"}
        faces = tuple(face.model_copy(update=blank) for face in event.data.faces)
        return Record.of(event.data.model_copy(update={"faces": faces}), source_id="film.mp4")

    formats = ("csv", "jsonl", "srt", "vtt", "eaf", "textgrid", "boris", "bids", "html")
    values = {**SETTINGS.values, "model": "mini"}
    saved(tmp_path, *formats, events=[*map(withheld, EVENTS[:-1])], profile=profile, values=values)
    for path in (tmp_path / "out").iterdir():
        if path.suffix not in (".gz", ".json"):
            text = path.read_text()
            if path.suffix == ".html":
                text = text.partition('id="data">')[2].partition("</script>")[0]
            found = re.findall(r"anger|disgust|fear|happi|neutral|sad|surpris|unsure|emotion\b(?!s)", text)
            assert not set(found) - {"emotion" if path.suffix == ".html" else ""}, (path.name, found)


def test_a_person_of_a_later_epoch_is_somebody_else() -> None:
    segment = Segment("emotion", "a", 1, 1, 0, 1, 0, 1, "x", None)
    assert (segment.person, replace(segment, epoch=0).person) == ("Person 2.1", "Person 1")

"""Records: strict writing, lenient reading, CloudEvents fields, golden files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from record_examples import SCHEMAS, examples, labelled, labelled_with_units, load_schema, span

from streamfer.errors import RecordError
from streamfer.records import DOCUMENTS, UNSURE, RawDocument, Record
from streamfer.records.documents import read_document
from streamfer.records.envelope import line_to_fields

GOLDEN = Path(__file__).parent / "records_golden"


def test_the_examples_cover_every_document() -> None:
    assert set(examples()) == {document.kind for document in DOCUMENTS}


@pytest.mark.parametrize("kind", sorted(examples()))
def test_golden_record(kind: str) -> None:
    """A golden file changes only when the schema's major version does; new optional fields get new files."""
    golden = (GOLDEN / f"{kind}.jsonl").read_text(encoding="utf-8")
    assert examples()[kind].to_json() + "\n" == golden
    assert Record.from_json(golden) == examples()[kind]


def test_golden_record_with_action_units() -> None:
    golden = (GOLDEN / "clip.labelled.v1.action_units.jsonl").read_text(encoding="utf-8")
    record = labelled_with_units()
    assert record.to_json() + "\n" == golden
    assert Record.from_json(golden) == record
    jsonschema.Draft202012Validator(load_schema("clip.labelled.v1")).validate(json.loads(golden)["data"])
    # Beside the new fields it is what older readers know, under the same id.
    older, face = json.loads(golden), json.loads(golden)["data"]["faces"][0]
    assert face.pop("action_units") == {"AU06": 0.456789, "AU12": 0.5}
    assert face.pop("action_units_peak") == {"AU06": 0.875, "AU12": 1.0}
    older["data"]["faces"] = [face]
    assert older == json.loads((GOLDEN / "clip.labelled.v1.jsonl").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", sorted(examples()))
def test_a_line_and_fields_hold_the_same(kind: str) -> None:
    record = replace(examples()[kind], subject='a,"data":{"b}\u2028"', sequence=7)
    for one in (record, replace(record, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")):
        assert line_to_fields(one.to_json()) == one.to_fields()
        assert Record.from_json(one.to_json()) == Record.from_fields(one.to_fields()) == one


@pytest.mark.parametrize(
    "line", ["", "[]", '{"id":"a"}', '"x","data":1}', '{"id":"a","data":{}}', '{"id":"a","subject":"b","type":"c"']
)
def test_a_line_that_is_no_record_has_no_fields(line: str) -> None:
    with pytest.raises(RecordError, match="malformed record"):
        line_to_fields(line)


@pytest.mark.parametrize("box", [(320, 180, 64, 64), (0.2, 0.1, 0.2, 90), (-6, 0, 1, 1), (0, 0, -0.1, 1)])
def test_boxes_are_fractions(box: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        labelled(box=box)
    assert labelled(box=(-0.2, 0.9, 0.5, 0.3)).faces[0].box == (-0.2, 0.9, 0.5, 0.3), "the border cuts it"


def test_no_stale_schema_files() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {document.kind for document in DOCUMENTS}


@pytest.mark.parametrize("kind", sorted(examples()))
def test_records_obey_their_schema(kind: str) -> None:
    schema = load_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    data = json.loads(examples()[kind].to_fields()["data"])
    validator.validate(data)
    validator.validate({**data, "added_later": 1})
    for name in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({key: value for key, value in data.items() if key != name})


@pytest.mark.parametrize("kind", sorted(examples()))
def test_fields_round_trip_as_text_and_bytes(kind: str) -> None:
    record = examples()[kind]
    fields = record.to_fields()
    assert Record.from_fields(fields) == record
    assert Record.from_fields({k.encode(): v.encode() for k, v in fields.items()}) == record


def test_cloudevents_fields() -> None:
    fields = examples()["clip.labelled.v1"].to_fields()
    data = json.loads(fields.pop("data"))
    assert fields == {
        "ce_specversion": "1.0",
        "ce_id": examples()["clip.labelled.v1"].id,
        "ce_source": "/streamfer/local",
        "ce_subject": "hall",
        "ce_type": "streamfer.clip.labelled.v1",
        "ce_time": "2026-03-04T05:06:06.875000Z",
        "ce_recordedtime": "2026-03-04T05:06:07.890123Z",
        "ce_sequence": "00000000000000000007",
        "ce_dataschema": "urn:streamfer:schema:clip.labelled.v1",
        "content-type": "application/json",
    }
    assert data["clip"]["time_base"] == [1, 1000]
    assert data["faces"][0]["box"] == [0.25, 0.123457, 0.2, 0.3]
    assert data["faces"][0]["emotions"] == {"happiness": 0.7, "neutral": 0.333333}
    assert "valence" not in data["faces"][0]
    assert data["latency_ms"]["decode"] == 1.235


@pytest.mark.parametrize("origin", ["file", "pts_only"])
def test_no_capture_time_without_a_wall_clock(origin: str) -> None:
    record = Record.of(labelled(span(time_origin=origin, start_time=0, end_time=2)), source_id="film.mp4")
    assert record.time is None
    assert "ce_time" not in record.to_fields()
    assert Record.from_fields(record.to_fields()) == record


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(0, 1e6),
    st.text(min_size=1),
)
def test_what_is_in_memory_equals_what_was_written(
    probabilities: list[float], start: float, length: float, subject: str
) -> None:
    emotions = {f"label{i}": value for i, value in enumerate(probabilities)}
    clip = span(start_time=start, end_time=start + length, time_origin="file")
    document = labelled(clip, emotions=emotions, top="label0")
    if any("\ud800" <= character <= "\udfff" for character in subject):
        with pytest.raises(RecordError):
            Record.of(document, source_id=subject)
        return
    record = Record.of(document, source_id=subject)
    assert Record.from_fields(record.to_fields()) == record
    assert Record.from_json(record.to_json()) == record


def test_a_softmax_slightly_above_one_is_accepted() -> None:
    assert labelled(emotions={"anger": 1.0000001}, top="anger").faces[0].emotions["anger"] == 1.0


def test_a_face_that_cannot_be_read_has_a_reason_and_keeps_its_probabilities() -> None:
    document = labelled(top=None, reason="turned")
    face = document.faces[0]
    assert (face.label, face.probability) == (UNSURE, max(face.emotions.values()))
    written = json.loads(document.to_json())["faces"][0]
    # Other null fields are left out; readers look for this one.
    assert written["top"] is None
    assert written["reason"] == "turned"
    assert "valence" not in written
    assert read_document("clip.labelled.v1", document.to_json()) == document
    jsonschema.validate(json.loads(document.to_json()), load_schema("clip.labelled.v1"))
    named = labelled().faces[0]
    assert (named.label, named.probability) == (named.top, named.emotions[named.top or ""])
    assert "reason" not in json.loads(labelled().to_json())["faces"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"emotions": {"happiness": 1.1}},
        {"emotions": {"happiness": float("nan")}},
        {"emotions": {}},
        {"top": "joy"},
        {"top": None},
        {"reason": "small"},
        {"top": None, "reason": "tired"},
        {"box": (0, 0, -0.1, 0.1)},
        {"valence": 1.5},
        {"mood": "fine"},
        {"action_units": {"AU12": 0.5}},
        {"action_units_peak": {"AU12": 0.5}},
        {"action_units": {"AU12": 0.5}, "action_units_peak": {"AU06": 0.5}},
        {"action_units": {"AU12": 1.5}, "action_units_peak": {"AU12": 1.5}},
        {"action_units": {}, "action_units_peak": {}},
    ],
)
def test_writing_is_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        labelled(**wrong)


@pytest.mark.parametrize("wrong", [{"end_pts": -1}, {"end_time": 0.0}, {"frames_real": 17}, {"time_base": (1, 0)}])
def test_a_span_is_consistent(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        span(**wrong)


def test_documents_are_frozen() -> None:
    with pytest.raises(ValidationError):
        labelled().clip.epoch = 3  # type: ignore[misc]


def test_reading_ignores_fields_added_later() -> None:
    record = examples()["clip.labelled.v1"]
    fields = record.to_fields()
    data = json.loads(fields["data"])
    data["heart_rate"] = 60
    data["faces"][0]["gaze"] = [0, 1]
    assert Record.from_fields({**fields, "ce_new": "x", "data": json.dumps(data)}) == record


def test_what_is_of_a_later_version_stays_as_it_is() -> None:
    fields = {
        **examples()["clip.labelled.v1"].to_fields(),
        "ce_type": "streamfer.clip.labelled.v2",
        "data": '{"é":[1]}',
    }
    record = Record.from_fields(fields)
    assert isinstance(record.data, RawDocument)
    assert record.data.fields == {"é": [1]}
    assert (record.run_id, examples()["clip.labelled.v1"].run_id) == ("", "r1")
    for again in (record, Record.from_json(record.to_json())):
        assert again.to_fields() == {**fields, "ce_dataschema": "urn:streamfer:schema:clip.labelled.v2"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ce_type": "streamfer.clip.labelled.v2", "data": "{"}, "not JSON"),
        ({"ce_type": "com.example.thing"}, "foreign type"),
        ({"ce_specversion": "0.3"}, "CloudEvents"),
        ({"ce_id": ""}, "no attribute id"),
        ({"ce_recordedtime": "yesterday"}, "recordedtime"),
        ({"ce_recordedtime": "2026-01-01T00:00:00"}, "recordedtime needs to be a time with its zone"),
        ({"ce_sequence": "-1"}, "sequence"),
        ({"content-type": "application/msgpack"}, "content-type"),
        ({"data": "{"}, "malformed"),
        ({"data": "[]"}, "malformed"),
        ({"data": '{"clip": 1}'}, "clip"),
    ],
)
def test_malformed_entries_are_one_clear_line(changes: dict[str, str], word: str) -> None:
    with pytest.raises(RecordError, match=word) as caught:
        Record.from_fields({**examples()["clip.labelled.v1"].to_fields(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["", "no", "[]", "{}", '{"data": {}}', '"data"'])
def test_malformed_lines(line: str) -> None:
    with pytest.raises(RecordError):
        Record.from_json(line)


def test_entry_that_is_not_text() -> None:
    with pytest.raises(RecordError, match="UTF-8"):
        Record.from_fields({b"ce_id": b"\xff"})
    with pytest.raises(RecordError, match="no field 'data'"):
        Record.from_fields({})


def test_times_are_written_in_utc() -> None:
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    fields = Record.of(labelled(), source_id="a", recordedtime=east).to_fields()
    assert fields["ce_recordedtime"] == "2026-01-01T00:00:00.000000Z"

"""Thinning of videos and splitting of people hold for any data; the authors' files are read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions.files import read_answers, read_captions
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.datasets.samples import Sample, sequences, split_subjects, thin_out


def video(units: list[frozenset[int]]) -> list[Sample]:
    return [Sample(Path(f"{n}.jpg"), "p", FaceLabels(u), "s", n) for n, u in enumerate(units)]


@given(st.lists(st.frozensets(st.sampled_from([1, 4, 12]), max_size=2), max_size=60))
def test_thinning_keeps_every_tenth_and_every_change(units: list[frozenset[int]]) -> None:
    kept = {sample.frame for sample in thin_out(video(units))}
    wanted = {n for n in range(len(units)) if n % 10 == 0 or units[n] != units[n - 1]}
    assert kept == wanted


@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=30), st.integers(0, 5))
def test_people_are_split_the_same_way_in_any_order(people: set[str], seed: int) -> None:
    held = split_subjects(sorted(people), 1, seed)
    assert held == split_subjects(sorted(people, reverse=True), 1, seed)
    assert len(held) == 1
    assert held < people
    with pytest.raises(ConfigError, match="leaves none on one side"):
        split_subjects(people, len(people))


def test_sequences_are_kept_apart_and_ordered() -> None:
    frames = [Sample(Path(f"{s}{n}"), "p", FaceLabels.of([]), s, n) for n in (10, 9, 2) for s in ("a", "b")]
    assert [[f.frame for f in group] for group in sequences(frames)] == [[2, 9, 10], [2, 9, 10]]
    assert [{f.sequence for f in group} for group in sequences(frames)] == [{"a"}, {"b"}]


def _file(folder: Path, entries: list[dict[str, object]]) -> Path:
    path = folder / "train.json"
    path.write_text(json.dumps(entries, indent=1))
    return path


def test_caption_files(tmp_path: Path) -> None:
    path = _file(tmp_path, [{"image": "a.jpg", "image_id": 7, "caption": "The person smiles."}])
    (pair,) = read_captions(path)
    assert (pair.image, pair.text) == (Path("a.jpg"), "The person smiles.")
    with pytest.raises(ConfigError, match=r"picture .*a\.jpg is missing"):
        read_captions(path, images=tmp_path)
    (tmp_path / "a.jpg").touch()
    assert len(read_captions(path, images=tmp_path)) == 1
    with pytest.raises(RecordError, match=r"train\.json, entry 1 \(line 2\): field caption is missing"):
        read_captions(_file(tmp_path, [{"image": "a.jpg"}]))


def test_question_files_of_both_kinds(tmp_path: Path) -> None:
    entry: dict[str, object] = {
        "image": "a.jpg",
        "image_id": "a",
        "area": "mouth",
        "text_input": "What?",
        "text_output": "A smile.",
    }
    (found,) = read_answers(_file(tmp_path, [entry]))
    assert (found.question, found.text) == ("What?", "A smile.")
    (older,) = read_answers(_file(tmp_path, [{"image": "a.jpg", "question": "Is it?", "answer": "yes"}]))
    assert (older.question, older.text) == ("Is it?", "yes")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"image": "a.jpg", "image_id": "a", "text_input": "What?"},
            r"entry 1 \(line 2\): field text_output is missing",
        ),
        ({"image": "a.jpg", "image_id": "a", "text_input": " ", "text_output": "x"}, "field text_input must be a text"),
        ({"image": "../a.jpg", "image_id": "a", "text_input": "q", "text_output": "x"}, "leaves the root of pictures"),
        ({"image": "/a.jpg", "image_id": "a", "text_input": "q", "text_output": "x"}, "leaves the root of pictures"),
        ({"image": None, "image_id": "a", "text_input": "q", "text_output": "x"}, "field image must be a text"),
    ],
)
def test_what_an_entry_lacks_is_named(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_answers(_file(tmp_path, [entry]))

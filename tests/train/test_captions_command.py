"""The command: files in the authors' forms, and one clear line for what is wrong with a label file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfer.captions.reading import read
from streamfer.errors import ConfigError, RecordError
from streamfer_train.captions import __main__ as command
from streamfer_train.captions.files import read_entries, write_entries

LABELS = [
    {"image": "a.jpg", "image_id": "x1", "action_units": [4, "15D"], "emotions": ["sad"]},
    {"image": "b.jpg", "action_units": []},
    {"image": "c.jpg", "emotions": ["happy"]},
]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(LABELS, indent=1))
    return path


def run(name: str, labels: Path, out: Path, *more: str) -> list[dict[str, object]]:
    assert command.main([name, "--labels", str(labels), "--out", str(out), *more]) == 0
    return [dict(entry.fields) for entry in read_entries(out)]


def test_rules(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("rules", labels, tmp_path / "o.json")
    assert made == [
        {
            "image": "a.jpg",
            "image_id": "x1",
            "caption": "It is a people who lowers brow and depresses lip corner. The face shows sadness.",
        },
        {"image": "c.jpg", "image_id": 2, "caption": "The face shows happiness."},
    ]
    assert "1 faces without labels to speak of" in capsys.readouterr().out


def test_grammar(labels: Path, tmp_path: Path) -> None:
    made = run("grammar", labels, tmp_path / "o.jsonl", "--per-image", "3")
    assert [entry["image"] for entry in made] == ["a.jpg"] * 3 + ["b.jpg"] * 3 + ["c.jpg"] * 3
    assert [read(str(entry["caption"])).units for entry in made] == [{4, 15}] * 3 + [set()] * 6
    assert made == run("grammar", labels, tmp_path / "again.jsonl", "--per-image", "3")
    assert made != run("grammar", labels, tmp_path / "other.jsonl", "--per-image", "3", "--seed", "1")


def test_questions(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("questions", labels, tmp_path / "o.json")
    assert {frozenset(entry) for entry in made} == {frozenset({"image", "image_id", "text_input", "text_output"})}
    assert "3 global" in capsys.readouterr().out


def test_check_names_what_is_wrong(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image": "a.jpg", "caption": "The person smiles."}\n'
                        '{"image": "b.jpg", "caption": "The face is at rest."}\n')  # fmt: skip
    assert command.main(["check", "--labels", str(labels), "--captions", str(captions)]) == 1
    said = capsys.readouterr().out
    assert f"{captions}, line 1: names unit 12 (lip corner puller), which is absent" in said
    assert "2 captions checked, 1 refused" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[\n{"image": "a", "action_units": [1]},\n{"action_units": [1]}\n]',
            "entry 2 (line 3): field image is missing",
        ),
        ('[{"image": "a", "action_units": [99]}]', "entry 1 (line 1): action unit 99: is none of the 27"),
        ('{"image": "a", "action_units": [1]}\n\n{"image": "b"}', "line 3: fields action_units and emotions are both"),
        ('[{"image": "a"}\n {"image": "b"}]', "line 2: is no JSON (Expecting ',' delimiter)"),
        ('[{"image": "a",}]', "line 1: is no JSON"),
        ('[{"image": "a"}', "is no JSON"),
        ("[1]", "entry 1 (line 1): is no object"),
        ("[] []", "line 1: is no JSON (Extra data)"),
        ('[{"image": 3, "emotions": "sad"}]', "field image must be a text that is not empty, not 3"),
        ("", "is empty"),
        ("[]", "names no picture"),
    ],
)
def test_what_is_wrong_with_a_label_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    assert command.main(["grammar", "--labels", str(path), "--out", str(tmp_path / "o.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"streamfer: {path}")
    assert said.count("\n") == 1
    assert not (tmp_path / "o.json").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_entries(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"[\xff]")
    with pytest.raises(RecordError, match="is no UTF-8"):
        read_entries(tmp_path / "x.json")


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none(), max_size=3), max_size=5))
def test_lists_come_back(tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, object]]) -> None:
    folder = tmp_path_factory.mktemp("files")
    assert write_entries(folder / "a.json", entries) == len(entries)
    if entries:
        assert [entry.fields for entry in read_entries(folder / "a.json")] == entries
        write_entries(folder / "a.jsonl", entries)
        assert [entry.fields for entry in read_entries(folder / "a.jsonl")] == entries


def test_nothing_is_left_of_a_list_that_breaks_off(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield {"image": "a"}
        raise RecordError("broken")

    with pytest.raises(RecordError, match="broken"):
        write_entries(tmp_path / "a.json", broken())
    assert list(tmp_path.iterdir()) == []

"""A real Exp-VQA, tiny and random, behind ``ask`` and ``annotate --captions``: the whole way on a real face."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from command_line import streamfer
from lavis_checkpoint import Sizes, make_state, question_tokenizer, write_checkpoint, write_language_model

from streamfer.captions import import_lavis
from streamfer.captions.card import CARD_FILE
from streamfer.records import ClipCaptioned, ClipLabelled, Record


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny Exp-VQA with random weights."""
    base = tmp_path_factory.mktemp("exp-vqa")
    sizes = dataclasses.replace(Sizes(blocks=1, layers=2), kind="exp-vqa")
    write_language_model(base / "language", sizes)
    question_tokenizer().save_pretrained(base / "words")
    write_checkpoint(base / "official.pth", make_state(sizes, len(question_tokenizer()) + 1))
    import_lavis(
        base / "official.pth",
        "exp-vqa",
        language_model=base / "language",
        question_tokenizer=base / "words",
        output=base / "exp-vqa",
    )
    # The tiny language model has places for 256 tokens, keyframes and question among them.
    card = base / "exp-vqa" / CARD_FILE
    facts = json.loads(card.read_text(encoding="utf-8"))
    facts["text"].update(max_new_tokens=12, num_beams=1)
    card.write_text(json.dumps(facts), encoding="utf-8")
    return base / "exp-vqa"


def test_a_real_model_answers_about_a_real_face(captioner: Path, face_film: Path, tiny_model: Path) -> None:
    settings = ("--captioner", captioner, "--model", tiny_model, "--detector", "lbp", "--device", "cpu")
    done = streamfer("ask", face_film, "is the lip corner pulled?", "--json", *settings)
    assert (done.code, done.complaints) == (0, [])
    found = json.loads(done.out)
    assert 0 < found["probability"] < 1
    assert (found["text"] == "yes") == (found["probability"] >= 0.5)
    assert found["keyframes"]


def test_files_are_described_by_a_process_of_its_own(
    captioner: Path, face_film: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("-o", tmp_path, "--model", tiny_model, "--detector", "lbp", "--fps", "4", "--device", "cpu")
    asked = ("--captions", "all", "--captioner", captioner, "--set", "captions.device=cpu")
    done = streamfer("annotate", face_film, *words, *asked)
    assert (done.code, done.complaints) == (0, [])
    assert "caption" in done.out
    with (tmp_path / "astronaut.mp4.captions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = (tmp_path / "astronaut.mp4.records.jsonl").read_text(encoding="utf-8").splitlines()
    documents = {record.id: record.data for record in map(Record.from_json, lines)}
    labels = {number for number, data in documents.items() if isinstance(data, ClipLabelled)}
    captions = [data for data in documents.values() if isinstance(data, ClipCaptioned)]
    assert {row["clip_id"] for row in rows} == {data.clip_id for data in captions} == labels
    assert len(labels) >= 2
    assert all(row["caption"] and row["keyframes_s"] and row["model"] == "exp-vqa" for row in rows)

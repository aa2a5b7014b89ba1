"""A captioner's texts measured: perfect captions, captions kept in a file, pictures of any kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.captioners import FakeCaptioner
from PIL import Image
from tiny_faces import write_faces

from streamfer.errors import ConfigError, OutputError
from streamfer_train.exp_blip import evaluate
from streamfer_train.exp_blip.captioned import caption_all, face_of, keep, read_labelled, references_for


def test_perfect_captions_score_perfectly_and_are_made_once(tmp_path: Path) -> None:
    pytest.importorskip("nltk")
    write_faces(tmp_path / "data")
    pictures = read_labelled(tmp_path / "data" / "labels.json", tmp_path / "data")
    references, source = references_for(pictures, None, variants=2)
    assert source.startswith("rule")
    assert references[0][0] == "It is a people who raises cheek and pulls lip corner. The face shows happiness."
    report = evaluate.scores([texts[0] for texts in references], references, pictures, None)
    assert report["agreement"]["micro"]["f1"] == 1.0
    assert report["agreement"]["emotion_agreement"] == 1.0
    assert report["agreement"]["contradictions"] == 0
    assert report["text"]["rouge_l"] == pytest.approx(1.0)
    assert report["floor"]["micro"]["f1"] < 1
    fake = FakeCaptioner()
    first = caption_all(fake, pictures, tmp_path / "captions.jsonl", batch=4)
    stored = (tmp_path / "captions.jsonl").read_text()
    assert len(first) == 9
    # Half a line, as a crash leaves it, is made again.
    lines = stored.splitlines(keepends=True)
    (tmp_path / "captions.jsonl").write_text("".join(lines[:5]))
    assert caption_all(fake, pictures, tmp_path / "captions.jsonl", batch=4) == first
    assert (tmp_path / "captions.jsonl").read_text() == stored
    with pytest.raises(OutputError, match="/dev/full: cannot be written"):
        list(keep(Path("/dev/full"), [{"image": "a.png"}], every=4))
    (tmp_path / "refs.json").write_text(json.dumps([{"image": "faces/00.png", "caption": "a"}]))
    with pytest.raises(ConfigError, match=r"has no caption of faces/01.png"):
        references_for(pictures, tmp_path / "refs.json")


def test_pictures_of_any_kind_are_read(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    face = face_of(tmp_path / "a.png", 28)
    assert face.shape == (28, 28, 3)
    assert face[0, 0].tolist() == [255, 0, 0]

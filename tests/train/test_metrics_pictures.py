"""Pictures are drawn from the numbers: a changed number changes the picture where it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamfer.errors import OutputError
from streamfer_train.metrics import classification, pictures

CLASSES = ("happiness", "sadness", "neutral")


def scored(predictions: list[int], labels: list[int]) -> classification.Report:
    return classification.report(np.eye(3)[predictions] * 4, np.array(labels), CLASSES)


def darkness(path: Path) -> float:
    return float(255 - np.asarray(Image.open(path).convert("L"), dtype=float).mean())


def test_confusion_in_words_and_shades(tmp_path: Path) -> None:
    report = scored([0, 1, 2, 2, 2], [0, 1, 2, 2, 1])
    drawn = pictures.confusion_picture(report, tmp_path / "new" / "confusion.svg", "DFEW fold 1")
    text = drawn.read_text(encoding="utf-8")
    for words in ("DFEW fold 1", "happiness  n=1", "sadness  n=2", "5 clips", f"UAR {report.uar:.2%}"):
        assert words in text
    # Recall concentrated on the diagonal has darker cells than the same clips spread over a row.
    sure = pictures.confusion_picture(scored([0] * 9, [0] * 9), tmp_path / "sure.png", "t")
    spread = pictures.confusion_picture(scored([0, 1, 2] * 3, [0] * 9), tmp_path / "spread.png", "t")
    assert Image.open(sure).size == Image.open(spread).size
    assert darkness(sure) > darkness(spread) + 0.5


def test_curves_carry_their_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, 300)
    hit = random.random(300) < confidence
    curve = classification.risk_coverage(confidence, hit)
    text = pictures.risk_coverage_picture("mini", curve, tmp_path / "risk.svg").read_text(encoding="utf-8")
    assert f"mini  AURC {curve.area:.3f}" in text
    assert f"{curve.risk_at(0.5):.1%}" in text
    error = classification.calibration_error(confidence, hit)
    text = pictures.reliability_picture(confidence, hit, tmp_path / "reliability.svg").read_text(encoding="utf-8")
    assert f"ECE {error:.3f}" in text


def test_a_single_clip_and_a_perfect_model_can_be_drawn(tmp_path: Path) -> None:
    sure, right = np.array([1.0]), np.array([True])
    curve = classification.risk_coverage(sure, right)
    assert pictures.reliability_picture(sure, right, tmp_path / "a.png").stat().st_size > 5_000
    assert pictures.risk_coverage_picture("one", curve, tmp_path / "b.png").stat().st_size > 5_000


def test_bad_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        pictures.confusion_picture(scored([0, 1], [0, 1]), tmp_path / "file" / "picture.png")

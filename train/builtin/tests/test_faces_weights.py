"""The shipped detector: its size, its metadata, and that it finds faces it was never trained on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import cv2
import insightface
import numpy as np
import onnx
import pytest
import skimage.data
from insightface.model_zoo.scrfd import SCRFD

import streamfer
from streamfer_builtin.faces.labels import overlaps

WEIGHTS = Path(streamfer.__file__).parent / "weights" / "faces.onnx"


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(str(WEIGHTS)).metadata_props}


@pytest.fixture(scope="module")
def detector(metadata: dict[str, str]) -> SCRFD:
    made = SCRFD(str(WEIGHTS))
    made.prepare(-1, det_thresh=float(metadata["threshold"]), nms_thresh=float(metadata["nms_overlap"]))
    return made


def test_the_file_is_small_and_described(metadata: dict[str, str]) -> None:
    assert WEIGHTS.stat().st_size <= 1_500_000
    for key in ("name", "format_version", "licence", "training_data", "input", "date", "threshold", "nms_overlap"):
        assert metadata[key], key
    assert 0.1 <= float(metadata["threshold"]) <= 0.9
    assert "third" in metadata["licence"]


def test_the_model_card_lies_beside_it(metadata: dict[str, str]) -> None:
    card = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    for word in ("Licence", "Training data", "Limits", "recall", metadata["threshold"]):
        assert word in card, word


def test_the_astronaut_is_found(detector: SCRFD) -> None:
    picture = np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])
    boxes, landmarks = detector.detect(picture, input_size=(512, 512))
    assert len(boxes) == 1
    assert overlaps(boxes[:, :4], np.array([[170, 60, 272, 195]], np.float32))[0, 0] > 0.5
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_the_six_friends_are_found(detector: SCRFD) -> None:
    path = files(insightface) / "data" / "images" / "t1.jpg"
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    boxes, landmarks = detector.detect(picture, input_size=(640, 640))
    assert len(boxes) == 6
    assert landmarks.shape == (6, 5, 2)
    assert (boxes[:, 4] >= detector.det_thresh).all()


@pytest.mark.parametrize("name", ["brick", "grass", "gravel", "coffee", "chelsea", "page", "rocket", "text"])
def test_pictures_without_people_stay_empty(detector: SCRFD, name: str) -> None:
    picture = getattr(skimage.data, {"chelsea": "cat"}.get(name, name))()
    colour = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., ::-1]
    boxes, _ = detector.detect(np.ascontiguousarray(colour), input_size=(512, 512))
    assert len(boxes) == 0

"""ArcFace as an appearance cue: loaded from a pack, aligned, compared, refused when it is another network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamfer.errors import CheckpointError, ModelError
from streamfer.faces import FaceTracker
from streamfer.faces.appearance import similarity
from streamfer.faces.embedding import ARCFACE_CROP, ArcFaceAppearance, anchored


def write_recogniser(path: Path, side: int = 112) -> Path:
    """Write a network whose embedding is the picture's mean colour, offset to be different for each channel."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Identity", ["mean"], ["embedding"]),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    answer = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "arcface", [image], [answer])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def coloured(*colours: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a frame with a square of each colour, and boxes and landmarks of faces that fill them."""
    image = np.zeros((200, 200 * len(colours), 3), np.uint8)
    for index, colour in enumerate(colours):
        image[:, 200 * index : 200 * (index + 1)] = colour
    centres = np.array([[200 * index + 100, 100] for index in range(len(colours))], np.float32)
    template = np.array(ARCFACE_CROP.landmarks, np.float32)
    landmarks = (template - template.mean(axis=0))[None] + centres[:, None]
    boxes = np.hstack([centres - 40, centres + 40]).astype(np.float32)
    return image, boxes, landmarks


def test_the_same_face_is_alike_and_another_is_not(tmp_path: Path) -> None:
    model = ArcFaceAppearance(write_recogniser(tmp_path / "w600k_toy.onnx"), licence="test")
    descriptors = model(*coloured((255, 0, 0), (255, 0, 0), (0, 255, 0)))
    assert descriptors.shape == (3, 1, 4)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=2), 1, atol=1e-5)
    alike = similarity(descriptors, descriptors)
    assert alike[0, 1] == pytest.approx(1, abs=1e-5)
    # Mean colours (1, -1, -1) and (-1, 1, -1): cosine -1/3.
    assert alike[0, 2] == pytest.approx(0.7 - 0.1, abs=1e-3)


def test_anchored_keeps_the_cosine() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(6, 512)).astype(np.float32)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = anchored(raw)
    np.testing.assert_allclose(found @ found.T, 0.7 + 0.3 * unit @ unit.T, atol=1e-5)


def test_a_tracker_takes_it_and_frames_without_faces_too(tmp_path: Path) -> None:
    from streamfer.faces import Detections

    model = ArcFaceAppearance(write_recogniser(tmp_path / "w600k_toy.onnx"), licence="test")
    image, boxes, landmarks = coloured((255, 0, 0), (0, 0, 255))
    tracker = FaceTracker(8.0, appearance=model)
    found = Detections(boxes, np.array([0.9, 0.9], np.float32), landmarks)
    answers = [tracker.update(image, each) for each in (Detections.empty(), found, found, found)]
    assert [face.track for face in answers[-1].faces] == [1, 2]


def test_it_comes_from_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "buffalo_s"
    folder.mkdir(parents=True)
    monkeypatch.setenv("INSIGHTFACE_ROOT", str(tmp_path))
    with pytest.raises(CheckpointError, match="recognition network"):
        ArcFaceAppearance.from_pack("buffalo_s")
    write_recogniser(folder / "w600k_mbf.onnx")
    assert ArcFaceAppearance.from_pack("buffalo_s", provider="cpu").provider == "CPUExecutionProvider"
    with pytest.raises(ModelError, match="not an insightface pack"):
        ArcFaceAppearance.from_pack("lbp")


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "genderage.onnx", side=96)
    with pytest.raises(CheckpointError, match="not an ArcFace network"):
        ArcFaceAppearance(path, licence="test")

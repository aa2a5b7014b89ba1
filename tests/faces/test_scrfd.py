"""SCRFD decoding against known geometry: a small network in SCRFD's output layout, written by the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamfer.errors import CheckpointError, DeviceError
from streamfer.faces import load_detector
from streamfer.faces.scrfd import ScrfdDetector

#: Distances (left, top, right, bottom) and landmark offsets that the network answers, in units of the stride.
DISTANCES = (1.0, 2.0, 3.0, 4.0)
OFFSETS = (-0.5, -0.5, 0.5, -0.5, 0.0, 0.25, -0.4, 1.0, 0.4, 1.0)


def head(tag: str, kind: str, stride: int, columns: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants of one output: mean brightness of each cell, then a number a column."""
    if kind == "score":
        gain, bias = np.zeros((1, 2)), np.zeros((1, 2))
        gain[0, 0] = 1.0 if stride == 16 else 0.0
    else:
        gain, bias = np.zeros((1, 2 * columns)), np.tile(DISTANCES if kind == "bbox" else OFFSETS, 2)[None]
    numbers: dict[str, Any] = {
        "flat": np.array([-1, 1], np.int64),
        "shape": np.array([-1, columns], np.int64),
        "gain": gain.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    sides = [stride] * 2
    steps = [
        helper.make_node("AveragePool", ["bright"], [f"cell_{tag}"], kernel_shape=sides, strides=sides),
        helper.make_node("Reshape", [f"cell_{tag}", f"flat_{tag}"], [f"column_{tag}"]),
        helper.make_node("Gemm", [f"column_{tag}", f"gain_{tag}", f"bias_{tag}"], [f"wide_{tag}"]),
        helper.make_node("Reshape", [f"wide_{tag}", f"shape_{tag}"], [tag]),
    ]
    return steps, [onnx.numpy_helper.from_array(values, f"{name}_{tag}") for name, values in numbers.items()]


def write_scrfd(
    path: Path,
    *,
    landmarks: bool = True,
    size: tuple[int, int] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a network whose score is the mean brightness of each stride-by-stride cell.

    Outputs as SCRFD orders them: scores, distances and landmarks at strides 8, 16 and 32, two anchors a cell, of
    which the second is always silent. Only stride 16 answers, so that one bright cell is one face.
    """
    height, width = size or ("height", "width")
    nodes, outputs, constants = [], [], []
    nodes.append(helper.make_node("ReduceMean", ["input"], ["grey"], axes=[1], keepdims=1))
    # Input is (pixel - 127.5) / 128: black is about -1, white about 1.
    nodes.append(helper.make_node("Relu", ["grey"], ["bright"]))
    for kind, columns in {"score": 1, "bbox": 4, **({"kps": 10} if landmarks else {})}.items():
        for stride in (8, 16, 32):
            tag = f"{kind}_{stride}"
            steps, numbers = head(tag, kind, stride, columns)
            nodes += steps
            constants += numbers
            outputs.append(helper.make_tensor_value_info(tag, TensorProto.FLOAT, [None, columns]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, height, width])
    graph = helper.make_graph(nodes, "scrfd", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def frame(height: int, width: int, cell: tuple[int, int], stride: int = 16) -> np.ndarray:
    """Return a black frame with one white cell (column, row)."""
    image = np.zeros((height, width, 3), np.uint8)
    column, row = cell
    image[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] = 255
    return image


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scrfd(tmp_path_factory.mktemp("scrfd") / "net.onnx")


def test_boxes_and_landmarks_are_decoded_where_they_are(network: Path) -> None:
    (found,) = load_detector(str(network)).detect([frame(192, 256, (5, 3))])
    assert len(found) == 1
    # Anchor centres lie at cell * stride; distances and offsets are in strides.
    centre = np.array([5 * 16, 3 * 16], np.float32)
    left, top, right, bottom = DISTANCES
    box = [centre[0] - 16 * left, centre[1] - 16 * top, centre[0] + 16 * right, centre[1] + 16 * bottom]
    np.testing.assert_allclose(found.boxes[0], box, atol=1e-3)
    np.testing.assert_allclose(found.landmarks[0], centre + 16 * np.array(OFFSETS).reshape(5, 2), atol=1e-3)
    np.testing.assert_allclose(found.scores[0], 127.5 / 128, atol=1e-3)


def test_a_photograph_has_the_threshold_of_photographs_and_a_frame_that_of_films(tmp_path: Path) -> None:
    path = write_scrfd(tmp_path / "net.onnx", metadata={"threshold": "0.4", "tracking_threshold": "0.6"})
    picture = frame(192, 256, (5, 3)) // 5 * 4  # a face of 0.59
    detector = load_detector(str(path), for_tracking=True)
    assert [len(detector.detect([picture], still=still)[0]) for still in (True, False)] == [1, 0]
    asked = load_detector(str(path), for_tracking=True, threshold=0.7)
    assert not len(asked.detect([picture], still=True)[0]), "one that was asked for is for both"


def test_a_size_that_is_no_multiple_of_the_stride_is_padded(network: Path) -> None:
    (found,) = load_detector(str(network)).detect([frame(170, 250, (2, 7))])
    np.testing.assert_allclose(found.boxes[0][:2], [2 * 16 - 16, 7 * 16 - 32], atol=1e-3)


def test_a_large_frame_is_shrunk_and_boxes_are_scaled_back(network: Path) -> None:
    detector = load_detector(str(network), det_size=320)
    (found,) = detector.detect([frame(480, 640, (4, 6), stride=32)])
    np.testing.assert_allclose(found.boxes[0], [2 * 64 - 32, 3 * 64 - 64, 2 * 64 + 96, 3 * 64 + 128], atol=0.1)


def test_a_network_of_fixed_size_gets_that_size(tmp_path: Path) -> None:
    path = write_scrfd(tmp_path / "fixed.onnx", size=(160, 160))
    detector = load_detector(str(path))
    (found,) = detector.detect([frame(320, 320, (3, 4), stride=32)])
    np.testing.assert_allclose(found.boxes[0][:2], [3 * 32 - 32, 4 * 32 - 64], atol=0.2)
    (small,) = detector.detect([frame(96, 64, (1, 2))])
    np.testing.assert_allclose(small.boxes[0][:2], [16 - 16, 32 - 32], atol=0.2)


def test_a_network_of_fixed_size_searches_whole_frames_alone(tmp_path: Path, network: Path) -> None:
    picture, expected = frame(320, 320, (3, 4), stride=32), np.array([[90, 90, 120, 120]], np.float32)
    fixed = load_detector(str(write_scrfd(tmp_path / "fixed.onnx", size=(160, 160))))
    assert load_detector(str(network)).detect_near(picture, expected) is not None
    assert fixed.detect_near(picture, expected) is None
    assert fixed.detect_near(picture, expected[:0], [(0, 0, 64, 64)]) is None


def test_large_pictures_are_read_on_more_threads_and_show_the_same(network: Path) -> None:
    plain, wide = load_detector(str(network)), load_detector(str(network), whole_threads=2)
    assert isinstance(plain, ScrfdDetector)
    assert isinstance(wide, ScrfdDetector)
    assert plain._session.wide is None
    assert wide._session.wide is not None
    picture = frame(320, 320, (4, 4))
    ((expected,), (found,)) = plain.detect([picture]), wide.detect([picture])
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_without_landmark_outputs_landmarks_are_nan(tmp_path: Path) -> None:
    detector = load_detector(str(write_scrfd(tmp_path / "nokps.onnx", landmarks=False)))
    (found,) = detector.detect([frame(160, 160, (4, 4))])
    assert len(found) == 1
    assert np.isnan(found.landmarks).all()


def test_channels_arrive_as_the_network_expects(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network expects red first, 0 to 255 as -127.5/128 to 127.5/128."""
    detector = load_detector(str(network))
    assert isinstance(detector, ScrfdDetector)
    session, seen = detector._session, list[np.ndarray]()

    def run(names: None, feed: dict[str, np.ndarray]) -> Any:
        seen.extend(feed.values())
        return session.run(names, feed)

    monkeypatch.setattr(detector, "_session", SimpleNamespace(run=run))
    detector.detect([np.full((64, 64, 3), (10, 20, 30), np.uint8)])
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([(level - 127.5) / 128 for level in (10, 20, 30)])


def test_nearby_cells_merge_into_one_face(network: Path) -> None:
    image = frame(192, 256, (5, 3))
    image[3 * 16 : 4 * 16, 6 * 16 : 7 * 16] = 230
    (found,) = load_detector(str(network)).detect([image])
    assert len(found) == 1
    assert found.scores[0] > 0.95


def test_five_hundred_faces_are_capped_and_counted(network: Path) -> None:
    """Cells far enough apart not to merge, each a little darker than the one before."""
    image = np.zeros((2880, 3840, 3), np.uint8)
    levels = []
    for index in range(500):
        row, column = divmod(index, 25)
        level = 255 - index // 5
        image[row * 144 + 32 : row * 144 + 48, column * 144 + 16 : column * 144 + 32] = level
        levels.append((level - 127.5) / 128)
    (found,) = load_detector(str(network), det_size=3840, threshold=0.1, max_faces=64).detect([image])
    assert len(found) == 64
    assert found.left_out == 500 - 64
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, sorted(levels, reverse=True)[:64], atol=1e-3)


def test_threshold_comes_from_the_metadata_unless_asked(tmp_path: Path) -> None:
    path = write_scrfd(tmp_path / "own.onnx", metadata={"threshold": "0.9", "licence": "Apache-2.0", "version": "3"})
    detector = load_detector(str(path))
    assert isinstance(detector, ScrfdDetector)
    assert (detector.threshold, detector.licence, detector.name) == (0.9, "Apache-2.0", "own 3")
    dim = (frame(160, 160, (4, 4)) * 0.85).astype(np.uint8)
    assert [len(found) for found in detector.detect([dim])] == [0]
    assert [len(found) for found in load_detector(str(path), threshold=0.3).detect([dim])] == [1]


def test_where_a_track_leads_a_lower_score_is_enough_unless_one_was_asked_for(tmp_path: Path) -> None:
    path = write_scrfd(tmp_path / "own.onnx", metadata={"threshold": "0.9"})
    dim = np.zeros((640, 640, 3), np.uint8)
    dim[64:82, 64:82] = 236
    expected = np.array([(60, 60, 100, 100)], np.float32)
    found = load_detector(str(path)).detect_near(dim, expected)
    assert found is not None
    assert 0.8 <= found.scores[0] < 0.9
    asked = load_detector(str(path), threshold=0.9).detect_near(dim, expected)
    assert asked is not None
    assert len(asked) == 0


@pytest.mark.parametrize("stated", ["high", "nan", "7", "-1"])
def test_a_threshold_that_is_no_number_of_its_kind_is_refused(stated: str, tmp_path: Path) -> None:
    path = write_scrfd(tmp_path / "bad.onnx", metadata={"threshold": stated})
    with pytest.raises(CheckpointError, match=f"'{stated}' .* is no number from 0 to 1"):
        load_detector(str(path))


def damaged(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    """Put other numbers in the place of a weight."""
    weight = next(each for each in model.graph.initializer if each.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, name))


def swapped(model: onnx.ModelProto) -> None:
    """Let the scores come where the distances should."""
    first, last = model.graph.output[0], model.graph.output[3]
    first.name, last.name = last.name, first.name


def overflowing(model: onnx.ModelProto) -> None:
    """Leave every weight a number, and no distance of a bright cell."""
    for name in ("gain_bbox_8", "bias_bbox_8"):
        damaged(model, name, np.full((1, 8), 3e38, np.float32))


DAMAGE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "no numbers": (lambda model: damaged(model, "bias_bbox_8", np.full((1, 8), np.nan, np.float32)), "'bias_bbox_8'"),
    "too large": (overflowing, "its answers are not finite"),
    "another shape": (lambda model: damaged(model, "gain_bbox_8", np.zeros((1, 6), np.float32)), "can be loaded"),
    "another order": (swapped, "can be loaded"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_network_that_fails_on_its_first_picture_is_refused_when_it_is_loaded(kind: str, tmp_path: Path) -> None:
    path, (change, says) = write_scrfd(tmp_path / "bad.onnx"), DAMAGE[kind]
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    with pytest.raises(CheckpointError, match=says) as caught:
        load_detector(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 100, 3), (100, 0, 3)])
def test_frames_without_pixels_have_no_faces(network: Path, shape: tuple[int, ...]) -> None:
    (found,) = load_detector(str(network)).detect([np.zeros(shape, np.uint8)])
    assert len(found) == 0


def test_grey_and_alpha_are_read_and_other_arrays_refused(network: Path) -> None:
    detector = load_detector(str(network))
    colour = frame(160, 160, (4, 4))
    alpha = np.concatenate([colour, np.zeros_like(colour[:, :, :1])], axis=2)
    results = detector.detect([colour, colour[:, :, 0], colour[:, :, :1], alpha])
    for other in results[1:]:
        np.testing.assert_array_equal(other.boxes, results[0].boxes)
    others: list[Any] = [colour.astype(np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(5, np.uint8)]
    for wrong in others:
        with pytest.raises(ValueError, match="expected"):
            detector.detect([wrong])


def test_one_result_an_image_whatever_the_batch(network: Path) -> None:
    detector = load_detector(str(network))
    images = [frame(160, 192, (3, 3)), frame(96, 96, (2, 2)), np.zeros((50, 50, 3), np.uint8)]
    together = detector.detect(images)
    alone = [detector.detect([image])[0] for image in images]
    assert [len(found) for found in together] == [1, 1, 0]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_the_provider_is_reported_and_an_absent_one_refused(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_detector(str(network), provider="cpu").provider == "CPUExecutionProvider"
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name in ("cuda", "CUDAExecutionProvider"):
        with pytest.raises(DeviceError, match="CUDAExecutionProvider: not in this ONNX Runtime"):
            load_detector(str(network), provider=name)


def test_a_provider_that_silently_fell_back_is_refused(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, cannot start it, and answers with a session on the CPU."""
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, sess_options, providers: real(path, sess_options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(DeviceError, match="could not start"):
        load_detector(str(network), provider="cuda")
    assert load_detector(str(network)).provider == "CPUExecutionProvider"

"""The ONNX file computes what the network computes and is what insightface's SCRFD class expects."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from insightface.model_zoo.scrfd import SCRFD

from streamfer.faces import load_detector
from streamfer_builtin.faces.__main__ import main
from streamfer_builtin.faces.export import INPUT_CONVENTION, build, export
from streamfer_builtin.faces.network import FaceNetwork, Head, Separable, Shape, decoded

EXAMPLE = Path(__file__).resolve().parents[1] / "configs" / "faces.yaml"


@pytest.fixture(scope="module")
def network() -> FaceNetwork:
    """A small network whose outputs are far from trivial; its weights fit half precision, as the file's do."""
    torch.manual_seed(4)
    made = FaceNetwork(Shape((8, 8, 16, 16, 16), 16))
    with torch.no_grad():
        for head in made.heads:
            score, box, landmarks = cast(Head, head).finals()
            for final in (score, box, landmarks):
                final.weight.normal_(std=0.3)
            cast(torch.nn.Conv2d, cast(Head, head).points[1]).weight.normal_(std=0.3)
            cast(torch.Tensor, score.bias).fill_(0.0)
        for more in made.more:
            cast(torch.nn.Conv2d, cast(torch.nn.Sequential, more.change)[1]).weight.normal_(std=0.1)
    return made.half().float().eval()


@pytest.fixture(scope="module")
def weights(network: FaceNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "faces.onnx"
    export(network, path, {"name": "test", "threshold": "0.50"})
    return path


@pytest.mark.parametrize(("height", "width"), [(96, 128), (64, 64), (160, 32)])
def test_onnx_equals_torch(network: FaceNetwork, weights: Path, height: int, width: int) -> None:
    picture = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = decoded(network(picture))
    outputs = ort.InferenceSession(str(weights), providers=["CPUExecutionProvider"]).run(
        None, {"input": picture.numpy()}
    )
    assert [each.shape[1] for each in outputs] == [1, 1, 1, 4, 4, 4, 10, 10, 10]
    scores = np.concatenate(outputs[:3])[:, 0]
    assert np.allclose(scores, wanted.logits.sigmoid()[0].numpy(), atol=1e-5)
    boxes, landmarks = [], []
    for level, stride in enumerate((8, 16, 32)):
        rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
        centres = np.repeat(np.stack([columns, rows], axis=-1).reshape(-1, 2), 2, axis=0) * stride
        reach = outputs[3 + level] * stride
        boxes.append(np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1))
        landmarks.append(outputs[6 + level] * stride + np.tile(centres, 5))
    assert np.allclose(np.concatenate(boxes), wanted.boxes[0].numpy(), atol=1e-2)
    assert np.allclose(np.concatenate(landmarks), wanted.landmarks[0].numpy(), atol=1e-2)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_separable_unit_is_the_convolutions_that_it_holds(stride: int) -> None:
    """Training computes every place and keeps some; the exported graph has the strided convolution itself."""
    torch.manual_seed(2)
    unit, features = Separable(6, 4, stride), torch.randn(2, 6, 9, 12)
    torch.testing.assert_close(unit(features), unit[1](unit[0](features)))


def test_insightface_runs_it_and_agrees_with_our_reading(weights: Path) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    theirs = SCRFD(str(weights))
    theirs.prepare(-1, nms_thresh=0.4, det_thresh=0.5, input_size=(128, 96))
    assert theirs.use_kps
    boxes, landmarks = theirs.detect(np.ascontiguousarray(picture[..., ::-1]))
    (ours,) = load_detector(str(weights), threshold=0.5, det_size=128).detect([picture])
    assert len(boxes) > 5
    # Their suppression counts a box's last pixel as inside and ours does not, so single boxes may differ.
    best = boxes[:3]
    assert np.allclose(best[:, :4], ours.boxes[:3], atol=0.05)
    assert np.allclose(best[:, 4], ours.scores[:3], atol=1e-4)
    assert np.allclose(landmarks[:3], ours.landmarks[:3], atol=0.05)


def test_metadata_travels_with_the_weights(weights: Path) -> None:
    stored = {each.key: each.value for each in onnx.load(str(weights)).metadata_props}
    assert stored["name"] == "test"
    assert stored["format"] == "streamfer-faces"
    assert stored["format_version"] == "1"
    assert stored["input"] == INPUT_CONVENTION


def test_input_height_and_width_are_free(network: FaceNetwork) -> None:
    sides = build(network).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in sides] == [1, 3, 0, 0]


@pytest.mark.parametrize(("asked", "stated"), [("0", ("0.00", "0.04")), ("0.98", ("0.98", "1.00"))])
def test_the_threshold_that_is_asked_for_is_stated(
    asked: str, stated: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr("streamfer_builtin.faces.export.averaged_network", lambda path: FaceNetwork(Shape((8,) * 5, 8)))
    progress = SimpleNamespace(progress=SimpleNamespace(step=1))
    monkeypatch.setattr("streamfer_builtin.faces.export.Checkpoint", SimpleNamespace(load=lambda *_: progress))
    monkeypatch.setattr("streamfer_builtin.faces.export.export", lambda *given: made.update(given[2]))
    words = ["-c", str(EXAMPLE), "-o", str(tmp_path / "a.onnx"), "--threshold", asked]
    assert main(["export", *words]) == 0
    assert (made["threshold"], made["tracking_threshold"]) == stated


@pytest.mark.parametrize(("leads", "exports"), [(True, 1), (False, 0)])
def test_of_processes_that_trained_together_one_exports(
    leads: bool, exports: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("streamfer_builtin.faces.training.train", lambda config: (config.work, leads))
    monkeypatch.setattr(
        "streamfer_builtin.faces.export.export_checkpoint", lambda *_, threshold: made.append(threshold)
    )
    monkeypatch.setattr("streamfer_builtin.faces.evaluate.compare", lambda *_, **__: "")
    assert main(["all", "-c", str(EXAMPLE), "-o", str(tmp_path / "a.onnx")]) == 0
    assert made == [None] * exports


def test_a_threshold_that_is_no_score_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "-o", str(tmp_path / "a.onnx"), "--threshold", "7"])
    assert ended.value.code == 2
    assert "--threshold: '7' is no number from 0 to 1" in capsys.readouterr().err

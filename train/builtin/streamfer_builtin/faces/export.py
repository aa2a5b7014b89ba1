"""The trained network as an ONNX file in SCRFD's output layout, with what a reader must know as metadata.

The graph is written node by node: convolutions, ReLU, a few element-wise operations and reshapes. Weights are stored
in half precision and computed with in single.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from streamfer.files import write_whole
from streamfer_builtin.faces.config import LARGE_FACE, LEAST_SIDE, SMALLEST_FACE, FacesConfig
from streamfer_builtin.faces.evaluate import Thresholds, thresholds_of
from streamfer_builtin.faces.network import (
    ANCHORS,
    GROUPS,
    LOG_LIMIT,
    PRIORS,
    STRIDES,
    WIDTHS,
    FaceNetwork,
    Head,
    Residual,
)  # fmt: skip
from streamfer_builtin.faces.training import RECIPE, averaged_network
from streamfer_train.recipes.checkpoint import LAST, Checkpoint

FORMAT_VERSION = "1"
VERSION = "6"
DATA = (
    "Pictures of people and of things from public repositories, listed in the card; boxes and landmarks are what "
    "YuNet n (Apache-2.0) and CenterFace (MIT) agree on; pictures of faces from muxspace/facial_expressions "
    "(repository Apache-2.0; the photographs belong to third parties)."
)
LICENCE = (
    "Evaluation and research. Code and training are Apache-2.0, but the photographs trained on belong to third "
    "parties; whoever wants other uses of these weights decides and answers for that, or retrains on own pictures."
)
TRACKING_MARGIN = 0.04
OPSET = 17
INPUT_CONVENTION = "RGB, float32, NCHW, (value - 127.5) / 128; height and width multiples of 32; batch of one"


@dataclass(slots=True)
class _Graph:
    """Nodes and weights of a graph in the making; values are known by name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its single output."""
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """Store a value and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def halved(self, weight: Tensor) -> str:
        """Store a weight in half precision, which a reader widens once while loading; return the wide name."""
        return self.add("Cast", [self.constant(weight.detach().half().numpy())], to=TensorProto.FLOAT)


def export(network: FaceNetwork, path: Path, metadata: dict[str, str]) -> None:
    """Write ``network`` in evaluation mode to ``path``, atomically, with ``metadata`` beside the fixed entries.

    Raises:
        OutputError: it cannot be written.
    """
    model = build(network)
    fixed = {
        "format": "streamfer-faces",
        "format_version": FORMAT_VERSION,
        "layout": "insightface SCRFD: scores, box distances, landmark offsets for strides 8, 16, 32; two anchors",
        "input": INPUT_CONVENTION,
        "units": "box distances and landmark offsets in strides, from the anchor at (column, row) x stride",
        "landmarks": json.dumps(["left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner"]),
    }
    helper.set_model_props(model, fixed | metadata)
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, lambda stream: stream.write(model.SerializeToString()))


def export_checkpoint(config: FacesConfig, path: Path, *, threshold: float | None) -> None:
    """Export the averaged weights of the work folder's checkpoint with the shipped metadata.

    Without a ``threshold`` it is chosen on the pictures kept out of training.

    Raises:
        UserError: the checkpoint, the data sets or the place of the file.
    """
    network = averaged_network(config.work / LAST)
    asked = 0.5 if threshold is None else threshold
    _export(network, config, path, Thresholds(asked, asked))
    if threshold is None:
        _export(network, config, path, thresholds_of(config.data, path))


def _export(network: FaceNetwork, config: FacesConfig, path: Path, thresholds: Thresholds) -> None:
    metadata = {
        "name": "streamfer-faces",
        "version": VERSION,
        "date": date.today().isoformat(),
        "licence": LICENCE,
        "training_data": DATA,
        "threshold": f"{thresholds.pictures:.2f}",
        # A letter of a moving title that passes for a small face does so over many frames, and would be a person.
        "tracking_threshold": f"{min(1.0, thresholds.videos + TRACKING_MARGIN):.2f}",
        "nms_overlap": "0.40",
        "smallest_face": str(SMALLEST_FACE),
        "least_side": str(LEAST_SIDE),
        "large_face": str(LARGE_FACE),
        "steps": str(Checkpoint.load(config.work / LAST, RECIPE).progress.step),
    }
    export(network, path, metadata)


@torch.no_grad()
def build(network: FaceNetwork) -> onnx.ModelProto:
    """The ONNX model of ``network``: input ``input`` 1 x 3 x H x W, nine outputs named group and stride."""
    graph = _Graph()
    eight = _emit(graph, network.more[0], _emit(graph, network.level8, _emit(graph, network.stem, "input")))
    sixteen = _emit(graph, network.more[1], _emit(graph, network.level16, eight))
    thirty_two = _emit(graph, network.level32, sixteen)
    doubling = graph.constant(np.array([1, 1, 2, 2], np.float32))
    top = _emit(graph, network.laterals[2], thirty_two)
    levels = [top]
    for lateral, smooth, source in (
        (network.laterals[1], network.smooth[1], sixteen),
        (network.laterals[0], network.smooth[0], eight),
    ):
        upper = graph.add("Resize", [levels[0], "", doubling], mode="nearest", nearest_mode="floor",
                          coordinate_transformation_mode="asymmetric")  # fmt: skip
        levels.insert(0, _emit(graph, smooth, graph.add("Add", [_emit(graph, lateral, source), upper])))
    for head, level, stride, priors in zip(network.heads, levels, STRIDES, PRIORS, strict=True):
        _emit_head(graph, cast(Head, head), level, stride, priors)
    outputs = [
        helper.make_tensor_value_info(f"{group}_{stride}", TensorProto.FLOAT, [f"anchors_{stride}", WIDTHS[group]])
        for group in GROUPS
        for stride in STRIDES
    ]
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    body = helper.make_graph(graph.nodes, "streamfer_faces", [source], outputs, graph.weights)
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="streamfer"
    )


def _emit(graph: _Graph, module: nn.Module, source: str) -> str:
    if isinstance(module, nn.Sequential):
        for child in module:
            source = _emit(graph, child, source)
        return source
    if isinstance(module, Residual):
        return graph.add("Add", [source, _emit(graph, module.change, source)])
    if isinstance(module, nn.ReLU):
        return graph.add("Relu", [source])
    if isinstance(module, nn.Conv2d):
        kernel, stride, padding = module.kernel_size[0], module.stride[0], int(module.padding[0])
        return graph.add(
            "Conv",
            [source, graph.halved(module.weight), graph.halved(cast(Tensor, module.bias))],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding] * 4,
            group=module.groups,
        )
    raise TypeError(f"no ONNX rule for {type(module).__name__}")


def _emit_head(graph: _Graph, head: Head, level: str, stride: int, priors: tuple[float, float]) -> None:
    shared = _emit(graph, head.shared, level)
    boxes = _emit(graph, head.box[0], shared)
    raw = {
        "score": _emit(graph, head.score, shared),
        "box": _emit(graph, head.box[1], boxes),
        "landmarks": graph.add("Add", [_emit(graph, head.landmarks, boxes), _emit(graph, head.points, shared)]),
    }
    for group in GROUPS:
        rows = graph.constant(np.array([-1, ANCHORS, WIDTHS[group]], np.int64))
        places = graph.add("Reshape", [graph.add("Transpose", [raw[group]], perm=[0, 2, 3, 1]), rows])
        sides = np.array(priors, np.float32).reshape(1, ANCHORS, 1) / stride
        if group == "score":
            places = graph.add("Sigmoid", [places])
        elif group == "box":
            low, high = (graph.constant(np.array(sign * LOG_LIMIT, np.float32)) for sign in (-1, 1))
            reach = graph.add("Exp", [graph.add("Clip", [places, low, high])])
            places = graph.add("Mul", [reach, graph.constant(sides / 2)])
        else:
            places = graph.add("Mul", [places, graph.constant(sides)])
        flat = graph.constant(np.array([-1, WIDTHS[group]], np.int64))
        graph.add("Reshape", [places, flat], f"{group}_{stride}")

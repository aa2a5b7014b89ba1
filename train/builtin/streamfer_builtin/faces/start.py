"""Weights of an exported network as the beginning of a training."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from streamfer.errors import CheckpointError
from streamfer_builtin.faces.network import FaceNetwork, Head


def convolutions(network: FaceNetwork, *, more: bool) -> list[nn.Conv2d]:
    """Every convolution in the order of an exported graph; without ``more``, those of version 1."""
    parts: list[nn.Module] = [network.stem, network.level8]
    parts += [network.more[0]] if more else []
    parts += [network.level16]
    parts += [network.more[1]] if more else []
    parts += [network.level32, network.laterals[2]]
    parts += [network.laterals[1], network.smooth[1], network.laterals[0], network.smooth[0]]
    for module in network.heads:
        head = cast(Head, module)
        parts += [head.shared, head.box[0], head.score, head.box[1], head.landmarks, head.points]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Conv2d)]


@torch.no_grad()
def take_weights(network: FaceNetwork, path: Path) -> None:
    """Copy the convolutions of an exported network into ``network``; layers that version 1 lacked stay as they are.

    Raises:
        CheckpointError: the file is absent, damaged, or of a network of another shape.
    """
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's DecodeError shares no base with OSError
        raise CheckpointError(f"{path}: cannot be read as ONNX; name an exported face detector") from error
    stored = {each.name: numpy_helper.to_array(each).astype(np.float32) for each in graph.initializer}
    if any(not np.isfinite(values).all() for values in stored.values()):
        raise CheckpointError(f"{path}: holds weights that are not finite; name an exported face detector")
    cast_from = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    pairs = [
        tuple(stored[cast_from.get(name, name)] for name in node.input[1:])
        for node in graph.node
        if node.op_type == "Conv"
    ]
    for more in (True, False):
        layers = convolutions(network, more=more)
        if [tuple(layer.weight.shape) for layer in layers] == [weight.shape for weight, _ in pairs]:
            for layer, (weight, bias) in zip(layers, pairs, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                cast(Tensor, layer.bias).copy_(torch.from_numpy(bias))
            return
    raise CheckpointError(f"{path}: {len(pairs)} convolutions of other shapes; name an exported face detector")

"""Scores that mean the same of small faces and of large ones.

A score learns how well its box fits, and small boxes fit worse, so that at one threshold small faces were missed for
the false ones among large boxes. Logistic regression over what the network says of the pictures that it was trained
on tells how likely a box is right, by its score and by the size that its anchor is for; the biases of the last
convolutions take what the anchors differ by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamfer.faces.finder import SAME_FACE
from streamfer.faces.images import DetectionSize
from streamfer_builtin.faces import sets
from streamfer_builtin.faces.config import LEAST_SIDE, SMALLEST_FACE
from streamfer_builtin.faces.labels import FloatArray, Picture
from streamfer_builtin.faces.metrics import NEITHER, matched
from streamfer_builtin.faces.network import ANCHORS, PRIORS, FaceNetwork, Head, anchor_grid, decoded
from streamfer_builtin.faces.sets import Sample
from streamfer_builtin.faces.views import normalised

LEAST = 0.3
"""Scores below this one tell nothing about thresholds."""
_READING = DetectionSize().reading(SMALLEST_FACE, LEAST_SIDE)
_STRIDE = 32
_SIDES = tuple(side for pair in PRIORS for side in pair)
_PENALTY = 1e-3


@torch.no_grad()
def even_out(network: FaceNetwork, root: Path) -> None:
    """Change ``network``'s scores so that faces of every size are as likely right at the same one."""
    samples = [*sets.crowds(root, "train"), *sets.backgrounds(root, "train")]
    changes = differences(*answers(network, samples))
    for head, change in zip(network.heads, changes.reshape(-1, ANCHORS), strict=True):
        cast(Tensor, cast(Head, head).finals()[0].bias).add_(torch.from_numpy(change))


def answers(network: nn.Module, samples: Iterable[Sample]) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
    """What the network finds in pictures read as frames are: logits, numbers of the anchors, whether each is right."""
    found: list[tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]] = []
    for sample in samples:
        small, factors = _READING.resize(sample.picture)
        logits, boxes, anchors = _found(network, small)
        what = matched(np.asarray(boxes / np.tile(factors, 2), np.float32), sample.labels)
        judged = what != NEITHER
        found.append((logits[judged], anchors[judged], what[judged] >= 0))
    logits, anchors, right = (np.concatenate(each) for each in zip(*found, strict=True))
    return logits, anchors, right


def differences(logits: FloatArray, anchors: NDArray[np.int64], right: NDArray[np.bool_]) -> FloatArray:
    """What is to be added to the logits of each anchor; 0 on the average over the faces found.

    An anchor that is seldom answered is taken for one like all others.
    """
    if right.all() or not right.any():
        return np.zeros(len(_SIDES), np.float32)
    inputs = torch.from_numpy(np.column_stack([logits, np.ones(len(logits)), np.eye(len(_SIDES))[anchors]])).float()
    wanted, weights = torch.from_numpy(right).float(), torch.zeros(inputs.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = nn.functional.binary_cross_entropy_with_logits(inputs @ weights, wanted)
        error = error + _PENALTY * weights[2:].square().sum()
        error.backward()
        return error

    with torch.enable_grad():
        optimiser.step(loss)
    slope, *_ = known = weights.detach().numpy()
    change = known[2:]
    share = np.bincount(anchors[right], minlength=len(_SIDES)) / right.sum()
    return np.asarray((change - change @ share) / max(float(slope), 1.0), np.float32)


def _found(network: nn.Module, picture: Picture) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Logits, boxes and numbers of anchors of the faces of a picture, best first."""
    if picture.ndim == 2:
        picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB), np.uint8)
    height, width = (_STRIDE * math.ceil(side / _STRIDE) for side in picture.shape[:2])
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    said = decoded(network(normalised(torch.from_numpy(canvas)[None])))
    likely = torch.nonzero(said.logits[0].sigmoid() >= LEAST).squeeze(1)
    scores = said.logits[0, likely].sigmoid()
    logits, boxes = said.logits[0, likely].numpy(), said.boxes[0, likely].numpy()
    anchors = np.searchsorted(_SIDES, anchor_grid(height, width)[1][likely].numpy())
    spans = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = np.asarray(cv2.dnn.NMSBoxes(spans.tolist(), scores.tolist(), 0.0, SAME_FACE), np.int64).reshape(-1)
    return logits[kept], boxes[kept], anchors[kept].astype(np.int64)

"""Which anchor answers for which face, and what its mistakes cost.

Assignment is the dynamic top-k of SimOTA (Ge et al. 2021, "YOLOX", section 2.1) restricted to anchors whose prior is
within a factor of two of the face. Scores learn the overlap of their own box (quality focal loss, Li et al. 2020,
"Generalized Focal Loss", equation 2), boxes minimise 1 - DIoU (Zheng et al. 2020), landmarks a smooth L1 distance in
units of the face's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streamfer_builtin.faces.network import Predictions, anchor_grid

_FAR = 1e6
_CENTRE_REACH = 0.3
_MOST_ANCHORS = 10
_BOX_COST = 3.0


@dataclass(frozen=True, slots=True)
class Targets:
    """Faces of a batch: ``picture`` N (index in the batch), ``boxes`` N x 4, ``landmarks`` N x 10, two flags N."""

    picture: Tensor
    boxes: Tensor
    landmarks: Tensor
    ignored: Tensor
    precise: Tensor


@dataclass(frozen=True, slots=True)
class Assignment:
    """For every (picture, anchor): the face it answers for (index into the targets, -1 none) and its weight."""

    face_BA: Tensor
    weight_BA: Tensor


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Multipliers of the three terms."""

    score: float = 1.0
    box: float = 2.0
    landmarks: float = 8.0


@dataclass(frozen=True, slots=True)
class Losses:
    """The weighted sum to minimise and its terms, each normalised by the number of answering anchors."""

    total: Tensor
    score: Tensor
    box: Tensor
    landmarks: Tensor


def paired_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of boxes (``[..., 4]``, broadcast against each other)."""
    upper = torch.maximum(boxes_a[..., :2], boxes_b[..., :2])
    lower = torch.minimum(boxes_a[..., 2:], boxes_b[..., 2:])
    common = (lower - upper).clamp(min=0).prod(dim=-1)
    area_a = (boxes_a[..., 2:] - boxes_a[..., :2]).clamp(min=0).prod(dim=-1)
    area_b = (boxes_b[..., 2:] - boxes_b[..., :2]).clamp(min=0).prod(dim=-1)
    return common / (area_a + area_b - common).clamp(min=1e-6)


def diou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU + squared distance of the centres over the squared diagonal of the enclosing box, per pair."""
    upper = torch.minimum(predicted[..., :2], wanted[..., :2])
    lower = torch.maximum(predicted[..., 2:], wanted[..., 2:])
    diagonal = (lower - upper).square().sum(dim=-1).clamp(min=1e-6)
    apart = (predicted[..., :2] + predicted[..., 2:] - wanted[..., :2] - wanted[..., 2:]) / 2
    return 1 - paired_iou(predicted, wanted) + apart.square().sum(dim=-1) / diagonal


@torch.no_grad()
def assign(predictions: Predictions, targets: Targets, height: int, width: int) -> Assignment:
    """Give every face up to ten anchors, by cost, and take anchors over ignored faces out of the score loss."""
    batch, anchors = predictions.logits.shape
    face = torch.full((batch, anchors), -1, dtype=torch.long)
    weight = torch.ones(batch, anchors)
    centres, priors, strides = anchor_grid(height, width)
    inside = _inside(centres, targets.boxes)
    for index in torch.nonzero(targets.ignored).flatten().tolist():
        weight[targets.picture[index], inside[index]] = 0.0
    wanted = torch.nonzero(~targets.ignored).flatten()
    if len(wanted) == 0:
        return Assignment(face, weight)
    boxes, picture = targets.boxes[wanted], targets.picture[wanted]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = (centres[None] - middle[:, None]).abs()
    near = (away <= torch.maximum(sides[:, None] * _CENTRE_REACH, strides[None, :, None] * 0.75)).all(dim=-1)
    size = sides.prod(dim=-1).sqrt()
    fitting = (torch.log2(size)[:, None] - torch.log2(priors)[None]).abs() <= 1.0
    candidate = near & fitting
    iou = paired_iou(predictions.boxes[picture], boxes[:, None])
    likely = torch.nn.functional.logsigmoid(predictions.logits[picture])
    cost = -likely - _BOX_COST * (iou + 1e-3).log() + _FAR * ~candidate
    counts = (iou * candidate).topk(_MOST_ANCHORS, dim=1).values.sum(dim=1).round().long().clamp(min=1)
    ordered, order = cost.topk(_MOST_ANCHORS, dim=1, largest=False)
    best: dict[tuple[int, int], float] = {}
    rows = zip(wanted.tolist(), picture.tolist(), counts.tolist(), ordered.tolist(), order.tolist(), strict=True)
    for index, shown, count, prices, places in rows:
        for price, place in zip(prices[:count], places[:count], strict=True):
            if price < min(_FAR, best.get((shown, place), _FAR)):
                best[shown, place] = price
                face[shown, place] = index
    weight[face >= 0] = 1.0
    return Assignment(face, weight)


def losses(predictions: Predictions, targets: Targets, assignment: Assignment, weights: LossWeights) -> Losses:
    """All loss terms of a batch."""
    positive = assignment.face_BA >= 0
    face = assignment.face_BA[positive]
    count = max(1, len(face))
    boxes = predictions.boxes[positive]
    iou = paired_iou(boxes.detach(), targets.boxes[face])
    quality = torch.zeros_like(predictions.logits)
    quality[positive] = iou.clamp(min=0.05)
    score = (quality_focal_loss(predictions.logits, quality) * assignment.weight_BA).sum() / count
    box = diou_loss(boxes, targets.boxes[face]).sum() / count
    size = (targets.boxes[face, 2:] - targets.boxes[face, :2]).clamp(min=1).prod(dim=-1).sqrt()
    apart = (predictions.landmarks[positive] - targets.landmarks[face]) / size[:, None]
    sharp = torch.nn.functional.smooth_l1_loss(apart, torch.zeros_like(apart), beta=0.03, reduction="none")
    precise = targets.precise[face].float()
    landmarks = (sharp.mean(dim=1) * precise).sum() / precise.sum().clamp(min=1)
    total = weights.score * score + weights.box * box + weights.landmarks * landmarks
    return Losses(total, score, box, landmarks)


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy against a soft target, scaled by the squared distance between score and target."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).detach().square() * entropy


def _inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """N x A: whether an anchor's centre lies in a box."""
    after = (centres[None] >= boxes[:, None, :2]).all(dim=-1)
    return after & (centres[None] <= boxes[:, None, 2:]).all(dim=-1)

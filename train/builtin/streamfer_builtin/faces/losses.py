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

from streamfer_builtin.faces.config import LossConfig
from streamfer_builtin.faces.network import Predictions, anchor_grid

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
    device = predictions.logits.device
    face = torch.full((batch, anchors), -1, dtype=torch.long, device=device)
    weight = torch.ones(batch, anchors, device=device)
    grid = anchor_grid(height, width, device)
    hidden, sure = (torch.nonzero(flag).squeeze(1) for flag in (targets.ignored, ~targets.ignored))
    shown, place = torch.nonzero(_within(targets.boxes[hidden], grid, 0.5), as_tuple=True)
    weight[targets.picture[hidden[shown]], place] = 0.0
    sides = (targets.boxes[sure, 2:] - targets.boxes[sure, :2]).clamp(min=1)
    fitting = (torch.log2(sides.prod(dim=-1).sqrt())[:, None] - torch.log2(grid[1])[None]).abs() <= 1.0
    # Few of the faces x anchors pairs are candidates: costs are computed for those alone.
    owner, place = torch.nonzero(_within(targets.boxes[sure], grid, _CENTRE_REACH) & fitting, as_tuple=True)
    owner = sure[owner]
    if len(owner) == 0:
        return Assignment(face, weight)
    picture = targets.picture[owner]
    iou = paired_iou(predictions.boxes[picture, place], targets.boxes[owner])
    likely = torch.nn.functional.logsigmoid(predictions.logits[picture, place])
    cost = -likely - _BOX_COST * (iou + 1e-3).log()
    wanted = _best_overlaps(owner, iou, len(targets.boxes)).round().clamp(min=1)
    order = torch.argsort(cost)
    order = order[torch.argsort(owner[order], stable=True)]
    kept = order[_rank_in_group(owner[order]) < wanted[owner[order]]]
    # An anchor that two faces want answers for the cheaper one: sorted by anchor and cost, the first of each run.
    kept = kept[torch.argsort(cost[kept], stable=True)]
    anchor = picture[kept] * anchors + place[kept]
    order = torch.argsort(anchor, stable=True)
    first = order[_rank_in_group(anchor[order]) == 0]
    face.view(-1)[anchor[first]] = owner[kept[first]]
    weight[face >= 0] = 1.0
    return Assignment(face, weight)


def _within(boxes: Tensor, grid: tuple[Tensor, Tensor, Tensor], reach: float) -> Tensor:
    """Which anchors' centres lie within ``reach`` sides of the middle of which boxes, or nearly on it: N x A."""
    centres, _, strides = grid
    inside = torch.ones(len(boxes), len(centres), dtype=torch.bool, device=boxes.device)
    for axis in range(2):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        away = (centres[None, :, axis] - (low + high) / 2).abs()
        inside &= (away <= (high - low).clamp(min=1) * reach) | (away <= strides * 0.75)
    return inside


def _best_overlaps(owner: Tensor, iou: Tensor, faces: int) -> Tensor:
    """The sum of the ten largest overlaps of every face's candidates."""
    order = torch.argsort(iou, descending=True)
    order = order[torch.argsort(owner[order], stable=True)]
    counted = order[_rank_in_group(owner[order]) < _MOST_ANCHORS]
    return torch.zeros(faces, device=iou.device).index_add_(0, owner[counted], iou[counted])


def _rank_in_group(sorted_groups: Tensor) -> Tensor:
    """0, 1, 2, ... anew for every run of equal values."""
    positions = torch.arange(len(sorted_groups), device=sorted_groups.device)
    starts = torch.ones_like(positions, dtype=torch.bool)
    starts[1:] = sorted_groups[1:] != sorted_groups[:-1]
    return positions - torch.cummax(torch.where(starts, positions, 0), dim=0).values


def losses(
    predictions: Predictions, targets: Targets, assignment: Assignment, weights: LossConfig
) -> dict[str, Tensor]:
    """The weighted sum to minimise, ``total``, and its terms, each normalised by the number of answering anchors."""
    positive = assignment.face_BA >= 0
    face = assignment.face_BA[positive]
    count = max(1, len(face))
    boxes = predictions.boxes[positive]
    iou = paired_iou(boxes.detach(), targets.boxes[face])
    quality = torch.zeros_like(predictions.logits)
    # The root lifts the scores of small faces, whose overlaps are low because their labels are coarse.
    quality[positive] = iou.clamp(min=0.01).sqrt()
    score = (quality_focal_loss(predictions.logits, quality) * assignment.weight_BA).sum() / count
    box = diou_loss(boxes, targets.boxes[face]).sum() / count
    size = (targets.boxes[face, 2:] - targets.boxes[face, :2]).clamp(min=1).prod(dim=-1).sqrt()
    apart = (predictions.landmarks[positive] - targets.landmarks[face]) / size[:, None]
    sharp = torch.nn.functional.smooth_l1_loss(apart, torch.zeros_like(apart), beta=0.03, reduction="none")
    precise = targets.precise[face].float()
    landmarks = (sharp.mean(dim=1) * precise).sum() / precise.sum().clamp(min=1)
    total = weights.score * score + weights.box * box + weights.landmarks * landmarks
    return {"total": total, "score": score, "box": box, "landmarks": landmarks}


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy against a soft target, scaled by the squared distance between score and target."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).detach().square() * entropy

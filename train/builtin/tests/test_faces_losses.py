"""Assignment and losses on cases small enough to know the answer."""

from __future__ import annotations

import pytest
import torch

from streamfer_builtin.faces.config import LossConfig
from streamfer_builtin.faces.losses import Targets, assign, diou_loss, losses, paired_iou, quality_focal_loss
from streamfer_builtin.faces.network import Predictions, anchor_grid, decoded

SIDE = 128


def targets(boxes: list[list[float]], *, ignored: bool = False, picture: int = 0) -> Targets:
    count = len(boxes)
    places = torch.tensor(boxes).reshape(-1, 4)
    return Targets(
        torch.full((count,), picture),
        places,
        ((places[:, :2] + places[:, 2:]) / 2).repeat(1, 5),
        torch.full((count,), ignored),
        torch.ones(count, dtype=torch.bool),
    )


def untrained(batch: int = 1, score: float = -4.0) -> Predictions:
    maps = [
        tuple(torch.zeros(batch, 2 * width, SIDE // stride, SIDE // stride) for width in (1, 4, 10))
        for stride in (8, 16, 32)
    ]
    start = decoded(maps)  # type: ignore[arg-type]
    return Predictions(start.logits + score, start.boxes, start.landmarks)


def test_untrained_boxes_are_the_priors() -> None:
    centres, priors, _ = anchor_grid(SIDE, SIDE)
    boxes = untrained().boxes[0]
    assert torch.allclose((boxes[:, 2:] - boxes[:, :2])[:, 0], priors)
    assert torch.allclose((boxes[:, :2] + boxes[:, 2:]) / 2, centres)


@pytest.mark.parametrize(("side", "expected"), [(16.0, 16.0), (32.0, 32.0), (64.0, 64.0), (120.0, 128.0)])
def test_a_face_goes_to_anchors_of_its_size(side: float, expected: float) -> None:
    wanted = targets([[64 - side / 2, 64 - side / 2, 64 + side / 2, 64 + side / 2]])
    assignment = assign(untrained(), wanted, SIDE, SIDE)
    chosen = anchor_grid(SIDE, SIDE)[1][assignment.face_BA[0] >= 0]
    assert len(chosen) > 0
    assert expected in chosen.tolist()
    assert ((chosen / side <= 2) & (chosen / side >= 0.5)).all()


def test_every_face_of_a_crowd_gets_an_anchor() -> None:
    boxes = [[x, y, x + 14.0, y + 14.0] for x in range(0, 112, 16) for y in range(0, 112, 16)]
    assignment = assign(untrained(), targets(boxes), SIDE, SIDE)
    assert set(assignment.face_BA[0].unique().tolist()) - {-1} == set(range(len(boxes)))


def test_anchors_over_an_ignored_face_do_not_count() -> None:
    assignment = assign(untrained(), targets([[32.0, 32, 96, 96]], ignored=True), SIDE, SIDE)
    assert (assignment.face_BA == -1).all()
    centres = anchor_grid(SIDE, SIDE)[0]
    inside = ((centres >= 32) & (centres <= 96)).all(dim=1)
    assert torch.equal(assignment.weight_BA[0] == 0, inside)


def test_a_face_on_the_second_picture_leaves_the_first_alone() -> None:
    assignment = assign(untrained(2), targets([[40.0, 40, 72, 72]], picture=1), SIDE, SIDE)
    assert (assignment.face_BA[0] == -1).all()
    assert (assignment.face_BA[1] >= 0).any()


def test_perfect_predictions_cost_nothing() -> None:
    wanted = targets([[40.0, 40, 72, 72]])
    assignment = assign(untrained(), wanted, SIDE, SIDE)
    positive = assignment.face_BA >= 0
    start = untrained(score=-30.0)
    logits = torch.where(positive, torch.tensor(30.0), start.logits)
    boxes = torch.where(positive[..., None], wanted.boxes[0], start.boxes)
    landmarks = torch.where(positive[..., None], wanted.landmarks[0], start.landmarks)
    result = losses(Predictions(logits, boxes, landmarks), wanted, assignment, LossConfig())
    assert float(result["total"]) == pytest.approx(0, abs=1e-4)


def test_a_picture_without_faces_only_costs_its_scores() -> None:
    none = targets([])
    result = losses(untrained(), none, assign(untrained(), none, SIDE, SIDE), LossConfig())
    assert float(result["box"]) == 0
    assert float(result["landmarks"]) == 0
    assert float(result["score"]) > 0


def test_overlap_losses_of_known_boxes() -> None:
    first, second = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])
    assert paired_iou(first, second).item() == pytest.approx(1 / 3)
    assert diou_loss(first, second).item() == pytest.approx(1 - 1 / 3 + 25 / (15**2 + 10**2))
    assert diou_loss(first, first).item() == pytest.approx(0, abs=1e-6)


def test_quality_focal_loss_is_least_at_the_quality() -> None:
    quality = torch.tensor(0.7)
    at = {logit: float(quality_focal_loss(torch.tensor(logit), quality)) for logit in (-2.0, 0.8473, 3.0)}
    assert at[0.8473] == pytest.approx(0, abs=1e-6)
    assert at[-2.0] > at[3.0] > at[0.8473]

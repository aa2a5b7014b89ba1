"""Scores are evened out by what is known of the answers, and only as far as something is known."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from faces_data import write_sets
from torch import Tensor, nn

from streamfer_builtin.faces import calibrate, sets
from streamfer_builtin.faces.metrics import FALSE, NEITHER
from streamfer_builtin.faces.network import FaceNetwork, Head, Shape


def said(count: int, shifts: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers that are right as their logits say, but for what an anchor's are shifted by."""
    rng = np.random.default_rng(3)
    anchors = rng.integers(0, len(shifts), count)
    truth = rng.normal(1.0, 1.0, count)
    right = rng.random(count) < 1 / (1 + np.exp(-3 * (truth - 0.5)))
    return (truth + np.array(shifts)[anchors]).astype(np.float32), anchors, right


def test_what_anchors_differ_by_is_taken_back() -> None:
    logits, anchors, right = said(40_000, [-0.4, 0.1, 0.0, 0.2])
    changes = calibrate.differences(logits, anchors, right)
    assert changes[:4] - changes[2] == pytest.approx([0.4, -0.1, 0.0, -0.2], abs=0.06)
    share = np.bincount(anchors[right], minlength=6) / right.sum()
    assert changes @ share == pytest.approx(0, abs=1e-5), "the faces found keep their scores on the average"


def test_an_anchor_of_which_nothing_is_known_is_like_the_others() -> None:
    changes = calibrate.differences(*said(20_000, [0.0, 0.0, 0.0]))
    assert np.abs(changes).max() < 0.06
    few = said(4, [0.0, 0.0])
    assert np.abs(calibrate.differences(*few)).max() < 2


@pytest.mark.parametrize("right", [True, False])
def test_of_answers_that_are_all_alike_nothing_follows(right: bool) -> None:
    logits, anchors, _ = said(50, [0.0, 1.0])
    assert not calibrate.differences(logits, anchors, np.full(50, right)).any()
    assert not calibrate.differences(logits[:0], anchors[:0], np.zeros(0, bool)).any()


class Says(nn.Module):
    """A network that answers one face, of the box given, at one place, with the smallest anchor."""

    def __init__(self, box: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.box = box

    def forward(self, pictures_BCHW: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """All scores low but one."""
        height, width = pictures_BCHW.shape[-2:]
        maps = []
        for stride in (8, 16, 32):
            across, down = width // stride, height // stride
            score, box = torch.full((1, 2, down, across), -9.0), torch.zeros(1, 8, down, across)
            if stride == 8:
                x, y = (round((self.box[axis] + self.box[axis + 2]) / 2 / 8) for axis in (0, 1))
                sides = [8 * x - self.box[0], 8 * y - self.box[1], self.box[2] - 8 * x, self.box[3] - 8 * y]
                score[0, 0, y, x], box[0, :4, y, x] = 2.0, torch.log(torch.tensor(sides) / 8)
            maps.append((score, box, torch.zeros(1, 20, down, across)))
        return maps


def test_boxes_are_judged_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    write_sets(tmp_path, people=3)
    crowd = sets.crowds(tmp_path, "train")[0]
    scale = 640 / max(crowd.picture.shape[:2])  # small pictures are enlarged
    for box, right in ((crowd.labels.boxes[0], True), (crowd.labels.boxes[0] * 0 + [60, 2, 90, 30], False)):
        logits, anchors, found = calibrate.answers(Says(tuple((scale * box).tolist())), [crowd])
        assert (logits.tolist(), anchors.tolist(), found.tolist()) == ([2.0], [0], [right])
    doubtful = Says(tuple((scale * crowd.labels.boxes[1]).tolist()))
    assert [len(each) for each in calibrate.answers(doubtful, [crowd])] == [0, 0, 0], "neither right nor wrong"
    assert (FALSE, NEITHER) == (-1, -2)


def test_the_biases_take_the_differences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_sets(tmp_path, people=3)
    network = FaceNetwork(Shape((8,) * 5, 8)).eval()
    wanted = np.arange(6, dtype=np.float32)
    monkeypatch.setattr(calibrate, "differences", lambda *_: wanted)
    before = [cast(Tensor, cast(Head, head).finals()[0].bias).clone() for head in network.heads]
    calibrate.even_out(network, tmp_path)
    after = [cast(Tensor, cast(Head, head).finals()[0].bias) for head in network.heads]
    assert torch.cat(after).sub(torch.cat(before)).detach().numpy() == pytest.approx(wanted)

"""When the model abstains: risk and coverage, and where the limits lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamfer_builtin.mini import abstain, measure


def _answers(right: float, count: int = 100) -> abstain.Answers:
    hits = np.arange(count) < right * count
    return abstain.Answers(np.linspace(0.9, 0.3, count), hits)


def test_risk_grows_with_coverage_where_confidence_is_worth_something() -> None:
    curve = abstain.risk_coverage(_answers(0.8))
    assert curve["count"] == 100
    assert curve["risk"] == {"1": 0.2, "0.9": pytest.approx(10 / 90, abs=1e-4), "0.8": 0, "0.7": 0, "0.5": 0}
    blind = abstain.risk_coverage(abstain.Answers(np.full(100, 0.5), np.arange(100) % 5 > 0))
    assert blind["risk"]["0.5"] == pytest.approx(0.2)
    assert curve["aurc"] < blind["aurc"]


@pytest.mark.parametrize(
    ("right", "limit"),
    [
        ({10: 0.5, 16: 0.8, 24: 0.9}, 16),
        ({10: 0.8, 16: 0.8, 24: 0.9}, 10),
        # One good band below a bad one is luck.
        ({10: 0.8, 16: 0.6, 24: 0.9}, 24),
        ({10: 0.1, 16: 0.1, 24: 0.1}, 24),
    ],
)
def test_a_limit_is_the_lowest_from_which_every_band_is_read(right: dict[float, float], limit: float) -> None:
    bands = {key: _answers(share) for key, share in right.items()}
    assert abstain._first_of_rest(bands, abstain.LEAST_RIGHT) == limit


def test_few_pictures_do_not_show_that_a_band_is_read() -> None:
    bands = {10.0: _answers(1.0, count=abstain.FEWEST - 1), 16.0: _answers(0.9)}
    assert abstain._first_of_rest(bands, abstain.LEAST_RIGHT) == 16
    bands[10.0] = _answers(1.0, count=abstain.FEWEST)
    assert abstain._first_of_rest(bands, abstain.LEAST_RIGHT) == 10


def test_a_frontal_face_has_the_full_pose_factor_and_a_turned_one_less() -> None:
    assert abstain.pose_of(0) == 1
    assert abstain.pose_of(50) == pytest.approx(0.31, abs=0.01)


def test_a_blurred_crop_is_less_sharp() -> None:
    crops = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    assert (abstain._sharpness(measure.blurred(crops, 2.0)) < abstain._sharpness(crops)).all()

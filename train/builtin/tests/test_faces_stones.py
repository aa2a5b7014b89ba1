"""Drawn stones are pictures like others: of any size, different each time, the same for the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from streamfer_builtin.faces.stones import stones


@pytest.mark.parametrize("side", [64, 160])
def test_stones_fill_a_picture_and_depend_on_their_numbers_alone(side: int) -> None:
    first, again, other = (stones(side, np.random.default_rng(number)) for number in (4, 4, 5))
    assert first.shape == (side, side, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_they_have_edges_all_over_and_are_of_many_kinds() -> None:
    pictures = [stones(96, np.random.default_rng(number)).astype(float) for number in range(24)]
    for picture in pictures:
        quarters = [half.std() for row in np.array_split(picture.mean(axis=2), 2) for half in np.array_split(row, 2, 1)]
        assert min(quarters) > 1
    brightness = [picture.mean() for picture in pictures]
    assert max(brightness) - min(brightness) > 60

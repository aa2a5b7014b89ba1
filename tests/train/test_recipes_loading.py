"""Batches grouped into steps."""

from __future__ import annotations

import pytest

from streamfer_train.recipes.loading import in_steps


@pytest.mark.parametrize(
    ("size", "steps", "expected"),
    [
        (2, 2, [[0, 1], [2, 3]]),
        (2, 9, [[0, 1], [2, 3]]),
        (1, 3, [[0], [1], [2]]),
        (3, 1, [[0, 1, 2]]),
        (6, 1, []),
        (2, 0, []),
    ],
)
def test_steps_are_whole_and_nothing_is_read_beyond_them(size: int, steps: int, expected: list[list[int]]) -> None:
    source = iter(range(5))
    assert list(in_steps(source, size, steps)) == expected
    if len(expected) == steps:
        assert next(source) == size * steps

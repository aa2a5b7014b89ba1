"""What measurements are held against: a person's first seconds, or another file."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas
import pytest
from film_events import DONE, OPENED, findings, frame

from streamfer.config import ClipConfig
from streamfer.errors import ConfigError
from streamfer.export.baseline import Baseline, standardised
from streamfer.export.tables import table_of
from streamfer.pipeline.events import Event, FrameFaces, SourceStats


def scored(baseline: Baseline, *events: Event) -> pandas.DataFrame:
    return standardised(table_of("frames", findings(OPENED, *events, DONE)), "frames", baseline).data_frame()


def read(number: int, value: float, track: int = 1) -> FrameFaces:
    """A frame, eight a second, in which a person smiles so much."""
    one = frame(number, (track,))
    return replace(one, faces=(replace(one.faces[0], action_units={"AU06": 0.25, "AU12": value}),))


def test_z_scores_are_those_of_a_persons_first_seconds() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    table = scored(Baseline.first("0.5s") or Baseline(), *(read(number, value) for number, value in enumerate(values)))
    expected = (np.array(values) - np.mean(values[:5])) / np.std(values[:5], ddof=1)
    np.testing.assert_allclose(table["AU12_r_z"], expected, atol=1e-4)
    assert table["AU06_r_z"].isna().all(), "what never moves has no deviation"
    assert table.seconds.tolist() == [number / 8 for number in range(9)]
    assert list(table)[-2:] == ["AU06_r_z", "AU12_r_z"]


def test_everybody_has_a_baseline_of_their_own_and_rows_keep_their_order() -> None:
    events = [
        read(0, 0.1),
        read(1, 0.3),
        read(2, 0.5, 2),
        read(3, 0.9, 2),
        read(4, 0.2),
        frame(5, ()),
        read(60, 0.7, 2),
    ]
    table = scored(Baseline(0.2), *events)
    assert table.seconds.tolist() == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 7.5]
    score = 1 / np.sqrt(2)
    np.testing.assert_allclose(table["AU12_r_z"], [-score, score, -score, score, 0, np.nan, 0], atol=1e-4)


def test_another_file_can_be_the_baseline() -> None:
    table = scored(Baseline(reference={"frames": {"AU12_r": (0.5, 0.25)}}), read(0, 0.75), read(1, 0.25))
    assert table["AU12_r_z"].tolist() == [1.0, -1.0]
    assert Baseline.first(__file__) is None
    assert Baseline.first("https://example.org/neutral.mp4") is None


@pytest.mark.parametrize("text", ["0s", "2.9s", "10", "-5s", "10S", "", "neutral.mp4", ".", f"1{'0' * 400}s"])
def test_what_is_no_baseline_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Baseline.first(text, ClipConfig())
    assert re.search("such as 10s|too short .*give 3s", str(caught.value))


def test_a_doubtful_baseline_is_remarked() -> None:
    one, two = (SourceStats(seconds=12.0, tracks=tracks) for tracks in (1, 2))
    assert Baseline(10.0).remark(one) == ""
    assert "shorter than the baseline of 600 s" in Baseline(600.0).remark(one)
    of_one, of_two = (Baseline(reference={}, source="neutral.mp4", people=people) for people in (1, 2))
    assert of_one.remark(one) == of_two.remark(SourceStats()) == ""
    assert of_one.remark(two) == "2 people are held against the one seen longest of 1 in neutral.mp4"
    assert of_two.remark(one) == "1 person is held against the one seen longest of 2 in neutral.mp4"

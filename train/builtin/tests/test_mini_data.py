"""Training data of the mini model: balance, mirroring, identities, and the files themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamfer.errors import ConfigError
from streamfer_builtin.mini import data
from streamfer_builtin.mini.units import BLENDSHAPES, PRESENT
from streamfer_builtin.render.actions import ACTION_UNITS


def _share(labels: torch.Tensor, weights: torch.Tensor, label: int) -> float:
    return float(weights[labels == label].sum() / weights.sum())


def test_power_zero_keeps_the_natural_frequencies() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = data.sampling_weights(labels, power=0.0)
    assert _share(labels, weights, 1) == pytest.approx(0.1)


def test_power_one_makes_classes_equal() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = data.sampling_weights(labels, power=1.0)
    assert _share(labels, weights, 0) == pytest.approx(_share(labels, weights, 1))


def test_square_root_lies_between_and_mean_weight_is_one() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = data.sampling_weights(labels, power=0.5)
    assert _share(labels, weights, 1) == pytest.approx(10**0.5 / (10**0.5 + 90**0.5))
    assert float(weights.mean()) == pytest.approx(1.0)


def test_a_cap_bounds_what_a_large_class_contributes() -> None:
    labels = torch.tensor([0] * 900 + [1] * 100)
    weights = data.sampling_weights(labels, power=0.0, cap=100)
    assert _share(labels, weights, 0) == pytest.approx(0.5)


@given(st.text(min_size=1, max_size=30))
def test_identity_fraction_is_a_fraction_and_stable(name: str) -> None:
    place = data.identity_fraction(name)
    assert 0 <= place < 1
    assert place == data.identity_fraction(name)


def test_missing_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"blendshapes\.parquet: training data not found; point --data"):
        data.load(tmp_path)


def test_the_real_sets(shared_data: Path) -> None:
    corpus = data.load(shared_data)
    fer, faces = corpus.train
    assert (len(fer), len(corpus.val)) == (26_749, 3_441)
    assert len(faces) + len(corpus.held_out) == 11_550  # five pictures show contempt
    assert 0.10 < len(corpus.held_out) / 11_550 < 0.20
    happy = data.CLASSES.index("happiness")
    assert int((fer.labels == happy).sum()) == 7_063
    assert int((corpus.val.labels == happy).sum()) == 881
    assert fer.pixels.shape[1:] == (48, 48)
    assert faces.pixels.shape[1:] == (64, 64)
    # Mirroring twice changes nothing; smiling has a left and a right score.
    assert torch.equal(corpus.mirror[corpus.mirror], torch.arange(len(corpus.mirror)))
    assert (corpus.mirror != torch.arange(len(corpus.mirror))).sum() > 20
    assert corpus.mirror_sign.tolist().count(-1.0) == 1
    assert fer.scores.isnan().any(1).float().mean() == pytest.approx(1 - 0.945, abs=0.001)
    labelled = [ACTION_UNITS.index(name) for name in BLENDSHAPES]
    shown = (fer.units[:, labelled] > PRESENT).float().mean(0)
    assert float(shown.min()) > 0.01  # every unit that has a teacher is there to be learned
    assert float(shown.max()) < 0.5


def test_digests_are_those_the_data_is_published_with(shared_data: Path) -> None:
    published = (shared_data / "README.md").read_text()
    for name, digest in data.digests(shared_data).items():
        assert f"| {name} |" in published
        assert digest in published

"""Stage 2 of the mini model: clips made from stills, and a temporal head that learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamfer_train.mini import clips
from streamfer_train.mini.data import CLASSES, Pictures
from streamfer_train.mini.images import EMBED_DIM

STEADY = clips.ClipRecipe(static=1.0, padded=0.0, held=0.0)


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(per_class: int = 12, views: int = 3) -> clips.Features:
    """Separable: a class is a direction, views differ a little."""
    labels = torch.arange(len(CLASSES)).repeat(per_class)
    directions = torch.nn.functional.one_hot(labels, EMBED_DIM).float() * 8
    noise = torch.randn(len(labels), views, EMBED_DIM, generator=_rng(1)) * 0.3
    return clips.Features((directions[:, None] + noise).half(), labels)


def test_every_class_has_a_description_that_fits() -> None:
    assert set(clips.DESCRIPTIONS) == set(CLASSES)
    assert len(set(clips.DESCRIPTIONS.values())) == len(CLASSES)


def test_views_of_a_clip_share_picture_and_mirroring() -> None:
    pixels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    pixels[:, :, 40:] = 255
    pictures = Pictures("faces", pixels, torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1))
    views = clips.clip_views(pictures, torch.tensor([0, 1] * 8), 5, _rng())
    assert views.shape == (16, 5, 1, 64, 64)
    bright_right = views[..., 32:].mean((2, 3, 4)) > views[..., :32].mean((2, 3, 4))
    assert bool((bright_right.all(1) | ~bright_right.any(1)).all())
    assert bool(bright_right.any())
    assert not bool(bright_right.all())


def test_a_steady_clip_stays_within_its_own_views() -> None:
    features = _features()
    rows = torch.arange(20)
    made = clips.synthesise(features, rows, STEADY, _rng())
    assert made.shape == (20, clips.FRAMES, EMBED_DIM)
    views = features.views_NVD[rows].float()
    low, high = views.min(1).values[:, None], views.max(1).values[:, None]
    assert bool(((made >= low - 1e-4) & (made <= high + 1e-4)).all())


def test_a_moving_clip_shows_its_expression_for_four_frames_and_rests_elsewhere() -> None:
    features, moving = _features(), replace(STEADY, static=0.0)
    rows = (features.labels_N == CLASSES.index("happiness")).nonzero()[:, 0].repeat(30)
    made = clips.synthesise(features, rows, moving, _rng())
    happy = made[..., CLASSES.index("happiness")] > 6
    rest = made[..., CLASSES.index("neutral")] > 4
    assert int(happy.sum(1).min()) >= 3
    assert float(rest.any(1).float().mean()) > 0.3


def test_padding_repeats_the_last_real_feature() -> None:
    made = clips.synthesise(_features(), torch.arange(40), replace(STEADY, padded=1.0), _rng())
    assert bool((made[:, -1] == made[:, -2]).flatten(1).all(1).any())
    order = clips._order(200, replace(STEADY, padded=1.0), _rng())
    assert torch.equal(order, order.cummax(1).values)
    assert int(order.max(1).values.min()) >= 3


def test_a_gap_repeats_the_feature_before_it() -> None:
    order = clips._order(200, replace(STEADY, held=1.0), _rng())
    natural = torch.arange(clips.FRAMES)
    changed = order != natural
    assert bool(changed.any(1).all())
    assert int(changed.sum(1).max()) <= 4
    assert bool((order <= natural).all())


def test_synthesis_is_decided_by_the_seed_alone() -> None:
    features, rows, recipe = _features(), torch.arange(30), clips.ClipRecipe()
    once = clips.synthesise(features, rows, recipe, _rng(4))
    assert torch.equal(once, clips.synthesise(features, rows, recipe, _rng(4)))
    assert not torch.equal(once, clips.synthesise(features, rows, recipe, _rng(5)))


@pytest.mark.parametrize("recipe", [clips.ClipRecipe(steps=60, batch=64)])
def test_training_learns_separable_clips_and_leaves_the_tower_alone(recipe: clips.ClipRecipe, tmp_path: Path) -> None:
    features = _features()
    model = clips.ClipModel(recipe)
    tower = model.dfer.image_encoder.state_dict()["conv1.weight"].clone()
    clips.train(model, features, recipe, tmp_path)
    with torch.no_grad():
        logits = model(features.views_NVD[:, :1].float().expand(-1, clips.FRAMES, -1))
    assert float((logits.argmax(1) == features.labels_N).float().mean()) > 0.95
    assert torch.equal(model.dfer.image_encoder.state_dict()["conv1.weight"], tower)
    assert (tmp_path / "clips.pt").is_file()

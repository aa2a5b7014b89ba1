"""Stage `clips` of the mini model: windows made from stills, and a temporal head that learns from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mini_corpus
import pytest
import torch

from streamfer.errors import CheckpointError, SourceNotFoundError
from streamfer_builtin.mini import augment, checkpoint, clips, fitting, joint, renders, windows
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.networks import FRAMES
from streamfer_builtin.mini.recipe import ClipsPart, Recipe, Sizes
from streamfer_builtin.render.clips import RenderedClips, save_shard, shard_path
from streamfer_builtin.render.course import DIRECTIONS

DIM = 32
SIZES = Sizes(embed_dim=DIM, heads=2, dim_head=16, mlp_dim=64, text_layers=1, text_width=32)
STEADY = ClipsPart(static=1.0, padded=0.0, held=0.0)


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _features(per_class: int = 12, views: int = 3) -> windows.PictureFeatures:
    """Separable: a class is a direction, views differ a little."""
    labels = torch.arange(len(CLASSES)).repeat(per_class)
    directions = torch.nn.functional.one_hot(labels, DIM).float() * 8
    noise = torch.randn(len(labels), views, DIM, generator=_rng(1)) * 0.3
    return windows.PictureFeatures((directions[:, None] + noise).half(), torch.nn.functional.one_hot(labels).float())


def _rendered(count: int = 84) -> windows.ClipFeatures:
    """Clips whose class feature rises (onset) or falls (offset)."""
    labels = torch.arange(count) % len(CLASSES)
    falling = torch.arange(count) // len(CLASSES) % 2 == 1
    strength = torch.linspace(0, 1, FRAMES).expand(count, -1)
    strength = torch.where(falling[:, None], strength.flip(1), strength)
    neutral = torch.nn.functional.one_hot(torch.tensor(CLASSES.index("neutral")), DIM).float()
    shown = torch.nn.functional.one_hot(labels, DIM).float()
    frames = 8 * torch.lerp(
        neutral.expand(count, FRAMES, DIM), shown[:, None].expand(-1, FRAMES, -1), strength[..., None]
    )
    directions = torch.where(falling, DIRECTIONS.index("offset"), DIRECTIONS.index("onset"))
    noise = torch.randn(frames.shape, generator=_rng(2)) * 0.3
    return windows.ClipFeatures((frames + noise).half(), labels, directions)


def test_every_class_has_a_description_that_fits() -> None:
    assert set(clips.DESCRIPTIONS) == set(CLASSES)
    assert len(set(clips.DESCRIPTIONS.values())) == len(CLASSES)


def test_views_of_a_clip_share_picture_and_mirroring() -> None:
    pixels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    pixels[:, :, 40:] = 255
    none = torch.zeros(2, 0)
    labels = torch.zeros(2, dtype=torch.int64)
    pictures = Pictures("faces", augment.FACES_EXTENT, pixels, labels, none, none, none)
    views = windows.clip_views(pictures, torch.tensor([0, 1] * 8), 5, _rng())
    assert views.shape == (16, 5, 1, 48, 48)
    bright_right = views[..., 24:].mean((2, 3, 4)) > views[..., :24].mean((2, 3, 4))
    assert bool((bright_right.all(1) | ~bright_right.any(1)).all())
    assert bool(bright_right.any())
    assert not bool(bright_right.all())


def test_a_steady_window_stays_within_its_own_views() -> None:
    features = _features()
    rows = torch.arange(20)
    window = windows.synthesise(features, rows, STEADY, _rng())
    made, own = window.frames, window.own
    assert bool(window.static.all())
    assert made.shape == (20, FRAMES, DIM)
    views = features.views[rows].float()
    low, high = views.min(1).values[:, None], views.max(1).values[:, None]
    assert bool(((made >= low - 1e-4) & (made <= high + 1e-4)).all())
    assert bool((own == 1).all())
    assert bool((made.diff(dim=1).abs().sum((1, 2)) == 0).any())  # some do not move at all


def test_a_moving_window_shows_its_expression_for_a_while_and_rests_elsewhere() -> None:
    features, moving = _features(), STEADY.model_copy(update={"static": 0.0})
    rows = (features.targets.argmax(1) == CLASSES.index("happiness")).nonzero()[:, 0].repeat(30)
    window = windows.synthesise(features, rows, moving, _rng())
    made, own = window.frames, window.own
    assert float(window.static.float().mean()) < 0.2  # a plateau may fill a window
    happy = made[..., CLASSES.index("happiness")] > 6
    rest = made[..., CLASSES.index("neutral")] > 4
    assert int(happy.sum(1).min()) >= 3
    assert float(rest.any(1).float().mean()) > 0.3
    # A window counts as showing its expression by how much of it the expression fills, wholly from 0.6 on.
    assert float(own.min()) < 0.9
    filled = made[..., CLASSES.index("happiness")].mean(1) / 8
    assert torch.allclose(own, (filled / 0.6).clamp(max=1), atol=0.12)


def test_padding_repeats_the_last_real_feature() -> None:
    order = windows.gapped(200, STEADY.model_copy(update={"padded": 1.0}), _rng())
    assert torch.equal(order, order.cummax(1).values)
    assert int(order.max(1).values.min()) >= 3
    assert bool((order[:, -1] == order[:, -2]).any())
    unpadded = windows.gapped(200, STEADY.model_copy(update={"padded": 1.0}), _rng(), padding=False)
    assert bool((unpadded == torch.arange(FRAMES)).all())


def test_a_gap_repeats_the_feature_before_it() -> None:
    order = windows.gapped(200, STEADY.model_copy(update={"held": 1.0}), _rng())
    natural = torch.arange(FRAMES)
    changed = order != natural
    assert bool(changed.any(1).all())
    assert int(changed.sum(1).max()) <= 4
    assert bool((order <= natural).all())


def test_windows_are_decided_by_the_seed_alone() -> None:
    features, rows, part = _features(), torch.arange(30), ClipsPart()
    once = windows.synthesise(features, rows, part, _rng(4)).frames
    assert torch.equal(once, windows.synthesise(features, rows, part, _rng(4)).frames)
    assert not torch.equal(once, windows.synthesise(features, rows, part, _rng(5)).frames)


def test_targets_follow_the_picture_head_on_still_windows() -> None:
    head = torch.nn.Linear(DIM, len(CLASSES))
    features = _features()
    task = clips.ClipsTask(
        clips.Features(features, _rendered(), features, _rendered()), head, STEADY.model_copy(update={"distil": 1.0})
    )
    made, targets, directions = task._photographs(40, _rng())
    assert torch.allclose(targets, head(made).mean(1).softmax(1), atol=1e-5)
    assert bool((directions == -100).all())


def test_a_balanced_head_favours_rare_classes_and_keeps_its_kernel() -> None:
    head = torch.nn.Linear(DIM, len(CLASSES))
    with torch.no_grad():
        head.weight.copy_(torch.eye(DIM)[: len(CLASSES)])
        head.bias.zero_()
    features = _features()
    often = features.targets.argmax(1) == 0
    rows = torch.cat([torch.arange(len(often)), often.nonzero()[:, 0].repeat(20)])
    many = windows.PictureFeatures(features.views[rows], features.targets[rows])
    moved = clips.balanced(head, many, 0.5)
    assert torch.equal(moved.weight, head.weight)
    assert int(moved.bias.argmin()) == 0
    assert torch.equal(clips.balanced(head, many, 0.0).bias, head.bias)


def test_training_reads_stills_as_the_head_does_and_knows_the_direction(tmp_path: Path) -> None:
    features, rendered = _features(), _rendered()
    head = torch.nn.Linear(DIM, len(CLASSES))
    with torch.no_grad():
        head.weight.copy_(torch.eye(DIM)[: len(CLASSES)])
        head.bias.zero_()
    part = ClipsPart(epochs=2, steps=80, batch=48, lr=5e-3, ema=0.9, render_share=0.5)
    task = clips.ClipsTask(clips.Features(features, rendered, features, rendered), head, part)
    model = fitting.fit(clips.ClipModel(SIZES, part.temperature), task, part, tmp_path / "clips.pt")
    seen = task.watch(model, 1)
    assert seen["clear"] > 0.95
    assert seen["rendered_uar"] > 0.8
    assert seen["direction_acc"] > 0.8
    names = model.state_dict().keys()
    assert not [n for n in names if n.startswith("dfer.image_encoder.")]


def test_a_stage_overtaken_by_the_one_before_is_refused(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path)
    recipe.work.mkdir()
    (recipe.work / "joint.pt").write_bytes(b"newer")
    checkpoint.save(recipe.work / "clips.pt", {**dict.fromkeys(checkpoint.STATE, 0), "joint": "0123456789abcdef"})
    with pytest.raises(CheckpointError, match=r"clips\.pt: was made from another joint\.pt; delete it"):
        clips.read_clips(recipe)


def _trained(recipe: Recipe) -> None:
    joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    clips.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15), mini_corpus.clips(8))


def test_other_rendered_clips_do_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path, rendered=15, rendered_val=8)
    _trained(recipe)
    with pytest.raises(CheckpointError, match=r"clips\.pt: was made with rendered 15, the recipe says 14"):
        clips.read_clips(recipe.model_copy(update={"rendered": 14}))
    with pytest.raises(CheckpointError, match=r"clips\.pt: was made with rendered_val 8, the recipe says 9"):
        clips.train(recipe.model_copy(update={"rendered_val": 9}), *_nothing())


def _nothing() -> tuple[Corpus, RenderedClips, RenderedClips]:
    return mini_corpus.corpus(), mini_corpus.clips(15), mini_corpus.clips(8)


@pytest.mark.parametrize("name", ["clips.pt", "features.pt"])
def test_parts_that_are_missing_or_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path, rendered=15, rendered_val=8)
    _trained(recipe)
    path = recipe.work / name
    whole = torch.load(path, weights_only=True)
    wanted = {"clips.pt": (*checkpoint.STATE, "joint"), "features.pt": ("key", *clips.Features.__slots__)}[name]
    for missing in wanted:
        torch.save({part: value for part, value in whole.items() if part != missing}, path)
        with pytest.raises(CheckpointError, match=rf"{name}: no checkpoint of this recipe \({missing} is missing\)"):
            clips.train(recipe, *_nothing())
    torch.save(whole | {part: {"another": torch.ones(2)} for part in ("average", "pictures")}, path)
    with pytest.raises(CheckpointError, match=rf"{name}: damaged, or of another network \("):
        clips.train(recipe, *_nothing())


def test_rendered_clips_that_are_missing_are_counted(tmp_path: Path) -> None:
    for first in (0, 200):
        made = mini_corpus.clips(100)
        moved = dataclasses.replace(made, index=made.index + first)
        save_shard(moved, shard_path(tmp_path, "train", first), seed=0)
    assert len(renders.load(tmp_path, "train", 100)) == 100
    assert len(renders.load(tmp_path, "train")) == 200
    for limit, have in ((101, 100), (200, 100), (400, 200)):
        with pytest.raises(SourceNotFoundError, match=rf"has {have} of the {limit} rendered clips of split train; run"):
            renders.load(tmp_path, "train", limit)

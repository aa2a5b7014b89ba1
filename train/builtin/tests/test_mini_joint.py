"""Stage `joint`: what rendered frames show, what photographs are taught, and resuming."""

from __future__ import annotations

from pathlib import Path

import mini_corpus
import numpy as np
import pytest
import torch

from streamfer.errors import CheckpointError, ConfigError
from streamfer_builtin.mini import checkpoint, images, joint, renders
from streamfer_builtin.mini.data import CLASSES
from streamfer_builtin.mini.networks import ImageModel
from streamfer_builtin.mini.recipe import JointPart, Recipe, Sizes
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.course import FRAMES


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose stage `images` has run."""
    recipe = mini_corpus.recipe(tmp_path_factory.mktemp("joint"))
    images.train(mini_corpus.corpus(), recipe.images, recipe.sizes, recipe.work)
    return recipe


def test_a_rendered_frame_shows_its_expression_as_far_as_it_has_come() -> None:
    clips = mini_corpus.clips(4)
    shown, known = renders.shown(clips)
    happy = shown.view(4, FRAMES, -1)[0, :, CLASSES.index("happiness")]
    assert torch.allclose(shown.sum(1), torch.ones(4 * FRAMES), atol=1e-3)
    assert float(happy[0]) == 0
    assert float(happy[-1]) == 1
    assert bool((happy.diff() >= 0).all())
    assert bool(known.all())


def test_frames_in_which_another_expression_fades_are_unknown() -> None:
    clips = mini_corpus.clips(4)
    clips.preceding[0] = 3
    _, known = renders.shown(clips)
    strong = torch.from_numpy(clips.envelope[0].astype(np.float32)) >= 0.7
    assert torch.equal(known.view(4, FRAMES)[0], strong)
    assert bool(known.view(4, FRAMES)[1:].all())


def test_frames_become_pictures_in_the_order_of_their_clips() -> None:
    clips = mini_corpus.clips(3)
    pictures = renders.pictures(clips)
    assert torch.equal(pictures.pixels[FRAMES + 2], torch.from_numpy(clips.frames[1, 2]))
    assert pictures.labels.view(3, FRAMES).eq(torch.tensor([[0], [1], [2]])).all()
    assert pictures.units.shape == (3 * FRAMES, len(ACTION_UNITS))


def test_the_teacher_moves_targets_and_rendered_emotions_weigh_less(trained: Recipe) -> None:
    photographs = mini_corpus.corpus().train[0]
    teacher = torch.full((len(photographs), len(CLASSES)), 1 / len(CLASSES))
    source = joint._photographs(photographs, teacher, JointPart(distil=0.5))
    rows = torch.arange(len(photographs))
    assert source.targets[rows, photographs.labels] == pytest.approx(0.5 + 0.5 / len(CLASSES))
    rendered = joint._rendered(mini_corpus.clips(15), JointPart(render_emotion=0.25))
    assert len(rendered.weights) == 14 * FRAMES  # the reversed clip repeats another's frames
    assert float(rendered.weights.max()) == 0.25


def test_the_action_head_starts_from_a_linear_fit(trained: Recipe) -> None:
    corpus = mini_corpus.corpus()
    first = joint.read_images(trained.work, trained.sizes, 4)
    with torch.no_grad():
        for source in corpus.train:
            features = joint._features(first, source)
            source.units[:, ACTION_UNITS.index("AU12")] = (4 * (features[:, 0] - features[:, 0].mean())).sigmoid()
        head = joint.JointModel(trained.sizes).action_head
        untouched = head.weight[ACTION_UNITS.index("AU06")].clone()
        probabilities = joint._taught(first, corpus, head)
        rated = head(joint._features(first, corpus.train[0])).sigmoid()[:, ACTION_UNITS.index("AU12")]
    truth = corpus.train[0].units[:, ACTION_UNITS.index("AU12")]
    assert float(torch.corrcoef(torch.stack([rated, truth]))[0, 1]) > 0.95
    assert torch.equal(head.weight[ACTION_UNITS.index("AU06")], untouched)
    assert [len(p) for p in probabilities] == [42, 21]


def test_a_resumed_stage_equals_an_unbroken_one(trained: Recipe, tmp_path: Path) -> None:
    corpus, clips = mini_corpus.corpus(), mini_corpus.clips(15)
    unbroken = joint.train(trained, corpus, clips)
    finished = checkpoint.load(trained.work / "joint.pt", "joint")
    (trained.work / "joint.pt").unlink()
    saved: list[int] = []
    save = checkpoint.save

    def stops(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        saved.append(1)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            joint.train(trained, corpus, clips)
    resumed = joint.train(trained, corpus, clips)
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert finished["epoch"] == 2
    read, made = joint.read_joint(trained.work, trained.sizes)
    assert torch.equal(read.action_head.weight, resumed.action_head.weight)
    assert made["epochs_done"] == 2


def test_without_photographs_it_begins_at_random_and_needs_no_first_stage(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(
        tmp_path, photographs=False, joint={"render_share": 1.0, "render_emotion": 1.0, "epochs": 1}
    )
    joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    assert checkpoint.load(recipe.work / "joint.pt", "joint")["teacher"] == []


def test_a_stage_out_of_order_says_which_comes_first(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"images\.pt: no checkpoint; run `streamfer train mini images`"):
        joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))


def test_a_tower_of_another_size_is_refused(trained: Recipe) -> None:
    wider = trained.sizes.model_copy(update={"width": 8})
    with pytest.raises(CheckpointError, match=r"images\.pt: was made with width 4, the recipe says 8"):
        joint.read_images(trained.work, wider, 4)


def test_a_loss_counts_only_weighted_emotions(trained: Recipe) -> None:
    part = JointPart(smoothing=0.0, action_weight=0.0)
    task = joint.JointTask((), joint._rendered(mini_corpus.clips(15), part), mini_corpus.corpus().val, part)
    model = joint.JointModel(trained.sizes)
    crops = torch.rand(2, 1, 48, 48)
    targets = torch.nn.functional.one_hot(torch.tensor([0, 5]), len(CLASSES)).float()
    unknown = torch.full((2, len(ACTION_UNITS)), torch.nan)
    model.eval()
    both = joint.JointBatch(crops, targets, torch.tensor([1.0, 0.0]), unknown)
    alone = joint.JointBatch(crops[:1], targets[:1], torch.ones(1), unknown[:1])
    assert task.loss(model, both).item() == pytest.approx(task.loss(model, alone).item(), rel=1e-4)
    assert isinstance(joint.read_images(trained.work, trained.sizes, 4), ImageModel)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_the_statistics_of_the_first_stage(frozen: bool) -> None:
    model = joint.JointModel(Sizes(layers=(1, 1, 1, 1), width=4), freeze_norms=frozen).train()
    before = model.image_encoder.state_dict()["bn1.running_mean"].clone()
    model(torch.rand(4, 1, 48, 48))
    assert torch.equal(model.image_encoder.state_dict()["bn1.running_mean"], before) == frozen
    assert model.action_head.training

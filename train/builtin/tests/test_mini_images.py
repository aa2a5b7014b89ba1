"""Stage `images` and the loop of all stages: draws, averaging, crashes, divergence, resuming."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mini_corpus
import pytest
import torch

from streamfer.errors import CheckpointError, OutputError
from streamfer_builtin.mini import augment, checkpoint, fitting, images
from streamfer_builtin.mini.data import Corpus, Pictures
from streamfer_builtin.mini.recipe import ImagesPart, Recipe, Small


@pytest.fixture
def corpus() -> Corpus:
    return mini_corpus.corpus()


@pytest.fixture
def tiny(tmp_path: Path) -> Recipe:
    return mini_corpus.recipe(tmp_path)


def _train(corpus: Corpus, recipe: Recipe, work: Path) -> images.ImageModel:
    return images.train(corpus, recipe.images, recipe.sizes, work)


def test_a_resumed_run_equals_an_unbroken_one(
    corpus: Corpus, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = _train(corpus, tiny, tmp_path / "a")
    batches = images.ImagesTask.batches

    def breaks_in_the_second(self: images.ImagesTask, epoch: int) -> Iterator[images.ImageBatch]:
        for step, batch in enumerate(batches(self, epoch)):
            if (epoch, step) == (1, 2):
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(images.ImagesTask, "batches", breaks_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        _train(corpus, tiny, tmp_path / "b")
    monkeypatch.setattr(images.ImagesTask, "batches", batches)
    resumed = _train(corpus, tiny, tmp_path / "b")
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_another_recipe_does_not_go_on_from_a_checkpoint(corpus: Corpus, tiny: Recipe, tmp_path: Path) -> None:
    _train(corpus, tiny, tmp_path)
    faster = tiny.model_copy(update={"images": tiny.images.model_copy(update={"lr": 0.1})})
    with pytest.raises(CheckpointError, match=r"images\.pt: was made with lr 0\.002, the recipe says 0\.1"):
        _train(corpus, faster, tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    corpus: Corpus, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = images.ImagesTask.loss
    calls: list[int] = []

    def diverges(self: images.ImagesTask, model: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        return loss(self, model, batch) * (math.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(images.ImagesTask, "loss", diverges)
    with pytest.raises(fitting.Diverged, match=r"stage images: the loss is nan in step 1 of epoch 1"):
        _train(corpus, tiny, tmp_path)
    assert checkpoint.load(tmp_path / "images.pt", "images")["epoch"] == 1


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.pt"
    checkpoint.save(path, {"epoch": 1})

    def half_written(state: dict[str, Any], file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OutputError, match=r"images\.pt: cannot be written \(No space left on device\).*disk full"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path, "images") == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["images.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.pt").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"images\.pt: not a readable checkpoint; delete it to start anew"):
        checkpoint.load(tmp_path / "images.pt", "images")


def test_weights_keep_the_names_that_export_reads(tiny: Recipe) -> None:
    names = images.ImageModel(tiny.sizes, 4).state_dict().keys()
    assert {n.split(".")[0] for n in names} == {"image_encoder", "expression", "actions"}
    assert "image_encoder.layer1.0.conv1.weight" in names


def test_a_draw_depends_on_seed_and_epoch_alone(corpus: Corpus, tiny: Recipe) -> None:
    def rows(epoch: int) -> list[list[int]]:
        return [index.tolist() for _, index in images.draw(corpus.train, tiny.images, epoch)]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_a_draw_favours_rare_classes(corpus: Corpus) -> None:
    labels = torch.tensor([0] * 900 + [5] * 100)
    fer: Pictures = replace(corpus.val, labels=labels)
    part = ImagesPart(pictures=1000, faces_share=0.0, power=0.5)
    (_, index), _ = images.draw((fer, fer), part, epoch=0)
    assert len(index) == pytest.approx(1000, abs=40)
    assert float((labels[index] == 5).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_mirrored_pictures_swap_left_and_right_scores(corpus: Corpus) -> None:
    rows = torch.arange(1, 42, 3)
    _, _, scores = images.batch_of(
        corpus, [(corpus.train[0], rows)], augment.Strength(), torch.Generator().manual_seed(1)
    )
    kept = corpus.train[0].scores[rows]
    swapped = kept[:, corpus.mirror] * corpus.mirror_sign
    as_kept, as_swapped = (scores == kept).all(1), (scores == swapped).all(1)
    assert bool((as_kept | as_swapped | kept.isnan().any(1)).all())
    assert bool(as_kept.any())
    assert bool(as_swapped.any())


def test_the_average_moves_towards_the_model() -> None:
    model = torch.nn.Linear(2, 2)
    average = fitting.Average(model, 0.9)
    before = average.model.weight.clone()
    with torch.no_grad():
        model.weight += 1
    average.update(model)
    assert bool((average.model.weight > before).all())
    assert bool((average.model.weight < model.weight).all())


@pytest.mark.parametrize(("progress", "expected"), [(0.02, 0.501), (0.04, 1.0), (0.52, 0.5), (1.0, 0.0)])
def test_learning_rate_warms_up_and_falls_to_zero(progress: float, expected: float) -> None:
    assert fitting.rate(progress, 0.04) == pytest.approx(expected, abs=1e-6)


def test_pictures_grow_as_the_recipe_says() -> None:
    small = (Small(until=0.35, side=32), Small(until=0.68, side=40))
    assert [images.side_at(p, small) for p in (0.0, 0.34, 0.36, 0.67, 0.69, 1.0)] == [32, 32, 40, 40, 48, 48]
    assert images.side_at(0.0, ()) == augment.CROP


def test_pictures_are_watched_at_the_size_that_is_trained(
    corpus: Corpus, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tiny.images.model_copy(update={"epochs": 4, "small": (Small(until=0.5, side=32),)})
    task = images.ImagesTask(corpus, part)
    seen: list[int] = []
    model = images.ImageModel(tiny.sizes, len(corpus.mirror))

    def encode(images_B1HH: torch.Tensor) -> torch.Tensor:
        seen.append(images_B1HH.shape[-1])
        return torch.zeros(len(images_B1HH), tiny.sizes.embed_dim)

    monkeypatch.setattr(model, "encode", encode)
    for epoch in (1, 2):
        assert len(list(task.batches(epoch))) == task.steps
        task.watch(model, last=False)
    assert seen == [32, 48]


def test_augmentation_relaxes_towards_the_end() -> None:
    assert images.relaxation(0.1) == 1.0
    assert images.relaxation(0.525) == pytest.approx(0.65)
    assert images.relaxation(1.0) == pytest.approx(0.3)
    assert augment.Strength().relaxed(0.0) == augment.Strength(
        scale=(1.0, 1.0), aspect=0, rotation=0, shift=0, gamma=0, contrast=0, brightness=0,
        soften=0, jpeg=0, noise=0, cutout=0,
    )  # fmt: skip

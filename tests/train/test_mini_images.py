"""Stage 1 of the mini model: draws, averaging, checkpoints that survive a crash, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from streamfer_train.mini import images
from streamfer_train.mini.data import CLASSES, Corpus, Pictures

TINY_VISION: dict[str, Any] = {"layers": [1, 1, 1, 1], "width": 4, "head_width": 64, "image_size": 64}
TINY = images.ImageRecipe(epochs=2, pictures=24, batch=8, seed=5)


def _pictures(source: str, count: int, size: int) -> Pictures:
    rng = torch.Generator().manual_seed(count)
    actions = torch.randn(count, 4, generator=rng)
    actions[::3] = torch.nan
    return Pictures(
        source,
        torch.randint(0, 256, (count, size, size), generator=rng, dtype=torch.uint8),
        torch.arange(count) % len(CLASSES),
        actions,
    )


@pytest.fixture
def corpus() -> Corpus:
    return Corpus(
        train=(_pictures("fer2013_train", 42, 48), _pictures("faces", 21, 64)),
        val=_pictures("fer2013_val", 14, 48),
        held_out=_pictures("faces", 7, 64),
        mirror=torch.tensor([1, 0, 2, 3]),
        mirror_sign=torch.tensor([1.0, 1.0, 1.0, -1.0]),
    )


def _weights(model: images.ImageModel) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def test_a_resumed_run_equals_an_unbroken_one(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = images.train(corpus, TINY, tmp_path / "a", TINY_VISION)
    whole_epoch = images._epoch

    def breaks_in_the_second(corpus: Corpus, recipe: images.ImageRecipe, epoch: int, *rest: Any) -> float:
        loss = whole_epoch(corpus, recipe, epoch, *rest)
        if epoch == 1:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(images, "_epoch", breaks_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        images.train(corpus, TINY, tmp_path / "b", TINY_VISION)
    monkeypatch.setattr(images, "_epoch", whole_epoch)
    resumed = images.train(corpus, TINY, tmp_path / "b", TINY_VISION)
    assert all(torch.equal(a, b) for a, b in zip(_weights(unbroken), _weights(resumed), strict=True))


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.pt"
    images.save(path, {"epoch": 1})

    def half_written(state: dict[str, Any], file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        images.save(path, {"epoch": 2})
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_draw_depends_on_seed_and_epoch_alone(corpus: Corpus) -> None:
    def rows(epoch: int) -> list[list[int]]:
        return [index.tolist() for _, index in images.draw(corpus, TINY, epoch)]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_a_draw_favours_rare_classes() -> None:
    labels = torch.tensor([0] * 900 + [5] * 100)
    fer = Pictures("fer2013_train", torch.zeros(1000, 48, 48, dtype=torch.uint8), labels, torch.zeros(1000, 1))
    one = torch.tensor([0])
    corpus = Corpus((fer, fer), fer, fer, one, one.float())
    (_, index), _ = images.draw(corpus, images.ImageRecipe(pictures=1000, faces_share=0.0), epoch=0)
    drawn = labels[index]
    assert len(index) == pytest.approx(1000, abs=40)
    assert float((drawn == 5).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_mirrored_pictures_swap_left_and_right_scores(corpus: Corpus) -> None:
    rows = torch.arange(1, 42, 3)
    batch = images.batch_of(
        corpus, [(corpus.train[0], rows)], images.augment.Strength(), torch.Generator().manual_seed(1)
    )
    kept = corpus.train[0].actions[rows]
    swapped = kept[:, corpus.mirror] * corpus.mirror_sign
    as_kept, as_swapped = (batch[2] == kept).all(1), (batch[2] == swapped).all(1)
    assert bool((as_kept | as_swapped | kept.isnan().any(1)).all())
    assert bool(as_kept.any())
    assert bool(as_swapped.any())


def test_the_average_moves_towards_the_model() -> None:
    model = torch.nn.Linear(2, 2)
    average = images.Average(model, 0.9)
    before = average.model.weight.clone()
    with torch.no_grad():
        model.weight += 1
    average.update(model)
    assert bool((average.model.weight > before).all())
    assert bool((average.model.weight < model.weight).all())


@pytest.mark.parametrize(("progress", "expected"), [(0.02, 0.501), (0.04, 1.0), (0.52, 0.5), (1.0, 0.0)])
def test_learning_rate_warms_up_and_falls_to_zero(progress: float, expected: float) -> None:
    assert images.rate(progress, 0.04) == pytest.approx(expected, abs=1e-6)


def test_augmentation_relaxes_towards_the_end() -> None:
    assert images.relaxation(0.1) == 1.0
    assert images.relaxation(1.0) == pytest.approx(0.55)
    assert images.augment.Strength().relaxed(0.0) == images.augment.Strength(
        scale=(1.0, 1.0), aspect=0, rotation=0, shift=0, gamma=0, contrast=0, brightness=0,
        soften=0, jpeg=0, noise=0, cutout=0,
    )  # fmt: skip

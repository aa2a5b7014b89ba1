"""Batches: the same pixels after a resume, in any number of processes; classes as often as asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streamfer.errors import ConfigError, SourceUnreadableError
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.loader import ClipDataset, build_loaders, each_once
from streamfer_train.recipes.loading import Draw, TrainSampler

FRAMES, SIZE = 4, 32


def config(**settings: Any) -> DataConfig:
    plain = {"dataset": "dfew", "train": "a", "test": "b", "frames": FRAMES, "size": SIZE, "workers": 0}
    return DataConfig.model_validate(plain | settings)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, ...]:
    """Ten clips of 9 to 18 frames of noise."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    found = []
    for number in range(10):
        path = folder / f"{number:05d}"
        path.mkdir()
        for frame in range(9 + number):
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path / f"{frame:03d}.png")
        label = ("happiness", "sadness", "fear")[number % 3]
        found.append(Clip(str(path), 9 + number, label, f"l:{number}", kind="frames"))
    return tuple(found)


def fold(clips: tuple[Clip, ...]) -> Fold:
    return Fold(1, config().class_names, clips[:8], (), clips[8:])


def test_a_sample_says_what_it_is(clips: tuple[Clip, ...]) -> None:
    sample = ClipDataset(clips, config(), training=False)[Draw(0, 2)]
    assert set(sample) == {"pixels", "label", "index", "actions", "votes"}
    assert (sample["pixels"].shape, sample["pixels"].dtype) == ((FRAMES, 3, SIZE, SIZE), torch.uint8)
    assert (sample["label"].item(), sample["label"].dtype) == (6, torch.int64)
    assert sample["index"].item() == 2
    assert sample["actions"].shape == (0,)


def test_targets_keep_their_gaps(clips: tuple[Clip, ...]) -> None:
    from dataclasses import replace

    clip = replace(clips[0], actions=(float("nan"), 2.0))
    sample = ClipDataset([clip], config(actions=("AU1", "AU2")), training=False)[Draw(0, 0)]
    np.testing.assert_array_equal(sample["actions"].numpy(), np.array([np.nan, 2.0], np.float32))


def test_test_clips_are_the_authors_pixels(clips: tuple[Clip, ...]) -> None:
    pixels = ClipDataset(clips, config(), training=False)[Draw(0, 5)]["pixels"]
    # 14 frames, 4 segments of 3.5: frames 1, 5, 8, 12, squashed to a square.
    for frame, place in zip(pixels, (1, 5, 8, 12), strict=True):
        image = Image.open(Path(clips[5].path) / f"{place:03d}.png").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        assert np.abs(frame.permute(1, 2, 0).numpy().astype(int) - np.asarray(image)).max() <= 1


def test_what_is_seen_depends_on_seed_epoch_index_and_repeat_alone(clips: tuple[Clip, ...]) -> None:
    dataset = ClipDataset(clips, config(), training=True, seed=3)
    seen = dataset[Draw(2, 4, 1)]["pixels"]
    torch.manual_seed(99)
    again = ClipDataset(clips, config(), training=True, seed=3)
    assert torch.equal(again[Draw(2, 4, 1)]["pixels"], seen)
    others = [
        ClipDataset(clips, config(), training=True, seed=4)[Draw(2, 4, 1)],
        dataset[Draw(3, 4, 1)],
        dataset[Draw(2, 5, 1)],
        dataset[Draw(2, 4, 0)],
    ]
    assert not any(torch.equal(other["pixels"], seen) for other in others)


# Samplers -----------------------------------------------------------------------------------------------------


def labels(*counts: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.repeat(np.arange(len(counts)), counts)


def test_an_epoch_sees_each_clip_once_in_another_order() -> None:
    sampler = TrainSampler(labels(40, 20), batch_size=7)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append([draw.index for draw in sampler])
        assert {draw.epoch for draw in sampler} == {epoch}
        assert len(orders[-1]) == len(sampler) == 56 == 7 * sampler.batches
        assert len(set(orders[-1])) == 56
    assert orders[0] != orders[1]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 4), st.floats(0, 1), st.integers(0, 3))
def test_processes_share_the_same_global_batches(
    clips: int, batch: int, world: int, oversample: float, epoch: int
) -> None:
    def epoch_of(rank: int, world_size: int, batch_size: int) -> list[Draw]:
        sampler = TrainSampler(
            labels(clips, clips // 3), batch_size=batch_size, rank=rank, world_size=world_size, oversample=oversample
        )
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler)
        return found

    alone = epoch_of(0, 1, batch * world)
    together = [epoch_of(rank, world, batch) for rank in range(world)]
    for number in range(len(alone) // (batch * world)):
        shared = [draw for found in together for draw in found[number * batch : (number + 1) * batch]]
        key = sorted((draw.index, draw.repeat) for draw in shared)
        wanted = alone[number * batch * world : (number + 1) * batch * world]
        assert key == sorted((draw.index, draw.repeat) for draw in wanted)
        assert len(set(key)) == len(key)


@given(st.integers(0, 8), st.floats(0, 1))
def test_an_interrupted_epoch_goes_on_where_it_stopped(done: int, oversample: float) -> None:
    sampler = TrainSampler(labels(30, 9), batch_size=5, oversample=oversample)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.set_epoch(4, batches_done=done)
    assert list(sampler) == whole[done * 5 :]
    assert len(sampler) == len(whole[done * 5 :])


@pytest.mark.parametrize(("oversample", "counts"), [(0.0, [90, 9, 1]), (1.0, [34, 33, 33]), (0.5, [70, 22, 8])])
def test_oversampling_evens_the_classes_out(oversample: float, counts: list[int]) -> None:
    sampler = TrainSampler(labels(90, 9, 1), batch_size=1, oversample=oversample)
    order = sampler.order()
    found = Counter(int(labels(90, 9, 1)[draw.index]) for draw in order)
    assert sorted(found.values(), reverse=True) == counts
    assert len(set(order)) == 100, "a clip that is seen again is seen otherwise"
    # Within a class no clip is seen much more often than another.
    seen = Counter(draw.index for draw in order if 90 <= draw.index < 99)
    assert max(seen.values()) - min(seen.values()) <= 1


@given(st.integers(0, 50), st.integers(1, 5))
def test_evaluation_sees_each_clip_once_over_all_processes(length: int, world: int) -> None:
    parts = [each_once(length, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(draw.index for part in parts for draw in part) == list(range(length))


# Loaders ------------------------------------------------------------------------------------------------------


def epoch_pixels(clips: tuple[Clip, ...], workers: int, epoch: int, done: int = 0) -> list[torch.Tensor]:
    loaders = build_loaders(config(workers=workers), fold(clips), batch_size=2, seed=5)
    loaders.order.set_epoch(epoch, done)
    return [batch["pixels"] for batch in loaders.train]


def test_workers_and_a_resume_change_nothing(clips: tuple[Clip, ...]) -> None:
    alone = epoch_pixels(clips, 0, epoch=1)
    assert [pixels.shape for pixels in alone] == [(2, FRAMES, 3, SIZE, SIZE)] * 4
    with_worker = epoch_pixels(clips, 1, epoch=1, done=1)
    assert len(with_worker) == 3
    for pixels, wanted in zip(with_worker, alone[1:], strict=True):
        assert torch.equal(pixels, wanted)


def test_a_worker_that_stays_follows_the_epochs(clips: tuple[Clip, ...]) -> None:
    loaders = build_loaders(config(workers=1), fold(clips), batch_size=4, seed=5)
    for epoch in (0, 1):
        loaders.order.set_epoch(epoch)
        found = torch.cat([batch["pixels"] for batch in loaders.train])
        assert torch.equal(found, torch.cat(epoch_pixels(clips, 0, epoch)))


def test_loading_leaves_the_global_generator_alone(clips: tuple[Clip, ...]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch_pixels(clips, 0, epoch=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_loader_is_whole_and_in_order(clips: tuple[Clip, ...]) -> None:
    loaders = build_loaders(config(), fold(clips), batch_size=4)
    assert [batch["index"].tolist() for batch in loaders.test] == [[0, 1]]
    assert [batch["label"].tolist() for batch in loaders.test] == [[6, 0]]
    assert loaders.held_out is None


def test_a_fold_without_a_test_is_refused(clips: tuple[Clip, ...]) -> None:
    with pytest.raises(ConfigError, match="the test list has no clip"):
        build_loaders(config(), Fold(1, config().class_names, clips, (), ()), batch_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_breaks_while_training_is_one_line(tmp_path: Path, clips: tuple[Clip, ...], workers: int) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    broken = Clip(str(tmp_path), 1, "fear", "l:1", kind="frames")
    loaders = build_loaders(config(workers=workers), Fold(1, (), (broken,), (), clips), batch_size=1)
    with pytest.raises(SourceUnreadableError) as caught:
        list(loaders.train)
    assert str(caught.value) == f"{tmp_path}/1.png: is no picture, or a damaged one (10 bytes); mend or remove it"

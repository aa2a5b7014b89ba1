"""Rendered clips: the studio, shards on disk, and the command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from streamfer.errors import OutputError, SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.render import production
from streamfer_builtin.render.actions import ACTION_UNITS, UNIT
from streamfer_builtin.render.appearance import crease_strengths, drawn_light
from streamfer_builtin.render.clips import (
    SHARD,
    RenderedClips,
    load_shard,
    load_shards,
    save_shard,
    shard_path,
    shard_seed,
)
from streamfer_builtin.render.course import DIRECTIONS, FRAMES
from streamfer_builtin.render.expressions import EMOTIONS
from streamfer_builtin.render.model import identity_weights
from streamfer_builtin.render.rasterise import perspective
from streamfer_builtin.render.studio import (
    SIDE,
    TEMPLATE_52,
    ClipRenderer,
    Performance,
    aligned,
    five_points,
    rotation,
)


@pytest.fixture(scope="module")
def studio(shared_data: Path) -> ClipRenderer:
    return ClipRenderer(shared_data / "ict_face" / "ict_face.npz", "train", seed=4)


def clips_of(count: int, first: int = 0) -> RenderedClips:
    rng = np.random.default_rng(first)
    halves = {
        "action_units": (FRAMES, len(ACTION_UNITS)),
        "envelope": (FRAMES,),
        "pose": (FRAMES, 3),
        "light": (4,),
    }
    arrays: dict[str, np.ndarray] = {name: rng.random((count, *shape)).astype("f2") for name, shape in halves.items()}
    arrays |= {name: rng.integers(0, 5, count) for name in ("emotions", "preceding", "identity", "reverse_of")}
    return RenderedClips(
        frames=rng.integers(0, 255, (count, FRAMES, 64, 64), dtype=np.uint8),
        phase=rng.integers(0, 4, (count, FRAMES), dtype=np.uint8),
        direction=rng.integers(0, 5, count, dtype=np.uint8),
        index=np.arange(first, first + count),
        **arrays,
    )


def test_shards_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    one, two = clips_of(3, first=100), clips_of(2)
    save_shard(one, shard_path(tmp_path, "train", 100), seed=8)
    save_shard(two, shard_path(tmp_path, "train", 0), seed=8)
    save_shard(clips_of(1), shard_path(tmp_path, "val", 0), seed=8)
    back = load_shards(tmp_path, "train")
    assert back.index.tolist() == [0, 1, 100, 101, 102]
    for name in RenderedClips.__slots__:
        np.testing.assert_array_equal(getattr(back, name)[2:], getattr(one, name))
    assert shard_seed(shard_path(tmp_path, "train", 0)) == 8
    assert len(load_shards(tmp_path, "val")) == 1


def test_a_reader_never_sees_half_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(arrays: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    save_shard(clips_of(1), shard_path(tmp_path, "train", 0), seed=0)
    before = shard_path(tmp_path, "train", 0).read_bytes()
    monkeypatch.setattr("streamfer_builtin.render.clips.save_file", stop)
    with pytest.raises(OutputError, match="No space left"):
        save_shard(clips_of(2), shard_path(tmp_path, "train", 0), seed=0)
    assert shard_path(tmp_path, "train", 0).read_bytes() == before
    assert len(load_shards(tmp_path, "train")) == 1


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(
        SourceNotFoundError, match=r"no rendered clips of split val; run python -m streamfer_builtin\.mini render"
    ):
        load_shards(tmp_path, "val")


def test_damaged_and_foreign_shards_are_refused(tmp_path: Path) -> None:
    path = shard_path(tmp_path, "train", 0)
    save_shard(clips_of(1), path, seed=0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(SourceUnreadableError, match="not a shard"):
        load_shard(path)
    path.write_bytes(whole)
    arrays = load_file(path)
    save_file(arrays, path, {"format": "another"})
    with pytest.raises(SourceUnreadableError, match="its format"):
        load_shard(path)


def test_a_shard_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = shard_path(tmp_path, "train", 0)
    clips = clips_of(2)
    arrays = {name: getattr(clips, name) for name in RenderedClips.__slots__} | {"phase": clips.phase[:, :9].copy()}
    save_shard(RenderedClips(**arrays), path, seed=0)
    with pytest.raises(SourceUnreadableError, match="phase is uint8"):
        load_shard(path)


def test_poses_turn_the_way_their_labels_say() -> None:
    nose, crown, ear = np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0])
    assert (rotation(np.array([-30.0, 0, 0])) @ nose)[0] < 0, "negative yaw: towards the left of the picture"
    assert (rotation(np.array([0, -20.0, 0])) @ nose)[1] > 0, "negative pitch: looking up"
    assert (rotation(np.array([0, 0, 10.0])) @ ear)[1] > 0, "positive roll: counter-clockwise"
    assert (rotation(np.array([0, 0, 10.0])) @ crown)[0] < 0
    turn = rotation(np.array([20.0, 10, 5])).astype(np.float64)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)


def test_creases_deepen_with_their_units() -> None:
    units = np.zeros(len(ACTION_UNITS), np.float32)
    assert not crease_strengths(units).any()
    units[UNIT["AU04"]] = 1
    assert np.flatnonzero(crease_strengths(units)).tolist() == [1], "frown lines alone"
    units[UNIT["AU04"]], units[UNIT["AU09"]] = 0, 0.5
    wrinkled = crease_strengths(units)
    assert wrinkled[2] == wrinkled.max() == 0.5, "the nose's lines most"


def test_an_aligned_face_lies_on_the_template(studio: ClipRenderer) -> None:
    model = studio.model
    person = model.person(identity_weights(3, "train", len(model.identity_IV3)))
    turned = person @ rotation(np.array([12.0, -5, 20], np.float32)).T
    affine = aligned(turned[model.landmarks], 70.0, np.zeros((5, 2)))
    placed = perspective(five_points(turned[model.landmarks]), 70.0) @ affine[:, :2].T + affine[:, 2]
    # A similarity cannot bring a person's five points onto the template exactly, but on the whole it does.
    np.testing.assert_allclose(placed.mean(axis=0), TEMPLATE_52.mean(axis=0), atol=1e-3)
    assert np.abs(placed - TEMPLATE_52).max() < 5
    assert abs(np.diff(placed[:2, 1])[0]) < 1.5, "the roll is gone"


def test_a_clip_depends_on_its_number_alone(studio: ClipRenderer) -> None:
    first = studio.clip(21)
    studio.clip(2)
    again = studio.clip(21)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.performance.action_units_TA, again.performance.action_units_TA)
    assert first.frames.shape == (FRAMES, SIDE, SIDE)
    assert first.frames.std() > 15
    assert (studio.clip(22).frames != first.frames).mean() > 0.5


def test_pairs_differ_in_order_and_direction_alone(studio: ClipRenderer) -> None:
    backward, forward = studio.clip(15), studio.clip(14)
    np.testing.assert_array_equal(backward.frames, forward.frames[::-1])
    done, undone = forward.performance, backward.performance
    assert {DIRECTIONS[done.direction], DIRECTIONS[undone.direction]} == {"onset", "offset"}
    assert done.emotion == undone.emotion
    np.testing.assert_array_equal(undone.action_units_TA, done.action_units_TA[::-1])
    swapped = np.array([0, 3, 2, 1])[done.phase_T[::-1]]
    np.testing.assert_array_equal(undone.phase_T, swapped)
    assert backward.reverse_of == 14
    assert forward.reverse_of == -1


def filmed(studio: ClipRenderer, unit: str, seed: int) -> np.ndarray:
    """A frontal clip whose second half shows one unit at full intensity."""
    units = np.zeros((FRAMES, len(ACTION_UNITS)), np.float32)
    units[FRAMES // 2 :, UNIT[unit]] = 1
    act = Performance(0, -1, units, units[:, 0], np.zeros(FRAMES, np.uint8), 0)
    rng = np.random.default_rng(seed)
    return studio.filmed(seed, act, np.zeros((FRAMES, 3), np.float32), drawn_light(rng), rng)


@pytest.mark.parametrize(
    ("unit", "rows"),
    [("AU04", (18, 30)), ("AU43", (22, 32)), ("AU12", (34, 52)), ("AU26", (38, 56)), ("AU01", (12, 30))],
)
def test_a_unit_changes_its_part_of_the_face_most(studio: ClipRenderer, unit: str, rows: tuple[int, int]) -> None:
    before, after = np.split(filmed(studio, unit, seed=7).astype(np.float32), 2)
    change = np.abs(after.mean(axis=0) - before.mean(axis=0))[8:56, 16:48]
    inside = change[rows[0] - 8 : rows[1] - 8].mean()
    assert inside > 5
    rest = np.delete(change, np.s_[rows[0] - 8 : rows[1] - 8], axis=0).mean()
    assert inside > 1.3 * rest


def test_production_goes_on_where_it_stopped(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production, "SHARD", 2)
    model = shared_data / "ict_face" / "ict_face.npz"
    production.produce(model, tmp_path, "val", 4, 4)
    first, second = (shard_path(tmp_path, "val", k) for k in (0, 2))
    kept, expected = first.stat().st_mtime_ns, load_shard(second)
    second.write_bytes(second.read_bytes()[:-1])
    production.produce(model, tmp_path, "val", 4, 5)
    assert first.stat().st_mtime_ns == kept
    np.testing.assert_array_equal(load_shard(second).frames, expected.frames)
    clips = load_shards(tmp_path, "val")
    assert clips.index.tolist() == [0, 1, 2, 3, 4]
    assert (clips.emotions < len(EMOTIONS)).all()
    np.testing.assert_allclose(np.linalg.norm(clips.light[:, :3].astype(float), axis=1), 1, atol=2e-3)


def test_shards_of_another_seed_are_not_mixed_in(shared_data: Path, tmp_path: Path) -> None:
    save_shard(clips_of(2), shard_path(tmp_path, "train", 0), seed=1)
    with pytest.raises(SourceUnreadableError, match="rendered with seed 1, not 2"):
        production.produce(shared_data / "ict_face" / "ict_face.npz", tmp_path, "train", 2, 2)


def test_an_absent_face_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"ict_face\.npz"):
        production.produce(tmp_path / "ict_face.npz", tmp_path / "out", "train", 0, 2)


def test_a_file_that_is_no_face_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ict_face.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(SourceUnreadableError, match=r"ict_face\.npz: not the ICT face model"):
        ClipRenderer(path, "train", 0)


def _second_is_killed(model: Path, folder: Path, split: str, seed: int, first: int, clips: int) -> None:
    """Stand in for a shard's rendering: the second dies of a signal that nobody hears, the first takes a minute."""
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_worker_that_is_killed_ends_the_rendering_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "_produce_shard", _second_is_killed)
    (tmp_path / "ict_face.npz").write_bytes(b"not read here")
    began = time.monotonic()
    with pytest.raises(OutputError, match=r"a process that rendered was killed, .*: run again, with fewer --threads"):
        production.produce(tmp_path / "ict_face.npz", tmp_path / "out", "val", 4, 2 * SHARD, workers=2)
    assert time.monotonic() - began < 40

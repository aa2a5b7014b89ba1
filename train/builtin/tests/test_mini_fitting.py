"""The loop of all stages: averaging, crashes, divergence, resuming, on the stage `joint`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini_corpus
import pytest
import torch

from streamfer.errors import CheckpointError, OutputError
from streamfer_builtin.mini import checkpoint, fitting, joint, networks
from streamfer_builtin.mini.recipe import Recipe


@pytest.fixture
def tiny(tmp_path: Path) -> Recipe:
    return mini_corpus.recipe(tmp_path)


def _train(recipe: Recipe, work: Path) -> networks.JointModel:
    return joint.train(recipe.model_copy(update={"work": work}), mini_corpus.corpus(), mini_corpus.clips(15))


def test_a_resumed_run_equals_an_unbroken_one(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = _train(tiny, tmp_path / "a")
    batch = joint.JointTask.batch

    def breaks_in_the_second(self: joint.JointTask, epoch: int, step: int) -> joint.JointBatch:
        if (epoch, step) == (1, 1):
            raise KeyboardInterrupt
        return batch(self, epoch, step)

    monkeypatch.setattr(joint.JointTask, "batch", breaks_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        _train(tiny, tmp_path / "b")
    monkeypatch.setattr(joint.JointTask, "batch", batch)
    resumed = _train(tiny, tmp_path / "b")
    pairs = zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_another_recipe_does_not_go_on_from_a_checkpoint(tiny: Recipe, tmp_path: Path) -> None:
    _train(tiny, tmp_path)
    faster = tiny.model_copy(update={"joint": tiny.joint.model_copy(update={"lr": 0.1})})
    with pytest.raises(CheckpointError, match=r"joint\.pt: was made with lr 0\.0015, the recipe says 0\.1"):
        _train(faster, tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = joint.JointTask.loss
    calls: list[int] = []

    def diverges(self: joint.JointTask, model: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        return loss(self, model, batch) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(joint.JointTask, "loss", diverges)
    with pytest.raises(fitting.Diverged, match=r"stage joint: the loss is nan in step 1 of epoch 1"):
        _train(tiny, tmp_path)
    assert checkpoint.load(tmp_path / "joint.pt", "joint")["epoch"] == 1


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "joint.pt"
    checkpoint.save(path, {"epoch": 1})

    def half_written(state: dict[str, Any], file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OutputError, match=r"joint\.pt: cannot be written \(No space left on device\); .* untouched"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path, "joint", ("epoch",)) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["joint.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "joint.pt").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"joint\.pt: not a readable checkpoint; delete it to start anew"):
        checkpoint.load(tmp_path / "joint.pt", "joint")


def test_a_checkpoint_of_another_recipe_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "joint.pt", {"kind": "streamfer faces training", "model": {}})
    for act in (lambda: joint.read_joint(tiny.model_copy(update={"work": tmp_path})), lambda: _train(tiny, tmp_path)):
        with pytest.raises(CheckpointError, match=r"joint\.pt: no checkpoint of this recipe \(average is missing\)"):
            act()


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


def _rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def _narrower(state: dict[str, Any], kind: str) -> None:
    name = "image_encoder.conv_head.weight"
    state[kind][name] = state[kind][name][:-1]


@pytest.mark.parametrize("missing", [*checkpoint.STATE, "start", "sizes"])
def test_a_checkpoint_without_a_part_is_named(missing: str, tiny: Recipe, tmp_path: Path) -> None:
    _train(tiny, tmp_path)
    _rewritten(tmp_path / "joint.pt", lambda state: state.pop(missing))
    with pytest.raises(CheckpointError, match=rf"joint\.pt: no checkpoint of this recipe \({missing} is missing\)"):
        _train(tiny, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: _narrower(state, "model"),
        lambda state: _narrower(state, "average"),
        lambda state: state.update(optimizer={"state": {}}),
        lambda state: state.update(epoch="two"),
        lambda state: state.update(model=3),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_named(
    change: Callable[[dict[str, Any]], object], tiny: Recipe, tmp_path: Path
) -> None:
    _train(tiny, tmp_path)
    _rewritten(tmp_path / "joint.pt", change)
    with pytest.raises(
        CheckpointError, match=r"joint\.pt: damaged, or of another network \(.*choose another work"
    ) as caught:
        _train(tiny, tmp_path)
    assert "\n" not in str(caught.value)


def test_flipped_bits_within_a_checkpoint_are_told(tiny: Recipe, tmp_path: Path) -> None:
    _train(tiny, tmp_path)
    path = tmp_path / "joint.pt"
    whole = path.read_bytes()
    for place in (0.2, 0.5, 0.8):
        content = bytearray(whole)
        content[int(place * len(whole))] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"joint\.pt: not a readable checkpoint; delete it to start anew"):
            _train(tiny, tmp_path)


def test_what_a_run_is_made_of_does_not_change_while_it_runs(tiny: Recipe, tmp_path: Path) -> None:
    """Settings are compared; so are the teachers, the rendered clips and the weights that it began with."""
    _train(tiny, tmp_path)
    with pytest.raises(CheckpointError, match=r"joint\.pt: was made with rendered 15, the recipe says 14"):
        joint.train(tiny.model_copy(update={"work": tmp_path}), mini_corpus.corpus(), mini_corpus.clips(14))
    teacher = mini_corpus.recipe(
        tmp_path, teachers=[{"image": 32, "joint": {"epochs": 1, "pictures": 32, "batch": 16}}]
    )
    _train(teacher.model_copy(update={"work": tmp_path}).of_teacher(0), tmp_path / "teacher-1")
    with pytest.raises(
        CheckpointError, match=r"joint\.pt: was made with teachers \[\], the recipe says \['[0-9a-f]{16}"
    ):
        _train(teacher, tmp_path)
    (tmp_path / "own.safetensors").write_bytes(b"some weights")
    with pytest.raises(CheckpointError, match=r"joint\.pt: was made with start random, the recipe says [0-9a-f]{64};"):
        _train(tiny.model_copy(update={"start": tmp_path / "own.safetensors"}), tmp_path)
    # What it began with need not be there any more.
    _train(tiny.model_copy(update={"start": tmp_path / "gone.safetensors"}), tmp_path)

"""The whole command on tiny clips: end to end, interrupted, diverged, continued, and in two processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from free_ports import torchrun_variables
from tiny_clips import write_config
from typer.testing import CliRunner

from streamfer.cli import app
from streamfer.models.inference import load_model
from streamfer_train.dfer_clip import training
from streamfer_train.dfer_clip.__main__ import main
from streamfer_train.dfer_clip.model import load_learner, losses
from streamfer_train.recipes.checkpoint import Checkpoint
from streamfer_train.recipes.run_folder import alone_in

FOLD = Path("seed1") / "fold1"
#: Two micro-batches a step, moving average, held-out clips, a second head: everything that has state.
BUSY: dict[str, Any] = {
    "data": {"held_out": {"fraction": 0.3}, "actions": ["AU12"]},
    "heads": {"actions": 0.5},
    "optimiser": {"batch": 2, "accumulate": 2, "epochs": 2, "average": 0.5, "clip": 1.0, "milestones": [1]},
}


def load(path: Path) -> Checkpoint:
    return Checkpoint.load(path, "dfer-clip")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_command_trains_folds_reports_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"data": {"folds": [1, 2], "held_out": {"fraction": 0.3}}, "log": {"every": 1, "tensorboard": True}}
    path = write_config(tmp_path, **changes)
    out = tmp_path / "run"
    assert main(["train", "-c", str(path), "--set", "optimiser.epochs=2"]) == 0
    assert "held_out: UAR" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [result["protocol"] for result in summary["protocols"]] == ["best_on_test", "last", "held_out"]
    assert summary["finished"] == [{"fold": 1, "seed": 1}, {"fold": 2, "seed": 1}]
    folds = [json.loads((out / "seed1" / f"fold{n}" / "report.json").read_text()) for n in (1, 2)]
    wars = [fold["protocols"]["last"]["scores"]["war"] for fold in folds]
    assert summary["protocols"][1]["scores"]["war"]["mean"] == pytest.approx(sum(wars) / 2, abs=1e-5)
    assert folds[0]["protocols"]["last"]["temperature_fitted_on"] == "held-out clips"
    assert folds[0]["clips"]["test"] == {"happiness": 1, "sadness": 1, "anger": 1}
    assert len(folds[0]["data_digests"]["train"]) == 64
    assert folds[0]["code"].startswith("0.")
    assert len(summary["text"]["digest"]) == 64
    assert folds[0]["text"] == folds[1]["text"] == summary["text"]
    table = (out / "summary.md").read_text()
    assert f"streamfer's own words (sha256 {summary['text']['digest'][:12]})" in table
    assert "best_on_test" in table
    assert "flatters by choosing" in table
    assert "comparable" not in table
    steps = rows(out / FOLD / "steps.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, len(steps) + 1))
    assert {row["lr_temporal_net"] for row in steps} == {"0.01", "0.001"}
    assert list((out / FOLD / "tensorboard").glob("events*"))
    _exported_model_is_the_trained_one(out / FOLD, folds[0])
    assert main(["train", "-c", str(path)]) == 2
    assert "add --resume" in capsys.readouterr().err
    before = (out / FOLD / "last.pt").stat().st_mtime_ns
    assert main(["train", "-c", str(path), "--resume"]) == 0
    assert (out / FOLD / "last.pt").stat().st_mtime_ns == before
    assert main(["train", "-c", str(path), "--resume", "--set", "optimiser.momentum=0.5"]) == 2
    assert "optimiser.momentum was 0.9 and is now 0.5" in capsys.readouterr().err


def _exported_model_is_the_trained_one(folder: Path, report: dict[str, Any]) -> None:
    model = load_model(str(folder / report["exported"]), device="cpu", precision="fp32")
    assert model.card.calibration_temperature == report["protocols"]["last"]["temperature"]
    assert model.card.train["data_digests"] == report["data_digests"]
    assert model.card.train["text"].items() >= report["text"].items()
    assert model.info.classes == ("happiness", "sadness", "anger")
    learner, _, found = load_learner(folder / "last.pt")
    assert found.progress.epoch == 2
    pixels = torch.randint(0, 256, (1, 4, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        wanted = learner(pixels)["logits"]
    features = model.encode(pixels[0].permute(0, 2, 3, 1).contiguous().numpy())
    torch.testing.assert_close(model.logits(features[None]), wanted, atol=1e-3, rtol=1e-4)


def test_it_learns_what_can_be_learned(tmp_path: Path) -> None:
    learning = {"kind": "adamw", "image_encoder": 3e-3, "temporal_net": 3e-3}
    changes = {
        "heads": {"kind": "cosine", "temperature": 0.1},
        "optimiser": {**learning, "batch": 9, "epochs": 14, "milestones": [14], "clip": None},
        "data": {"augmentation": "none"},
    }
    assert main(["train", "-c", str(write_config(tmp_path, **changes))]) == 0
    losses = [float(row["train_total"]) for row in rows(tmp_path / "run" / FOLD / "epochs.csv")]
    assert losses[-1] < 0.35 * losses[0]
    report = json.loads((tmp_path / "run" / FOLD / "report.json").read_text())
    assert report["protocols"]["last"]["scores"]["war"] == 1.0


def after(calls: int, act: Callable[[], None]) -> Callable[..., dict[str, torch.Tensor]]:
    """The loop's losses, with something done at one of the calls."""
    original, count = losses, iter(range(1, 10_000))

    def observed(*args: Any) -> dict[str, torch.Tensor]:
        if next(count) == calls:
            act()
        return original(*args)

    return observed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_within_an_epoch_ends_at_the_same_weights(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, **BUSY)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(["train", "-c", str(path), "--out", str(straight)]) == 0
    before = signal.getsignal(number)
    # Two calls a step: the first of the second epoch's second step, in the middle of everything.
    per_epoch = len(rows(straight / FOLD / "steps.csv")) // 2
    assert per_epoch >= 2
    with monkeypatch.context() as patch:
        act = lambda: os.kill(os.getpid(), number)  # noqa: E731
        patch.setattr(training, "losses", after(2 * (per_epoch + 1) - 1, act))
        assert main(["train", "-c", str(path), "--out", str(broken)]) == 130
    assert f"stopped by {number.name} after step {per_epoch + 1}" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    stopped = load(broken / FOLD / "last.pt")
    assert (stopped.progress.epoch, stopped.progress.batches) == (1, 2)
    assert not (broken / FOLD / "report.json").exists()
    assert main(["train", "-c", str(path), "--out", str(broken), "--resume"]) == 0
    one, two = load(straight / FOLD / "last.pt"), load(broken / FOLD / "last.pt")
    assert one.average is not None
    assert two.average is not None
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name]), name
    for name, tensor in one.average.items():
        assert torch.equal(tensor, two.average[name]), name
    assert one.progress.history == two.progress.history
    for table in ("steps.csv", "epochs.csv"):
        assert (straight / FOLD / table).read_text() == (broken / FOLD / table).read_text()


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, count = losses, iter(range(1, 100))

    def poisoned(*args: Any) -> dict[str, torch.Tensor]:
        parts = original(*args)
        return {**parts, "total": parts["total"] * float("nan")} if next(count) == 3 else parts

    monkeypatch.setattr(training, "losses", poisoned)
    path = write_config(tmp_path)
    assert main(["train", "-c", str(path)]) == 2
    message = capsys.readouterr().err
    assert "fold 1 seed 1, step 3 (epoch 2): the loss is nan" in message
    assert "holds the last good state" in message
    kept = load(tmp_path / "run" / FOLD / "last.pt")
    assert kept.progress.step == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.model.values())


def test_a_full_disk_stops_the_run_and_the_former_checkpoint_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path)
    real = torch.save

    def full(contents: Any, stream: Any) -> None:
        if json.loads(contents["progress"])["step"] == 3:
            stream.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        real(contents, stream)

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        assert main(["train", "-c", str(path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    folder = tmp_path / "run" / FOLD
    assert load(folder / "last.pt").progress.step == 2
    assert not list(folder.glob(".last.pt.*"))
    assert main(["train", "-c", str(path), "--resume"]) == 0
    assert load(folder / "last.pt").progress.step == 4


def test_early_stopping_waits_its_patience(tmp_path: Path) -> None:
    changes = {
        "data": {"held_out": {"fraction": 0.3}},
        "optimiser": {"epochs": 9, "temporal_net": 0, "image_encoder": 0, "prompt_learner": 0},
        "stop": {"patience": 2},
    }
    assert main(["train", "-c", str(write_config(tmp_path, **changes))]) == 0
    # Nothing learns, so the first epoch stays the best.
    assert load(tmp_path / "run" / FOLD / "last.pt").progress.epoch == 3


def test_a_check_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    assert main(["train", "-c", str(path), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "temporal_net: 1,744 weights learn at 0.01" in shown
    assert "drawn at random: image_encoder, prompt_learner, temporal_net, text_encoder" in shown
    assert "9 train, 0 held out, 3 test clips; 2 steps an epoch" in shown
    assert not (tmp_path / "run").exists()
    (tmp_path / "train1.csv").write_text("video,label\nclips/00000,joyous\n", encoding="utf-8")
    assert main(["train", "-c", str(path), "--check"]) == 2
    assert "label 'joyous' is none of the classes" in capsys.readouterr().out
    assert main(["train", "-c", str(path), "--fold", "4"]) == 2
    assert "--fold 4: data.folds are 1; choose one of them" in capsys.readouterr().err


def test_a_check_cuts_faces_when_asked_and_names_clips_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = {"faces": "detect", "face_crops": {"cache": str(tmp_path / "crops"), "missing": "error"}}
    path = write_config(tmp_path, data=faces)
    assert main(["train", "-c", str(path), "--check"]) == 0
    assert "faces were not looked for" in capsys.readouterr().out
    assert not (tmp_path / "crops").exists()
    assert main(["train", "-c", str(path), "--check", "--cut-faces"]) == 2
    shown = capsys.readouterr()
    assert "error: no face (12)" in shown.out
    assert "12 without a face" in shown.err
    assert len(list((tmp_path / "crops").glob("*/00000-*/facts.json"))) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["train", "-c", str(path), "--cut-faces"])
    assert "--cut-faces: goes with --check" in capsys.readouterr().err


def test_the_product_command_hands_over(tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["train", "dfer-clip", "--settings"])
    assert shown.exit_code == 0
    assert "temporal_net: 0.01" in shown.output
    helped = runner.invoke(app, ["train", "dfer-clip", "--help"])
    assert helped.exit_code == 0
    assert "torchrun" in helped.output


def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config(tmp_path, heads={"kind": "cosine"})
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["train", "-c", str(path), "--out", str(alone)]) == 0
    # What torchrun sets; this process leads, an interpreter of its own follows.
    for name, value in torchrun_variables().items():
        monkeypatch.setenv(name, value)
    words = ["train", "-c", str(path), "--out", str(together)]
    with subprocess.Popen(
        [sys.executable, "-m", "streamfer_train.dfer_clip", *words],
        env={**os.environ, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as other:
        try:
            assert main(words) == 0
            shown = other.communicate(timeout=120)[0]
        finally:
            other.kill()
    assert other.returncode == 0, shown
    assert "UAR" not in shown  # results are printed once
    one, two = rows(alone / FOLD / "steps.csv"), rows(together / FOLD / "steps.csv")
    assert [float(row["total"]) for row in two] == pytest.approx([float(row["total"]) for row in one], rel=1e-3)
    before, after_ = load(alone / FOLD / "last.pt").model, load(together / FOLD / "last.pt").model
    for name, tensor in before.items():
        torch.testing.assert_close(after_[name], tensor, atol=1e-4, rtol=1e-3)
    assert json.loads((together / FOLD / "report.json").read_text())["processes"] == 2
    counts = [json.loads((run / FOLD / "report.json").read_text())["protocols"] for run in (alone, together)]
    assert counts[0]["last"]["test"]["count"] == counts[1]["last"]["test"]["count"] == 3


def test_low_rank_updates_train_and_leave_no_trace_in_the_export(tmp_path: Path) -> None:
    path = write_config(tmp_path, lora={"rank": 2, "targets": ["attn"]}, optimiser={"batch": 4, "epochs": 1})
    assert main(["train", "-c", str(path)]) == 0
    folder = tmp_path / "run" / FOLD
    (exported,) = folder.glob("dfer-clip-*.safetensors")
    model = load_model(str(exported), device="cpu", precision="fp32")
    learner, _, _ = load_learner(folder / "last.pt")
    assert any("lora_B" in name and bool(weight.any()) for name, weight in learner.named_parameters())
    pixels = torch.randint(0, 256, (1, 4, 3, 16, 16), dtype=torch.uint8)
    features = model.encode(pixels[0].permute(0, 2, 3, 1).contiguous().numpy())
    torch.testing.assert_close(model.logits(features[None]), learner(pixels)["logits"], atol=1e-3, rtol=1e-4)


def test_a_finished_run_may_grow_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, words = write_config(tmp_path), ["--set", "optimiser.milestones=[9]"]
    out, whole = tmp_path / "grown", tmp_path / "whole"
    assert main(["train", "-c", str(path), "--out", str(out), *words, "--set", "optimiser.epochs=1"]) == 0
    longer = [*words, "--set", "optimiser.epochs=3"]
    assert main(["train", "-c", str(path), "--out", str(out), *longer, "--resume"]) == 0
    assert main(["train", "-c", str(path), "--out", str(whole), *longer]) == 0
    assert "1 epochs become 3" in capsys.readouterr().err
    grown, straight = load(out / FOLD / "last.pt"), load(whole / FOLD / "last.pt")
    assert all(torch.equal(tensor, straight.model[name]) for name, tensor in grown.model.items())
    assert (grown.progress.extended, straight.progress.extended) == ([1], [])
    report = json.loads((out / FOLD / "report.json").read_text())
    assert (report["epochs"], report["epochs_extended_from"]) == (3, [1])
    model = load_model(str(out / FOLD / report["exported"]), device="cpu")
    assert model.card.train["epochs_extended_from"] == [1]
    shorter = [*words, "--set", "optimiser.epochs=2", "--resume"]
    assert main(["train", "-c", str(path), "--out", str(out), *shorter]) == 0  # more than asked for is there
    (out / FOLD / "report.json").unlink()
    assert main(["train", "-c", str(path), "--out", str(out), *shorter]) == 2
    assert "a run may only grow" in capsys.readouterr().err
    with alone_in(out / FOLD):
        assert main(["train", "-c", str(path), "--out", str(out), *longer, "--resume"]) == 2
    assert "another process is writing there" in capsys.readouterr().err


def test_check_refuses_what_training_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    for setting, message in (("optimiser.batch=40", "less than one batch of 40"), ("optimiser.freeze=[image_encoder, "
                             "temporal_net, prompt_learner, heads]", "leaves nothing to train")):  # fmt: skip
        for more in ([], ["--check"]):
            out = str(tmp_path / setting[:15])
            assert main(["train", "-c", str(path), "--out", out, "--set", setting, *more]) == 2
            assert message in capsys.readouterr().err

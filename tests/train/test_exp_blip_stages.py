"""The three stages as commands, on pictures of 28 pixels: training, interruption, pseudo captions, evaluation."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.captioners import FakeCaptioner
from tiny_faces import settings, write_config
from typer.testing import CliRunner

from streamfer.arguments import check_settings
from streamfer.captions import load_captioner
from streamfer.captions.folder import read_card
from streamfer.cli import app
from streamfer.errors import ConfigError
from streamfer_train.captions.files import read_entries
from streamfer_train.exp_blip import pseudo, stages
from streamfer_train.exp_blip.__main__ import main
from streamfer_train.exp_blip.captioned import face_of
from streamfer_train.exp_blip.config import ExpBlipConfig
from streamfer_train.recipes.checkpoint import Checkpoint
from streamfer_train.recipes.processes import ALONE
from streamfer_train.recipes.trainer import Trainer


def load(path: Path) -> Checkpoint:
    return Checkpoint.load(path, "exp-blip")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AU-BLIP and Emot-BLIP after a few steps each; the configuration lies beside the run."""
    folder = tmp_path_factory.mktemp("stages")
    path = write_config(folder, step1={"epochs": 6}, step2={"epochs": 6, "max_new_tokens": 6})
    for stage in ("au", "emotion"):
        assert main(["train", "--stage", stage, "-c", str(path)]) == 0
    return folder


def test_both_steps_learn(trained: Path) -> None:
    for stage in ("au", "emotion"):
        for step, least in (("step1", 0.9), ("step2", 0.95)):
            losses = [float(row["total"]) for row in rows(trained / "run" / stage / step / "epochs.csv")]
            assert len(losses) == 6
            assert losses[-1] < least * losses[0]
    steps = rows(trained / "run" / "au" / "step1" / "steps.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, 19))
    for row in steps:
        assert float(row["total"]) == pytest.approx(sum(float(row[name]) for name in ("itc", "itm", "itg")), rel=1e-4)
    assert float(steps[0]["lr"]) == pytest.approx(5e-3)


def test_the_captioner_that_comes_out_is_the_one_that_was_trained(trained: Path) -> None:
    folder = trained / "run" / "au" / "captioner"
    card = read_card(folder)
    assert (card.name, card.architecture, card.answers, card.text.max_new_tokens) == ("au-blip", "blip-2", False, 6)
    assert card.train["configuration"]["step1"]["epochs"] == 6
    captioner = load_captioner(str(folder), device="cpu", precision="fp32")
    model: Any = captioner._model  # type: ignore[attr-defined]
    last = load(trained / "run" / "au" / "step2" / "last.pt")
    assert last.progress.step == 18
    assert not any("language_model" in name for name in last.model)
    for name, tensor in last.model.items():
        assert torch.equal(dict(model.named_parameters())[name.removeprefix("model.")], tensor), name
    given = [face_of(trained / "faces" / "00.png", 28)]
    assert isinstance(captioner.caption(given)[0], str)


def test_a_step_that_was_interrupted_ends_at_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(trained, step1={"epochs": 2, "accumulate": 3, "batch": 3, "clip": 1.0}, step2={"epochs": 1})
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(straight)]) == 0
    original, calls = Trainer._descend, iter(range(1, 100))

    def interrupting(self: Trainer) -> None:
        original(self)
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_descend", interrupting)
        assert main(["train", "--stage", "au", "-c", str(path), "--out", str(broken)]) == 130
    assert "stopped by SIGTERM after step 5 of au.step1" in capsys.readouterr().err
    assert load(broken / "au" / "step1" / "last.pt").progress.batches == 6
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(broken)]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert (
        main(["train", "--stage", "au", "-c", str(path), "--out", str(broken), "--set", "step1.lr=1", "--resume"]) == 2
    )
    assert "step1.lr was 0.005 and is now 1.0" in capsys.readouterr().err
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(broken), "--resume"]) == 0
    for step in ("step1", "step2"):
        one, two = (load(out / "au" / step / "last.pt") for out in (straight, broken))
        assert one.model.keys() == two.model.keys()
        for name, tensor in one.model.items():
            assert torch.equal(tensor, two.model[name]), (step, name)
        assert one.progress == two.progress
        assert (straight / "au" / step / "steps.csv").read_text() == (broken / "au" / step / "steps.csv").read_text()
    before = (broken / "au" / "captioner" / "streamfer.json").stat().st_mtime_ns
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(broken), "--resume"]) == 0
    assert (broken / "au" / "captioner" / "streamfer.json").stat().st_mtime_ns == before
    longer = ["--set", "step2.epochs=2", "--resume"]
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(broken), *longer]) == 0
    assert read_card(broken / "au" / "captioner").train["epochs_extended_from"] == [1]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(trained, run={"checkpoint_every": 1})
    calls = iter(range(1, 100))
    monkeypatch.setattr(
        "streamfer_train.exp_blip.objectives.writing",
        lambda logits, *_: logits.sum() * (float("nan") if next(calls) == 3 else 0.0),
    )
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(tmp_path)]) == 2
    assert "au.step1, step 3 (epoch 1): the loss is nan" in capsys.readouterr().err
    assert load(tmp_path / "au" / "step1" / "last.pt").progress.step == 2


def halved(folder: Path, tmp_path: Path, **changes: Any) -> ExpBlipConfig:
    """A configuration in which the last two pictures have no action, and the first three no emotion."""
    lists = {}
    for name, keep in (("au", slice(0, 7)), ("emotion", slice(3, 9))):
        entries = json.loads((folder / f"{name}.json").read_text())[keep]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
        lists[name] = [{"file": str(tmp_path / f"{name}.json"), "images": str(folder)}]
    plain = settings(folder, data={**lists}, **changes)
    plain["run"]["out"] = str(tmp_path / "run")
    return check_settings(ExpBlipConfig, plain, "test")


def test_missing_halves_are_written_once_and_joined(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {stage: FakeCaptioner() for stage in ("au", "emotion")}
    said = {"au": "It is a people who raises chin.", "emotion": "the face shows anger."}
    asked: list[tuple[str, int]] = []

    def loaded(name: str, **_: Any) -> Any:
        stage = Path(name).parent.name
        fake = made[stage]

        def caption(clips: Any, questions: Any = None) -> list[str]:
            asked.append((stage, len(clips)))
            return [said[stage] for _ in clips]

        monkeypatch.setattr(fake, "caption", caption, raising=False)
        return fake

    monkeypatch.setattr("streamfer.captions.load_captioner", loaded)
    own = {f"{stage}_captioner": str(trained / "run" / stage / "captioner") for stage in ("au", "emotion")}
    config = halved(trained, tmp_path, pseudo={**own, "batch": 2})
    assert "9 pictures, 0 of them done" in pseudo.check(config)
    summary = pseudo.write(config)
    assert "9 pictures, 2 with pseudo actions, 3 with a pseudo emotion; joined by the grammar" in summary
    assert asked == [("emotion", 2), ("emotion", 1), ("au", 2)]
    folder = tmp_path / "run" / "pseudo"
    cat = {entry.text("image"): entry.text("caption") for entry in read_entries(folder / "cat.json")}
    assert cat["faces/00.png"] == "the face pulls the lip corner. the face shows anger."
    assert cat["faces/08.png"] == "It is a people who raises chin. the person is surprise"
    assert cat["faces/04.png"] == "the face raises the inner brow. the person parts sadness"
    fused = {entry.text("image"): entry.text("caption") for entry in read_entries(folder / "fused.json")}
    assert fused.keys() == cat.keys()
    assert "anger" in fused["faces/00.png"]
    mix = [(entry.text("image"), entry.text("caption")) for entry in read_entries(folder / "mix.json")]
    assert len(mix) == 13
    assert ("faces/00.png", "the face shows anger.") not in mix
    # A second time nothing is asked; a line that was cut short is written again.
    first = (folder / "fused.json").read_text()
    assert len((folder / "emotion.jsonl").read_text().splitlines()) == 3
    first_line, second_line = (folder / "au.jsonl").read_text().splitlines(keepends=True)
    (folder / "au.jsonl").write_text(first_line + second_line[:20])
    asked.clear()
    pseudo.write(config)
    assert asked == [("au", 1)]
    assert (folder / "fused.json").read_text() == first
    (folder / "au.jsonl").write_text('{"image": 3}\n')
    with pytest.raises(Exception, match="no line of this command"):
        pseudo.write(config)


def test_real_captioners_write_halves_and_every_variant_trains(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    path = write_config(trained, step1={"epochs": 1}, step2={"epochs": 1})
    lists = halved(trained, tmp_path).data
    text = path.read_text()
    for name in ("au", "emotion"):
        text = text.replace(str(trained / f"{name}.json"), str(getattr(lists, name)[0].file))
    path.write_text(text)
    assert main(["train", "--stage", "expression", "-c", str(path), "--out", str(run)]) == 2
    assert "run --stage pseudo first" in capsys.readouterr().err
    assert main(["train", "--stage", "pseudo", "-c", str(path), "--out", str(run)]) == 2
    assert "run --stage emotion first" in capsys.readouterr().err
    for stage in ("au", "emotion"):
        shutil.copytree(trained / "run" / stage, run / stage)
    assert main(["train", "--stage", "pseudo", "-c", str(path), "--out", str(run)]) == 0
    assert "2 with pseudo actions" in capsys.readouterr().out
    for variant, folder, count in (("exp", "expression", 9), ("mix", "mix", 13)):
        assert main(["train", "--stage", "expression", "--variant", variant, "-c", str(path), "--out", str(run)]) == 0
        assert read_card(run / folder / "captioner").name == f"{folder}-blip"
        assert json.loads((run / folder / "run.json").read_text())["pairs"] == count
    assert (
        main(["train", "--stage", "expression", "--variant", "cat", "-c", str(path), "--out", str(run), "--check"]) == 0
    )
    assert "9 pairs" in capsys.readouterr().out


def test_lists_and_pictures_that_are_not_there_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(trained)
    (tmp_path / "au.json").write_text('[{"image": "faces/00.png"}]')
    wrong = f'data.au=[{{"file": "{tmp_path / "au.json"}", "images": "{trained}"}}]'
    base = ["train", "--stage", "au", "-c", str(path)]

    def error(number: int, *changes: str) -> str:
        sets = [word for change in changes for word in ("--set", change)]
        assert main([*base, "--out", str(tmp_path / f"run{number}"), *sets]) == 2
        return capsys.readouterr().err

    assert "line 1): field caption is missing" in error(1, wrong)
    (tmp_path / "au.json").write_text('[{"image": "faces/77.png", "caption": "x"}]')
    assert "faces/77.png is missing" in error(2, wrong)
    assert "data.au names no list" in error(3, "data.au=[]")
    assert "9 pairs are less than one batch of 64" in error(4, "step1.batch=64")
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "77.png").write_bytes(b"no picture")
    damaged = f'data.au=[{{"file": "{tmp_path / "au.json"}", "images": "{tmp_path}"}}]'
    assert "no picture that can be read" in error(5, damaged, "step1.batch=1")
    assert main(["train", "-c", str(path)]) == 2
    assert "add --stage" in capsys.readouterr().err


def test_a_captioner_is_scored_and_its_features_are_probed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nltk")
    captioner = str(trained / "run" / "au" / "captioner")
    words = ["evaluate", "--captioner", captioner, "--labels", str(trained / "labels.json"), "--images", str(trained),
             "--out", str(tmp_path), "--device", "cpu", "--probe-train", str(trained / "labels.json"),
             "--probe-epochs", "400", "--beside", "raf-au"]  # fmt: skip
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "published on raf-au, captions:" in shown
    assert "| Exp-BLIP (ViT-G, 6.7B) | 0.184 | 0.229 | 84.65 |" in shown
    assert "published on raf-au, linear probe:" in shown
    assert "au-blip: 9 pictures; references: rule and 4 of the grammar" in shown
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"rouge_l", "bleu"} <= report["text"].keys()
    assert report["agreement"]["count"] == 9
    assert report["floor"]["micro"]["recall"] > 0
    # Three colours tell three label sets apart, whatever the weights.
    assert report["probes"]["vision"]["mean_f1"] > 0.9
    assert report["probes"]["vision"]["emotion_accuracy"] == 1.0
    assert report["probes"]["qformer"]["emotion_accuracy"] > 0.5
    assert len((tmp_path / "captions.jsonl").read_text().splitlines()) == 9
    words[words.index(captioner)] = str(trained / "run" / "emotion" / "captioner")
    assert main(words) == 2
    assert "captions of another model" in capsys.readouterr().err


def test_half_precision_trains_with_a_scaler(trained: Path, tmp_path: Path) -> None:
    path = write_config(trained, runtime={"precision": "fp16"}, step1={"epochs": 1}, step2={"epochs": 1})
    assert main(["train", "--stage", "au", "-c", str(path), "--out", str(tmp_path)]) == 0
    assert load(tmp_path / "au" / "step2" / "last.pt").scaler["scale"] > 0  # type: ignore[index]


def test_check_looks_at_both_steps(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(trained, step1={"batch": 4, "accumulate": 2})
    words = ["train", "--stage", "au", "-c", str(path), "--check"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "step1 contrasts each pair with 1 others: batch 4 in 2 micro-batches" in said
    assert "language_model: 0 weights learn" in said
    for setting, message in (
        ("model.sizes.imige=28", "did you mean 'image'?"),
        (f"model.language_model={tmp_path}", str(tmp_path)),
        ("step2.batch=10", "9 pairs are less than one batch of 10"),
        ("step1.batch=10", "9 pairs are less than one batch of 10"),
        ("step2.max_text_tokens=4000", "lower the limits"),
    ):
        assert main([*words, "--set", setting]) == 2
        assert message in capsys.readouterr().err
    assert not (trained / "run" / "checked").exists()


def test_released_switches_reach_the_second_step(trained: Path) -> None:
    plain = settings(trained, step2={"learn_start": True, "language_dropout": True})
    for asked in (True, False):
        plain["step2"] |= {"learn_start": asked, "language_dropout": asked}
        config = check_settings(ExpBlipConfig, plain, "test")
        step, pairs = stages.second_step(config, trained, None), stages.pairs_of(config, "au", "exp")
        writer = step.make()
        collate = step.task(pairs, writer, ALONE).loader.collate_fn
        assert collate([(torch.zeros(3, 28, 28), pairs[0])])["targets"][0, 0].ge(0) == asked
        assert (writer.learner.model.language_model.model.decoder.dropout > 0) == asked


def test_a_half_that_cannot_be_read_is_counted(trained: Path) -> None:
    halves = [(action, "the face shows anger.") for action in ("The brow does mmm.", "the face raises the inner brow.")]
    texts, said = pseudo._fused(check_settings(ExpBlipConfig, settings(trained), "test"), halves)
    assert texts[0] == "The brow does mmm. the face shows anger."
    assert "anger" in texts[1]
    assert said == "joined by the grammar; of 1 a half could not be read and both stand as they are"


def test_a_writer_that_refuses_is_said_before_anything_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = halved(trained, tmp_path, pseudo={"url": "http://127.0.0.1:9/v1", "model": "m"})
    monkeypatch.setattr(pseudo, "_written", lambda _config, _stage, images: dict.fromkeys(images, "x"))
    with pytest.raises(ConfigError, match="cannot be reached"):
        pseudo.write(config)
    assert not (tmp_path / "run" / "pseudo" / "fused.json").exists()


def test_the_product_command_hands_over() -> None:
    shown = CliRunner().invoke(app, ["train", "exp-blip", "--settings"])
    assert shown.exit_code == 0
    assert "same_text: shared" in shown.output
    helped = CliRunner().invoke(app, ["evaluate", "exp-blip", "--help"])
    assert helped.exit_code == 0
    assert "--probe-train" in helped.output

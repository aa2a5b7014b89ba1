"""`streamfer evaluate dfer-clip` on small models and clips: names, numbers, files, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from official_checkpoint import Sizes, make_state, reference_logits, write_checkpoint
from PIL import Image
from tiny_clips import write_config
from tiny_models import tiny_card, tiny_model

from streamfer.errors import ConfigError, UnknownModelError
from streamfer.models.dfer_clip import DferClip
from streamfer.models.sizes import DferClipConfig
from streamfer.models.weights import read_weights, write_weights
from streamfer_train.dfer_clip import evaluate, protocols
from streamfer_train.dfer_clip.__main__ import main
from streamfer_train.dfer_clip.__main__ import main as train
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.scoring import match_classes
from streamfer_train.dfer_clip.subjects import read_subject
from streamfer_train.metrics.classification import report

SEVEN = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
CLASSES = ("anger", "happiness", "fear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny model with three classes, and 24 clips of two frames with labels by name."""
    place = tmp_path_factory.mktemp("evaluate")
    base = tiny_model()
    config = DferClipConfig(
        classes=CLASSES,
        embed_dim=base.config.embed_dim,
        vision=base.config.vision,
        temporal=base.config.temporal,
        temperature=base.config.temperature,
    )
    model = DferClip(config)
    model.load_state_dict(base.state_dict())
    write_weights(place / "three.safetensors", model, tiny_card(model, name="three", calibration_temperature=2.0))
    random = np.random.default_rng(0)
    rows = []
    for number in range(24):
        clip = place / f"clip{number:02d}"
        clip.mkdir()
        for frame in range(2):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(clip / f"{frame}.png")
        rows.append((clip.name, ("Happy", "fear", "anger")[number % 3], f"film {number // 6}"))
    write_list(place / "clips.csv", rows)
    return place


def write_list(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video", "label", "group"])
        writer.writerows(rows)
    return path


def evaluated(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu", "--workers", "0"])


def recipe(path: Path, table: Path, classes: tuple[str, ...], **data: object) -> Path:
    settings = {
        "dataset": "csv",
        "train": str(table),
        "test": str(table),
        "root": str(table.parent),
        "labels": "names",
        "classes": list(classes),
        **data,
    }
    path.write_text(json.dumps({"data": settings, "run": {"out": str(path.parent / "run")}}), encoding="utf-8")
    return path


def test_a_report_rests_on_the_product_and_on_names(folder: Path, tmp_path: Path) -> None:
    config = recipe(tmp_path / "recipe.yaml", folder / "clips.csv", ("happiness", "fear", "anger"))
    out = tmp_path / "out"
    assert evaluated("-c", config, "--weights", folder / "three.safetensors", "--out", out) == 0

    table = pq.read_table(out / "predictions.parquet").to_pydict()
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    model, card = read_weights(folder / "three.safetensors")
    wanted = []
    for number in range(24):
        frames = [Image.open(folder / f"clip{number:02d}" / f"{name}.png") for name in ("0", "1", "1", "1")]
        resized = [frame.resize((32, 32), Image.Resampling.BILINEAR) for frame in frames]
        pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in resized])).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            wanted.append((model(pixels[None]).logits_BC[0] / card.calibration_temperature).softmax(0))
    columns = [table[f"p_{name}"] for name in CLASSES]
    assert np.allclose(np.array(columns).T, torch.stack(wanted).numpy(), atol=0.02)

    labels = ["happiness", "fear", "anger"] * 8
    assert table["label"] == labels
    hits = [predicted == label for predicted, label in zip(table["predicted"], labels, strict=True)]
    assert document["scores"]["war"] == pytest.approx(np.mean(hits), abs=1e-5)
    assert document["data"]["classes"] == ["happiness", "fear", "anger"]
    assert document["intervals"]["uar"]["count"] == 4, "films are resampled, not clips"
    for name, interval in document["intervals"].items():
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"], name
    assert document["model"]["calibration_temperature"] == 2.0
    for name in ("confusion.png", "reliability.png", "risk_coverage.png"):
        assert Image.open(out / name).size[0] > 300
    page = (out / "report.md").read_text(encoding="utf-8")
    assert f"{100 * document['scores']['war']:.2f} [" in page
    assert "three" in page


def test_classes_that_differ_are_refused_or_cut_to_the_shared_ones(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = folder / "three.safetensors", tmp_path / "out"
    assert evaluated("--list", folder / "clips.csv", "--weights", weights, "--out", out) == 2
    message = capsys.readouterr().err
    assert message.startswith("streamfer: classes differ: the model does not know sadness, neutral, surprise, disgust")
    assert message.count("\n") == 1
    assert "--subset" in message
    assert not out.exists()

    assert evaluated("--list", folder / "clips.csv", "--weights", weights, "--out", out, "--subset") == 0
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert document["data"]["classes"] == ["happiness", "anger", "fear"]
    assert document["data"]["left_out"] == ["sadness", "neutral", "surprise", "disgust"]
    assert any("Left out" in remark for remark in document["remarks"])


def test_order_and_spelling_of_classes_do_not_matter() -> None:
    match = match_classes(("Happy", "anger", "fear"), ("fear", "happiness", "anger"))
    assert match.classes == ("fear", "happiness", "anger")
    assert match.columns == (2, 0, 1)
    assert (match.left_out, match.unused) == ((), ())
    part = match_classes(SEVEN, ("fear", "contempt", "happiness"), subset=True)
    assert (part.classes, part.columns, part.left_out) == (("fear", "happiness"), (6, 0), ("contempt",))
    assert part.unused == ("sadness", "neutral", "anger", "surprise", "disgust")
    with pytest.raises(ConfigError, match=r"share 1 class"):
        match_classes(SEVEN, ("fear", "contempt"), subset=True)


def test_a_checkpoint_of_the_authors_is_read_as_it_is(tmp_path: Path) -> None:
    path, sizes = tmp_path / "DFEW-set1-model.pth", Sizes()
    state = make_state(sizes)
    write_checkpoint(path, state)
    subject = read_subject(str(path), device="cpu", precision="fp32")
    assert subject.info.classes == SEVEN
    assert (subject.info.name, subject.info.frames, subject.size) == ("DFEW-set1-model", sizes.frames, sizes.image)
    pixels = torch.randint(0, 256, (2, sizes.frames, 3, sizes.image, sizes.image), dtype=torch.uint8)
    wanted = reference_logits(state, sizes, pixels.float() / 255)
    assert torch.allclose(subject.predict(pixels)["logits"], wanted, atol=1e-3)


def test_a_run_is_evaluated_by_its_folder_and_protocol(folder: Path, tmp_path: Path) -> None:
    from streamfer_train.dfer_clip.backbones import read_backbone
    from streamfer_train.dfer_clip.config import load_config
    from streamfer_train.dfer_clip.model import build_learner
    from streamfer_train.recipes.checkpoint import Checkpoint, Progress

    small = {"embed_dim": 16, "layers": 1, "width": 32, "head_width": 16, "patch": 8}
    path = recipe(tmp_path / "recipe.yaml", folder / "clips.csv", CLASSES, size=32, frames=4)
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"backbone": {"name": "custom", "weights": "random", "custom": small}, "heads": {"kind": "cosine"}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    config = load_config(path)
    learner = build_learner(config, read_backbone(config), seed=3).eval()
    run = tmp_path / "run" / "seed1" / "fold2"
    about = {"fold": 2, "seed": 1, "sizes": asdict(learner.sizes)}
    stored = Checkpoint("dfer-clip", config.model_dump(mode="json"), about, Progress(), learner.state_dict())
    stored.save(run / "best_on_test.pt")

    subject = read_subject(str(run / "best_on_test.pt"), device="cpu")
    assert (subject.info.classes, subject.fold, subject.info.frames, subject.size) == (CLASSES, 2, 4, 32)
    pixels = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(subject.predict(pixels)["logits"], learner(pixels)["logits"], atol=1e-4)
    out = tmp_path / "out"
    assert evaluated("-c", path, "--weights", run, "--protocol", "best_on_test", "--out", out) == 0
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["data"]["clips"] == 24
    assert evaluated("-c", path, "--weights", run, "--protocol", "held_out", "--out", out) == 2


def test_what_is_no_model_is_said_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "model.pth"
    damaged.write_bytes(b"PK\x03\x04 cut short")
    for weights, words in ((damaged, "damaged or incomplete"), (tmp_path / "none.pth", "no such file")):
        assert evaluated("--list", folder / "clips.csv", "--weights", weights) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
    with pytest.raises(UnknownModelError):
        read_subject("no-such-model")
    assert evaluated("--weights", folder / "three.safetensors") == 2
    assert "nothing to evaluate on" in capsys.readouterr().err
    listed = write_list(tmp_path / "bad.csv", [("missing", "fear", "x")])
    assert evaluated("--list", listed, "--weights", folder / "three.safetensors", "--subset") == 2
    assert "missing clip" in capsys.readouterr().err


def test_folds_of_a_run_become_one_result(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = recipe(tmp_path / "recipe.yaml", folder / "clips.csv", CLASSES)
    random = torch.Generator().manual_seed(0)
    wanted = []
    for fold in (1, 2, 3):
        labels = torch.arange(30) % 3
        logits = torch.randn(30, 3, generator=random) + 2 * torch.eye(3)[labels]
        place = tmp_path / "run" / "seed1" / f"fold{fold}" / "predictions"
        Predictions(CLASSES, logits, labels, torch.arange(30)).write(place / "last_test.safetensors")
        wanted.append(report(logits, labels, CLASSES).war)
    assert main(["evaluate", "-c", str(config), "--protocol", "last"]) == 0
    assert "last epoch" in capsys.readouterr().out
    document = json.loads((tmp_path / "run" / "evaluation_last" / "report.json").read_text(encoding="utf-8"))
    war = document["scores"]["war"]
    assert war["mean"] == pytest.approx(np.mean(wanted), abs=1e-5)
    assert war["over_folds"]["low"] < np.mean(wanted) < war["over_folds"]["high"]
    assert war["over_seeds"]["low"] is None
    assert document["pooled"]["count"] == 90
    assert main(["evaluate", "-c", str(config), "--protocol", "held_out"]) == 2
    assert "holds no predictions of the protocol held_out" in capsys.readouterr().err


def epochs(*wars: float, held_out: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "test": {"war": war},
         "held_out": {"uar": held_out[n - 1], "nll": -held_out[n - 1]} if held_out else {}}
        for n, war in enumerate(wars, start=1)
    ]  # fmt: skip


def test_each_protocol_chooses_its_epoch() -> None:
    history = epochs(0.5, 0.7, 0.7, 0.6, held_out=(0.4, 0.3, 0.5, 0.2))
    chosen = {selection: protocols.choose(history, selection) for selection in protocols.SELECTIONS}
    assert chosen == {"best_on_test": 2, "last": 4, "held_out": 3}
    assert protocols.choose(history, "held_out", "nll") == 3
    with pytest.raises(ConfigError, match=r"data\.held_out\.fraction"):
        protocols.choose(epochs(0.5), "held_out")
    with pytest.raises(ConfigError, match="finished epoch"):
        protocols.choose([], "last")


def test_the_table_says_how_a_number_was_come_by() -> None:
    runs = {(fold, 1): {"uar": 0.6 + fold / 100, "war": 0.7, "ece": 0.1, "aurc": 0.1} for fold in (1, 2, 3, 4, 5)}
    table = protocols.results_table("dfew", [protocols.combine_runs("best_on_test", runs)])
    assert "63.00 [61.04, 64.96]" in table
    assert "comparable with published numbers, flatters" in table
    assert "| DFER-CLIP (ViT-B/32), 2023 | 59.61 | 71.25 | 0.094 | 0.135 |" in table
    assert "76.68" in table
    assert "58.44" in protocols.results_table("mafw", [])
    assert "| MMA-DFER, 2024 (*audio-visual*) | 67.01 | 77.51 |" in table


@pytest.mark.parametrize(("dataset", "folds", "said"), [
    ("dfew", 1, "not comparable with published numbers (1 of 5 folds)"),
    ("dfew", 5, "list: comparable with published numbers"),
    ("ferv39k", 1, "list: comparable with published numbers"),
    ("csv", 1, "best epoch on the test list: flatters"),
])  # fmt: skip
def test_fewer_folds_than_the_official_ones_do_not_compare(dataset: str, folds: int, said: str) -> None:
    assert said in protocols.meaning(dataset, "best_on_test", folds)
    assert "comparable" not in protocols.meaning(dataset, "last", folds)


def test_a_checkpoint_a_fold_is_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int | None, int]] = []
    measure = evaluate._measured

    def watched(options: Any, subject: Any, data: Any, fold: int) -> Any:
        measured.append((subject.fold, fold))
        return measure(options, subject, data, fold)

    monkeypatch.setattr(evaluate, "_measured", watched)
    changes = {"data": {"folds": [1, 2]}, "optimiser": {"batch": 4, "epochs": 1}}
    config = write_config(tmp_path, **changes)
    assert train(["train", "-c", str(config)]) == 0
    weights = str(tmp_path / "run" / "seed1" / "fold{fold}" / "last.pt")
    out = tmp_path / "five"
    assert evaluated("-c", config, "--weights", weights, "--folds", "--out", out) == 0
    report = json.loads((out / "report.json").read_text())
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())["protocols"][0]
    assert report["folds"] == [1, 2]
    assert measured == [(1, 1), (2, 2)], "each checkpoint on its own fold's list"
    assert report["scores"]["war"]["mean"] == pytest.approx(stored["scores"]["war"]["mean"], abs=1e-6)
    assert evaluated("-c", config, "--weights", "same.pt", "--folds") == 2
    assert "{fold}" in capsys.readouterr().err
    crossed = weights.replace("fold{fold}", "fold1") + "{fold}"
    assert evaluated("-c", config, "--weights", crossed, "--folds") == 2

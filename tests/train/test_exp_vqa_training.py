"""Exp-VQA: one stage over questions, the answer by likelihood, and its scores."""

from __future__ import annotations

import csv
import json
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
from streamfer_train.captions.files import Pair
from streamfer_train.exp_blip.captioned import face_of, read_labelled
from streamfer_train.exp_blip.data import answer_batch
from streamfer_train.exp_vqa import stage
from streamfer_train.exp_vqa.__main__ import main
from streamfer_train.exp_vqa.config import ExpVqaConfig
from streamfer_train.exp_vqa.evaluate import ask_units
from streamfer_train.metrics.detection import Answered, score_answers
from streamfer_train.recipes.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Exp-VQA that has learned to tell two colours' answers apart."""
    folder = tmp_path_factory.mktemp("vqa")
    learning = {"epochs": 14, "lr": 1e-2, "min_lr": 2e-3, "batch": 9}
    path = write_config(folder, "exp-vqa", training=learning, augmentation={"operations": 0})
    assert main(["train", "-c", str(path)]) == 0
    return folder


def test_it_learns_to_answer(trained: Path) -> None:
    with (trained / "run" / "training" / "epochs.csv").open(newline="", encoding="utf-8") as stream:
        losses = [float(row["total"]) for row in csv.DictReader(stream)]
    assert len(losses) == 14
    # The language model stays random: only the queries before it can learn.
    assert losses[-1] < 0.85 * losses[0]
    assert min(losses) == pytest.approx(losses[-1], rel=0.02)


def test_the_model_that_comes_out_answers(trained: Path) -> None:
    folder = trained / "run" / "captioner"
    card = read_card(folder)
    assert (card.name, card.architecture, card.answers) == ("exp-vqa", "instructblip", True)
    assert (card.text.repetition_penalty, card.text.max_question_tokens, card.text.end_token) == (1.5, 60, "</s>")
    model = load_captioner(str(folder), device="cpu", precision="fp32")
    faces = [face_of(trained / "faces" / f"0{number}.png", 28) for number in (0, 2)]
    question = "is the lip corner pulled?"
    chances = model.answer_yes_no(faces, [question] * 2)
    assert all(0 < chance < 1 for chance in chances)
    assert chances[0] != pytest.approx(chances[1], abs=1e-7)


def test_training_and_answering_feed_the_same_rows(trained: Path) -> None:
    """The loss of the word yes is its likelihood as the loaded model computes it."""
    config = check_settings(ExpVqaConfig, settings(trained, "exp-vqa"), "test")
    writer = stage.build_writer(config)
    model: Any = load_captioner(str(trained / "run" / "captioner"), device="cpu", precision="fp32")
    writer.learner.model.load_state_dict(model._model.state_dict())
    face, question = face_of(trained / "faces" / "00.png", 28), "is the jaw dropped?"
    pixels = torch.from_numpy(face).permute(2, 0, 1)
    losses = []
    for word in ("yes", "no"):
        rows = answer_batch([(pixels, Pair(Path("a"), word, question))], writer.text, 40)
        assert int((rows["targets"] != -100).sum()) == len(writer.text.tokenizer(word)["input_ids"]) + 1
        # The end token is not part of the comparison.
        rows["targets"][rows["targets"] == writer.text.end_id] = -100
        count = int((rows["targets"] != -100).sum())
        losses.append(float(writer.learner.eval()(rows)["total"].detach()) * count)
    wanted = torch.tensor(losses).neg().softmax(0)[0]
    assert model.answer_yes_no([face], [question])[0] == pytest.approx(float(wanted), abs=1e-4)


def test_the_question_reaches_the_queries(trained: Path) -> None:
    config = check_settings(ExpVqaConfig, settings(trained, "exp-vqa"), "test")
    writer = stage.build_writer(config)
    pixels = torch.zeros(3, 28, 28, dtype=torch.uint8)
    batches = [answer_batch([(pixels, Pair(Path("a"), "yes", asked))], writer.text, 40)
               for asked in ("is the jaw dropped?", "yes or no?")]  # fmt: skip
    learner = writer.learner.eval()
    losses = []
    for question in batches:
        # The language model sees the same words; only the Q-Former's differ.
        asked = {name: question[name] for name in ("question_ids", "question_mask")}
        losses.append(float(learner({**batches[0], **asked})["total"].detach()))
    assert losses[0] != losses[1]
    learner.train()
    learner(batches[0])["total"].backward()
    assert learner.model.qformer.embeddings.word_embeddings.weight.grad is not None
    assert all(weight.grad is None for weight in learner.model.language_model.parameters())


def test_the_frozen_variant_keeps_its_encoder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(trained, "exp-vqa", training={"epochs": 1, "vit": "frozen"})
    assert main(["train", "-c", str(path), "--out", str(tmp_path), "--check"]) == 0
    shown = capsys.readouterr().out
    assert "18 questions about 9 pictures" in shown
    assert "language_model: 0 weights learn" in shown
    assert main(["train", "-c", str(path), "--out", str(tmp_path)]) == 0
    learned = Checkpoint.load(tmp_path / "training" / "last.pt", "exp-vqa").model
    assert {name for name in learned if "vision_model" in name} == {
        "model.vision_model.post_layernorm.weight",
        "model.vision_model.post_layernorm.bias",
    }
    assert read_card(tmp_path / "captioner").name == "exp-vqa-fz"
    assert main(["train", "-c", str(path), "--out", str(tmp_path)]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["train", "-c", str(path), "--out", str(tmp_path), "--resume"]) == 0


def test_a_question_that_is_too_long_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(trained, "exp-vqa", training={"max_question_tokens": 4})
    assert main(["train", "-c", str(path), "--out", str(tmp_path)]) == 2
    assert "the question has" in capsys.readouterr().err
    path = write_config(trained, "exp-vqa")
    for more in (["--check"], []):
        words = ["train", "-c", str(path), "--out", str(tmp_path / "b"), "--set", "training.batch=100", *more]
        assert main(words) == 2
        assert "pairs are less than one batch of 100" in capsys.readouterr().err


def test_scores_of_yes_and_no() -> None:
    answers = [Answered(0.9, True, 1), Answered(0.8, False, 1), Answered(0.2, True, 2), Answered(0.1, False, 2),
               Answered(0.7, True, 2)]  # fmt: skip
    report = score_answers(answers)
    assert (report["precision"], report["recall"]) == (0.6667, 0.6667)
    assert report["f1"] == 0.6667
    assert report["accuracy"] == 0.6
    assert report["roc_auc"] == 0.6667
    assert report["brier"] == pytest.approx((0.01 + 0.64 + 0.64 + 0.01 + 0.09) / 5, abs=1e-4)
    assert report["always_yes_f1"] == 0.75
    assert report["unit_f1"] == {"1": 0.6667, "2": 0.6667}
    assert score_answers([Answered(0.9, True)])["roc_auc"] is None
    with pytest.raises(ConfigError, match="no yes-or-no question"):
        score_answers([])


def test_every_coded_unit_is_asked_and_a_face_looked_at_once(trained: Path) -> None:
    pictures = read_labelled(trained / "labels.json", trained)
    asked: list[tuple[int, str]] = []

    class Watched(FakeCaptioner):
        def answer_yes_no(self, clips: Any, questions: Any) -> list[float]:
            asked.extend((id(clip), question) for clip, question in zip(clips, questions, strict=True))
            return super().answer_yes_no(clips, questions)

    answers = list(ask_units(Watched(), pictures, batch=4))
    assert len(answers) == 9 * 6
    assert {one.unit for one in answers} == {1, 4, 6, 12, 25, 26}
    assert sum(one.truth for one in answers) == 9 * 2
    assert len({place for place, _ in asked[:24]}) == 4
    assert len(list(ask_units(FakeCaptioner(), pictures, frozenset({12})))) == 9


def test_evaluation_from_questions_and_from_labels(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioner = str(trained / "run" / "captioner")
    base = ["evaluate", "--captioner", captioner, "--images", str(trained), "--device", "cpu", "--num-beams", "1",
            "--max-new-tokens", "4", "--out", str(tmp_path)]  # fmt: skip
    assert main([*base, "--questions", str(trained / "questions.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["yes_no"]["questions"] == 18
    assert report["yes_no"]["yes"] == 6
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 18
    assert all(0 < line["yes"] < 1 for line in lines)
    assert "yes or no: questions 18" in capsys.readouterr().out
    labels = ["--labels", str(trained / "labels.json"), "--units", "12,26", "--skip-descriptions"]
    assert main([*base, *labels]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["yes_no"]["questions"] == 18
    assert set(report["yes_no"]["unit_f1"]) == {"12", "26"}
    assert main([*base, "--labels", str(trained / "labels.json"), "--questions", "x"]) == 2
    assert "either --labels or --questions" in capsys.readouterr().err


def test_the_product_command_hands_over() -> None:
    shown = CliRunner().invoke(app, ["train", "exp-vqa", "--settings"])
    assert shown.exit_code == 0
    assert "max_answer_tokens: 256" in shown.output

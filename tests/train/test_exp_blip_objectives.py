"""The first step's losses, schedules, views and texts, each against numbers worked out by hand or by the source."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lavis_checkpoint import language_tokenizer, question_tokenizer
from PIL import Image

from streamfer.captions.card import TextCard
from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError
from streamfer.settings import describe_settings, load_settings
from streamfer_train.exp_blip import augment, objectives
from streamfer_train.exp_blip.augment import apply
from streamfer_train.exp_blip.config import (
    AugmentationConfig,
    CaptionFile,
    ExpBlipConfig,
    OptimiserConfig,
    TextConfig,
)
from streamfer_train.exp_blip.data import Row, WordReader, cleaned, padded, read_questions, text_key, written_row
from streamfer_train.exp_blip.training import depth_factor, learning_rate, learns
from streamfer_train.exp_vqa.config import ExpVqaConfig
from streamfer_train.recipes.loading import TrainSampler

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


def test_words_see_queries_and_what_came_before() -> None:
    mask = objectives.writing_mask(torch.tensor([[1, 1, 1, 0]]), queries=2)
    assert mask.shape == (1, 1, 6, 6)
    # Rows see columns: two queries, three words, one padding (which nothing but itself sees).
    assert mask[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


def test_the_query_that_fits_best_counts() -> None:
    images = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.6, 0.8]]])
    texts = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    expected = torch.tensor([[1.0, 0.0, 1.0], [0.8, 1.0, 0.6]])
    torch.testing.assert_close(objectives.similarities(images, texts), expected)


def test_contrast_is_smoothed_cross_entropy_of_the_own_pair() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    own = objectives.partners(torch.tensor([7, 8]), torch.tensor([9, 7, 8]), torch.tensor([1, 2]), shared=False)
    assert own.tolist() == [[False, True, False], [False, False, True]]
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 2]), label_smoothing=0.1)
    assert float(objectives.contrastive(scores, own, 0.1)) == pytest.approx(float(expected), rel=1e-6)


def test_equal_captions_share_the_target() -> None:
    keys = torch.tensor([5, 6, 5])
    shared = objectives.partners(keys, keys, torch.arange(3), shared=True)
    assert shared.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    scores = torch.tensor([[1.0, 0.0, 1.0]])
    z = 2 * math.e + 1
    assert float(objectives.contrastive(scores, shared[:1], 0.0)) == pytest.approx(math.log(z) - 1, rel=1e-6)


@given(st.integers(2, 6), st.integers(0, 10_000), st.booleans())
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_negative_is_never_a_partner(count: int, seed: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(0, 3, (count,), generator=generator)
    scores = 60 * torch.eye(count) + torch.randn(count, count, generator=generator)
    partners = objectives.partners(keys, keys, torch.arange(count), shared=shared)
    torch.manual_seed(seed)
    drawn = objectives.hard_negatives(scores, partners)
    for row, place in enumerate(drawn.tolist()):
        assert place != row
        if place < 0:
            assert bool(partners[row].all())
        else:
            assert not bool(partners[row, place])


def test_negatives_are_drawn_by_the_softmax() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 1.0, 0.0]]).repeat(20_000, 1)
    partners = torch.tensor([[True, False, False]]).repeat(20_000, 1)
    share = float((objectives.hard_negatives(scores, partners) == 1).float().mean())
    chances = scores[0].softmax(0) + objectives.FLOOR
    assert share == pytest.approx(float(chances[1] / chances[1:].sum()), abs=0.015)
    assert math.isclose(objectives.FLOOR, 1e-4)


def test_writing_counts_every_word_but_the_first_and_no_padding() -> None:
    logits = torch.log(torch.tensor([[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]]]))
    ids, mask = torch.tensor([[0, 2, 1, 0]]), torch.tensor([[1, 1, 1, 0]])
    assert float(objectives.writing(logits, ids, mask, 0.0)) == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2)


def test_learning_rates_of_the_released_runner() -> None:
    config = OptimiserConfig(epochs=10, lr=1e-4, min_lr=1e-5, warmup=5000, warmup_lr=1e-6, schedule="cosine_epoch")
    steps = 1000
    assert learning_rate(config, 0, steps) == pytest.approx(1e-6)
    assert learning_rate(config, 500, steps) == pytest.approx(1e-6 + 99e-6 * 0.1)
    # The second epoch does not wait for the 5000 steps, and does not move within itself.
    expected = 1e-5 + 9e-5 * (1 + math.cos(math.pi / 10)) / 2
    assert learning_rate(config, 1000, steps) == pytest.approx(expected)
    assert learning_rate(config, 1999, steps) == pytest.approx(expected)


def test_learning_rates_of_the_paper() -> None:
    config = OptimiserConfig(epochs=10, lr=1e-4, min_lr=5e-5, warmup=2000, warmup_lr=0, schedule="cosine")
    assert learning_rate(config, 1000, 1000) == pytest.approx(5e-5)
    assert learning_rate(config, 2000, 1000) == pytest.approx(1e-4)
    assert learning_rate(config, 6000, 1000) == pytest.approx(7.5e-5)
    assert learning_rate(config, 10_000, 1000) == pytest.approx(5e-5)


def test_deeper_blocks_learn_slower_and_the_language_model_not_at_all() -> None:
    name = "model.vision_model.encoder.layers.{}.mlp.fc1.weight"
    assert depth_factor(name.format(38), 39, 0.95) == pytest.approx(0.95)
    assert depth_factor(name.format(0), 39, 0.95) == pytest.approx(0.95**39)
    assert depth_factor("vision_model.embeddings.class_embedding", 39, 0.95) == pytest.approx(0.95**40)
    assert depth_factor("qformer.layernorm.weight", 39, 0.95) == 1
    frozen, trained = OptimiserConfig(vit="frozen"), OptimiserConfig(vit="trained")
    assert (learns(name.format(3), frozen), learns(name.format(3), trained)) == (False, True)
    assert learns("vision_model.post_layernorm.weight", frozen)
    assert not learns("model.language_model.lm_head.weight", trained)


EXPECTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": (
        {"epochs": 10, "batch": 28, "lr": 1e-4, "min_lr": 1e-5, "warmup": 2000, "schedule": "cosine"},
        {"epochs": 20, "batch": 32, "lr": 1e-4, "min_lr": 5e-5, "warmup": 2000, "schedule": "cosine"},
    ),
    "supplement": (
        {"epochs": 10, "batch": 28, "lr": 1e-4, "min_lr": 1e-5, "warmup": 2000, "schedule": "cosine"},
        {"epochs": 20, "batch": 32, "lr": 1e-5, "min_lr": 0, "warmup": 1000, "vit_layer_decay": 0.95, "num_beams": 5},
    ),
    "released": (
        {"epochs": 10, "batch": 112, "lr": 1e-4, "min_lr": 1e-5, "warmup": 5000, "warmup_lr": 1e-6,
         "schedule": "cosine_epoch", "decay_all": True},
        {"epochs": 20, "batch": 16, "lr": 1e-5, "min_lr": 0, "warmup": 1000, "warmup_lr": 1e-8,
         "schedule": "cosine_epoch", "decay_all": True, "vit_layer_decay": 1, "num_beams": 5, "max_new_tokens": 200},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_paper_supplement_and_released_files_disagree_as_they_do(name: str) -> None:
    config = load_settings(ExpBlipConfig, CONFIGS / "exp_blip" / f"{name}.yaml", example="")
    for step, expected in zip((config.step1, config.step2), EXPECTED[name], strict=True):
        assert {key: getattr(step, key) for key in expected} == expected
        assert (step.weight_decay, step.betas) == (0.05, (0.9, 0.999))
    assert (config.step1.vit, config.step2.vit) == ("frozen", "trained")
    assert (config.step1.temperature, config.step1.label_smoothing, config.step1.same_text) == (0.07, 0.1, "own")
    assert (config.step1.max_text_tokens, config.step2.max_text_tokens, config.data.text.max_words) == (200, 200, None)
    assert config.augmentation.operations == (2 if name == "released" else 0)
    assert (config.augmentation.scale, config.model.sizes.image, config.model.sizes.queries) == ((0.8, 1.0), 224, 32)
    assert (config.model.projection, config.seed) == (256, 42)
    as_run = name == "released"
    assert (config.step2.language_dropout, config.step2.learn_start) == (as_run, as_run)
    assert (config.augmentation.shear, config.runtime.precision) == (
        ("corner", "fp16") if as_run else ("centre", "bf16")
    )


@pytest.mark.parametrize(("name", "vit"), [("released", "trained"), ("frozen", "frozen")])
def test_exp_vqa_has_the_released_numbers(name: str, vit: str) -> None:
    config = load_settings(ExpVqaConfig, CONFIGS / "exp_vqa" / f"{name}.yaml", example="")
    text, asked = config.data.text, config.training
    assert (text.lowercase, text.punctuation, text.max_words, config.data.clean_questions) == (True, False, 50, True)
    assert (asked.epochs, asked.batch, asked.lr, asked.min_lr, asked.warmup) == (6, 120, 1e-5, 0, 1000)
    assert (asked.warmup_lr, asked.weight_decay, asked.schedule, asked.vit) == (1e-8, 0.05, "cosine_epoch", vit)
    assert (asked.max_question_tokens, asked.max_answer_tokens, asked.repetition_penalty) == (128, 256, 1.5)


def test_settings_are_checked_and_compared(tmp_path: Path) -> None:
    path = CONFIGS / "exp_blip" / "paper.yaml"
    assert load_settings(ExpBlipConfig, path, ["step1.lr=3e-4", "data.workers=0"], example="").step1.lr == 3e-4
    with pytest.raises(ConfigError, match=r"step1\.speed: unknown setting"):
        load_settings(ExpBlipConfig, path, ["step1.speed=3"], example="")
    with pytest.raises(ConfigError, match="accumulate 3 does not divide batch 28"):
        load_settings(ExpBlipConfig, path, ["step1.accumulate=3"], example="")
    with pytest.raises(ConfigError, match="no '='"):
        load_settings(ExpBlipConfig, path, ["step1.lr"], example="")
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_settings(ExpBlipConfig, tmp_path / "absent.yaml", example="")
    assert "temperature: 0.07" in describe_settings(ExpBlipConfig)
    assert "language_model: REQUIRED" in describe_settings(ExpBlipConfig)


def test_captions_are_cleaned_as_lavis_does_where_asked() -> None:
    raw = "The  face shows (raised) Brows: it is #happy; really!\n"
    assert cleaned(raw, TextConfig(punctuation=False)) == "the face shows raised brows it is happy really"
    assert cleaned(raw, TextConfig(lowercase=False, max_words=3)) == "The face shows"
    assert text_key("a") == text_key("a") != text_key("b")
    assert 0 <= text_key("x") < 2**63


@pytest.mark.parametrize(("clean", "question"), [(True, "is the jaw dropped ?"), (False, "Is the JAW (dropped)?")])
def test_questions_are_cleaned_as_released_where_asked(tmp_path: Path, clean: bool, question: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    entry = {"image": "a.png", "image_id": 0, "text_input": "Is the JAW (dropped)?", "text_output": "Yes, it IS!"}
    (tmp_path / "q.json").write_text(json.dumps([entry]))
    lists = (CaptionFile(file=tmp_path / "q.json", images=tmp_path),)
    (pair,) = read_questions(lists, TextConfig(punctuation=False), "data.questions", clean=clean)
    assert (pair.question, pair.text) == (question, "yes, it is")


def test_rows_learn_the_answer_and_its_end_alone() -> None:
    text = PromptText(TextCard(max_question_tokens=60), language_tokenizer(pad=True))
    row, cut = written_row(text, "yes or no", "the lip corner", 40)
    assert not cut
    assert text.tokenizer.decode(row.answer) == "the lip corner\n"
    assert list(row.prompt) == text.prompt_ids("yes or no")
    short, cut = written_row(text, "", "the lip corner", 2)
    assert cut
    assert len(short.answer) == 2
    assert short.prompt == tuple(text.start_ids)
    ids, mask, targets = padded([row, short], text.pad_id)
    assert mask.sum(1).tolist() == [len(row.prompt) + len(row.answer), 3]
    assert targets[0, : len(row.prompt)].tolist() == [-100] * len(row.prompt)
    assert targets[0, len(row.prompt) :].tolist() == list(row.answer)
    assert targets[1, 3:].unique().tolist() == [-100]
    assert ids[1, 3:].unique().tolist() == [text.pad_id]


def test_the_first_step_keeps_the_end_of_a_cut_caption() -> None:
    words = WordReader(question_tokenizer(), limit=5)
    ids, mask = words(["the face raises the inner brow", "yes"])
    assert ids.shape == (2, 5)
    assert ids[0, -1] == words.tokenizer.convert_tokens_to_ids("[SEP]")
    assert mask.sum(1).tolist() == [5, 3]
    assert words.cuts(["the face raises the inner brow", "yes"]) == 1


def test_views_are_crops_without_turns_and_the_same_for_the_same_draw() -> None:
    picture = torch.randint(0, 256, (3, 60, 50), dtype=torch.uint8)
    views = [augment.augmented(picture, 28, AugmentationConfig(), random.Random(seed)) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (3, 28, 28)
    assert views[0].dtype == torch.uint8
    for seed in range(200):
        top, left, height, width = augment.draw_crop(50, 60, (0.8, 1.0), random.Random(seed))
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 50 - width
        assert 0.75 < height * width / 3000 <= 1.0
    assert not any("rotate" in name or "contrast" in name for name in augment.OPERATIONS)


def test_operations_have_the_strengths_of_level_five() -> None:
    picture = torch.zeros(3, 20, 20, dtype=torch.uint8)
    picture[:, :, 10] = 200
    moved = augment.apply(picture, "translate_x", 5, 1)
    assert moved[0, 10].argmax() == 15
    assert moved[0, 10, 0] == 128
    assert torch.equal(augment.apply(picture, "brightness", 5), picture)
    assert augment.apply(picture, "brightness", 10)[0, 0, 10] == 255
    leaning = augment.apply(picture, "shear_x", 5, 1)[0].float()
    shift = leaning[2:18].argmax(1)
    assert int((shift[0] - shift[-1]).abs()) == pytest.approx(15 * 0.15, abs=1)
    assert {augment.apply(picture, name, 5).shape for name in augment.OPERATIONS} == {(3, 20, 20)}


PAIRS = np.zeros(11, np.int64)


def test_processes_share_an_epoch_and_go_on_in_its_middle() -> None:
    alone = TrainSampler(PAIRS, batch_size=4, seed=3)
    alone.set_epoch(2)
    order = list(alone)
    assert len(order) == 8
    assert len({draw.index for draw in order}) == 8
    pair = [TrainSampler(PAIRS, batch_size=2, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    for one in pair:
        one.set_epoch(2)
    found = [list(one) for one in pair]
    assert [entry for two in zip(*found, strict=True) for entry in two] == order
    pair[0].set_epoch(2, 1)
    assert list(pair[0]) == found[0][2:]
    alone.set_epoch(3)
    assert list(alone) != order


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_corner_stays_where_lavis_shears(axis: str, sign: int) -> None:
    """LAVIS calls cv2.warpAffine with (1, factor, 0; 0, 1, 0), which leaves the first pixel where it is."""
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6) * 255, 40, mode="bicubic")[0]
    picture = picture.clamp(0, 255).to(torch.uint8)
    factor = sign * 0.03 * 5
    matrix = np.array([[1, factor, 0], [0, 1, 0]] if axis == "x" else [[1, 0, 0], [factor, 1, 0]], np.float32)
    wanted = cv2.warpAffine(picture.permute(1, 2, 0).numpy(), matrix, (40, 40), borderValue=(128, 128, 128))
    found = [apply(picture, f"shear_{axis}", 5, turn, corner=True).permute(1, 2, 0).numpy() for turn in (-1, 1)]
    apart = [np.abs(one[1:-1, 1:-1].astype(int) - wanted[1:-1, 1:-1].astype(int)) for one in found]
    assert min(float(np.median(one)) for one in apart) <= 1
    assert min(float((one > 8).mean()) for one in apart) < 0.06
    centred = apply(picture, f"shear_{axis}", 5, sign).permute(1, 2, 0).numpy()
    assert np.abs(centred.astype(int) - wanted.astype(int)).mean() > 2 * min(float(one.mean()) for one in apart)


def test_the_token_behind_the_queries_counts_where_it_is_asked_for() -> None:
    rows = [Row((2,), (5, 6)), Row((2,), (7,))]
    assert padded(rows, 0)[2].tolist() == [[-100, 5, 6], [-100, 7, -100]]
    assert padded(rows, 0, learn_start=True)[2].tolist() == [[2, 5, 6], [2, 7, -100]]
    assert padded([Row((2, 3), (5,))], 0, learn_start=True)[2].tolist() == [[-100, -100, 5]]

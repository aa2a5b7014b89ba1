"""Exp-BLIP and Exp-VQA at work: batches, keyframes, questions, folders that are damaged, and the fake."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.captioners import FakeCaptioner
from lavis_checkpoint import Sizes, make_state, question_tokenizer, write_checkpoint, write_language_model
from PIL import Image

from streamfer.captions import import_lavis, load_captioner
from streamfer.captions.architecture import QuerySizes, build_model
from streamfer.captions.card import EXP_VQA_TEXT, CaptionCard, clip_pixels
from streamfer.captions.choosing import resolve
from streamfer.captions.folder import read_card
from streamfer.captions.loading import read_model
from streamfer.captions.protocol import Captioner
from streamfer.captions.query_captioner import QueryCaptioner, search_settings
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.models.attention import AttentionChoice
from streamfer.models.inference import prepare_pixels

QUESTIONS = ["is the lip corner pulled?", "what is the emotion of this person, and which brow is raised?", "yes or no?"]
SIZES = Sizes(blocks=2, layers=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of either system, imported."""
    made = {}
    for kind in ("exp-blip", "exp-vqa"):
        base = tmp_path_factory.mktemp(kind)
        sizes = dataclasses.replace(SIZES, kind=kind)
        write_language_model(base / "language", sizes)
        question_tokenizer().save_pretrained(base / "words")
        words = len(question_tokenizer()) + 1 if sizes.instruct else 0
        write_checkpoint(base / "official.pth", make_state(sizes, words))
        import_lavis(
            base / "official.pth",
            kind,
            language_model=base / "language",
            question_tokenizer=base / "words",
            output=base / kind,
        )
        made[kind] = base / kind
    return made


Load = Callable[..., QueryCaptioner]


@pytest.fixture
def load(folders: dict[str, Path]) -> Load:
    def loaded(kind: str, **options: Any) -> QueryCaptioner:
        captioner = load_captioner(str(folders[kind]), device="cpu", precision="fp32", **options)
        assert isinstance(captioner, QueryCaptioner)
        return captioner

    return loaded


def clips(*counts: int) -> list[Any]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (count, SIZES.image, SIZES.image, 3), dtype=np.uint8) for count in counts]


@pytest.mark.parametrize("beams", [1, 5])
def test_a_caption_does_not_depend_on_its_batch(load: Load, beams: int) -> None:
    captioner = load("exp-vqa", num_beams=beams, max_new_tokens=7)
    given = clips(1, 3, 2)
    together = captioner.caption(given, QUESTIONS)
    alone = [captioner.caption([clip], [question])[0] for clip, question in zip(given, QUESTIONS, strict=True)]
    small = load("exp-vqa", num_beams=beams, max_new_tokens=7, batch=2).caption(given, QUESTIONS)
    assert len(set(together)) > 1
    assert together == alone == small


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_of_fixed_size_writes_the_same(load: Load, beams: int) -> None:
    growing = load("exp-blip", num_beams=beams, max_new_tokens=6)
    fixed = load("exp-blip", num_beams=beams, max_new_tokens=6)
    fixed._search.cache_implementation = "static"
    given = clips(1, 3)
    assert fixed.caption(given) == growing.caption(given)
    assert search_settings(fixed._text, "cuda:0", None, None).cache_implementation == "static"
    assert search_settings(fixed._text, "cpu", None, None).cache_implementation is None


def test_several_questions_about_one_clip_look_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = load("exp-vqa", num_beams=1, max_new_tokens=4)
    (clip,) = clips(2)
    looked: list[int] = []
    original = captioner.look

    def looking(frames: Any) -> Any:
        looked.append(len(frames))
        return original(frames)

    monkeypatch.setattr(captioner, "look", looking)
    shares = captioner.answer_yes_no([clip] * 3, QUESTIONS)
    assert looked == [2]
    assert shares == pytest.approx([captioner.answer_yes_no([clip], [one])[0] for one in QUESTIONS], abs=1e-5)
    assert len(set(shares)) == 3
    assert all(0 < share < 1 for share in shares)


def test_every_keyframe_counts_and_one_picture_is_one_keyframe(load: Load) -> None:
    captioner = load("exp-vqa")
    first, second = clips(1, 1)
    both = np.concatenate([first, second])
    shares = captioner.answer_yes_no([first, both, both[::-1].copy(), first[0]], QUESTIONS[:1] * 4)
    assert shares[0] == pytest.approx(shares[3], abs=1e-5)
    assert len({round(share, 5) for share in shares}) == 3


def test_pixels_are_resized_as_pil_does_it(load: Load) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (61, 61, 3), dtype=np.uint8)
    small = Image.fromarray(picture).resize((28, 28), Image.Resampling.BICUBIC)
    profile = load("exp-blip").card.pixels
    assert profile == clip_pixels(28)
    wanted = (np.asarray(small) / 255 - np.array(profile.mean)) / np.array(profile.std)

    def distance(kind: Any) -> float:
        given = torch.from_numpy(picture.copy())[None]
        found = prepare_pixels(given, dataclasses.replace(profile, interpolation=kind))[0].permute(1, 2, 0)
        return float(np.abs(found.numpy() - wanted).mean())

    # PIL rounds to whole grey levels after each direction; another filter is further off than that.
    assert distance("bicubic") < 0.01 < distance("bilinear") / 2


def test_limits_and_defaults_of_the_published_systems(load: Load) -> None:
    blip, vqa = load("exp-blip"), load("exp-vqa")
    assert (blip.info.answers, vqa.info.answers) == (False, True)
    assert (blip.info.max_new_tokens, vqa.info.max_new_tokens, vqa.info.max_question_tokens) == (200, 256, 128)
    assert (vqa.card.text.num_beams, vqa.card.text.repetition_penalty, vqa.card.text.end_token) == (5, 1.5, "</s>")
    assert blip.info.crop is not None
    assert blip.info.crop.size == 28
    assert len(blip.info.digest) == 64
    assert blip.info.digest != vqa.info.digest
    assert isinstance(blip, Captioner)
    # Without a question, Exp-VQA is asked for a description.
    given = clips(1)
    vqa = load("exp-vqa", num_beams=1, max_new_tokens=5)
    asked = vqa.caption(given, [EXP_VQA_TEXT.description_prompt])
    assert vqa.caption(given) == asked


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([""], "empty"),
        (["  \n"], "empty"),
        (["is it? " * 60], "the model reads 128 at most; shorten it"),
        (["is it [SEP] or not?"], r"control token '\[SEP\]'"),
        (["is it </s> or not?"], "control token '</s>'"),
        (["one?", "two?"], "1 clips take 1 questions"),
    ],
)
def test_questions_that_cannot_be_asked(load: Load, questions: list[str], words: str) -> None:
    captioner = load("exp-vqa")
    for ask in (captioner.caption, captioner.answer_yes_no):
        with pytest.raises(ConfigError, match=words) as caught:
            ask(clips(1), questions)
        assert "\n" not in str(caught.value)


def test_a_model_that_describes_is_not_asked(load: Load) -> None:
    with pytest.raises(ConfigError, match="was not trained to answer"):
        load("exp-blip").caption(clips(1), ["who?"])
    with pytest.raises(ConfigError, match="was not trained to answer"):
        load("exp-blip").answer_yes_no(clips(1), ["who?"])


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((0, 28, 28, 3), np.uint8),
        np.zeros((1, 28, 28, 3), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((1, 28, 20, 3), np.uint8),
    ],
)
def test_keyframes_of_another_form_are_refused(load: Load, clip: Any) -> None:
    with pytest.raises(ConfigError, match="expected uint8 RGB"):
        load("exp-blip").caption([clip])


def test_too_many_keyframes_and_mixed_sizes_are_refused(load: Load) -> None:
    captioner = load("exp-blip", max_new_tokens=100)
    with pytest.raises(ConfigError, match="give fewer keyframes or lower max_new_tokens"):
        captioner.caption(clips(40))
    with pytest.raises(ConfigError, match=r"\[14, 28\] pixels; cut them to 28"):
        captioner.caption([*clips(1), np.zeros((1, 14, 14, 3), np.uint8)])
    assert captioner.caption([]) == []


@pytest.mark.parametrize("setting", ["num_beams", "max_new_tokens", "batch"])
def test_settings_below_one_are_refused(load: Load, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is 0"):
        load("exp-blip", **{setting: 0})


def test_the_attention_switch_reaches_vision_and_q_former(folders: dict[str, Path], load: Load) -> None:
    card = read_card(folders["exp-vqa"])
    model = read_model(folders["exp-vqa"], card, AttentionChoice("triton", "test"), dtype=torch.float32)
    assert model.vision_model.config._attn_implementation == "streamfer_triton"
    assert model.qformer.config._attn_implementation == "streamfer_triton"
    assert model.language_model.config._attn_implementation == "sdpa"
    plain = load("exp-vqa", attention="torch")
    switched = QueryCaptioner(model, card, plain._text)
    given = clips(2)
    assert switched.answer_yes_no(given, QUESTIONS[:1]) == pytest.approx(
        plain.answer_yes_no(given, QUESTIONS[:1]), abs=1e-5
    )


def test_bf16_agrees_roughly(folders: dict[str, Path], load: Load) -> None:
    half = load_captioner(str(folders["exp-vqa"]), device="cpu", precision="bf16")
    given = clips(1, 2, 1)
    assert half.info.precision == "bf16"
    assert half.answer_yes_no(given, QUESTIONS) == pytest.approx(
        load("exp-vqa").answer_yes_no(given, QUESTIONS), abs=0.08
    )


# -- folders ---------------------------------------------------------------------------------------------------


def damaged(folders: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(folders["exp-vqa"], tmp_path / "copy")
    return tmp_path / "copy"


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_captioner(str(folder), device="cpu", precision="fp32")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_truncated_a_missing_and_a_strange_file(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(folders, tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert f"'model.safetensors' has {len(whole) - 100} bytes; expected {len(whole)}" in refusal(folder)
    weights.unlink()
    assert "'model.safetensors' is missing" in refusal(folder)
    weights.write_bytes(whole)
    (folder / "extra.safetensors").write_bytes(whole)
    assert "'extra.safetensors' is not on the card" in refusal(folder)
    (folder / "extra.safetensors").unlink()
    shutil.rmtree(folder / "question_tokenizer")
    assert "question_tokenizer: no tokenizer" in refusal(folder)


def test_weights_that_do_not_fit_the_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = damaged(folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["qformer_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    assert "missing keys: 'qformer.encoder.layer.2." in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format"),
        ({"architecture": "clip"}, "architecture"),
        ({"surprise": 1}, "surprise"),
        ({"text": {"num_beams": 0}}, "text.num_beams"),
        ({"text": {"yes": ["no"]}}, "none in common"),
        ({"text": {"end_token": "several tokens"}}, "text.end_token 'several tokens' is"),
    ],
)
def test_cards_that_cannot_be_right(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["exp-blip"], folder)
    document = json.loads((folder / "streamfer.json").read_text())
    (folder / "streamfer.json").write_text(json.dumps(document | change))
    with pytest.raises(CheckpointError, match=words) as caught:
        load_captioner(str(folder), device="cpu", precision="fp32")
    assert "\n" not in str(caught.value)


def test_a_card_reads_what_it_wrote(folders: dict[str, Path]) -> None:
    card = read_card(folders["exp-vqa"])
    assert CaptionCard.model_validate_json(card.model_dump_json()) == card


def test_unknown_names_list_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"'nothing' is unknown; captioners here: measured"):
        load_captioner("nothing")
    with pytest.raises(UnknownModelError, match="is unknown; captioners here"):
        resolve("too-long-for-a-file" * 20)
    with pytest.raises(UnknownModelError, match="no captioner's folder"):
        load_captioner(f"{tmp_path}/absent")


def test_a_fresh_model_has_queries_that_differ() -> None:
    from transformers import OPTConfig

    sizes = QuerySizes(
        image=28, vision_width=32, vision_layers=1, vision_heads=2, vision_mlp=32, queries=3, qformer_width=32,
        qformer_layers=2, qformer_heads=2, qformer_mlp=32,
    )  # fmt: skip
    text = OPTConfig(vocab_size=40, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1,
                     num_attention_heads=2)  # fmt: skip
    model: Any = build_model("blip-2", sizes, text)
    assert model.query_tokens.shape == (1, 3, 32)
    assert float(model.query_tokens.detach().std()) > 0.01
    assert model.vision_model.post_layernorm.eps == 1e-5
    with pytest.raises(ConfigError, match="vision_heads is 3; expected a divisor of vision_width, 32"):
        dataclasses.replace(sizes, vision_heads=3)


def test_the_fake_behaves_as_the_protocol_says() -> None:
    fake = FakeCaptioner(delay=0.01)
    assert isinstance(fake, Captioner)
    given = clips(1, 3)
    texts = fake.caption(given)
    assert texts == [f"{len(clip)} pictures of brightness {clip.mean():.0f}." for clip in given]
    assert fake.caption(given[:1], ["why?"])[0].startswith("why? 1 pictures")
    assert fake.answer_yes_no(given, ["a?", "b?"]) == pytest.approx([clip.mean() / 255 for clip in given])
    assert (fake.batches, len(set(fake.seen))) == ([2, 1, 2], 2)
    with pytest.raises(ConfigError, match="empty"):
        fake.caption(given, ["a?", " "])
    with pytest.raises(ConnectionError):
        FakeCaptioner(error=ConnectionError()).caption(given)

"""Any image-text model of transformers in a captioner's place; tiny ones, with and without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lavis_checkpoint import language_tokenizer, question_tokenizer

from streamfer.captions import load_captioner
from streamfer.captions.protocol import Captioner
from streamfer.captions.transformers_models import TransformersCaptioner
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError

CHAT = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA: takes several pictures in a message."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    tokenizer = language_tokenizer(pad=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    config: Any = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pixels = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor: Any = LlavaProcessor(
        image_processor=pixels, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default",
        chat_template=CHAT, num_additional_image_tokens=1,
    )  # fmt: skip
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP: one picture, no chat template."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = question_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config: Any = BlipConfig(
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        text_config={
            **sizes, "vocab_size": len(words), "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3,
            "eos_token_id": 3, "pad_token_id": 0,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor: Any = BlipProcessor(
        image_processor=BlipImageProcessor(size={"height": 28, "width": 28}), tokenizer=words
    )
    processor.save_pretrained(folder)
    return folder


def clips(*counts: int) -> list[Any]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8) for count in counts]


def loaded(folder: Path, **options: Any) -> TransformersCaptioner:
    captioner = load_captioner(str(folder), device="cpu", precision="fp32", **options)
    assert isinstance(captioner, TransformersCaptioner)
    assert isinstance(captioner, Captioner)
    return captioner


def test_a_chat_model_takes_all_keyframes_and_a_batch(chatting: Path) -> None:
    captioner = loaded(chatting, max_new_tokens=5)
    given, questions = clips(1, 3), ["is the lip corner pulled?", "yes or no?"]
    together = captioner.caption(given, questions)
    alone = [captioner.caption([clip], [question])[0] for clip, question in zip(given, questions, strict=True)]
    assert together == alone
    longer = loaded(chatting, max_new_tokens=9).caption(given, questions)
    assert all(more.startswith(one) for more, one in zip(longer, together, strict=True))
    assert longer != together
    assert all("USER" not in one for one in together)  # the prompt is not given back
    shares = captioner.answer_yes_no([given[1], given[1][:1]], [questions[0]] * 2)
    assert all(0 < share < 1 for share in shares)
    assert shares[0] != pytest.approx(shares[1], abs=1e-6)
    assert captioner.caption(given)[0] == captioner.caption(given[:1])[0]
    assert (captioner.info.answers, captioner.info.max_new_tokens, captioner.info.device) == (True, 5, "cpu")


def test_a_model_without_chat_takes_the_middle_keyframe(plain: Path) -> None:
    captioner = loaded(plain, max_new_tokens=5)
    (clip,) = clips(3)
    whole, middle = captioner.caption([clip, clip[1]])
    assert whole == middle
    asked = captioner.answer_yes_no([clip, clip[1], clip[0]], ["yes or no?"] * 3)
    assert asked[0] == pytest.approx(asked[1], abs=1e-5)


@pytest.mark.parametrize(("question", "words"), [(" ", "empty"), ("is it? " * 300, "shorten it")])
def test_questions_that_cannot_be_asked(chatting: Path, question: str, words: str) -> None:
    captioner = loaded(chatting)
    for ask in (captioner.caption, captioner.answer_yes_no):
        with pytest.raises(ConfigError, match=words):
            ask(clips(1), [question])


def test_a_question_cannot_smuggle_in_a_picture(chatting: Path) -> None:
    with pytest.raises(ConfigError, match="control token '<image>'"):
        loaded(chatting).caption(clips(1), ["what is <image> here?"])


def test_what_is_not_here_is_said(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError, match="'nobody/nothing' is not on this machine; download it first") as caught:
        load_captioner("nobody/nothing", device="cpu")
    assert "\n" not in str(caught.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="no image-text model"):
        load_captioner(str(tmp_path / "other"), device="cpu")
    with pytest.raises(ConfigError, match="num_beams is 0"):
        load_captioner(str(plain), device="cpu", num_beams=0)

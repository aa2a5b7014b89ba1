"""Import of checkpoints in the authors' layout equals the published computation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from official_checkpoint import (
    DESCRIPTIONS,
    FULL,
    Sizes,
    make_state,
    reference_features,
    reference_logits,
    token_ids,
    write_checkpoint,
)
from safetensors.torch import save_file

from streamfer.errors import CheckpointError, ConfigError, SourceNotFoundError
from streamfer.models.import_official import describe, import_checkpoint, read_official, recover_tokens
from streamfer.models.inference import DferClipModel, load_model
from streamfer.models.registry import list_models
from streamfer.models.vocabulary import ELEVEN_CLASSES, SEVEN_CLASSES
from streamfer.models.weights import read_weights


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path / "home"))


def _pixels(sizes: Sizes, clips: int = 3) -> torch.Tensor:
    return torch.rand(clips, sizes.frames, 3, sizes.image, sizes.image, generator=torch.Generator().manual_seed(7))


VARIANTS = {
    "csc-end-7": Sizes(),
    "shared-end-7": Sizes(class_specific=False, contexts=4),
    "csc-middle-7": Sizes(position="middle", contexts=5),
    "csc-front-11": Sizes(position="front", classes=11),
    "shared-middle-11-deep": Sizes(class_specific=False, position="middle", classes=11, temporal_layers=3),
    "other-sizes": Sizes(vision_width=128, vision_heads=2, text_width=64, vision_layers=3, text_layers=1, frames=16),
    "depth-2": Sizes(temporal_layers=2, temporal_heads=1, contexts=16, image=24),
}


@pytest.mark.parametrize("sizes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_the_reference(tmp_path: Path, sizes: Sizes) -> None:
    state = make_state(sizes)
    write_checkpoint(tmp_path / "official.pth", state)
    entry = import_checkpoint(tmp_path / "official.pth", "tiny", position=sizes.position)  # type: ignore[arg-type]
    model, card = read_weights(entry.path)
    pixels = _pixels(sizes)
    expected = reference_logits(state, sizes, pixels)
    with torch.inference_mode():
        logits = model(pixels).logits_BC
    assert expected.std() > 0.5  # a constant would be easy to equal
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    assert card.config.classes == (SEVEN_CLASSES if sizes.classes == 7 else ELEVEN_CLASSES)
    assert card.config.temporal.layers == sizes.temporal_layers
    assert card.train["contexts"] == sizes.contexts
    assert card.train["class_specific"] == sizes.class_specific
    assert (card.pixels.mean, card.crop.kind, card.pixels.size) == (None, "box", sizes.image)


def test_loaded_by_name_it_classifies_uint8_crops_as_published(tmp_path: Path) -> None:
    sizes = Sizes()
    state = make_state(sizes)
    write_checkpoint(tmp_path / "dfew.pth", state)
    import_checkpoint(tmp_path / "dfew.pth", "tiny-dfew")
    assert [(entry.name, entry.origin) for entry in list_models() if entry.origin == "imported"] == [
        ("tiny-dfew", "imported")
    ]
    model = load_model("tiny-dfew", device="cpu", precision="fp32")
    crops = np.random.default_rng(0).integers(0, 256, (sizes.frames, sizes.image, sizes.image, 3), dtype=np.uint8)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(
        model.encode(crops).clone(), reference_features(state, sizes, pixels), atol=1e-5, rtol=1e-5
    )
    expected = reference_logits(state, sizes, pixels[None]).softmax(-1)
    np.testing.assert_allclose(model.classify(model.encode(crops)[None]), expected.numpy(), atol=1e-5)


def test_a_bare_state_dictionary_and_safetensors_import_as_well(tmp_path: Path) -> None:
    sizes = Sizes()
    state = make_state(sizes)
    torch.save(state, tmp_path / "bare.pth")
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "bare.safetensors")
    pixels = _pixels(sizes)
    expected = reference_logits(state, sizes, pixels)
    for name in ("bare.pth", "bare.safetensors"):
        entry = import_checkpoint(tmp_path / name, output=tmp_path / f"{name}.out.safetensors")
        with torch.inference_mode():
            torch.testing.assert_close(read_weights(entry.path)[0](pixels).logits_BC, expected, atol=1e-4, rtol=1e-5)


def test_the_tiny_layout_has_the_official_names() -> None:
    sizes = dataclasses.replace(Sizes(), vision_layers=12, text_layers=12)
    assert len(make_state(sizes)) == 618


def test_tokens_are_recovered_exactly() -> None:
    sizes = Sizes(classes=11)
    ids = token_ids(sizes)
    table = torch.randn(49408, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(recover_tokens(table[ids], table, "file"), ids)
    decoded = describe(ids, sizes.contexts)
    squeezed = [text.replace(" ", "") for text in decoded]
    assert squeezed == [text.replace(" ", "") for text in DESCRIPTIONS]


def test_foreign_embeddings_are_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be recovered"):
        recover_tokens(torch.ones(1, 2, 4), torch.zeros(10, 4), "file")


def test_class_names_can_be_given(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pth", make_state(Sizes()))
    names = ("a", "b", "c", "d", "e", "f", "g")
    assert read_official(tmp_path / "a.pth", classes=names).model.config.classes == names
    with pytest.raises(ConfigError, match="3 class names given; the checkpoint has 7"):
        read_official(tmp_path / "a.pth", classes=("a", "b", "c"))


@pytest.mark.parametrize(
    "name",
    [
        "image_encoder.conv1.weight",
        "image_encoder.transformer.resblocks.1.ln_1.bias",
        "temporal_net.temporal_transformer.layers.0.1.fn.fn.net.3.weight",
        "text_encoder.text_projection",
        "prompt_learner.ctx",
        "clip_model_.token_embedding.weight",
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    state = make_state(Sizes())
    del state[name]
    write_checkpoint(tmp_path / "broken.pth", state)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        import_checkpoint(tmp_path / "broken.pth", "broken")
    assert "broken.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list_models() == () or "broken" not in {entry.name for entry in list_models()}


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    state = make_state(Sizes())
    state["image_encoder.ln_post.weight"] = torch.ones(7)
    write_checkpoint(tmp_path / "broken.pth", state)
    with pytest.raises(CheckpointError, match=r"'image_encoder\.ln_post\.weight' has shape \(7,\); expected \(48,\)"):
        read_official(tmp_path / "broken.pth")


def test_a_second_copy_that_differs_is_refused(tmp_path: Path) -> None:
    state = make_state(Sizes())
    state["clip_model_.visual.proj"] = state["clip_model_.visual.proj"] + 1
    write_checkpoint(tmp_path / "broken.pth", state)
    with pytest.raises(CheckpointError, match="should be equal and are not"):
        read_official(tmp_path / "broken.pth")


def test_no_file_no_name(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such checkpoint"):
        import_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(ConfigError, match="letters, digits"):
        import_checkpoint(tmp_path / "absent.pth", "../evil")


def test_the_card_tells_where_it_comes_from(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "dfew.pth", make_state(Sizes()))
    entry = import_checkpoint(tmp_path / "dfew.pth", "x", licence="research only")
    card = read_weights(entry.path)[1]
    assert card.licence == "research only"
    assert card.train["imported_from"] == "dfew.pth"
    assert json.loads(card.to_json())["temperature"] == 0.01
    assert entry.size_bytes < (tmp_path / "dfew.pth").stat().st_size


@pytest.mark.slow
def test_full_size_equals_the_reference(tmp_path: Path) -> None:
    state = make_state(FULL)
    assert len(state) == 618
    write_checkpoint(tmp_path / "vit-b-32.pth", state)
    entry = import_checkpoint(tmp_path / "vit-b-32.pth", "full")
    model, card = read_weights(entry.path)
    assert (card.config.vision.head_width, card.config.vision.patch_size, card.config.embed_dim) == (64, 32, 512)
    assert (card.config.temporal.heads, card.config.temporal.dim_head) == (8, 64)
    assert sum(p.numel() for p in model.image_encoder.parameters()) == 87_849_216
    assert sum(p.numel() for p in model.temporal_net.parameters()) == 2_110_464
    pixels = _pixels(FULL, clips=1)
    with torch.inference_mode():
        logits = model(pixels).logits_BC
        expected = reference_logits(state, FULL, pixels)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
    crops = (pixels[0].permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
    assert DferClipModel(model, card, digest=entry.digest).encode(crops).shape == (16, 512)

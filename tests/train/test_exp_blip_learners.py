"""Both steps' models: what sees what, which weights learn, LAVIS's names, and low-rank updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lavis_checkpoint import Sizes, make_state, question_tokenizer
from tiny_faces import settings
from torch.nn import functional as F

from streamfer.arguments import check_settings
from streamfer.errors import CheckpointError, ConfigError
from streamfer_train.exp_blip import build, layout, stages
from streamfer_train.exp_blip.caption_learner import encode
from streamfer_train.exp_blip.config import ExpBlipConfig
from streamfer_train.exp_blip.query_learner import QueryLearner
from streamfer_train.exp_blip.training import build_optimiser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faces")


def configured(folder: Path, **changes: Any) -> ExpBlipConfig:
    return check_settings(ExpBlipConfig, settings(folder, **changes), "test")


def first(folder: Path, **changes: Any) -> QueryLearner:
    config = configured(folder, **changes)
    return build.build_query_learner(config.model, config.step1, config.runtime, seed=1)[0]


def batch(words: int = 6) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    ids = torch.randint(5, 40, (3, words))
    ids[:, 0] = 2
    mask = torch.ones(3, words, dtype=torch.int64)
    mask[2, 4:] = 0
    pixels = torch.randint(0, 256, (3, 3, 28, 28), dtype=torch.uint8)
    return {"pixels": pixels, "ids": ids * mask, "mask": mask, "key": torch.tensor([1, 2, 3])}


def test_one_pass_writes_and_leaves_the_queries_as_if_alone(folder: Path) -> None:
    learner, given = first(folder).eval(), batch()
    with torch.no_grad():
        # Fresh weights hardly look at anything.
        for weight in learner.qformer.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    features = encode(learner.vision_model, given["pixels"]).detach()
    queries, logits = learner.look_and_write(features, given["ids"], given["mask"])
    alone = learner.qformer(
        query_embeds=learner.query_tokens.expand(3, -1, -1), encoder_hidden_states=features
    ).last_hidden_state
    torch.testing.assert_close(queries, alone, atol=1e-5, rtol=1e-4)
    changed = given["ids"].clone()
    changed[:, 3] = 41
    _, other = learner.look_and_write(features, changed, given["mask"])
    # What is written before the fourth word cannot know it; what comes from there on does.
    torch.testing.assert_close(other[:, :3], logits[:, :3], atol=1e-5, rtol=1e-4)
    assert float((other[:, 3] - logits[:, 3]).detach().abs().amax()) > 1e-3
    # The first token is [DEC] whatever the caption began with, and the picture matters.
    assert learner.dec_id == len(question_tokenizer())
    _, dark = learner.look_and_write(torch.zeros_like(features), given["ids"], given["mask"])
    assert float((dark - logits).detach().abs().amax()) > 1e-3


def test_losses_are_those_of_their_definitions(folder: Path) -> None:
    learner, given = first(folder, step1={"same_text": "own"}).eval(), batch()
    torch.manual_seed(0)
    parts = learner(given)
    assert float(parts["total"]) == pytest.approx(sum(float(parts[name]) for name in ("itc", "itm", "itg")), rel=1e-6)
    features = encode(learner.vision_model, given["pixels"])
    queries, _ = learner.look_and_write(features, given["ids"], given["mask"])
    images, texts = (
        F.normalize(learner.vision_projection(queries), dim=-1),
        learner.read_text(given["ids"], given["mask"]),
    )
    scores = torch.stack([torch.stack([(image @ text).max() for text in texts]) for image in images]) / 0.07
    own = torch.arange(3)
    wanted = sum(F.cross_entropy(one, own, label_smoothing=0.1) for one in (scores, scores.T)) / 2
    assert float(parts["itc"]) == pytest.approx(float(wanted), rel=1e-4)


def test_matching_never_sees_the_own_pair_as_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, given, seen = first(folder), batch(), []
    original = learner.match

    def watched(features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append((features, ids))
        return original(features, ids, mask)

    monkeypatch.setattr(learner, "match", watched)
    for seed in range(8):
        torch.manual_seed(seed)
        learner(given)
    own = {
        (float(feature.sum()), tuple(words.tolist()))
        for feature, words in zip(seen[0][0][:3], seen[0][1][:3], strict=True)
    }
    assert len(own) == 3
    for features, ids in seen:
        pairs = [(float(one.sum()), tuple(words.tolist())) for one, words in zip(features, ids, strict=True)]
        assert set(pairs[:3]) == own
        assert not own & set(pairs[3:])


def test_what_is_frozen_gets_no_gradient(folder: Path) -> None:
    learner = first(folder)
    learner.train()
    learner(batch())["total"].backward()
    with_gradient = {name for name, weight in learner.named_parameters() if weight.grad is not None}
    assert not any(name.startswith("vision_model.enc") for name in with_gradient)
    assert {"temperature", "query_tokens", "word_head.bias", "vision_model.post_layernorm.weight"} <= with_gradient
    # In training mode the encoder computes what it does in evaluation: it has no dropout and no running statistics.
    trained = encode(learner.vision_model, batch()["pixels"])
    assert torch.equal(trained, encode(learner.eval().vision_model, batch()["pixels"]))


def test_groups_have_decay_and_depth(folder: Path) -> None:
    config = configured(folder, step1={"vit": "trained", "decay_all": False, "vit_layer_decay": 0.5})
    learner, _ = build.build_query_learner(config.model, config.step1, config.runtime, seed=1)
    groups = build_optimiser(learner, config.step1, layers=2).param_groups
    assert {(group["weight_decay"], group["factor"]) for group in groups} == {
        (decay, factor) for decay in (0.05, 0.0) for factor in (1.0, 0.5, 0.25, 0.125)
    }
    assert sum(len(group["params"]) for group in groups) == sum(1 for w in learner.parameters() if w.requires_grad)


def test_the_first_step_is_stored_in_lavis_names_and_read_back(folder: Path) -> None:
    learner = first(folder).eval()
    stored = layout.to_lavis(learner.state_dict())
    # Everything that LAVIS's second step has, but its projection, and the heads of the first.
    sizes = Sizes(width=16, blocks=2, heads=2, mlp=16, qformer=16, layers=2, qformer_mlp=32, kind="exp-vqa")
    known = {name for name in make_state(sizes, words=96) if "llm_proj" not in name and "position_ids" not in name}
    assert known <= stored.keys()
    assert {name for name in stored.keys() - known if not name.startswith("Qformer.cls.")} == {
        "vision_proj.weight", "vision_proj.bias", "text_proj.weight", "text_proj.bias",
        "itm_head.weight", "itm_head.bias", "temp",
    }  # fmt: skip
    assert stored["temp"].shape == ()
    other = first(folder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.3)
    assert layout.fill(other, stored, "stored") == []
    torch.manual_seed(0)
    wanted = learner(batch())
    torch.manual_seed(0)
    found = other.eval()(batch())
    assert {name: float(one) for name, one in found.items()} == pytest.approx(
        {name: float(one) for name, one in wanted.items()}, rel=1e-4
    )
    del stored["Qformer.bert.encoder.layer.1.output_query.dense.weight"]
    with pytest.raises(CheckpointError, match=r"'Qformer.bert.encoder.layer.1.output_query.dense.weight' is missing"):
        layout.fill(other, stored, "stored")


def test_an_encoder_alone_and_another_picture_size_can_start(folder: Path, tmp_path: Path) -> None:
    learner = first(folder)
    stored = layout.to_lavis(learner.state_dict())
    encoder = {name.removeprefix("visual_encoder."): one for name, one in stored.items() if "visual" in name}
    torch.save({name: one.half() for name, one in encoder.items()}, tmp_path / "eva.pth")
    fresh = first(folder, model={**settings(folder)["model"], "vision": str(tmp_path / "eva.pth")})
    wanted = learner.vision_model.encoder.layers[1].mlp.fc1.weight
    torch.testing.assert_close(fresh.vision_model.encoder.layers[1].mlp.fc1.weight, wanted, atol=1e-3, rtol=1e-2)
    positions = torch.arange(17.0)[None, :, None].expand(1, 17, 2).clone()
    name = "vision_model.embeddings.position_embedding"
    larger = layout._fitted(name, [positions], torch.empty(1, 65, 2), "visual_encoder.pos_embed", "start")
    assert larger.shape == (1, 65, 2)
    assert float(larger[0, 0, 0]) == 0
    assert float(larger[0, 1:, 0].mean()) == pytest.approx(float(positions[0, 1:, 0].mean()), abs=0.1)


def test_the_second_step_loses_on_the_caption_alone(folder: Path) -> None:
    config = configured(folder)
    tensors = layout.to_lavis(first(folder).state_dict())
    writer = build.build_writer(
        "blip-2", config, config.step2, stages.text_card(config),
        (tensors, "first step"), 41,
    )  # fmt: skip
    learner = writer.learner.eval()
    assert torch.equal(learner.model.qformer.layernorm.weight, tensors["Qformer.bert.embeddings.LayerNorm.weight"])
    given = batch() | {"ids": torch.tensor([[2, 7, 8, 9]] * 3), "mask": torch.ones(3, 4, dtype=torch.int64)}
    given["targets"] = torch.tensor([[-100, 7, 8, 9]] * 3)
    loss = learner(given)["total"]
    # The same by the model's own forward pass over embeddings, token by token.
    features = encode(learner.model.vision_model, given["pixels"])
    seen = learner.model.qformer(
        query_embeds=learner.model.query_tokens.expand(3, -1, -1), encoder_hidden_states=features
    ).last_hidden_state
    words = learner.model.language_model.get_input_embeddings()(given["ids"])
    embeds = torch.cat([learner.model.language_projection(seen), words], 1)
    logits = learner.model.language_model(inputs_embeds=embeds).logits.log_softmax(-1)
    wanted = -torch.stack([logits[:, 4 + k, token] for k, token in enumerate((7, 8, 9))]).mean()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    learner.train()
    learner(given)["total"].backward()
    assert all(w.grad is None for w in learner.model.language_model.parameters())
    assert learner.model.vision_model.encoder.layers[0].mlp.fc1.weight.grad is not None
    assert learner.model.query_tokens.grad is not None


def test_recomputed_activations_give_the_same_gradient(folder: Path) -> None:
    found = []
    for wanted in (False, True):
        config = configured(folder, runtime={"checkpointing": wanted})
        writer = build.build_writer(
            "blip-2", config, config.step2, stages.text_card(config),
            ({}, ""), 41,
        )  # fmt: skip
        given = batch() | {"targets": batch()["ids"]}
        torch.manual_seed(3)
        writer.learner.train()
        loss = writer.learner(given)["total"]
        loss.backward()
        found.append((float(loss), writer.learner.model.query_tokens.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_bf16_keeps_frozen_weights_coarse_and_trains(folder: Path) -> None:
    config = configured(folder, runtime={"precision": "bf16"}, step2={"vit": "frozen"})
    writer = build.build_writer(
        "blip-2", config, config.step2, stages.text_card(config),
        ({}, ""), 41,
    )  # fmt: skip
    kinds = {weight.dtype for weight in writer.learner.parameters() if not weight.requires_grad}
    assert kinds == {torch.bfloat16}
    assert {w.dtype for w in writer.learner.parameters() if w.requires_grad} == {torch.float32}
    writer.learner.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = writer.learner(batch() | {"targets": batch()["ids"]})["total"]
    loss.backward()
    assert torch.isfinite(writer.learner.model.query_tokens.grad).all()


def test_limits_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="the Q-Former has 64 places"):
        first(folder, step1={"max_text_tokens": 65})
    config = configured(folder)
    with pytest.raises(ConfigError, match="the language model has 256"):
        build.build_writer(
            "blip-2", config, config.step2, stages.text_card(config),
            ({}, ""), 300,
        )  # fmt: skip


def test_the_frozen_language_model_drops_out_where_it_is_asked_for(folder: Path) -> None:
    config = configured(folder)
    rates = []
    for dropout in (False, True):
        learner = build.build_writer(
            "blip-2", config, config.step2, stages.text_card(config),
            ({}, ""), 41, dropout=dropout,
        ).learner  # fmt: skip
        rates.append(max(layer.dropout for layer in learner.model.language_model.modules() if hasattr(layer, "dropout")
                         and isinstance(layer.dropout, float)))  # fmt: skip
    assert rates == [0.0, 0.1]

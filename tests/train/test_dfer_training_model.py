"""Backbones, variants, parameter groups, schedules and losses; every variant that streams is exported and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clips import built, clips, recipe

from streamfer.errors import CheckpointError
from streamfer.models.card import ModelCard
from streamfer.models.weights import read_weights, write_weights
from streamfer_train.dfer_clip.config import HeadsConfig, OptimiserConfig
from streamfer_train.dfer_clip.model import actions_loss, losses
from streamfer_train.dfer_clip.training import (
    build_optimiser,
    choose_trained,
    factor,
    parameter_groups,
)
from streamfer_train.recipes.trainer import Average


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


# -- what learns ------------------------------------------------------------------------------------------------------


def test_groups_follow_the_authors_names(folder: Path) -> None:
    learner = built(folder)
    parts = ("image_encoder", "temporal_net", "prompt_learner")
    by_rule = {name for name, _ in learner.named_parameters() if any(part in name for part in parts)}
    learning = {name for name, weight in learner.named_parameters() if weight.requires_grad}
    assert learning == by_rule
    assert not any("text_encoder" in name for name in learning)
    groups = parameter_groups(learner, OptimiserConfig())
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("temporal_net", 1e-2),
        ("image_encoder", 1e-5),
        ("prompt_learner", 1e-3),
    ]
    names = {weight: name for name, weight in learner.named_parameters()}
    for group in groups:
        assert {names[w] for w in group["params"]} == {name for name in by_rule if group["name"] in name}
    for kind, momentum in (("sgd", 0.9), ("adamw", None)):
        optimiser = build_optimiser(learner, OptimiserConfig(kind=kind))
        assert {(group.get("momentum"), group["weight_decay"]) for group in optimiser.param_groups} == {
            (momentum, 1e-4)
        }


def test_frozen_parts_do_not_learn(folder: Path) -> None:
    learner = built(folder, optimiser={"freeze": ["image_encoder", "prompt_learner"]})
    learning = {name.split(".")[1] for name, weight in learner.named_parameters() if weight.requires_grad}
    assert learning == {"temporal_net"}


def test_the_schedule_is_multi_step_as_torch_steps_it() -> None:
    config = OptimiserConfig()
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[30, 40], gamma=0.1)
    for epoch in range(50):
        assert factor(config, epoch + 0.99) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        reference.step()
    assert [factor(config, e) for e in (29, 30, 39, 40)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_warm_up_and_cosine() -> None:
    config = OptimiserConfig(schedule="cosine", warmup=2, epochs=12)
    assert factor(config, 1.0) == pytest.approx(0.5)
    assert factor(config, 7.0) == pytest.approx(0.01 + 0.99 * 0.5)
    assert factor(config, 12.0) == pytest.approx(0.01)


def test_the_average_lends_its_weights_and_takes_them_back(folder: Path) -> None:
    learner = built(folder)
    average = Average(learner, 0.9)
    weight = learner.clip.temporal_net.pos_embedding
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    average.update(learner, step=100)
    with average.in_place_of(learner):
        torch.testing.assert_close(weight.detach(), before + 0.1)
    torch.testing.assert_close(weight.detach(), before + 1)
    early = Average(built(folder), 0.9)
    early.update(learner, step=1)  # of the random start, two elevenths stay
    with early.in_place_of(learner):
        torch.testing.assert_close(weight.detach(), before + 9 / 11)


# -- variants ---------------------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "shared contexts in the middle": {"text": {"class_specific": False, "position": "middle", "contexts": 4}},
    "names in front": {"text": {"type": "class_names", "position": "front"}},
    "mean token, deeper": {"temporal": {"token": "mean", "layers": 3, "heads": 2, "dim_head": 8, "mlp_dim": 16}},
    "weighted frames": {"temporal": {"token": "weighted", "heads": 2, "dim_head": 8, "mlp_dim": 16}},
    "longer window": {"temporal": {"positions": 2, "heads": 2, "dim_head": 8, "mlp_dim": 16}},
    "linear classifier": {"heads": {"kind": "classifier"}},
    "cosine classifier": {"heads": {"kind": "cosine"}},
    "action units": {"heads": {"actions": 1.0}, "data": {"actions": ["AU1", "AU12_r"]}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_learns_and_its_weights_file_gives_the_same_logits(
    variant: str, folder: Path, tmp_path: Path
) -> None:
    learner = built(folder, **VARIANTS[variant])
    pixels = clips()
    outputs = learner(pixels)
    batch = {
        "label": torch.tensor([0, 2]),
        "actions": torch.tensor([[1.0, 0.0], [float("nan"), 1.0]]),
    }
    config = recipe(folder, **VARIANTS[variant])
    losses(outputs, batch, config.heads)["total"].backward()
    silent = [n for n, w in learner.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())]
    assert silent == []
    product = learner.eval().product()
    card = ModelCard("x", product.config, learner.sizes.pixels, learner.sizes.crop, "none")
    write_weights(tmp_path / "x.safetensors", product, card)
    model, read = read_weights(tmp_path / "x.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(
            model(pixels.float() / 255).logits_BC, learner(pixels)["logits"], atol=1e-4, rtol=1e-4
        )
    assert read.config == product.config
    if "actions" in outputs:
        assert read.config.action_units == ("AU01", "AU12")


def test_temporal_adapters_start_as_nothing_then_mix_frames_and_are_not_exported(folder: Path) -> None:
    plain, adapted = built(folder), built(folder, adapters={"width": 8, "heads": 2})
    learning = {name.split(".")[0] for name, w in adapted.named_parameters() if w.requires_grad and "image" not in name}
    assert "adapters" in learning
    assert not any(weight.requires_grad for weight in adapted.clip.image_encoder.parameters())
    pixels = clips(1)[0].float() / 255
    torch.testing.assert_close(adapted.clip.encode_frames(pixels), plain.clip.encode_frames(pixels))
    assert adapted.adapters is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(adapted.adapters[0].up.weight)  # type: ignore[union-attr,arg-type]
    before = adapted.clip.encode_frames(pixels)
    changed = pixels.clone()
    changed[0] = 0
    after = adapted.clip.encode_frames(changed)
    assert not torch.allclose(before[3], after[3], atol=1e-4)
    assert torch.equal(plain.clip.encode_frames(pixels)[3], plain.clip.encode_frames(changed)[3])
    with pytest.raises(CheckpointError, match="cannot be exported for streaming"):
        adapted.product()


@pytest.mark.parametrize("targets", [["attn"], ["c_fc", "attn"]])
def test_low_rank_updates_are_merged_into_the_product(folder: Path, targets: list[str]) -> None:
    learner = built(folder, lora={"rank": 2, "targets": targets})
    groups = [group["name"] for group in parameter_groups(learner, OptimiserConfig())]
    assert groups == ["temporal_net", "prompt_learner", "adapters"]
    torch.manual_seed(0)
    for name, weight in learner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    learner.eval()
    pixels = clips()
    with torch.no_grad():
        wanted = learner(pixels)["logits"]
        product = learner.product()
        torch.testing.assert_close(product(pixels.float() / 255).logits_BC, wanted, atol=2e-4, rtol=1e-4)
        untouched = built(folder).eval()(pixels)["logits"]
    assert not torch.allclose(wanted, untouched, atol=1e-3)
    assert product.state_dict().keys() == built(folder).product().state_dict().keys()


def test_frozen_weights_below_low_rank_updates_do_not_drift(folder: Path) -> None:
    learner = built(folder, lora={"rank": 2})
    choose_trained(learner, OptimiserConfig())
    frozen = {name: weight.clone() for name, weight in learner.named_parameters() if not weight.requires_grad}
    assert any("in_proj_weight" in name for name in frozen)
    optimiser = build_optimiser(learner, OptimiserConfig(adapters=0.5))
    for _ in range(3):
        learner.train()(clips())["logits"].square().sum().backward()
        optimiser.step()
    now = dict(learner.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())
    assert all(bool(weight.any()) for name, weight in now.items() if "lora_B" in name)


def test_recomputed_activations_give_the_same_gradient(folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        learner = built(folder, runtime={"checkpointing": checkpointing})
        learner.train()(clips())["logits"].square().sum().backward()
        gradients.append(learner.clip.image_encoder.conv1.weight.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_low_precision_stays_near_and_logits_stay_fp32(folder: Path) -> None:
    exact, rough = built(folder).eval(), built(folder, runtime={"precision": "bf16"}).eval()
    with torch.no_grad():
        a, b = exact(clips())["logits"], rough(clips())["logits"]
    assert b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 5


# -- losses -----------------------------------------------------------------------------------------------------------


def test_action_units_without_a_label_do_not_count() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, -1.0]], requires_grad=True)
    target = torch.tensor([[1.0, float("nan")], [float("nan"), 5.0]])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([0.0, -1.0]), torch.ones(2))
    loss = actions_loss(logits, target)
    assert float(loss) == pytest.approx(float(wanted))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0
    assert float(actions_loss(logits, torch.full((2, 2), float("nan")))) == 0


def test_total_is_the_weighted_sum() -> None:
    outputs = {"logits": torch.randn(4, 3), "actions": torch.randn(4, 2)}
    batch = {"label": torch.tensor([0, 1, 2, 0]), "actions": torch.ones(4, 2)}
    once = losses(outputs, batch, HeadsConfig(actions=1))
    twice = losses(outputs, batch, HeadsConfig(actions=3))
    wanted = once["classes"] + 3 * once["actions"]
    torch.testing.assert_close(twice["total"], wanted)
    reference = torch.nn.functional.cross_entropy(outputs["logits"], batch["label"])
    torch.testing.assert_close(once["classes"], reference)
    smooth = torch.nn.functional.cross_entropy(outputs["logits"], batch["label"], label_smoothing=0.3)
    torch.testing.assert_close(losses(outputs, batch, HeadsConfig(label_smoothing=0.3, actions=1))["classes"], smooth)


def test_frames_weigh_alike_at_the_start_and_by_their_score_after(folder: Path) -> None:
    mean, weighted = (
        built(folder, temporal={"token": token, "heads": 2, "dim_head": 8, "mlp_dim": 16}).clip.temporal_net
        for token in ("mean", "weighted")
    )
    weighted.load_state_dict(mean.state_dict(), strict=False)
    features = torch.randn(2, 4, 16)
    with torch.no_grad():
        torch.testing.assert_close(weighted(features), mean(features))
        assert weighted.score is not None
        weighted.score.weight.normal_(std=5.0)
        assert not torch.allclose(weighted(features), mean(features), atol=1e-3)


def test_votes_are_learned_instead_of_the_label() -> None:
    logits, votes = torch.randn(2, 3), torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    batch = {"label": torch.tensor([0, 1]), "votes": votes}
    wanted = -(votes * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses({"logits": logits}, batch, HeadsConfig())["classes"], wanted)
    none = batch | {"votes": torch.zeros(2, 0)}
    hard = torch.nn.functional.cross_entropy(logits, batch["label"])
    torch.testing.assert_close(losses({"logits": logits}, none, HeadsConfig())["classes"], hard)

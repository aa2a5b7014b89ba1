"""The model in training: DFER-CLIP with its prompts, the heads and adapters that a recipe switches on, and losses.

Only the image encoder runs in the chosen precision: cosines are divided by 0.01, so bf16 after it would blur logits
by a tenth, and everything after it is small.

Shape suffixes: B clips, T frames, F = B x T, S image side, C classes, D feature size, A action units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional as F

from streamfer.errors import CheckpointError, ConfigError
from streamfer.models.dfer_clip import DferClip
from streamfer.models.precision import DTYPES, Precision
from streamfer.models.prompts import PromptConfig, PromptLearner, tokenize_prompts
from streamfer.models.sizes import DferClipConfig
from streamfer.models.vocabulary import canonical
from streamfer.models.weights import check_tensors
from streamfer_train.dfer_clip.adapters import attach_adapters, attach_lora, merged
from streamfer_train.dfer_clip.backbones import TOKEN_TABLE, Backbone, Sizes, random_table
from streamfer_train.dfer_clip.config import HeadsConfig, RunConfig, parse_config
from streamfer_train.dfer_clip.descriptors import prompts
from streamfer_train.recipes.checkpoint import Checkpoint, taking_apart

RECIPE = "dfer-clip"
"""Name of the recipe, in its checkpoints."""


class Learner(nn.Module):
    """``clip`` is the product's model; what stands beside it exists in training only.

    Action units are read from each frame by ``clip.action_head`` and averaged as logits over the window. ``adapters``
    run inside the image encoder.
    """

    def __init__(self, clip: DferClip, config: RunConfig, backbone: Backbone) -> None:
        super().__init__()
        self.clip = clip
        self.sizes = backbone.sizes
        self.precision: Precision = config.runtime.precision
        self.adapters: nn.ModuleList | None = None
        self.low_rank = False
        if config.adapters.width:
            self.adapters = attach_adapters(clip.image_encoder, config.adapters, config.data.frames)
        profile = backbone.sizes.pixels
        for name, fallback in (("mean", 0.0), ("std", 1.0)):
            values = getattr(profile, name) or (fallback,) * 3
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    mean: torch.Tensor
    std: torch.Tensor

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the logits."""
        return self.clip.config.classes

    @property
    def exportable(self) -> bool:
        """Whether frames are encoded one by one, as streaming needs: temporal adapters mix them."""
        return self.adapters is None

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen image encoder keeps the statistics of its norms."""
        super().train(mode)
        if not any(weight.requires_grad for weight in self.clip.image_encoder.parameters()):
            self.clip.image_encoder.eval()
        return self

    def forward(
        self, pixels_BT3SS: torch.Tensor, class_features_CD: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Read clips, uint8 or float32 in 0-1: fp32 ``logits`` (B, C), and with that head ``actions`` (B, A), logits.

        ``class_features_CD`` are those of ``clip.class_features()``, where the caller has them already.
        """
        if pixels_BT3SS.dtype == torch.uint8:
            pixels_BT3SS = pixels_BT3SS.float() / 255
        read = self.clip((pixels_BT3SS - self.mean) / self.std, class_features_CD, encoder_dtype=DTYPES[self.precision])
        outputs = {"logits": read.logits_BC}
        if read.actions_BTA is not None:
            outputs["actions"] = read.actions_BTA.mean(dim=1)
        return outputs

    @torch.no_grad()
    def product(self) -> DferClip:
        """Return the model as streamfer runs it, updates and prompts merged; a CheckpointError if it has adapters."""
        if not self.exportable:
            raise CheckpointError(
                "a model with temporal adapters encodes whole windows, not single frames, and cannot be exported for "
                "streaming; evaluate its checkpoint with 'streamfer evaluate dfer-clip'"
            )
        if self.low_rank:
            return merged(self.clip).bake()
        return self.clip.bake() if self.clip.text_features is None else self.clip


def actions_loss(logits_BA: torch.Tensor, target_BA: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy averaged over the labels that are known; targets are clamped to 0-1."""
    known_BA = torch.isfinite(target_BA)
    target = torch.where(known_BA, target_BA, 0.0).clamp(0, 1)
    each_BA = F.binary_cross_entropy_with_logits(logits_BA, target, reduction="none")
    return (each_BA * known_BA).sum() / known_BA.sum().clamp(min=1)


def losses(
    outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor], config: HeadsConfig
) -> dict[str, torch.Tensor]:
    """Return each head's loss, weighted, and their sum as ``total``; all scalars in fp32.

    A batch has ``label`` int64 (B,), ``votes`` (B, C) where the list has them, ``actions`` (B, A) for that head.
    """
    logits_BC = outputs["logits"].float()
    votes_BC = batch.get("votes")
    # Soft labels: what annotators disagree on is learned as that (FER+: Barsoum et al., ICMI 2016).
    target = batch["label"] if votes_BC is None or not votes_BC.shape[1] else votes_BC
    parts = {"classes": F.cross_entropy(logits_BC, target, label_smoothing=config.label_smoothing)}
    if "actions" in outputs:
        parts["actions"] = config.actions * actions_loss(outputs["actions"].float(), batch["actions"])
    return {**parts, "total": torch.stack(list(parts.values())).sum()}


def build_learner(config: RunConfig, backbone: Backbone, seed: int) -> Learner:
    """Build a model: pretrained tensors where the backbone has them, the rest drawn from ``seed``.

    Raises:
        ConfigError: settings that contradict each other or the backbone.
        CheckpointError: the backbone's tensors do not fit its sizes.
    """
    torch.manual_seed(seed)
    sizes = backbone.sizes
    clip_config = DferClipConfig(
        classes=config.data.class_names,
        embed_dim=sizes.embed_dim,
        vision=sizes.vision,
        temporal=sizes.temporal,
        quick_gelu=sizes.quick_gelu,
        temperature=config.heads.temperature,
        head="linear" if config.heads.kind == "classifier" else "cosine",
        action_units=tuple(_action_unit(name) for name in config.data.actions) if config.heads.actions else (),
    )
    if config.heads.kind == "text":
        clip = DferClip(clip_config, prompts=_prompts(config, backbone, seed), text=sizes.text)
    else:
        clip = DferClip(clip_config)
        if clip.class_bias is not None and clip.text_features is not None:
            nn.init.normal_(clip.text_features, std=sizes.embed_dim**-0.5)
    _load(clip, backbone)
    learner = Learner(clip, config, backbone)
    if config.lora.rank:
        attach_lora(clip.image_encoder, config.lora)
        learner.low_rank = True
    if config.runtime.checkpointing:
        _checkpoint_activations(clip)
    return learner


def load_learner(path: Path) -> tuple[Learner, RunConfig, Checkpoint]:
    """Read a trained model, averaged where its run kept that; CPU, evaluation mode; a CheckpointError if it is none."""
    found = Checkpoint.load(path, RECIPE)
    config = parse_config(found.config, str(path))
    with taking_apart(path):
        sizes = TypeAdapter(Sizes).validate_python(found.about["sizes"])
    learner = build_learner(config, Backbone(sizes, {}, (), path.name), seed=0)
    check_tensors(learner.state_dict(), found.model, str(path))
    learner.load_state_dict(found.model)
    learner.load_state_dict(found.average or {}, strict=False)
    return learner.requires_grad_(False).eval(), config, found


def _action_unit(column: str) -> str:
    """Return a column's action unit as the product writes it: AU6 and AU06_r are AU06."""
    found = re.match(r"AU0*([0-9]{1,2})(?![0-9])", column, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"data.actions: {column!r} names no action unit; expected AU and a number, such as AU12")
    return f"AU{int(found[1]):02d}"


def _prompts(config: RunConfig, backbone: Backbone, seed: int) -> PromptLearner:
    asked, length = config.text, backbone.sizes.text.context_length
    if isinstance(asked.descriptors, Path):
        raise ConfigError(f"text.descriptors: {asked.descriptors} has not been read; load_config does")
    texts = prompts(config.data.class_names, asked.type, asked.descriptors)
    ids_CL = tokenize_prompts(texts, asked.contexts, length)
    table = backbone.tensors.get(TOKEN_TABLE)
    if table is None:
        table = random_table(backbone.sizes.text.width, seed)
    return PromptLearner(PromptConfig(asked.contexts, asked.class_specific, asked.position), ids_CL, table)


def _load(clip: DferClip, backbone: Backbone) -> None:
    """Load what the backbone has; the towers must be whole, the rest is taken where it fits."""
    expected = clip.state_dict()
    for tower in ("image_encoder.", "text_encoder."):
        found = {name: tensor for name, tensor in backbone.tensors.items() if name.startswith(tower)}
        wanted = {name: tensor for name, tensor in expected.items() if name.startswith(tower)}
        if found and wanted:
            check_tensors(wanted, found, f"backbone {backbone.source}")
    fits = {
        name: tensor
        for name, tensor in backbone.tensors.items()
        if name in expected and expected[name].shape == tensor.shape and name != "text_features"
    }
    clip.load_state_dict(fits, strict=False)
    rows = backbone.tensors.get("text_features")
    if rows is not None and clip.text_features is not None and clip.class_bias is None:
        places = {canonical(name): place for place, name in enumerate(backbone.classes)}
        with torch.no_grad():
            for row, name in enumerate(clip.config.classes):
                if canonical(name) in places:
                    clip.text_features[row] = rows[places[canonical(name)]]


def drawn_at_random(learner: Learner, backbone: Backbone) -> list[str]:
    """Return the parts that do not start from the backbone, which lacks them or has them in another shape."""
    own = [(name.replace(".parametrizations", "").removesuffix(".original"), weight.shape)
           for name, weight in learner.clip.named_parameters() if "lora_" not in name]  # fmt: skip
    known = {name: tensor.shape for name, tensor in backbone.tensors.items()}
    # Of class features, those are taken over whose names are known.
    differ = (
        name for name, shape in own if known.get(name) != shape and not (name == "text_features" and name in known)
    )
    return sorted({name.partition(".")[0] for name in differ})


def _checkpoint_activations(clip: DferClip) -> None:
    towers = [tower for tower in (clip.image_encoder, clip.text_encoder) if hasattr(tower, "transformer")]
    if not towers:
        raise ConfigError("runtime.checkpointing needs a ViT; this image encoder has no transformer blocks")
    for tower in towers:
        tower.transformer.grad_checkpointing = True  # type: ignore[union-attr]

"""DFER-CLIP (Zhao and Patras, BMVC 2023, arXiv 2308.13382) at any size.

Frames go through CLIP's image encoder one by one, a temporal transformer reads a window of their features,
and the clip is compared with one text feature per class:

    pixels (B, T, 3, S, S) -> image_encoder -> (B, T, D) -> temporal_net -> (B, D) -> cosine / temperature

Beyond the paper, a linear head may read action units from every frame's feature.

A model *with prompts* (training) computes the class features from learned prompts through the text tower; a
*baked* one holds them as the tensor ``text_features``, because they do not depend on the video.

Shape suffixes: B windows, T frames, F = B x T, S image side, C classes, D feature size, A action units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.errors import CheckpointError, InternalError
from streamfer.models.prompts import PromptLearner
from streamfer.models.temporal import Attention, TemporalConfig, TemporalTransformer, fused_attention
from streamfer.models.towers import Count, TextConfig, TextTower, VisionConfig, build_image_encoder

#: The temperature that the authors divide cosines by; CLIP's own logit scale is not used.
PUBLISHED_TEMPERATURE = 0.01
_ACTION_UNIT = re.compile(r"AU[0-9]{2}")
Head = Literal["cosine", "linear"]


@dataclass(frozen=True, slots=True)
class DferClipConfig:
    """Everything that fixes the shapes and the computation of a model; the defaults are the published ones.

    Attributes:
        classes: emotion names in the order of the logits.
        embed_dim: D, the size shared by frame and text features.
        vision: image encoder.
        temporal: temporal transformer.
        quick_gelu: OpenAI's activation in the ViT and in the text tower.
        temperature: cosines are divided by it.
        head: ``cosine`` compares directions with the class features; ``linear`` is a linear layer of which
            ``text_features`` are the weights (the paper's ablation), without temperature.
        action_units: names in the order of the intensities, such as ``AU06``; none without an action head.
    """

    classes: tuple[str, ...]
    embed_dim: Count = 512
    vision: VisionConfig = field(default_factory=VisionConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    quick_gelu: bool = True
    temperature: float = PUBLISHED_TEMPERATURE
    head: Head = "cosine"
    action_units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise CheckpointError(f"classes are {list(self.classes)}; expected two or more different names")
        if not self.temperature > 0:
            raise CheckpointError(f"temperature is {self.temperature}; expected a positive number")
        if self.head not in ("cosine", "linear"):
            raise CheckpointError(f"head is {self.head!r}; expected cosine or linear")
        for name in self.action_units:
            if not _ACTION_UNIT.fullmatch(name):
                raise CheckpointError(f"action_units has {name!r}; expected AU and two digits, such as AU06")
        if len(set(self.action_units)) != len(self.action_units):
            raise CheckpointError(f"action_units are {list(self.action_units)}; expected different names")


class DferClip(nn.Module):
    """Image encoder, temporal transformer, class features and, where there are action units, their head.

    Without ``prompts`` the class features are the parameter ``text_features`` (C, D). With them they come
    from ``prompt_learner`` and ``text_encoder``. Names of weights equal those of the authors' checkpoints.
    """

    text_features: nn.Parameter | None
    class_bias: nn.Parameter | None
    prompt_learner: PromptLearner | None
    text_encoder: TextTower | None
    action_head: nn.Linear | None

    def __init__(
        self,
        config: DferClipConfig,
        *,
        prompts: PromptLearner | None = None,
        text: TextConfig | None = None,
        attention: Attention = fused_attention,
    ) -> None:
        """Build with random weights.

        Args:
            config: sizes.
            prompts: learned prompts, one for each class.
            text: sizes of the text tower that reads the prompts; needed exactly when ``prompts`` is given.
            attention: implementation of the temporal transformer's attention.
        """
        super().__init__()
        if (prompts is None) != (text is None):
            raise InternalError("DferClip takes prompts and text together, or neither")
        if prompts is not None and config.head == "linear":
            raise InternalError("DferClip with a linear head takes no prompts")
        self.config = config
        self.attention = attention
        self.image_encoder = build_image_encoder(config.vision, config.embed_dim, quick_gelu=config.quick_gelu)
        self.temporal_net = TemporalTransformer(config.embed_dim, config.temporal, attention)
        self.action_head = nn.Linear(config.embed_dim, len(config.action_units)) if config.action_units else None
        self.prompt_learner = prompts
        self.text_encoder = None
        bias = nn.Parameter(torch.zeros(len(config.classes))) if config.head == "linear" else None
        self.register_parameter("class_bias", bias)
        if text is None:
            self.text_features = nn.Parameter(torch.randn(len(config.classes), config.embed_dim))
        else:
            self.register_parameter("text_features", None)
            self.text_encoder = TextTower(text, config.embed_dim, quick_gelu=config.quick_gelu)

    def class_features(self) -> torch.Tensor:
        """Return the class features (C, D), computed from the prompts where there are any.

        They are L2-normalised, except for a linear head, whose weights they are.
        """
        if self.class_bias is not None:
            return cast(torch.Tensor, self.text_features)
        if self.prompt_learner is None or self.text_encoder is None:
            return F.normalize(cast(torch.Tensor, self.text_features), dim=-1)
        return F.normalize(self.text_encoder(self.prompt_learner(), self.prompt_learner.eot_C), dim=-1)

    def encode_frames(self, pixels_F3SS: torch.Tensor) -> torch.Tensor:
        """Encode frames; (F, 3, S, S) to (F, D), not normalised, in the dtype of the image encoder."""
        return cast(torch.Tensor, self.image_encoder(pixels_F3SS))

    def action_intensities(self, features_FD: torch.Tensor) -> torch.Tensor:
        """Read action units from frame features; (F, D) to (F, A) in [0, 1], A = 0 without an action head.

        Args:
            features_FD: as :meth:`encode_frames` returns them.
        """
        if self.action_head is None:
            return features_FD.new_zeros(len(features_FD), 0)
        return cast(torch.Tensor, self.action_head(features_FD)).sigmoid()

    def window_logits(self, features_BTD: torch.Tensor, class_features_CD: torch.Tensor | None = None) -> torch.Tensor:
        """Read windows of frame features; (B, T, D) to logits (B, C).

        Args:
            features_BTD: frame features as :meth:`encode_frames` returns them.
            class_features_CD: what :meth:`class_features` returns, where the caller has it already.
        """
        if class_features_CD is None:
            class_features_CD = self.class_features()
        clip_BD: torch.Tensor = self.temporal_net(features_BTD)
        return self.clip_logits(clip_BD, class_features_CD)

    def clip_logits(self, clip_BD: torch.Tensor, class_features_CD: torch.Tensor) -> torch.Tensor:
        """Compare clip features (B, D), as the temporal transformer returns them, with the classes: logits (B, C)."""
        if self.class_bias is not None:
            return F.linear(clip_BD, class_features_CD, self.class_bias)
        return F.normalize(clip_BD, dim=-1) @ class_features_CD.T / self.config.temperature

    def forward(self, pixels_BT3SS: torch.Tensor) -> torch.Tensor:
        """Classify clips; (B, T, 3, S, S) to logits (B, C)."""
        windows, frames = pixels_BT3SS.shape[:2]
        features_FD = self.encode_frames(pixels_BT3SS.flatten(0, 1))
        return self.window_logits(features_FD.reshape(windows, frames, -1))

    @torch.no_grad()
    def bake(self) -> DferClip:
        """Return a copy without prompts and text tower, its class features computed once and kept."""
        baked = DferClip(self.config, attention=self.attention)
        kept = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("image_encoder.", "temporal_net.", "class_bias", "action_head."))
        }
        baked.load_state_dict({**kept, "text_features": self.class_features()})
        return baked.to(next(self.parameters()).device).train(self.training)

"""DFER-CLIP (Zhao and Patras, BMVC 2023, arXiv 2308.13382) at any size.

Frames go through CLIP's image encoder one by one, a temporal transformer reads a window of their features,
and the clip is compared with one text feature per class:

    pixels (B, T, 3, S, S) -> image_encoder -> (B, T, D) -> temporal_net -> (B, D) -> cosine / temperature

Beyond the paper, a linear head may read action units from every frame's feature.

A model *with prompts* (training) computes the class features from learned prompts through the text tower; a
*baked* one holds them as the tensor ``text_features``, because they do not depend on the video.

Three image encoders: CLIP's ViT and open_clip's ModifiedResNet, as OpenAI trained them, and EfficientNet-Lite for small
faces. open_clip, which brings torchvision and transformers, is imported where a tower of its is built.

Shape suffixes: B windows, T frames, F = B x T, S image side, C classes, D feature size, A action units, L tokens of a
prompt, W width of the text tower.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.errors import InternalError
from streamfer.models.efficient import EfficientNetLite
from streamfer.models.prompts import PromptLearner
from streamfer.models.sizes import DferClipConfig, TextConfig, VisionConfig
from streamfer.models.temporal import TemporalTransformer
from streamfer.models.vision import VisionTransformer


def build_image_encoder(config: VisionConfig, embed_dim: int, *, quick_gelu: bool) -> nn.Module:
    """Return the image encoder, projection included: (F, 3, S, S) to (F, D), features not normalised.

    QuickGELU, x * sigmoid(1.702 x) in the ViT's MLPs as OpenAI trained them, is without effect on a convolutional one.
    """
    if isinstance(config.layers, tuple):
        if config.block == "inverted":
            return EfficientNetLite(config.layers, config.width, embed_dim)
        from open_clip.modified_resnet import ModifiedResNet

        heads, shape = config.width * 32 // config.head_width, {"width": config.width, "image_size": config.image_size}
        return cast(nn.Module, ModifiedResNet(layers=list(config.layers), output_dim=embed_dim, heads=heads, **shape))
    return VisionTransformer(config, embed_dim, quick_gelu=quick_gelu)


class TextTower(nn.Module):
    """CLIP's text transformer, fed with token embeddings instead of token ids (as CoOp's prompts need)."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool) -> None:
        from open_clip.transformer import LayerNorm, QuickGELU, Transformer

        super().__init__()
        self.config = config
        self.transformer = Transformer(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        )
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, config.width))
        self.ln_final = LayerNorm(config.width)
        self.text_projection = nn.Parameter(config.width**-0.5 * torch.randn(config.width, embed_dim))

    def forward(self, prompts_CLW: torch.Tensor, eot_C: torch.Tensor) -> torch.Tensor:
        """Read prompts, token embeddings without positions, up to each one's end token: (C, D), not normalised."""
        length = self.config.context_length
        causal_LL = torch.full((length, length), float("-inf"), device=prompts_CLW.device).triu_(1)
        x_CLW = self.transformer(prompts_CLW + self.positional_embedding, attn_mask=causal_LL)
        rows = torch.arange(len(eot_C), device=x_CLW.device)
        return cast(torch.Tensor, self.ln_final(x_CLW)[rows, eot_C] @ self.text_projection)


class ClipReading(NamedTuple):
    """What a model reads in clips, fp32."""

    logits_BC: torch.Tensor
    actions_BTA: torch.Tensor | None  #: logits of the action units in every frame; None without an action head


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
        self, config: DferClipConfig, *, prompts: PromptLearner | None = None, text: TextConfig | None = None
    ) -> None:
        """Build with random weights; with prompts, one for each class, goes the text tower that reads them."""
        super().__init__()
        if (prompts is None) != (text is None):
            raise InternalError("DferClip takes prompts and text together, or neither")
        if prompts is not None and config.head == "linear":
            raise InternalError("DferClip with a linear head takes no prompts")
        self.config = config
        self.image_encoder = build_image_encoder(config.vision, config.embed_dim, quick_gelu=config.quick_gelu)
        self.temporal_net = TemporalTransformer(config.embed_dim, config.temporal)
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
        """Read action units from frame features; (F, D) to (F, A) in [0, 1], A = 0 without an action head."""
        if self.action_head is None:
            return features_FD.new_zeros(len(features_FD), 0)
        return cast(torch.Tensor, self.action_head(features_FD)).sigmoid()

    def window_logits(self, features_BTD: torch.Tensor, class_features_CD: torch.Tensor | None = None) -> torch.Tensor:
        """Read windows of frame features; (B, T, D) to logits (B, C). Class features are computed where not given."""
        if class_features_CD is None:
            class_features_CD = self.class_features()
        clip_BD: torch.Tensor = self.temporal_net(features_BTD)
        return self.clip_logits(clip_BD, class_features_CD)

    def clip_logits(self, clip_BD: torch.Tensor, class_features_CD: torch.Tensor) -> torch.Tensor:
        """Compare clip features (B, D), as the temporal transformer returns them, with the classes: logits (B, C)."""
        if self.class_bias is not None:
            return F.linear(clip_BD, class_features_CD, self.class_bias)
        return F.normalize(clip_BD, dim=-1) @ class_features_CD.T / self.config.temperature

    def forward(
        self,
        pixels_BT3SS: torch.Tensor,
        class_features_CD: torch.Tensor | None = None,
        *,
        encoder_dtype: torch.dtype = torch.float32,
    ) -> ClipReading:
        """Read whole clips, as training does; the product encodes each frame once and reads windows of features.

        Pixels are normalised as the image encoder wants them; after the encoder everything is fp32.
        """
        low = encoder_dtype != torch.float32
        with torch.autocast(pixels_BT3SS.device.type, dtype=encoder_dtype, enabled=low):
            features_FD = self.encode_frames(pixels_BT3SS.flatten(0, 1))
        features_BTD = features_FD.float().reshape(*pixels_BT3SS.shape[:2], -1)
        actions_BTA = None if self.action_head is None else self.action_head(features_BTD)
        return ClipReading(self.window_logits(features_BTD, class_features_CD), actions_BTA)

    @torch.no_grad()
    def bake(self) -> DferClip:
        """Return a copy without prompts and text tower, its class features computed once and kept."""
        baked = DferClip(self.config)
        kept = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("image_encoder.", "temporal_net.", "class_bias", "action_head."))
        }
        baked.load_state_dict({**kept, "text_features": self.class_features()})
        return baked.to(next(self.parameters()).device).train(self.training)

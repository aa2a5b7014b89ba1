"""CLIP's two towers: sizes by configuration, names of weights as in the checkpoints.

Three image encoders: open_clip's ViT and ModifiedResNet, as OpenAI trained them, and a plain residual network
from timm for small faces, where bottlenecks and an attention pool cost more than they give.

Shape suffixes: F frames, S image side, C classes, L tokens of a prompt, W width of the text tower, D feature
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import LayerNorm, QuickGELU, Transformer, VisionTransformer
from pydantic import ConfigDict, Field
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from streamfer.errors import CheckpointError, InternalError

Block = Literal["bottleneck", "basic"]
#: Sizes that a weights file may state. No tower that CLIP's families know comes near; more is damaged or hostile.
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Depth = Annotated[int, Field(strict=True, ge=1, le=256)]
Ratio = Annotated[float, Field(gt=0, le=64)]


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the image encoder, in the words of open_clip's ``CLIPVisionCfg``.

    Attributes:
        layers: transformer blocks of a ViT, or four stage depths of a residual network.
        width: width of the ViT, or of the residual network's first stage.
        head_width: width of one attention head; without effect on basic blocks.
        mlp_ratio: hidden size of a ViT block's MLP over its width.
        patch_size: side of a patch, pixels (ViT).
        image_size: side of the input, pixels.
        block: of a residual network: ``bottleneck`` is CLIP's ModifiedResNet; ``basic`` has two 3x3
            convolutions and squeeze-and-excitation a block, a stem that halves once, and a mean over places.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    layers: Depth | tuple[Depth, ...] = 12
    width: Count = 768
    head_width: Count = 64
    mlp_ratio: Ratio = 4.0
    patch_size: Count = 32
    image_size: Count = 224
    block: Block = "bottleneck"

    def __post_init__(self) -> None:
        if self.block not in ("bottleneck", "basic"):
            raise CheckpointError(f"vision.block is {self.block!r}; expected bottleneck or basic")
        depths = self.layers if isinstance(self.layers, tuple) else (self.layers,)
        if len(depths) != (4 if self.is_resnet else 1) or min(depths) < 1:
            raise CheckpointError(f"vision.layers is {self.layers!r}; expected a depth, or four stage depths")
        if self.block == "basic":
            self._check_basic()
        else:
            wide = self.width * 32 if self.is_resnet else self.width
            if wide % self.head_width:
                raise CheckpointError(f"vision.head_width {self.head_width} does not divide the width {wide}")
        if self.image_size < self._smallest:
            raise CheckpointError(f"vision.image_size is {self.image_size}; expected at least {self._smallest}")

    def _check_basic(self) -> None:
        if not self.is_resnet:
            raise CheckpointError(f"vision.block is basic but vision.layers is {self.layers!r}; give four stage depths")
        if self.width % 2:
            raise CheckpointError(f"vision.width is {self.width}; basic blocks need an even width")

    @property
    def _smallest(self) -> int:
        if self.is_resnet:
            return 16 if self.block == "basic" else 32
        return self.patch_size

    @property
    def is_resnet(self) -> bool:
        """Whether this is a convolutional tower, of either kind of block."""
        return isinstance(self.layers, tuple)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the text tower; the defaults are those of CLIP ViT-B.

    Attributes:
        layers: transformer blocks.
        width: width of a token.
        heads: attention heads.
        context_length: tokens of a prompt, start and end included.
        mlp_ratio: hidden size of a block's MLP over its width.
    """

    layers: int = 12
    width: int = 512
    heads: int = 8
    context_length: int = 77
    mlp_ratio: float = 4.0


def build_image_encoder(config: VisionConfig, embed_dim: int, *, quick_gelu: bool) -> nn.Module:
    """Return the image encoder, projection included: (F, 3, S, S) to (F, D), features not normalised.

    Args:
        config: sizes.
        embed_dim: D.
        quick_gelu: x * sigmoid(1.702 x) in the ViT's MLPs, as OpenAI trained them. Without effect on a
            residual network.
    """
    if isinstance(config.layers, tuple):
        if config.block == "basic":
            return build_basic(config.layers, config.width, embed_dim)
        heads = config.width * 32 // config.head_width
        return cast(
            nn.Module,
            ModifiedResNet(
                layers=list(config.layers),
                output_dim=embed_dim,
                heads=heads,
                image_size=config.image_size,
                width=config.width,
            ),
        )
    return cast(
        nn.Module,
        VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.width // config.head_width,
            mlp_ratio=config.mlp_ratio,
            output_dim=embed_dim,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        ),
    )


def build_basic(layers: tuple[int, ...], width: int, embed_dim: int, *, channels: int = 3) -> nn.Module:
    """Return a residual network of basic blocks: (F, channels, S, S) to (F, D), S at least 16.

    Its last feature map has S / 16 places, because the stem halves once: pooling would lose half of a small
    face before the first block. Weights have timm's names (He et al. 2016; Hu et al. 2018; He et al. 2019 for
    the stem of three convolutions and the averaged shortcut).

    Args:
        layers: blocks of each of the four stages, of widths w, 2w, 4w, 8w.
        width: w, even.
        embed_dim: D.
        channels: of the input; training reads grey pictures, weights files hold three.
    """
    network = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm's annotation names an instance, its code wants the class
        layers,
        num_classes=embed_dim,
        in_chans=channels,
        channels=(width, 2 * width, 4 * width, 8 * width),
        stem_type="deep",
        stem_width=width // 2,
        avg_down=True,
        block_args={"attn_layer": "se"},
    )
    network.set_submodule("maxpool", nn.Identity())
    return cast(nn.Module, network)


def fold_norms(encoder: nn.Module) -> None:
    """Fold the batch norms of a convolutional tower into their convolutions, in place, for inference.

    Features agree to about 1e-6 of their size. In both towers a norm is registered right after the convolution
    that it follows in the computation, and no convolution feeds two norms.
    """
    followed: nn.Conv2d | None = None
    folded: list[str] = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            followed = module
        elif isinstance(module, nn.BatchNorm2d):
            if followed is None or module.running_mean is None or module.running_var is None:
                raise InternalError(f"{name}: no convolution to fold this norm into")
            followed.weight, followed.bias = fuse_conv_bn_weights(
                followed.weight,
                followed.bias,
                module.running_mean,
                module.running_var,
                module.eps,
                module.weight,
                module.bias,
            )
            followed = None
            folded.append(name)
    for name in folded:
        encoder.set_submodule(name, nn.Identity())


class TextTower(nn.Module):
    """CLIP's text transformer, fed with token embeddings instead of token ids (as CoOp's prompts need)."""

    def __init__(self, config: TextConfig, embed_dim: int, *, quick_gelu: bool) -> None:
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
        """Read prompts.

        Args:
            prompts_CLW: token embeddings, without positions.
            eot_C: int64 index of the end token in each prompt.

        Returns:
            (C, D) text features, not normalised.
        """
        length = self.config.context_length
        causal_LL = torch.full((length, length), float("-inf"), device=prompts_CLW.device).triu_(1)
        x_CLW = self.transformer(prompts_CLW + self.positional_embedding, attn_mask=causal_LL)
        rows = torch.arange(len(eot_C), device=x_CLW.device)
        return cast(torch.Tensor, self.ln_final(x_CLW)[rows, eot_C] @ self.text_projection)

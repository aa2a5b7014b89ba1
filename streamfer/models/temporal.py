"""The temporal transformer of DFER-CLIP: a window of frame features in, one clip feature out.

Shape suffixes: B windows, T frames, N tokens (T frames and the class token), D feature size, H heads,
E size of one head, M hidden size of the feed-forward part.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.models.attention import Implementation, attend_first, attend_packed
from streamfer.models.sizes import TemporalConfig


class SelfAttention(nn.Module):
    """Multi-head self-attention with one bias-free projection for queries, keys and values."""

    implementation: Implementation = "torch"

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim))

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Mix tokens; (B, N, D) to (B, N, D)."""
        return cast(torch.Tensor, self.to_out(attend_packed(self.to_qkv(x_BND), self.heads, self.implementation)))

    def first(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Mix all tokens into the first one alone; (B, N, D) to (B, 1, D), what ``forward(x)[:, :1]`` gives."""
        return cast(torch.Tensor, self.to_out(attend_first(x_BND, self.to_qkv.weight, self.heads)))[:, None]


class FeedForward(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # The published stack has a dropout of rate 0 after each layer; only its index survives in the names
        # of the weights (net.0 and net.3).
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Identity(), nn.Linear(hidden, dim)
        )

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.net(x_BND))


class PreNorm(nn.Module):
    """LayerNorm in front of a layer."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.fn(self.norm(x_BND)))


class Residual(nn.Module):
    """A layer added to its input."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.fn(x_BND) + x_BND)


class TemporalBlocks(nn.Module):
    """The stack of pre-norm blocks, each a list of attention and feed-forward (names as published)."""

    def __init__(self, dim: int, config: TemporalConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Residual(PreNorm(dim, SelfAttention(dim, config.heads, config.dim_head))),
                    Residual(PreNorm(dim, FeedForward(dim, config.mlp_dim))),
                ]
            )
            for _ in range(config.layers)
        )

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Run all blocks; (B, N, D) to (B, N, D). No final normalisation, as published."""
        for block in self.layers:
            for part in cast(nn.ModuleList, block):
                x_BND = part(x_BND)
        return x_BND

    def first(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Run all blocks for the first token's sake; (B, N, D) to (B, D), what ``forward(x)[:, 0]`` gives.

        In the last block nobody reads the other tokens, so they are mixed and not transformed.
        """
        for block in self.layers[:-1]:
            for part in cast(nn.ModuleList, block):
                x_BND = part(x_BND)
        attend, transform = cast(nn.ModuleList, self.layers[-1])
        normed = cast(PreNorm, cast(Residual, attend).fn)
        mixed_B1D = cast(SelfAttention, normed.fn).first(normed.norm(x_BND))
        return cast(torch.Tensor, transform(mixed_B1D + x_BND[:, :1]))[:, 0]


class TemporalTransformer(nn.Module):
    """Frame features to one clip feature through a class token (DFER-CLIP, BMVC 2023, section 3.2).

    Learned additive positions, N(0, 1) at the start, for the class token and each frame; the class token's
    output is the clip feature. With ``token: mean`` there is no class token, and the mean of all outputs is the
    clip feature (the paper's ablation); with ``token: weighted`` a learned score of each output says how much a frame
    counts, which starts as the mean. Names of parameters equal those of the authors' checkpoints.
    """

    cls_token: nn.Parameter | None

    def __init__(self, dim: int, config: TemporalConfig) -> None:
        super().__init__()
        self.config = config
        self.own = int(config.token == "class")  # noqa: S105
        self.register_parameter("cls_token", nn.Parameter(torch.randn(1, 1, dim)) if self.own else None)
        self.pos_embedding = nn.Parameter(torch.randn(1, config.frames + self.own, dim))
        self.temporal_transformer = TemporalBlocks(dim, config)
        self.score = nn.Linear(dim, 1) if config.token == "weighted" else None  # noqa: S105
        if self.score is not None:
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)

    def positions(self, frames: int) -> torch.Tensor:
        """Return positions (1, N, D): the learned ones, or linearly interpolated for another length.

        First and last frame keep their learned positions, the class token always keeps its own. Lengths
        other than the trained one are an extension of the publication.
        """
        if frames == self.config.frames:
            return self.pos_embedding
        frame_1DT = self.pos_embedding[:, self.own :].transpose(1, 2)
        resized_1DT = F.interpolate(frame_1DT, size=frames, mode="linear", align_corners=True)
        return torch.cat([self.pos_embedding[:, : self.own], resized_1DT.transpose(1, 2)], dim=1)

    def forward(self, features_BTD: torch.Tensor) -> torch.Tensor:
        """Read windows of frame features, not normalised; (B, T, D) to (B, D)."""
        windows, frames, _ = features_BTD.shape
        if self.cls_token is None:
            out_BTD: torch.Tensor = self.temporal_transformer(features_BTD + self.positions(frames))
            if self.score is None:
                return out_BTD.mean(dim=1)
            weights_BT1: torch.Tensor = self.score(out_BTD).softmax(dim=1)
            return (weights_BT1 * out_BTD).sum(dim=1)
        x_BND = torch.cat([self.cls_token.expand(windows, -1, -1), features_BTD], dim=1)
        return self.temporal_transformer.first(x_BND + self.positions(frames))

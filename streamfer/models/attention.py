"""Which attention the models run: PyTorch's own, or the Triton kernels where they were asked for.

One switch for all of them. The temporal transformer takes a function (:data:`streamfer.models.temporal.Attention`);
open_clip's blocks have their nn.MultiheadAttention replaced by one that keeps its weights under their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.errors import ConfigError, DeviceError
from streamfer.models.temporal import Attention, fused_attention

AttentionRequest = Literal["auto", "torch", "triton"]
#: Lengths above this are left to PyTorch's kernels, which are made for them.
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """A resolved attention and the reason for it, as ``streamfer doctor`` prints it.

    Attributes:
        implementation: ``torch``: PyTorch alone. ``triton``: Triton for every shape it takes.
        reason: in plain words.
    """

    implementation: Literal["torch", "triton"]
    reason: str

    @property
    def function(self) -> Attention:
        """Attention over separate queries, keys and values."""
        return kernel_attention if self.implementation == "triton" else fused_attention


def choose_attention(request: str = "auto", device: str = "cpu") -> AttentionChoice:
    """Resolve ``auto``, ``torch`` or ``triton`` for a device that ``choose_device`` returned.

    Raises:
        ConfigError: not an attention.
        DeviceError: ``triton`` was asked for where it cannot run.
    """
    if request not in ("auto", "torch", "triton"):
        raise ConfigError(f"model.attention {request!r} is unknown; expected auto, torch or triton")
    if request == "torch":
        return AttentionChoice("torch", "PyTorch: asked for")
    from streamfer_kernels import backend_report

    report = backend_report(device)
    if request == "triton":
        if report["obstacle"] is not None:
            raise DeviceError(
                f"model.attention 'triton' cannot run on {device} ({report['obstacle']}); use auto or torch"
            )
        return AttentionChoice("triton", "Triton kernels: asked for")
    # The variable STREAMFER_KERNELS=triton asks, too, and is obeyed where it can be.
    wanted = report["obstacle"] is None and report["mode"] == "triton"
    return AttentionChoice("triton" if wanted else "torch", str(report["summary"]))


def kernel_attention(q_BHNE: torch.Tensor, k_BHNE: torch.Tensor, v_BHNE: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(E)) v, by Triton where the kernels take the shape; (B, H, N, E) like its inputs."""
    from streamfer_kernels import attention, supports_head

    if not supports_head(q_BHNE.shape[-1]) or max(q_BHNE.shape[2], k_BHNE.shape[2]) > LONGEST:
        return fused_attention(q_BHNE, k_BHNE, v_BHNE)
    return attention(q_BHNE, k_BHNE, v_BHNE, backend="triton")


class PackedAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose self-attention without a mask reads the packed projection in place."""

    @classmethod
    def taking_over(cls, other: nn.MultiheadAttention) -> PackedAttention:
        """Return one that shares the parameters of ``other`` under the same names."""
        with torch.device("meta"):
            taken = cls(
                other.embed_dim, other.num_heads, other.dropout, bias=other.in_proj_bias is not None,
                batch_first=other.batch_first,
            )  # fmt: skip
        taken.in_proj_weight, taken.in_proj_bias = other.in_proj_weight, other.in_proj_bias
        taken.out_proj = other.out_proj
        return taken.train(other.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As nn.MultiheadAttention; masks, weights and cross-attention are left to it."""
        plain = query is key and query is value and not need_weights and not is_causal
        unmasked = key_padding_mask is None and attn_mask is None
        if not plain or not unmasked or query.dim() != 3 or query.shape[1] > LONGEST:
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        from streamfer_kernels import attention_packed

        packed = F.linear(query, cast(torch.Tensor, self.in_proj_weight), self.in_proj_bias)
        mixed = attention_packed(packed, self.num_heads, backend="triton")
        return self.out_proj(mixed), None


def replace_attention(tower: nn.Module, choice: AttentionChoice) -> int:
    """Let open_clip's blocks in ``tower`` use the kernels; return how many do.

    Blocks that the kernels cannot serve (head size, layout, separate or biased keys) keep what they have, and so
    do all blocks where the choice is PyTorch. Names of weights stay.
    """
    if choice.implementation == "torch":
        return 0
    from streamfer_kernels import supports_head

    replaced = 0
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if (
                type(child) is nn.MultiheadAttention
                and child.batch_first
                and child.in_proj_weight is not None
                and child.bias_k is None
                and not child.add_zero_attn
                and not child.dropout
                and supports_head(child.head_dim)
            ):
                setattr(parent, name, PackedAttention.taking_over(child))
                replaced += 1
    return replaced

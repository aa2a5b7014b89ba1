"""The attention of the models: PyTorch's own, or the Triton kernels where they were chosen, and that of one query.

One switch for all of them: every layer that mixes tokens has an attribute ``implementation`` and reads its packed
projection through :func:`attend_packed`.

Shape suffixes: B batch, N tokens, D their size, H heads, E size of one head, C columns of a projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.errors import ConfigError, DeviceError

AttentionRequest = Literal["auto", "torch", "triton"]
Implementation = Literal["torch", "triton"]
#: Lengths above this are left to PyTorch's kernels, which are made for them.
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """A resolved attention and the reason for it, as ``streamfer doctor`` prints it."""

    implementation: Implementation  #: PyTorch alone, or Triton for every shape that it takes
    reason: str
    open: bool = False  #: whether a measurement on the device may still choose the other


def choose_attention(request: str = "auto", device: str = "cpu") -> AttentionChoice:
    """Resolve ``auto``, ``torch`` or ``triton`` for a device that ``choose_device`` returned.

    Raises:
        ConfigError: not an attention, or STREAMFER_KERNELS is none of its values.
        DeviceError: ``triton`` was asked for where it cannot run.
    """
    if request not in get_args(AttentionRequest):
        raise ConfigError(f"model.attention {request!r} is unknown; expected auto, torch or triton")
    if request == "torch":
        return AttentionChoice("torch", "PyTorch: asked for")
    try:
        from streamfer_kernels import backend_report
    except ValueError as error:  # of the variable, which is read at import
        raise ConfigError(str(error)) from error

    report = backend_report(device)
    if request == "triton":
        if report["obstacle"] is not None:
            raise DeviceError(
                f"model.attention 'triton' cannot run on {device} ({report['obstacle']}); use auto or torch"
            )
        return AttentionChoice("triton", "Triton kernels: asked for")
    # The variable STREAMFER_KERNELS=on asks, too, and is obeyed where it can be.
    possible = report["obstacle"] is None
    wanted = possible and report["mode"] == "triton"
    measurable = possible and report["mode"] == "auto" and device.startswith("cuda")
    return AttentionChoice("triton" if wanted else "torch", str(report["summary"]), open=measurable)


def use_attention(network: nn.Module, implementation: Implementation) -> None:
    """Let every layer of ``network`` that mixes tokens run this implementation."""
    switched: list[Any] = [module for module in network.modules() if hasattr(module, "implementation")]
    for module in switched:
        module.implementation = implementation


def attend_packed(qkv_BNC: torch.Tensor, heads: int, implementation: Implementation = "torch") -> torch.Tensor:
    """Return self-attention within a packed projection, scaled by E^-0.5; (B, N, 3 H E) to (B, N, H E)."""
    head, length = qkv_BNC.shape[2] // (3 * heads), qkv_BNC.shape[1]
    if implementation == "triton" and length <= LONGEST:
        from streamfer_kernels import attention_packed, supports_head

        if supports_head(head):
            return attention_packed(qkv_BNC, heads, backend="triton")
    q_BHNE, k_BHNE, v_BHNE = (part.unflatten(-1, (heads, head)).transpose(1, 2) for part in qkv_BNC.chunk(3, dim=-1))
    return F.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE).transpose(1, 2).flatten(2)


def attend_first(
    x_BND: torch.Tensor,
    in_weight_CD: torch.Tensor,
    heads: int,
    in_bias_C: torch.Tensor | None = None,
    *,
    lifted: bool | None = None,
) -> torch.Tensor:
    """Mix all tokens into the first one alone; (B, N, D) to (B, H E), what self-attention gives the first token.

    On a CPU (or where ``lifted``), keys and values are not projected: (q Wk^T) x are the logits, and Wv follows the
    mixing. The tokens are read twice where they would be projected twice, a hundredth of the work at the published
    size. The keys' bias adds the same to all logits, so it falls out; the values' is added once, because weights sum to
    1. On a GPU the projection takes no time and launches do.
    """
    own, depth = x_BND[:, :1], in_weight_CD.shape[0] // 3
    q_bias, rest_bias = (None, None) if in_bias_C is None else (in_bias_C[:depth], in_bias_C[depth:])
    q_B1C = F.linear(own, in_weight_CD[:depth], q_bias)
    if lifted is False or (lifted is None and x_BND.is_cuda):
        packed_BNC = F.linear(x_BND, in_weight_CD[depth:], rest_bias)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q_B1C, *packed_BNC.chunk(2, dim=-1)))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)
    _, k_HED, v_HED = in_weight_CD.view(3, heads, -1, x_BND.shape[-1])
    q_BHE = q_B1C.view(len(x_BND), heads, -1) * k_HED.shape[1] ** -0.5
    logits_BHN = torch.einsum("bhe,hed->bhd", q_BHE, k_HED) @ x_BND.mT
    mixed_BHE = torch.einsum("bhd,hed->bhe", logits_BHN.softmax(dim=-1).to(x_BND.dtype) @ x_BND, v_HED)
    return mixed_BHE.flatten(1) if rest_bias is None else mixed_BHE.flatten(1) + rest_bias[depth:]

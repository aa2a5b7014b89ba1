"""Attention for the many short sequences of a video pipeline: one function for separate, one for packed inputs.

Shape suffixes: B batch, H heads, N queries, M keys, E head size, C columns of a projection.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from streamfer_kernels import checks
from streamfer_kernels.attention_ops import attention_forward, packed_forward
from streamfer_kernels.attention_shapes import LARGEST_INDEX
from streamfer_kernels.backend import Backend, Choice, choice

#: Longest sequence and largest head that the kernels take; a head size is a multiple of 8.
LONGEST = 1024
LARGEST_HEAD = 128


def supports_head(head: int) -> bool:
    """Whether the kernels take a head size: a multiple of 8, at most LARGEST_HEAD."""
    return head % 8 == 0 and 8 <= head <= LARGEST_HEAD


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    key_lengths: torch.Tensor | None = None,
    scale: float | None = None,
    allow_tf32: bool = False,
    deterministic: bool = False,
    backend: Backend | None = None,
) -> torch.Tensor:
    """Return softmax(scale q k^T) v.

    Sums are fp32 whatever the dtype. A query without any key (an entry 0 of ``key_lengths``) gives zeros, and
    zero gradients. Under autocast the inputs are converted first.

    Args:
        q: (B, H, N, E), fp32, bf16 or fp16; N up to 1,024; any strides but a last one of 1.
        k: (B, H, M, E), likewise.
        v: (B, H, M, E), likewise.
        causal: query i sees keys 0 to i only (counted from the start, as PyTorch's ``is_causal``).
        key_lengths: int32 or int64 (B,): how many keys, from the first, count for each batch element; held to
            0..M. None for all. Keys and values beyond are not used, whatever they hold, and their gradients are 0.
        scale: of the logits; 1 / sqrt(E) if None.
        allow_tf32: let Triton multiply fp32 on tensor cores with 10-bit mantissas. PyTorch's own kernels follow
            ``torch.backends.cuda.matmul`` instead.
        deterministic: equal inputs give bitwise equal gradients. Triton's backward pass always is; PyTorch is
            then held to plain matrix products.
        backend: ``torch`` or ``triton`` to force one for this call; None to follow :func:`choice`.

    Returns:
        (B, H, N, E); with Triton it lies in memory as (B, N, H, E).

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    batch, heads, queries, head = _check_query(q)
    keys = k.shape[2] if isinstance(k, torch.Tensor) and k.dim() == 4 else None
    kinds = checks.FLOATS if torch.is_autocast_enabled(q.device.type) else (q.dtype,)
    for name, value in (("k", k), ("v", v)):
        checks.tensor(name, value, (batch, heads, keys, head), kinds, q.device)
        checks.rows_contiguous(name, value)
    keys = checks.whole_number("the length of k", k.shape[2], 1, LONGEST)
    _check_lengths(key_lengths, batch, q.device)
    scale = _checked_scale(scale, head)
    q, k, v = (_autocast(value) for value in (q, k, v))
    training = _wants_gradients(q, k, v)
    if attention_choice(q, batch * heads, queries, keys, head, causal, training, backend).backend == "triton":
        out: torch.Tensor = attention_forward(q, k, v, key_lengths, causal, scale, allow_tf32, training)[0]
        return out
    return torch_attention(q, k, v, causal, key_lengths, scale, deterministic and training)


def attention_packed(
    qkv: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    key_lengths: torch.Tensor | None = None,
    scale: float | None = None,
    allow_tf32: bool = False,
    deterministic: bool = False,
    backend: Backend | None = None,
) -> torch.Tensor:
    """Return self-attention within a linear layer's own output, without permuting or copying it.

    Args:
        qkv: (B, N, 3 H E): all heads' queries, then all keys, then all values, as ``in_proj`` of
            nn.MultiheadAttention and ``to_qkv`` of the temporal transformer give them.
        heads: H.
        causal: as for :func:`attention`, like all that follow.
        key_lengths: likewise.
        scale: likewise.
        allow_tf32: likewise.
        deterministic: likewise.
        backend: likewise.

    Returns:
        (B, N, H E), contiguous: ready for the output projection.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    checks.tensor("qkv", qkv, (None, None, None))
    checks.rows_contiguous("qkv", qkv)
    batch, rows, columns = qkv.shape
    checks.whole_number("the length of qkv", rows, 1, LONGEST)
    checks.whole_number("the elements of one batch element of qkv", rows * columns, 1, LARGEST_INDEX)
    checks.whole_number("heads", heads, 1, 2**16)
    if columns % (3 * heads):
        raise ValueError(f"qkv has {columns} columns; expected a multiple of 3 x heads = {3 * heads}")
    head = columns // (3 * heads)
    _check_head("qkv", head)
    _check_lengths(key_lengths, batch, qkv.device)
    scale = _checked_scale(scale, head)
    qkv = _autocast(qkv)
    training = _wants_gradients(qkv)
    if attention_choice(qkv, batch * heads, rows, rows, head, causal, training, backend).backend == "triton":
        out: torch.Tensor = packed_forward(qkv, heads, key_lengths, causal, scale, allow_tf32, training)[0]
        return out
    q, k, v = (part.view(batch, rows, heads, head).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    mixed = torch_attention(q, k, v, causal, key_lengths, scale, deterministic and training)
    return mixed.transpose(1, 2).reshape(batch, rows, heads * head)


def torch_attention(
    q_BHNE: torch.Tensor,
    k_BHME: torch.Tensor,
    v_BHME: torch.Tensor,
    causal: bool,
    key_lengths_B: torch.Tensor | None,
    scale: float,
    deterministic: bool,
) -> torch.Tensor:
    """The same in PyTorch: its fused kernels, or plain matrix products where determinism is asked for."""
    mask = None
    if key_lengths_B is not None:
        columns = torch.arange(k_BHME.shape[2], device=q_BHNE.device)
        # A weight of zero would not silence NaN in the padding.
        padding = (columns >= key_lengths_B[:, None])[:, None, :, None]
        k_BHME, v_BHME = k_BHME.masked_fill(padding, 0), v_BHME.masked_fill(padding, 0)
        # A batch element without keys keeps one here and loses its result below: no NaN, not in gradients either.
        mask = (columns < key_lengths_B.clamp(min=1)[:, None])[:, None, None]
    if causal and (mask is not None or deterministic):
        lower = torch.ones(q_BHNE.shape[2], k_BHME.shape[2], dtype=torch.bool, device=q_BHNE.device).tril()
        mask = lower if mask is None else mask & lower
    if deterministic:
        logits = (q_BHNE.float() @ k_BHME.float().mT) * scale
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        mixed = (logits.softmax(-1) @ v_BHME.float()).to(q_BHNE.dtype)
    else:
        plain = causal and mask is None
        mixed = F.scaled_dot_product_attention(q_BHNE, k_BHME, v_BHME, mask, is_causal=plain, scale=scale)
    if key_lengths_B is not None:
        mixed = mixed.masked_fill((key_lengths_B <= 0)[:, None, None, None], 0)
    return mixed


def attention_choice(
    like: torch.Tensor,
    pairs: int,
    queries: int,
    keys: int,
    head: int,
    causal: bool,
    training: bool,
    wanted: Backend | None = None,
) -> Choice:
    """Return what runs for such sizes, and why; ``like`` gives device and dtype."""
    return choice(
        "attention",
        like.device,
        like.dtype,
        training=training,
        wanted=wanted,
        pairs=pairs,
        queries=queries,
        keys=keys,
        head=head,
        causal=int(causal),
    )


def _check_query(q: torch.Tensor) -> tuple[int, int, int, int]:
    checks.tensor("q", q, (None, None, None, None))
    checks.rows_contiguous("q", q)
    batch, heads, queries, head = q.shape
    checks.whole_number("the length of q", queries, 1, LONGEST)
    _check_head("q", head)
    return batch, heads, queries, head


def _check_head(name: str, head: int) -> None:
    if not supports_head(head):
        raise ValueError(f"{name} has heads of size {head}; expected a multiple of 8, at most {LARGEST_HEAD}")


def _check_lengths(key_lengths: torch.Tensor | None, batch: int, device: torch.device) -> None:
    if key_lengths is not None:
        checks.tensor("key_lengths", key_lengths, (batch,), (torch.int32, torch.int64), device)
        checks.contiguous("key_lengths", key_lengths)


def _checked_scale(scale: float | None, head: int) -> float:
    return float(head**-0.5) if scale is None else checks.positive("scale", scale)


def _autocast(value: torch.Tensor) -> torch.Tensor:
    kind = value.device.type
    return value.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else value


def _wants_gradients(*values: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)

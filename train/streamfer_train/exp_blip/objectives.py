"""The three losses of the first step, as functions: contrast (ITC), hard negatives for match (ITM), writing (ITG).

Source: BLIP-2 (Li et al., ICML 2023), section 3.2, and LAVIS's ``blip2_qformer``.
Shape suffixes: B pictures of this process, N of all processes, Q queries, L words, D width of the comparison,
V words of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Added to every chance of being drawn, so that softmaxes which have collapsed still give a negative.
FLOOR = 1e-4


def similarities(images_BQD: Tensor, texts_ND: Tensor) -> Tensor:
    """Return the similarity (B, N) of pictures and texts: that of the query that fits best. Inputs are normalised."""
    return torch.einsum("bqd,nd->bnq", images_BQD, texts_ND).amax(-1)


def partners(keys_B: Tensor, keys_N: Tensor, own_B: Tensor, *, shared: bool) -> Tensor:
    """Return which of all pairs may stand for which, bool (B, N): one's own, and with ``shared`` equal captions.

    Args:
        keys_B: int64, equal for equal captions.
        own_B: int64, place of one's own pair among all.
    """
    own_BN = torch.zeros(len(keys_B), len(keys_N), dtype=torch.bool, device=keys_B.device)
    own_BN[torch.arange(len(keys_B), device=keys_B.device), own_B] = True
    return own_BN | (keys_B[:, None] == keys_N[None]) if shared else own_BN


def contrastive(scores_BN: Tensor, partners_BN: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy of scores against one's partners, in equal shares, with label smoothing."""
    shares_BN = partners_BN / partners_BN.sum(1, keepdim=True)
    return F.cross_entropy(scores_BN, shares_BN.to(scores_BN.dtype), label_smoothing=smoothing)


def hard_negatives(scores_BN: Tensor, partners_BN: Tensor) -> Tensor:
    """Draw for each row the place (B,) of a negative by the softmax of its scores, never a partner.

    Where everything is a partner (one caption for the whole batch), any pair but one's own would be as wrong, so
    there the row gets -1 and is left out.
    """
    chances_BN = (scores_BN.detach().float().softmax(1) + FLOOR).masked_fill(partners_BN, 0.0)
    none_B = partners_BN.all(1)
    drawn_B = torch.multinomial(chances_BN + none_B[:, None], 1).squeeze(1)
    return drawn_B.masked_fill(none_B, -1)


def writing_mask(mask_BL: Tensor, queries: int) -> Tensor:
    """Return what may be seen while writing, bool (B, 1, Q + L, Q + L), rows seeing columns.

    Queries see queries alone; a word sees all queries, itself and the words before it. So the queries come out as
    if there were no text: one pass serves contrast and writing. Padding (0 in the mask) is seen by itself only, to keep
    rows finite.
    """
    batch, length = mask_BL.shape
    seen = torch.zeros(batch, queries + length, queries + length, dtype=torch.bool, device=mask_BL.device)
    seen[:, :, :queries] = True
    causal = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
    seen[:, queries:, queries:] = causal & (mask_BL.bool()[:, None] | torch.eye(length, device=mask_BL.device).bool())
    return seen[:, None]


def writing(logits_BLV: Tensor, ids_BL: Tensor, mask_BL: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of every word but the first, given the words before it."""
    targets = ids_BL[:, 1:].masked_fill(mask_BL[:, 1:] == 0, -100)
    return F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, label_smoothing=smoothing
    )

"""The first step's model: the Q-Former reads pictures and texts, to compare, to match and to write.

Built of transformers' parts for retrieval with BLIP-2, and a head over words, which transformers lacks.
Shape suffixes: B pairs of this process, N of all processes, Q queries, L words, E width of the Q-Former, P and W of
picture features, D width of the comparison, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from streamfer.captions.architecture import LAVIS_NORM_EPS, QuerySizes, tower_configs
from streamfer_train.exp_blip import objectives
from streamfer_train.exp_blip.caption_learner import encode
from streamfer_train.exp_blip.config import StepOneConfig


class WordHead(nn.Module):
    """BERT's head over words; its last layer shares the matrix of the embeddings."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states_BLE: Tensor, words_VE: Tensor) -> Tensor:
        """Return logits (B, L, V)."""
        return F.linear(self.norm(F.gelu(self.dense(states_BLE))), words_VE, self.bias)


class QueryLearner(nn.Module):
    """Image encoder, Q-Former with text, and the heads of the three losses."""

    def __init__(self, sizes: QuerySizes, config: StepOneConfig, *, projection: int, pad_id: int, dec_id: int) -> None:
        """Draw all weights at random, the queries as LAVIS does (normal, deviation 0.02)."""
        import transformers

        super().__init__()
        base: Any = transformers.Blip2ForImageTextRetrieval(retrieval_config(sizes, projection, pad_id))
        self.vision_model = base.vision_model
        self.query_tokens = base.query_tokens
        self.embeddings = base.embeddings
        self.qformer = base.qformer
        self.vision_projection, self.text_projection = base.vision_projection, base.text_projection
        self.itm_head = base.itm_head
        self.word_head = WordHead(sizes.qformer_width, sizes.vocabulary)
        # One element instead of a scalar, which FSDP cannot shard.
        self.temperature = nn.Parameter(torch.tensor([config.temperature]))
        self.vision_model.post_layernorm.eps = LAVIS_NORM_EPS
        nn.init.normal_(self.query_tokens, std=0.02)
        self.sizes, self.config, self.dec_id = sizes, config, dec_id

    def _read(self, features_BPW: Tensor, ids_BL: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the Q-Former's states (B, Q + L, E) of queries, and of words where there are any."""
        queries_BQE = self.query_tokens.expand(len(features_BPW), -1, -1)
        inputs = queries_BQE if ids_BL is None else self.embeddings(input_ids=ids_BL, query_embeds=queries_BQE)
        output = self.qformer(
            query_embeds=inputs,
            query_length=self.query_tokens.shape[1],
            attention_mask=mask,
            encoder_hidden_states=features_BPW,
        )
        return cast(Tensor, output.last_hidden_state)

    def read_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return what texts alone are compared by, normalised (B, D)."""
        states = self.qformer(
            query_embeds=self.embeddings(input_ids=ids_BL), query_length=0, attention_mask=mask_BL
        ).last_hidden_state
        return F.normalize(self.text_projection(states[:, 0]), dim=-1)

    def look_and_write(self, features_BPW: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return query states (B, Q, E), which know no text, and the logits (B, L, V) of the words, in one pass."""
        count = self.query_tokens.shape[1]
        started_BL = torch.cat([torch.full_like(ids_BL[:, :1], self.dec_id), ids_BL[:, 1:]], dim=1)
        mask = objectives.writing_mask(mask_BL, count)
        states = self._read(features_BPW, started_BL, mask)
        logits_BLV = self.word_head(states[:, count:], self.embeddings.word_embeddings.weight)
        return states[:, :count], logits_BLV

    def match(self, features_BPW: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return logits (B, 2) of no match and match, the mean over queries that see the text."""
        count = self.query_tokens.shape[1]
        seen = torch.cat([mask_BL.new_ones(len(mask_BL), count), mask_BL], dim=1)
        states = self._read(features_BPW, ids_BL, seen)
        return cast(Tensor, self.itm_head(states[:, :count]).mean(1))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses ``itc``, ``itm``, ``itg`` and their sum, ``total``.

        Args:
            batch: ``pixels`` uint8 (B, 3, S, S), ``ids`` and ``mask`` (B, L) of captions, ``key`` int64 (B,), equal
                for equal captions.
        """
        ids_BL, mask_BL = batch["ids"], batch["mask"]
        features_BPW = encode(self.vision_model, batch["pixels"])
        queries_BQE, logits_BLV = self.look_and_write(features_BPW, ids_BL, mask_BL)
        images_BQD = F.normalize(self.vision_projection(queries_BQE).float(), dim=-1)
        texts_BD = self.read_text(ids_BL, mask_BL).float()
        texts_ND, images_NQD = everyones(texts_BD), everyones(images_BQD)
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        own_B = torch.arange(len(ids_BL), device=ids_BL.device) + rank * len(ids_BL)
        partners_BN = objectives.partners(
            batch["key"], everyones(batch["key"]), own_B, shared=self.config.same_text == "shared"
        )
        to_texts_BN = objectives.similarities(images_BQD, texts_ND) / self.temperature
        to_images_BN = torch.einsum("bd,nqd->bnq", texts_BD, images_NQD).amax(-1) / self.temperature
        smoothing = self.config.label_smoothing
        itc = 0.5 * sum(objectives.contrastive(one, partners_BN, smoothing) for one in (to_texts_BN, to_images_BN))
        itm = self._matching(features_BPW, ids_BL, mask_BL, to_texts_BN, to_images_BN, partners_BN)
        itg = objectives.writing(logits_BLV, ids_BL, mask_BL, smoothing)
        total = itc + itm + itg
        return {"total": total, "itc": torch.as_tensor(itc), "itm": itm, "itg": itg}

    def _matching(
        self,
        features_BPW: Tensor,
        ids_BL: Tensor,
        mask_BL: Tensor,
        to_texts_BN: Tensor,
        to_images_BN: Tensor,
        partners_BN: Tensor,
    ) -> Tensor:
        """Return the loss over true pairs, pictures with a wrong text, and texts with a wrong picture."""
        texts_B = objectives.hard_negatives(to_texts_BN, partners_BN)
        images_B = objectives.hard_negatives(to_images_BN, partners_BN)
        features_NPW = everyones(features_BPW)
        ids_NL, mask_NL = everyones(ids_BL), everyones(mask_BL)
        logits = self.match(
            torch.cat([features_BPW, features_NPW[images_B.clamp(min=0)], features_BPW]),
            torch.cat([ids_BL, ids_BL, ids_NL[texts_B.clamp(min=0)]]),
            torch.cat([mask_BL, mask_BL, mask_NL[texts_B.clamp(min=0)]]),
        )
        count = len(ids_BL)
        truth = torch.zeros(3 * count, dtype=torch.int64, device=ids_BL.device)
        truth[:count] = 1
        truth[count : 2 * count].masked_fill_(images_B < 0, -100)
        truth[2 * count :].masked_fill_(texts_B < 0, -100)
        return F.cross_entropy(logits.float(), truth, ignore_index=-100)


def retrieval_config(sizes: QuerySizes, projection: int, pad_id: int) -> Any:
    """Return transformers' configuration of a Q-Former that reads text, without a language model."""
    import transformers

    vision, qformer = tower_configs(sizes)
    # Masks are boolean, which the eager attention would add as numbers.
    qformer |= {"pad_token_id": pad_id, "use_qformer_text_input": True, "attn_implementation": "sdpa"}
    return transformers.Blip2Config(
        vision_config={**vision, "attn_implementation": "sdpa"},
        qformer_config=qformer,
        num_query_tokens=sizes.queries,
        image_text_hidden_size=projection,
    )


def everyones(own: Tensor) -> Tensor:
    """Return the rows of all processes in the order of ranks; gradients flow back to each.

    LAVIS lets none flow through texts and queries of other processes; with them, several processes compute what one
    with the whole batch would.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return own
    if own.requires_grad:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(own.contiguous())))
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own.contiguous())
    return torch.cat(found)

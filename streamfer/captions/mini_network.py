"""The built-in captioner's network: InstructBLIP's Q-Former and an OPT decoder at tiny scale.

Each keyframe's feature maps are read by the Q-Former together with the question; the decoder gets the queries of all
keyframes with one summary token each, one token for the course of the clip, and the question again:

    keyframe 1 [queries, summary] ... keyframe K | course | question | <answer> plan text

Shape suffixes: B rows, K keyframes of a row, F = all keyframes of a batch, P places, W width of a map, E width of the
Q-Former, Q queries, H width of the decoder, L tokens of a question, N tokens of a prefix, T tokens of an answer,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from streamfer.captions.context import MOMENTS
from streamfer.captions.patches import FeatureLayout
from streamfer.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class MiniSizes:
    """Sizes of the network beside the encoder's.

    Attributes:
        vocabulary: tokens of the vocabulary, shared by Q-Former and decoder.
        queries: learned queries, and so the decoder's tokens of a keyframe (one more is its summary).
        query_width: width of the Q-Former.
        query_layers: its layers; each looks at the picture.
        query_heads: its heads.
        width: width of the decoder.
        layers: its layers.
        heads: its heads.
        mlp_ratio: hidden size of every MLP over its width.
        positions: longest row of the decoder, tokens.
        keyframes: most keyframes of a clip.
    """

    vocabulary: int
    queries: int = 8
    query_width: int = 128
    query_layers: int = 2
    query_heads: int = 4
    width: int = 192
    layers: int = 3
    heads: int = 4
    mlp_ratio: int = 4
    positions: int = 224
    keyframes: int = 4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise CheckpointError(f"sizes.{name} is {value}; expected at least 1")
        for width, heads in (("query_width", "query_heads"), ("width", "heads")):
            if getattr(self, width) % getattr(self, heads):
                raise CheckpointError(f"sizes.{heads} is {getattr(self, heads)}; expected a divisor of {width}")


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a batch of rows is given.

    Attributes:
        features_FN: encoder's rows of all keyframes, those of one clip in order.
        counts: keyframes of each row, adding up to F.
        course_B3: int64, as `ClipContext.course`.
        question_BL: int64 ids, padded on the right.
        asked_BL: int64, 1 at tokens of the question and 0 at padding.
    """

    features_FN: torch.Tensor
    counts: tuple[int, ...]
    course_B3: torch.Tensor
    question_BL: torch.Tensor
    asked_BL: torch.Tensor


class MiniNetwork(nn.Module):
    """Q-Former, decoder, and what joins them to the encoder's feature maps."""

    def __init__(self, sizes: MiniSizes, layout: FeatureLayout) -> None:
        """Build with random weights."""
        import transformers

        super().__init__()
        self.sizes = sizes
        self.layout = layout
        read, wide = sizes.query_width, sizes.width
        self.map_norms = nn.ModuleList(nn.LayerNorm(width) for _, width in layout.maps)
        self.map_layers = nn.ModuleList(nn.Linear(width, read) for _, width in layout.maps)
        self.map_places = nn.ParameterList(torch.randn(places, read) * 0.02 for places, _ in layout.maps)
        self.summary_norm = nn.LayerNorm(layout.summary)
        self.summary_place = nn.Linear(layout.summary, read)
        self.summary_token = nn.Linear(layout.summary, wide)
        self.query_tokens = nn.Parameter(torch.randn(sizes.queries, read) * 0.02)
        self.qformer: Any = transformers.InstructBlipQFormerModel(_query_config(sizes))
        self.projection = nn.Linear(read, wide)
        self.keyframe = nn.Embedding(sizes.keyframes, wide)
        self.course = nn.ModuleList(nn.Embedding(MOMENTS + extra, wide) for extra in (2, 1, 2))
        self.decoder: Any = transformers.OPTForCausalLM(_decoder_config(sizes))
        for table in (self.keyframe, *cast("list[nn.Embedding]", list(self.course))):
            nn.init.normal_(table.weight, std=0.02)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.query_tokens.dtype

    def look(self, prompts: Prompts) -> torch.Tensor:
        """Read every keyframe with its row's question: the decoder's tokens (F, Q + 1, H)."""
        maps, summary_FD = self.layout.split(prompts.features_FN.to(self.dtype))
        summary_FD = self.summary_norm(summary_FD)
        places_FPE = torch.cat(
            [
                *(
                    layer(norm(part)) + place
                    for part, norm, layer, place in zip(
                        maps, self.map_norms, self.map_layers, self.map_places, strict=True
                    )
                ),
                self.summary_place(summary_FD)[:, None],
            ],
            dim=1,
        )
        row_F = torch.repeat_interleave(torch.arange(len(prompts.counts)), torch.tensor(prompts.counts))
        row_F = row_F.to(places_FPE.device)
        queries_FQE = self.query_tokens.expand(len(row_F), -1, -1)
        asked_FL = prompts.asked_BL[row_F]
        read_FQE = self.qformer(
            input_ids=prompts.question_BL[row_F],
            attention_mask=torch.cat([asked_FL.new_ones(len(row_F), self.sizes.queries), asked_FL], dim=1),
            query_embeds=queries_FQE,
            encoder_hidden_states=places_FPE,
        ).last_hidden_state[:, : self.sizes.queries]
        return torch.cat([self.projection(read_FQE), self.summary_token(summary_FD)[:, None]], dim=1)

    def prefix(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings (B, N, H) and mask (B, N) of all that stands before an answer."""
        rows, most = len(prompts.counts), max(prompts.counts)
        tokens_FQH = self.look(prompts)
        # Clips of fewer keyframes leave empty places, which the mask hides.
        slots = [row * most + k for row, count in enumerate(prompts.counts) for k in range(count)]
        slot_F = torch.tensor(slots, device=tokens_FQH.device)
        tokens_FQH = tokens_FQH + self.keyframe(slot_F % most)[:, None]
        seen_XQH = tokens_FQH.new_zeros(rows * most, *tokens_FQH.shape[1:]).index_copy(0, slot_F, tokens_FQH)
        there_X = prompts.asked_BL.new_zeros(rows * most).index_fill(0, slot_F, 1)
        course_BH = torch.stack([table(prompts.course_B3[:, i]) for i, table in enumerate(self.course)]).sum(0)
        question_BLH = self.embed(prompts.question_BL)
        prefix_BNH = torch.cat([seen_XQH.view(rows, -1, self.sizes.width), course_BH[:, None], question_BLH], dim=1)
        there_BN = there_X.repeat_interleave(tokens_FQH.shape[1]).view(rows, -1)
        mask_BN = torch.cat([there_BN, there_BN.new_ones(rows, 1), prompts.asked_BL], dim=1)
        return prefix_BNH, mask_BN

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the decoder's embeddings (B, T, H) of ids (B, T)."""
        return cast(torch.Tensor, self.decoder.get_input_embeddings()(ids_BT))

    def read(self, embeds_BNH: torch.Tensor, mask_BN: torch.Tensor, *, last: int, cache: Any = None) -> torch.Tensor:
        """Return the logits (B, last, V) of the last positions.

        Args:
            embeds_BNH: embeddings of the positions that `cache` does not hold yet.
            mask_BN: of all positions, those in the cache included; 0 hides a position wherever it stands.
            last: how many positions, from the end.
            cache: transformers' key-value cache, which is extended; None computes everything at once.
        """
        positions_BN = (mask_BN.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds_BNH.shape[1] :]
        states_BNH = self.decoder.model.decoder(
            inputs_embeds=embeds_BNH,
            attention_mask=mask_BN,
            position_ids=positions_BN,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return cast(torch.Tensor, self.decoder.lm_head(states_BNH[:, -last:]))

    def forward(self, prompts: Prompts, answers_BT: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, T, V) at every token of answers.

        Args:
            prompts: what stands before.
            answers_BT: int64 ids that begin with the token that opens an answer, padded on the right.
            length_B: int64, tokens of each answer.
        """
        prefix_BNH, mask_BN = self.prefix(prompts)
        there_BT = torch.arange(answers_BT.shape[1], device=length_B.device) < length_B[:, None]
        return self.read(
            torch.cat([prefix_BNH, self.embed(answers_BT)], dim=1),
            torch.cat([mask_BN, there_BT.to(mask_BN.dtype)], dim=1),
            last=answers_BT.shape[1],
        )


def answer_loss(
    logits_BTV: torch.Tensor, targets_BT: torch.Tensor, weights_BT: torch.Tensor, unknown_BV: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the next tokens, as a weighted mean.

    Args:
        logits_BTV: as the network returns them.
        targets_BT: int64, the token that follows each.
        weights_BT: float32, what each counts; 0 where there is nothing to learn.
        unknown_BV: bool, tokens of which a row cannot tell whether they should have come: they are left out of its
            softmax, so that their absence teaches nothing.
    """
    masked_BTV = logits_BTV.masked_fill(unknown_BV[:, None], float("-inf"))
    each_X = F.cross_entropy(masked_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    weights_X = weights_BT.flatten()
    return (each_X * weights_X).sum() / weights_X.sum()


def _query_config(sizes: MiniSizes) -> Any:
    import transformers

    make: Any = transformers.InstructBlipQFormerConfig
    return make(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.query_width,
        num_hidden_layers=sizes.query_layers,
        num_attention_heads=sizes.query_heads,
        intermediate_size=sizes.mlp_ratio * sizes.query_width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=sizes.positions,
        cross_attention_frequency=1,
        encoder_hidden_size=sizes.query_width,
        pad_token_id=0,
    )


def _decoder_config(sizes: MiniSizes) -> Any:
    import transformers

    make: Any = transformers.OPTConfig
    return make(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        word_embed_proj_dim=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        ffn_dim=sizes.mlp_ratio * sizes.width,
        max_position_embeddings=sizes.positions,
        dropout=0.0,
        attention_dropout=0.0,
        activation_function="gelu",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=True,
    )

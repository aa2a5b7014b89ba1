"""Exp-BLIP and Exp-VQA at work: keyframes to query tokens, query tokens and a prompt to text.

Every keyframe goes through image encoder and Q-Former by itself; the language model gets the queries of all
keyframes of a clip in a row (the authors' code for video, facts of Exp-VQA). Rows of a batch are padded on the
left, so that they all end where the text begins.

Shape suffixes: B rows, F frames, S image side, P positions, W width of the image encoder, Q queries of a frame, E width
of the Q-Former, N tokens of a row, H width of the language model, V its vocabulary, L tokens of a question, A tokens of
an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from streamfer.captions.card import CaptionCard
from streamfer.captions.protocol import CaptionerInfo, Keyframes, check_clips, check_questions
from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError
from streamfer.models.inference import prepare_pixels

#: Rows padded to a multiple of this many tokens meet few distinct lengths, which compiled steps like.
_BLOCK = 32


class QueryCaptioner:
    """A loaded BLIP-2 or InstructBLIP behind :class:`streamfer.captions.protocol.Captioner`."""

    def __init__(
        self,
        model: Any,
        card: CaptionCard,
        text: PromptText,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch: int = 16,
    ) -> None:
        """Take over transformers' BLIP-2 or InstructBLIP: it is moved to ``device``, its weights keep their types."""
        self.card = card
        self._text = text
        self._device = torch.device(device)
        self._model = model.requires_grad_(False).eval().to(self._device)
        self._search = search_settings(text, device, num_beams, max_new_tokens)
        self._batch = batch
        self.info = CaptionerInfo(
            card.name,
            card.digest,
            card.licence,
            card.crop,
            card.answers,
            self._search.max_new_tokens,
            card.text.max_question_tokens,
            device=str(self._device),
            precision=precision,
        )

    @torch.inference_mode()
    def look(self, frames_FSS3: Keyframes) -> torch.Tensor:
        """Encode uint8 RGB frames (F, S, S, 3) to the image encoder's features (F, P, W)."""
        kind = self._model.vision_model.embeddings.patch_embedding.weight.dtype
        parts = []
        for start in range(0, len(frames_FSS3), self._batch):
            part = np.ascontiguousarray(frames_FSS3[start : start + self._batch])
            pixels_F3SS = prepare_pixels(torch.from_numpy(part).to(self._device), self.card.pixels)
            parts.append(self._model.vision_model(pixels_F3SS.to(kind).contiguous()).last_hidden_state)
        return torch.cat(parts)

    @torch.inference_mode()
    def states(self, features_FPW: torch.Tensor, questions: Sequence[str] | None = None) -> torch.Tensor:
        """Return what the queries saw of features (F, P, W), InstructBLIP's questions in view: (F, Q, E)."""
        parts = []
        for start in range(0, len(features_FPW), self._batch):
            window = slice(start, start + self._batch)
            asked: tuple[torch.Tensor, ...] = ()
            if self.card.architecture == "instructblip":
                rows = [""] * len(features_FPW[window]) if questions is None else questions[window]
                asked = tuple(part.to(self._device) for part in self._text.question_ids(rows))
            parts.append(query_states(self._model, features_FPW[window], *asked))
        return torch.cat(parts)

    @torch.inference_mode()
    def query(self, features_FPW: torch.Tensor, questions: Sequence[str] | None = None) -> torch.Tensor:
        """Read features (F, P, W), and InstructBLIP's questions of the frames, to the query tokens (F, Q, H)."""
        projection = self._model.language_projection
        tokens: torch.Tensor = projection(self.states(features_FPW, questions).to(projection.weight.dtype))
        return tokens

    def _clip_tokens(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[torch.Tensor]:
        """Return the query tokens (K * Q, H) of each row; a clip given several times is encoded once."""
        frames = dict(zip((id(clip) for clip in clips), check_clips(clips), strict=True))
        sides = {clip.shape[1] for clip in frames.values()}
        if len(sides) > 1:
            raise ConfigError(f"keyframes of one batch have {sorted(sides)} pixels; cut them to {self.card.crop.size}")
        starts = dict(zip(frames, np.cumsum([0, *(len(clip) for clip in frames.values())]), strict=False))
        features_FPW = self.look(np.concatenate(list(frames.values())))
        counts = [len(frames[id(clip)]) for clip in clips]
        wanted = [int(starts[id(clip)]) + k for clip, count in zip(clips, counts, strict=True) for k in range(count)]
        asked = [question for question, count in zip(questions, counts, strict=True) for _ in range(count)]
        tokens_FQH = self.query(features_FPW[torch.tensor(wanted, device=self._device)], asked)
        return [part.flatten(0, 1) for part in tokens_FQH.split_with_sizes(counts)]

    def _rows(
        self, tokens: Sequence[torch.Tensor], ids: Sequence[Sequence[int]], room: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put query tokens and token ids in rows that end together: embeddings (B, N, H) and mask (B, N).

        A row and ``room`` more tokens must not exceed the language model's context (ConfigError).
        """
        longest = max(len(part) + len(row) for part, row in zip(tokens, ids, strict=True))
        if self._search.cache_implementation is not None:
            longest = -(-longest // _BLOCK) * _BLOCK
        limit = getattr(self._model.language_model.config, "max_position_embeddings", None)
        if limit is not None and longest + room > limit:
            raise ConfigError(
                f"keyframes, question and text take {longest + room} tokens and the language model has {limit}; "
                "give fewer keyframes or lower max_new_tokens"
            )
        table = self._model.language_model.get_input_embeddings()
        width, kind = table.weight.shape[1], table.weight.dtype
        embeds_BNH = torch.zeros(len(tokens), longest, width, dtype=kind, device=self._device)
        mask_BN = torch.zeros(len(tokens), longest, dtype=torch.int64, device=self._device)
        for row, (part, numbers) in enumerate(zip(tokens, ids, strict=True)):
            length = len(part) + len(numbers)
            words = table(torch.tensor(list(numbers), dtype=torch.int64, device=self._device))
            embeds_BNH[row, longest - length :] = torch.cat([part.to(kind), words.to(kind)])
            mask_BN[row, longest - length :] = 1
        return embeds_BNH, mask_BN

    def _batches(
        self, clips: Sequence[Keyframes], questions: Sequence[str] | None
    ) -> Iterator[tuple[list[torch.Tensor], list[list[int]]]]:
        """Yield query tokens and prompt ids of every row, a batch at a time, once all questions are checked."""
        if questions is not None and not self.card.answers:
            raise ConfigError(
                f"model {self.card.name!r} describes faces and was not trained to answer; ask without a question, "
                "or load a model of the kind exp-vqa"
            )
        described = [self.card.text.description_prompt] * len(clips)
        asked = described if questions is None else check_questions(questions, len(clips))
        prompts = [self._text.prompt_ids(question) for question in asked]
        for start in range(0, len(clips), self._batch):
            window = slice(start, start + self._batch)
            yield self._clip_tokens(clips[window], asked[window]), prompts[window]

    def _generate(self, embeds_BNH: torch.Tensor, mask_BN: torch.Tensor) -> torch.Tensor:
        """Continue rows; return the new ids only (B, new)."""
        from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        processors = LogitsProcessorList()
        if (penalty := self.card.text.repetition_penalty) != 1:
            # Made by ``generate`` itself (5.23), it spares as many of a row's first words as the row has padding, as
            # if embeddings were among the ids: a text would depend on its batch.
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        ids: torch.Tensor = self._model.language_model.generate(
            inputs_embeds=embeds_BNH,
            attention_mask=mask_BN,
            generation_config=self._search,
            logits_processor=processors,
        )
        return ids

    @torch.inference_mode()
    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        written: list[str] = []
        for tokens, prompts in self._batches(clips, questions):
            rows = self._rows(tokens, prompts, self._search.max_new_tokens)
            written.extend(self._text.read(row) for row in self._generate(*rows).tolist())
        return written

    @torch.inference_mode()
    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        answers = [*self._text.yes_ids, *self._text.no_ids]
        found: list[float] = []
        for tokens, prompts in self._batches(clips, questions):
            scores_BA = self._likelihoods(tokens, prompts, answers)
            sides = scores_BA.split_with_sizes([len(self._text.yes_ids), len(self._text.no_ids)], dim=1)
            sides_B2 = torch.stack([part.logsumexp(dim=1) for part in sides], dim=1)
            found.extend(sides_B2.softmax(dim=1)[:, 0].tolist())
        return found

    def _likelihoods(
        self, tokens: Sequence[torch.Tensor], prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Return the log-likelihood of each answer after each row, float32 (B, answers)."""
        scores = [torch.empty(0)] * len(answers)
        # Answers that differ in their last token alone share a forward pass; single words are the usual case.
        stems = {tuple(answer[:-1]) for answer in answers}
        for stem in sorted(stems):
            rows = self._rows(tokens, [[*prompt, *stem] for prompt in prompts], 1)
            logits_BAV = self.logits(*rows, last=len(stem) + 1)
            logs_BAV = logits_BAV.float().log_softmax(dim=-1)
            before_B = sum((logs_BAV[:, k, token] for k, token in enumerate(stem)), logs_BAV.new_zeros(len(prompts)))
            for index, answer in enumerate(answers):
                if tuple(answer[:-1]) == stem:
                    scores[index] = before_B + logs_BAV[:, -1, answer[-1]]
        return torch.stack(scores, dim=1)

    @torch.inference_mode()
    def logits(self, embeds_BNH: torch.Tensor, mask_BN: torch.Tensor, *, last: int) -> torch.Tensor:
        """Return the language model's logits at the ``last`` positions of rows padded on the left: (B, last, V)."""
        positions_BN = (mask_BN.cumsum(dim=1) - 1).clamp(min=0)
        output = self._model.language_model(
            inputs_embeds=embeds_BNH, attention_mask=mask_BN, position_ids=positions_BN, use_cache=False
        )
        found: torch.Tensor = output.logits[:, -last:]
        return found


def query_states(
    model: Any,
    features_BPW: torch.Tensor,
    question_ids_BL: torch.Tensor | None = None,
    question_mask_BL: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what a Q-Former's queries saw of features (B, P, W), the questions (B, L) in view if any: (B, Q, E)."""
    qformer, count = model.qformer, model.query_tokens.shape[1]
    kind = next(qformer.parameters()).dtype
    inputs: dict[str, Any] = {"query_embeds": model.query_tokens.to(kind).expand(len(features_BPW), -1, -1)}
    if question_mask_BL is not None:
        inputs["input_ids"] = question_ids_BL
        seen_BQ = question_mask_BL.new_ones(len(features_BPW), count)
        inputs["attention_mask"] = torch.cat([seen_BQ, question_mask_BL], dim=1)
    # No mask over the picture: all of it may be seen, and attention without a mask has the faster kernels.
    states: torch.Tensor = qformer(**inputs, encoder_hidden_states=features_BPW.to(kind)).last_hidden_state
    return states[:, :count]


def search_settings(text: PromptText, device: str, num_beams: int | None, max_new_tokens: int | None) -> Any:
    """Return transformers' settings of a search: the card's, with what is given replaced.

    On a GPU a key-value cache of fixed size lets the decoding step be compiled once; on a CPU it makes every step
    attend to the whole of it, so there the cache grows.
    """
    import transformers

    card = text.card
    tokens = max_new_tokens or card.max_new_tokens
    settings: Any = transformers.GenerationConfig
    return settings(
        do_sample=False,
        num_beams=num_beams or card.num_beams,
        max_new_tokens=tokens,
        min_new_tokens=min(card.min_new_tokens, tokens),
        length_penalty=card.length_penalty,
        eos_token_id=text.end_id,
        pad_token_id=text.pad_id,
        bos_token_id=text.start_ids[0] if text.start_ids else None,
        # Padding is no word: a row of the vocabulary that was added for it has no trained logit.
        suppress_tokens=[text.pad_id] if text.pad_id != text.end_id else None,
        cache_implementation="static" if device.startswith("cuda") else None,
        disable_compile=True,
        use_cache=True,
    )

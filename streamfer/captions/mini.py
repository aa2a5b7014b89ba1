"""The built-in captioner at work: describes clips and answers questions with a few megabytes, on a CPU.

Shape suffixes: B rows, K keyframes, F frames, S image side, N numbers of a frame, T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamfer.captions.context import ClipContext
from streamfer.captions.mini_network import MiniNetwork, Prompts
from streamfer.captions.mini_plan import Draft, Planner
from streamfer.captions.mini_vocabulary import MiniVocabulary
from streamfer.captions.mini_weights import MiniCard, read_mini
from streamfer.captions.patches import FrozenEncoder
from streamfer.captions.protocol import (
    Caption,
    CaptionerInfo,
    Keyframes,
    check_clips,
    check_questions,
    wants_yes_or_no,
)
from streamfer.errors import ConfigError
from streamfer.models.card import ModelCard, digest_of
from streamfer.models.inference import prepare_pixels
from streamfer.models.precision import DTYPES, Precision
from streamfer.models.residual import fold_norms

_NOTHING = ClipContext()


def load_mini(
    path: Path,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    batch: int = 16,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
) -> MiniCaptioner:
    """Load a captioner's file.

    Raises:
        CheckpointError: no captioner's file, or a damaged one.
        ConfigError: more than one beam, no token, or more than the decoder has places for.
    """
    network, encoder, card, seen = read_mini(path)
    if num_beams is not None and num_beams != 1:
        raise ConfigError(f"num_beams is {num_beams}; captioner {card.name!r} plans its text and searches with 1 beam")
    if max_new_tokens is not None:
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
        card = card.model_copy(update={"max_new_tokens": max_new_tokens})
    if seen.config.vision.is_resnet:
        fold_norms(encoder.image_encoder)
    return MiniCaptioner(
        network, encoder, card, seen, digest=digest_of(path), device=device, precision=precision, batch=batch
    )


class MiniCaptioner:
    """A loaded mini captioner behind :class:`streamfer.captions.protocol.Captioner`.

    It is also a :class:`streamfer.captions.context.ContextCaptioner`.
    """

    def __init__(
        self,
        network: MiniNetwork,
        encoder: FrozenEncoder,
        card: MiniCard,
        seen: ModelCard,
        *,
        digest: str = "",
        device: str = "cpu",
        precision: Precision = "fp32",
        batch: int = 16,
    ) -> None:
        """Take over network and encoder: they are moved to ``device`` and converted to ``precision``.

        Args:
            network: Q-Former and decoder.
            encoder: the expression encoder that the network was trained on.
            card: of the captioner.
            seen: the encoder's own card: pixels and crop.
            digest: sha256 of the file, hex.
            device: torch device.
            precision: of everything.
            batch: largest number of frames or rows computed at once.

        Raises:
            ConfigError: the decoder has no places for the longest clip, question and text.
        """
        sizes = network.sizes
        # A plan has a token for each unit at most, the emotion, and those that open answer and words; among the words
        # each unit has a cue before the emotion's and one behind it.
        plan = 3 * len(card.units) + 4
        needed = sizes.keyframes * (sizes.queries + 1) + 1 + card.max_question_tokens + plan + card.max_new_tokens
        if needed > sizes.positions:
            most = card.max_new_tokens - (needed - sizes.positions)
            raise ConfigError(f"max_new_tokens is {card.max_new_tokens}; captioner {card.name!r} writes {most} at most")
        self._device, self._dtype = torch.device(device), DTYPES[precision]
        self._network = network.requires_grad_(False).eval().to(self._device, self._dtype)
        self._encoder = encoder.to(self._device, self._dtype)
        self._card, self._seen = card, seen
        self._words = card.words()
        self._planner = Planner(self._words, card.thresholds, frozenset(map(frozenset, card.opposed)))
        self._batch = batch
        self._info = CaptionerInfo(
            name=card.name,
            digest=digest,
            licence=card.licence,
            crop=seen.crop,
            answers=True,
            max_new_tokens=card.max_new_tokens,
            max_question_tokens=card.max_question_tokens,
            device=str(self._device),
            precision=precision,
        )

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model."""
        return self._info

    @property
    def card(self) -> MiniCard:
        """What the file says about itself."""
        return self._card

    @property
    def vocabulary(self) -> MiniVocabulary:
        """Words and plan tokens."""
        return self._words

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[Caption]:
        """Describe clips, or answer one question about each; see :meth:`Captioner.caption`."""
        asked = self._asked(clips, questions)
        closed = [wants_yes_or_no(question) for question in questions or [""] * len(clips)]
        return self._captions(clips, asked, [_NOTHING] * len(clips), closed)

    def describe(self, clips: Sequence[Keyframes], contexts: Sequence[ClipContext]) -> list[Caption]:
        """Describe clips in their contexts; see :meth:`ContextCaptioner.describe`."""
        if len(contexts) != len(clips):
            raise ConfigError(f"{len(clips)} clips take {len(clips)} contexts, one each; got {len(contexts)}")
        return self._captions(clips, self._asked(clips, None), contexts, [False] * len(clips))

    @torch.inference_mode()
    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Return the probability of yes, one question a clip; see :meth:`Captioner.answer_yes_no`."""
        asked = self._asked(clips, questions)
        found: list[float] = []
        for window in self._windows(len(clips)):
            features_FN, counts = self._features(clips[window])
            found.extend(self.probability_of_yes(features_FN, counts, asked[window]))
        return found

    def _captions(
        self,
        clips: Sequence[Keyframes],
        asked: Sequence[list[int]],
        contexts: Sequence[ClipContext],
        closed: Sequence[bool],
    ) -> list[Caption]:
        captions: list[Caption] = []
        for window in self._windows(len(clips)):
            began = time.perf_counter()
            features_FN, counts = self._features(clips[window])
            drafts = self.write(features_FN, counts, asked[window], contexts[window], closed[window])
            share = (time.perf_counter() - began) / len(drafts)
            captions.extend(Caption(self._words.text(one.ids), one.words, share, one.complete) for one in drafts)
        return captions

    def _windows(self, rows: int) -> list[slice]:
        return [slice(start, start + self._batch) for start in range(0, rows, self._batch)]

    def _asked(self, clips: Sequence[Keyframes], questions: Sequence[str] | None) -> list[list[int]]:
        texts = [self._card.question] * len(clips) if questions is None else check_questions(questions, len(clips))
        return [self._words.question(text, self._card.max_question_tokens) for text in texts]

    # -- pictures ---------------------------------------------------------------------------------------------

    def _features(self, clips: Sequence[Keyframes]) -> tuple[torch.Tensor, list[int]]:
        """Return the encoder's rows (F, N) of every clip's keyframes, and how many each has."""
        once = dict(zip((id(clip) for clip in clips), check_clips(clips), strict=True))
        most = self._network.sizes.keyframes
        for frames in once.values():
            if len(frames) > most:
                raise ConfigError(f"a clip has {len(frames)} keyframes; captioner {self._card.name!r} takes {most}")
        rows = {key: self.look(frames) for key, frames in once.items()}
        return torch.cat([rows[id(clip)] for clip in clips]), [len(once[id(clip)]) for clip in clips]

    @torch.inference_mode()
    def look(self, frames_FSS3: Keyframes) -> torch.Tensor:
        """Encode uint8 RGB frames (F, S, S, 3) to the encoder's rows (F, N)."""
        parts = []
        for window in self._windows(len(frames_FSS3)):
            crops = torch.from_numpy(np.ascontiguousarray(frames_FSS3[window])).to(self._device)
            pixels_F3SS = prepare_pixels(crops, self._seen.pixels).to(self._dtype)
            parts.append(self._encoder(pixels_F3SS.contiguous()))
        return torch.cat(parts)

    # -- text -------------------------------------------------------------------------------------------------

    def _prompts(
        self,
        features_FN: torch.Tensor,
        counts: Sequence[int],
        asked: Sequence[Sequence[int]],
        contexts: Sequence[ClipContext],
    ) -> Prompts:
        question_BL, asked_BL = padded(asked, self._words.pad)
        course_B3 = torch.tensor([context.course for context in contexts])
        parts = (part.to(self._device) for part in (course_B3, question_BL, asked_BL))
        return Prompts(features_FN.to(self._device), tuple(counts), *parts)

    def _opened(self, prompts: Prompts, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Read everything before the answers: logits (B, V) of their first tokens, and the mask so far."""
        prefix_BNH, mask_BN = self._network.prefix(prompts)
        open_B1 = torch.full((len(mask_BN), 1), self._words.answer, device=self._device)
        mask_BN = torch.cat([mask_BN, torch.ones_like(open_B1)], dim=1)
        embeds_BNH = torch.cat([prefix_BNH, self._network.embed(open_B1)], dim=1)
        return self._network.read(embeds_BNH, mask_BN, last=1, cache=cache)[:, 0].float(), mask_BN

    @torch.inference_mode()
    def write(
        self,
        features_FN: torch.Tensor,
        counts: Sequence[int],
        asked: Sequence[Sequence[int]],
        contexts: Sequence[ClipContext],
        closed: Sequence[bool] | None = None,
        *,
        planner: Planner | None = None,
        plans_only: bool = False,
    ) -> list[Draft]:
        """Plan and write one answer for each row.

        Args:
            features_FN: the encoder's rows of all keyframes, those of one clip in order.
            counts: keyframes of each row.
            asked: ids of each row's question.
            contexts: what is known of each clip.
            closed: whether each row may be answered with yes or no; None leaves it to the model.
            planner: another way to choose than the card's.
            plans_only: stop before the words.
        """
        from transformers import DynamicCache

        planner = planner or self._planner
        cache = DynamicCache(config=self._network.decoder.config)
        logits_BV, mask_BN = self._opened(self._prompts(features_FN, counts, asked, contexts), cache)
        may = [True] * len(contexts) if closed is None else closed
        drafts = [
            Draft(self._card.max_new_tokens, self._emotion(context), one)
            for context, one in zip(contexts, may, strict=True)
        ]
        while True:
            tokens = planner.step(drafts, logits_BV.cpu().numpy())
            if all(draft.done or (plans_only and not draft.planning) for draft in drafts):
                return drafts
            logits_BV, mask_BN = self._follow(tokens, mask_BN, cache)

    def _emotion(self, context: ClipContext) -> int | None:
        known = context.emotion in self._words.emotions
        return self._words.emotion(context.emotion) if known and context.emotion is not None else None

    @torch.inference_mode()
    def probability_of_yes(
        self, features_FN: torch.Tensor, counts: Sequence[int], asked: Sequence[Sequence[int]]
    ) -> list[float]:
        """Compare the likelihoods of yes and no, behind the unit or emotion that each row's question is about."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._network.decoder.config)
        logits_BV, mask_BN = self._opened(self._prompts(features_FN, counts, asked, [_NOTHING] * len(asked)), cache)
        first = self._words.unit(self._words.units[0])
        about_B = first + logits_BV[:, first : self._words.first_word].argmax(dim=1)
        logits_BV = self._follow(about_B.tolist(), mask_BN, cache)[0]
        sides_B2 = logits_BV[:, [self._words.yes, self._words.no]]
        return [float(one) for one in sides_B2.softmax(dim=1)[:, 0]]

    def _follow(self, tokens: Sequence[int], mask_BN: torch.Tensor, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one more token of each row: logits (B, V) of what follows, and the mask so far."""
        next_B1 = torch.tensor(list(tokens), device=self._device)[:, None]
        mask_BN = torch.cat([mask_BN, torch.ones_like(next_B1)], dim=1)
        step_B1V = self._network.read(self._network.embed(next_B1), mask_BN, last=1, cache=cache)
        return step_B1V[:, 0].float(), mask_BN


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, int64 (B, L), of rows padded on the right."""
    longest = max(len(row) for row in rows)
    ids_BL = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask_BL = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids_BL, mask_BL

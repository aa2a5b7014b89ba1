"""What the pipeline asks of a captioner: keyframes of a face in, a sentence or the probability of a yes out.

Imports neither torch nor transformers: the pipeline may hold this seam in a process that has no model.

Shape suffixes: K keyframes of a clip, S image side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamfer.errors import ConfigError
from streamfer.geometry import CropProfile

#: Questions that begin with one of these want a yes or a no.
_YES_NO = re.compile(
    r"(is|are|am|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)\b", re.IGNORECASE
)

#: Keyframes of one clip: uint8 RGB (K, S, S, 3), oldest first; one picture (S, S, 3) is K = 1.
Keyframes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Caption:
    """What a model wrote about one clip.

    Attributes:
        text: the sentence or answer, stripped; may be empty.
        tokens: tokens generated, the end token not counted.
        seconds: wall time of the batch, shared out evenly among its captions.
        complete: the model ended the text itself; False if the token limit cut it.
    """

    text: str
    tokens: int
    seconds: float
    complete: bool = True


@dataclass(frozen=True, slots=True)
class CaptionerInfo:
    """Identity of a loaded captioner, as records carry it.

    Attributes:
        name: registered name, or the folder's.
        digest: sha256 over the digests of the weights files, hex.
        licence: licence of the weights in plain words.
        crop: geometry of the face crops that :meth:`Captioner.caption` takes.
        answers: takes questions (Exp-VQA), or describes only (Exp-BLIP).
        max_new_tokens: longest text it writes.
        max_question_tokens: longest question it reads.
        device: torch device, resolved.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    name: str
    digest: str
    licence: str
    crop: CropProfile
    answers: bool
    max_new_tokens: int
    max_question_tokens: int
    device: str
    precision: str


@runtime_checkable
class Captioner(Protocol):
    """A model that looks at the keyframes of clips and writes text, a batch at a time."""

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model."""

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[Caption]:
        """Describe clips, or answer one question about each.

        Args:
            clips: keyframes of each clip, uint8 RGB (K, S, S, 3); K may differ from clip to clip. The same array
                given several times, with several questions, is looked at once.
            questions: one a clip; None asks for a description.

        Raises:
            ConfigError: a question is empty, too long, or asked of a model that only describes; keyframes of
                another form, or too many for the model's context.
        """

    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Return the probability of yes for one question a clip, by comparing the likelihoods of yes and no.

        Raises:
            ConfigError: as :meth:`caption`.
        """


def check_clips(clips: Sequence[Keyframes]) -> list[Keyframes]:
    """Return every clip as uint8 (K, S, S, 3).

    Raises:
        ConfigError: not arrays of uint8 RGB squares, or no keyframe.
    """
    checked = []
    for clip in clips:
        frames = clip[None] if clip.ndim == 3 else clip
        square = frames.ndim == 4 and frames.shape[3] == 3 and frames.shape[1] == frames.shape[2]
        if frames.dtype != np.uint8 or not square or not frames.size:
            raise ConfigError(f"keyframes are {clip.dtype} {clip.shape}; expected uint8 RGB (K, S, S, 3), K at least 1")
        checked.append(frames)
    return checked


def check_questions(questions: Sequence[str], clips: int) -> list[str]:
    """Return the questions stripped of surrounding blanks.

    Raises:
        ConfigError: another number than clips, or an empty question.
    """
    if isinstance(questions, str) or len(questions) != clips:
        raise ConfigError(f"{clips} clips take {clips} questions, one each; got {questions!r}")
    stripped = [question.strip() for question in questions]
    if not all(stripped):
        raise ConfigError("the question is empty; ask something, for example: is the inner brow raised?")
    return stripped


def wants_yes_or_no(question: str) -> bool:
    """Tell whether a question begins as those do that are answered with yes or no."""
    return _YES_NO.match(question.strip()) is not None

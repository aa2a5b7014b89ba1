"""What is asked of who writes captions, and of the models behind them.

A run hands *requests* to a :class:`Writer`. Models stand one step behind: a :class:`Captioner` looks at keyframes, a
text model continues a conversation; :mod:`streamfer.captions.writers` checks what they write. Imports neither torch nor
transformers, so that the seam can be held in a process without a model.

Shape suffixes: K keyframes of a clip, S image side.
"""

from __future__ import annotations

import math
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamfer.captions.measurements import Measurements
from streamfer.errors import ConfigError
from streamfer.geometry import CropProfile

#: Questions that begin with one of these want a yes or a no.
_YES_NO = re.compile(
    r"(is|are|am|was|were|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must)\b", re.IGNORECASE
)

#: Keyframes of one clip: uint8 RGB (K, S, S, 3), oldest first; one picture (S, S, 3) is K = 1.
Keyframes = NDArray[np.uint8]
#: One turn of a conversation as chat endpoints take it: ``role`` and ``content``.
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Caption:
    """What was written about one clip."""

    text: str
    #: Why the writer's own text was replaced by measured words; empty where it stands.
    replaced: str = ""
    #: The same in English, where the text is in another language.
    checked: str | None = None


@dataclass(frozen=True, slots=True)
class CaptionerInfo:
    """Identity of a loaded captioner, as records carry it."""

    name: str
    #: sha256 over what it is made of, hex.
    digest: str
    licence: str = "as the model's authors state: see its model card"
    #: Geometry of the face crops that it looks at; None if it looks at none.
    crop: CropProfile | None = None
    #: Takes questions (Exp-VQA), or describes only (Exp-BLIP).
    answers: bool = True
    max_new_tokens: int = 200
    max_question_tokens: int = 512
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def picture(self) -> CropProfile:
        """Geometry of the pictures that it looks at; a ConfigError where it looks at none."""
        if self.crop is None:
            raise ConfigError(f"model {self.name!r} looks at no pictures; name an image-text model")
        return self.crop


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """A clip that is to be described; the choice of measured words hangs on ``seed``, the id of its record."""

    measured: Measurements
    seed: str
    #: Id of its source.
    source: str = ""
    #: K = 0 where there is no picture.
    keyframes: Keyframes = field(default_factory=lambda: np.zeros((0, 8, 8, 3), np.uint8), repr=False)


class Patience:
    """How long a call may last: so many ``seconds`` from its beginning; ``grace`` more once the run is stopped."""

    def __init__(self, seconds: float, stop: threading.Event, grace: float) -> None:
        self.seconds, self._stop, self._grace = seconds, stop, grace
        self._until = self._stop_by = math.inf

    def begin(self, seconds: float | None = None) -> None:
        """Begin to count, ``seconds`` where it is something else that may take longer."""
        self._until = time.monotonic() + (self.seconds if seconds is None else seconds)

    def over(self) -> bool:
        """Whether the call has to end."""
        now = time.monotonic()
        if self._stop.is_set():
            self._stop_by = min(self._stop_by, now + self._grace)
        return now >= min(self._until, self._stop_by)

    def error(self) -> CaptionError:
        """What became of a call that had to end."""
        return CaptionError("captioner_timeout", f"no caption within {self.seconds:g} s")


class CaptionError(Exception):
    """A clip got no caption; ``cause`` is the word for it that a gap carries."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Writer(ABC):
    """Writes captions that hold nothing but what was measured."""

    patience: Patience | None = None  #: of the calls to come; they wait for ever without
    _info: CaptionerInfo

    @property
    def info(self) -> CaptionerInfo:
        return self._info

    @abstractmethod
    def write(self, requests: Sequence[CaptionRequest]) -> list[Caption | CaptionError]:
        """Describe clips; one that gets no caption has its error in the caption's place."""

    def close(self) -> None:  # noqa: B027 - not everybody holds something
        """Let go of what was loaded."""


@runtime_checkable
class Captioner(Protocol):
    """A model that looks at the keyframes of clips and writes text, a batch at a time."""

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model."""

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        """Describe clips, or answer one question about each; K may differ from clip to clip, a text may be empty.

        The same array given several times, with several questions, is looked at once.

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
    """Return every clip as uint8 (K, S, S, 3), or raise a ConfigError for what are no RGB squares, or none at all."""
    checked = []
    for clip in clips:
        frames = clip[None] if clip.ndim == 3 else clip
        square = frames.ndim == 4 and frames.shape[3] == 3 and frames.shape[1] == frames.shape[2]
        if frames.dtype != np.uint8 or not square or not frames.size:
            raise ConfigError(f"keyframes are {clip.dtype} {clip.shape}; expected uint8 RGB (K, S, S, 3), K at least 1")
        checked.append(frames)
    return checked


def check_questions(questions: Sequence[str], clips: int) -> list[str]:
    """Return the questions without surrounding blanks; a ConfigError where one is empty, or not one a clip."""
    if isinstance(questions, str) or len(questions) != clips:
        raise ConfigError(f"{clips} clips take {clips} questions, one each; got {questions!r}")
    stripped = [question.strip() for question in questions]
    if not all(stripped):
        raise ConfigError("the question is empty; ask something, for example: is the inner brow raised?")
    return stripped


def wants_yes_or_no(question: str) -> bool:
    """Tell whether a question begins as those do that are answered with yes or no."""
    return _YES_NO.match(question.strip()) is not None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

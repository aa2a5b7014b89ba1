"""A captioner without weights, for tests of everything around captioners."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

from streamfer.captions.protocol import CaptionerInfo, Keyframes, Patience, check_clips, check_questions
from streamfer.geometry import CropProfile, squashed_crop

#: Variable of the environment.
LOADING_SECONDS = "STREAMFER_TEST_LOADING_SECONDS"


class FakeCaptioner:
    """Texts tell the brightness and number of the keyframes, and repeat the question.

    The same keyframes give the same text whatever the batch. ``batches`` holds the size of each call and ``seen``
    a digest of each clip, so a test can tell what was asked and how often.
    """

    def __init__(
        self,
        *,
        name: str = "fake",
        crop: CropProfile | None = None,
        answers: bool = True,
        delay: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        """Make one.

        Args:
            name: its name.
            crop: crops it asks for; squashed to 32 pixels where not given.
            answers: takes questions.
            delay: seconds that every call sleeps.
            error: raised by every call.
        """
        self.batches: list[int] = []
        self.seen: list[str] = []
        self._delay = delay
        self._error = error
        self._info = CaptionerInfo(
            name=name,
            digest=hashlib.sha256(name.encode()).hexdigest(),
            licence="none: not a model",
            crop=crop or squashed_crop(32),
            answers=answers,
            max_new_tokens=200,
            max_question_tokens=128,
            device="cpu",
            precision="fp32",
        )

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model."""
        return self._info

    #: Of the calls to come; they wait for ever without.
    patience: Patience | None = None

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, clips: Sequence[Keyframes]) -> list[tuple[int, float]]:
        """Return number and brightness (0 to 255) of the keyframes of each clip."""
        frames = check_clips(clips)
        self.batches.append(len(frames))
        self.seen.extend(hashlib.sha256(clip.tobytes()).hexdigest() for clip in frames)
        time.sleep(self._delay)
        if self._error is not None:
            raise self._error
        return [(len(clip), float(clip.mean())) for clip in frames]

    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        """Describe clips by their brightness, one sentence each."""
        asked = check_questions(questions, len(clips)) if questions is not None else [""] * len(clips)
        return [
            f"{question} {count} pictures of brightness {mean:.0f}.".strip()
            for (count, mean), question in zip(self._look(clips), asked, strict=True)
        ]

    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Return the brightness in [0, 1] as the probability of yes."""
        check_questions(questions, len(clips))
        return [mean / 255 for _, mean in self._look(clips)]


def load_slowly(**options: Any) -> FakeCaptioner:
    """Make one after as many seconds as the environment says."""
    time.sleep(float(os.environ.get(LOADING_SECONDS, "0")))
    return FakeCaptioner(**options)

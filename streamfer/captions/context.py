"""What is known of a clip besides its keyframes: when its expression comes and goes, and which one it is.

The label track of the pipeline knows both better than two or three keyframes can tell. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamfer.captions.protocol import Caption, Captioner, Keyframes
from streamfer.errors import ConfigError

#: A clip's fractions become this many moments, from its very start to its very end.
MOMENTS = 5


@dataclass(frozen=True, slots=True)
class ClipContext:
    """What the label track says of a clip.

    Attributes:
        apex: when the expression is strongest, as a fraction of the clip (0-1); None where nothing is known of its
            course.
        onset: when it sets in; None: it is there from the first frame.
        offset: when it fades; None: it lasts to the last frame.
        emotion: name of the emotion that the clip was given; a description then speaks of no other.
    """

    apex: float | None = None
    onset: float | None = None
    offset: float | None = None
    emotion: str | None = None

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ConfigError: a fraction is outside 0-1, the three are out of order, or there is no apex beside them.
        """
        moments = [moment for moment in (self.onset, self.apex, self.offset) if moment is not None]
        if self.apex is None and moments:
            raise ConfigError("the course of a clip has an onset or offset but no apex; give the apex, or neither")
        if not all(0 <= moment <= 1 for moment in moments) or moments != sorted(moments):
            raise ConfigError(f"the course of a clip is {moments}; expected onset <= apex <= offset within 0-1")

    @property
    def course(self) -> tuple[int, int, int]:
        """Onset, apex and offset as numbers: 0 unknown; of onset and offset 1 outside the clip; then the moments."""
        if self.apex is None:
            return (0, 0, 0)
        onset, offset = (1 if one is None else 2 + moment_of(one) for one in (self.onset, self.offset))
        return (onset, 1 + moment_of(self.apex), offset)


def moment_of(fraction: float) -> int:
    """Return the moment, 0 to `MOMENTS` - 1, of a fraction of a clip."""
    return min(int(fraction * MOMENTS), MOMENTS - 1)


@runtime_checkable
class ContextCaptioner(Captioner, Protocol):
    """A captioner that can be told what the label track knows."""

    def describe(self, clips: Sequence[Keyframes], contexts: Sequence[ClipContext]) -> list[Caption]:
        """Describe clips as :meth:`caption` does without questions, each in its context.

        Raises:
            ConfigError: as :meth:`caption`; or another number of contexts than of clips.
        """

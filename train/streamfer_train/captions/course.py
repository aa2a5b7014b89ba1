"""Sentences over the course of an expression through a clip: onset, apex, offset."""

from __future__ import annotations

import random

from streamfer_train.captions.labels import Course

_MOMENTS = (
    ("at the very start", "as the clip begins", "in the first moments"),
    ("early in the clip", "soon after the start", "in the first half"),
    ("halfway through", "in the middle of the clip", "midway"),
    ("late in the clip", "well into the second half", "in the second half"),
    ("at the very end", "as the clip ends", "in the last moments"),
)
_WHAT = ("the expression", "the display", "it all", "what the face shows")
_SETS_IN = ("appears", "begins", "comes up", "starts")
_PEAKS = ("is strongest", "peaks", "reaches its height", "is at its clearest")
_FADES = ("fades", "has gone", "dies away", "ebbs away")
_THERE = ("is there from the first frame", "is already there when the clip opens", "is present from the outset")
_STAYS = ("lasts to the final frame", "holds until the clip is over", "is still there when the clip is over")


def course_sentence(course: Course, draw: random.Random) -> str:
    """Return a sentence that says when the expression sets in, is strongest, and fades.

    Fractions of the clip become five moments, from its very start to its very end.
    """
    steps = [
        f"{draw.choice(_SETS_IN)} {_moment(course.onset, draw)}" if course.onset is not None else draw.choice(_THERE),
        f"{draw.choice(_PEAKS)} {_moment(course.apex, draw)}",
        f"{draw.choice(_FADES)} {_moment(course.offset, draw)}" if course.offset is not None else draw.choice(_STAYS),
    ]
    what = draw.choice(_WHAT)
    return f"{what[0].upper()}{what[1:]} {steps[0]}, {steps[1]} and {steps[2]}."


def _moment(fraction: float, draw: random.Random) -> str:
    return draw.choice(_MOMENTS[min(int(fraction * len(_MOMENTS)), len(_MOMENTS) - 1)])

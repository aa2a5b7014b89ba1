"""The fall of learning rates that all recipes have in common; warm-up and unit of time are each recipe's own."""

from __future__ import annotations

import math


def half_cosine(done: float, start: float = 1.0, end: float = 0.0) -> float:
    """Return the rate after the share ``done`` of the way from ``start`` to ``end``, along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

"""Rendered clips as the mini model reads them: frames as pictures, and what each frame shows.

Shape suffixes: N clips, T frames, F = N x T frames in the order of their clips, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamfer.errors import SourceNotFoundError
from streamfer_builtin.mini import augment
from streamfer_builtin.mini.data import CLASSES, Pictures
from streamfer_builtin.render.clips import RenderedClips, load_shards
from streamfer_builtin.render.expressions import EMOTIONS

NEUTRAL = CLASSES.index("neutral")
#: At this share of its full strength an expression is what a frame shows, whatever is left of neutral.
_SHOWN = 0.7


def load(folder: Path, split: str, limit: int | None = None) -> RenderedClips:
    """Read the first `limit` clips of a split, or all that are there.

    Raises:
        SourceNotFoundError: some are missing; the message has the command that renders them.
        SourceUnreadableError: a shard is damaged.
    """
    clips = load_shards(folder, split)
    if limit is None:
        return clips
    found = chosen(clips, slice(limit))
    if not np.array_equal(found.index, np.arange(limit)):
        have = len(np.intersect1d(clips.index, np.arange(limit)))
        raise SourceNotFoundError(
            f"{folder}: has {have} of the {limit} rendered clips of split {split}; run "
            "python -m streamfer_builtin.mini render with the same recipe"
        )
    return found


def chosen(clips: RenderedClips, rows: NDArray[Any] | slice) -> RenderedClips:
    """Return the clips at `rows` (int or bool array, or a slice)."""
    return RenderedClips(*(getattr(clips, name)[rows] for name in RenderedClips.__slots__))


def labels_of(clips: RenderedClips) -> Tensor:
    """Return the clips' emotions as indices into `CLASSES`, int64 (N,)."""
    order = np.array([CLASSES.index(name) for name in EMOTIONS])
    return torch.from_numpy(order[clips.emotions])


def pictures(clips: RenderedClips) -> Pictures:
    """Return every frame as a picture (F,), its label that of its clip; pixels are shared, not copied."""
    count, frames, side, _ = clips.frames.shape
    return Pictures(
        source="rendered",
        extent=augment.RENDER_EXTENT,
        pixels=torch.from_numpy(clips.frames.reshape(count * frames, side, side)),
        labels=labels_of(clips).repeat_interleave(frames),
        units=torch.from_numpy(clips.action_units.astype(np.float32)).flatten(0, 1),
        pose=torch.from_numpy(clips.pose[..., :2].astype(np.float32)).flatten(0, 1),
        votes=torch.full((count * frames, len(CLASSES)), torch.nan),
    )


def shown(clips: RenderedClips) -> tuple[Tensor, Tensor]:
    """Return what each frame shows: probabilities float32 (F, C), and bool (F,) where that is known.

    An expression that comes or goes is mixed with neutral. Where another one fades at the same time, only frames
    in which the clip's own has won are known.
    """
    strength_NT = torch.from_numpy(clips.envelope.astype(np.float32))
    part_NT = (strength_NT / _SHOWN).clamp(max=1)
    label_NC = torch.nn.functional.one_hot(labels_of(clips), len(CLASSES)).float()
    rest_C = torch.nn.functional.one_hot(torch.tensor(NEUTRAL), len(CLASSES)).float()
    mixed_NTC = part_NT[..., None] * label_NC[:, None] + (1 - part_NT[..., None]) * rest_C
    alone_N1 = torch.from_numpy(clips.preceding < 0)[:, None]
    known_NT = alone_N1 | (part_NT >= 1)
    return mixed_NTC.flatten(0, 1), known_NT.flatten()

"""A corpus and rendered clips small enough to train on in a test: brightness patterns stand for expressions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamfer_builtin.mini import augment
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.recipe import Recipe
from streamfer_builtin.mini.units import BLENDSHAPES
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.clips import RenderedClips
from streamfer_builtin.render.course import DIRECTIONS, FRAMES


def pictures(source: str, count: int, side: int, extent: float) -> Pictures:
    """Random pictures; every third has no units and pose, every seventh no votes, every eleventh is unreadable."""
    rng = torch.Generator().manual_seed(count)
    units = torch.rand(count, len(ACTION_UNITS), generator=rng)
    units[:, [name not in BLENDSHAPES for name in ACTION_UNITS]] = torch.nan
    pose = torch.randn(count, 2, generator=rng) * 15
    for known in (units, pose):
        known[::3] = torch.nan
    labels = torch.arange(count) % len(CLASSES)
    votes = 0.6 * torch.nn.functional.one_hot(labels, len(CLASSES)).float() + 0.05
    votes[::7] = torch.nan
    votes[5::11] = 0
    return Pictures(
        source=source,
        extent=extent,
        pixels=torch.randint(0, 256, (count, side, side), generator=rng, dtype=torch.uint8),
        labels=labels,
        units=units,
        pose=pose,
        votes=votes,
    )


def corpus() -> Corpus:
    """Training sets, validation and held-out pictures of all classes."""
    return Corpus(
        train=(
            pictures("fer2013_train", 42, 48, augment.FER_EXTENT),
            pictures("faces", 21, 64, augment.FACES_EXTENT),
        ),
        val=pictures("fer2013_val", 56, 48, augment.FER_EXTENT),
        held_out=pictures("faces", 14, 64, augment.FACES_EXTENT),
        last_val=pictures("fer2013_val", 49, 48, augment.FER_EXTENT),
        last_held_out=pictures("faces", 28, 64, augment.FACES_EXTENT),
    )


def clips(count: int, seed: int = 0) -> RenderedClips:
    """Rendered clips: a bright band whose height is the emotion and whose brightness is its strength.

    The direction alternates between onset and offset; the last clip is that before it in reverse.
    """
    rng = np.random.default_rng(seed)
    emotions = np.arange(count) % len(CLASSES)
    directions = np.arange(count) // len(CLASSES) % 2
    ramp = np.linspace(0, 1, FRAMES, dtype=np.float32)
    strength = np.where(directions[:, None] == 0, ramp, ramp[::-1])
    frames = rng.integers(80, 110, (count, FRAMES, 64, 64))
    for row, emotion in enumerate(emotions):
        frames[row, :, 12 + 6 * emotion : 17 + 6 * emotion] += (strength[row, :, None, None] * 140).astype(int)
    units = np.repeat(strength[..., None], len(ACTION_UNITS), 2) * rng.random((count, 1, len(ACTION_UNITS)))
    reverse_of = np.full(count, -1)
    reverse_of[-1] = count - 2
    return RenderedClips(
        frames=frames.astype(np.uint8),
        emotions=emotions.astype(np.int64),
        preceding=np.full(count, -1, np.int64),
        action_units=units.astype(np.float16),
        envelope=strength.astype(np.float16),
        phase=np.zeros((count, FRAMES), np.uint8),
        direction=np.array([DIRECTIONS.index(("onset", "offset")[d]) for d in directions], np.uint8),
        identity=np.arange(count, dtype=np.int64) // 2,
        pose=np.zeros((count, FRAMES, 3), np.float16),
        light=np.zeros((count, 4), np.float16),
        reverse_of=reverse_of,
        index=np.arange(count, dtype=np.int64),
    )


def recipe(folder: Path, **parts: Any) -> Recipe:
    """A recipe that takes seconds; `parts` override sections by name."""
    sections: dict[str, Any] = {
        "sizes": {
            "layers": (1, 1, 1, 1, 1, 1, 1),
            "width": 4,
            "image": 32,
            "embed_dim": 16,
            "heads": 2,
            "dim_head": 8,
            "mlp_dim": 16,
        }
        | {"text_layers": 1, "text_width": 16, "text_heads": 2},
        "joint": {"epochs": 2, "pictures": 32, "batch": 16, "seed": 5},
        "clips": {"epochs": 2, "steps": 4, "batch": 16, "pictures": 100, "views": 2},
    }
    for name, values in parts.items():
        sections[name] = sections[name] | values if isinstance(values, dict) and name in sections else values
    paths = {"data": folder, "renders": folder, "work": folder / "run"}
    return Recipe.model_validate({**paths, "start": "random", **sections})

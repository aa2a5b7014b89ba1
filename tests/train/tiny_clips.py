"""Synthetic frame folders in three colours, and a configuration whose training takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from streamfer_train.dfer_clip.backbones import read_backbone
from streamfer_train.dfer_clip.config import RunConfig, parse_config
from streamfer_train.dfer_clip.model import Learner, build_learner
from streamfer_train.dfer_clip.training import choose_trained

CLASSES = ("happiness", "sadness", "anger")
#: Colour of each class's frames (BGR), so that a tiny model can learn them.
_COLOURS = ((40, 40, 220), (220, 60, 40), (40, 200, 60))


def write_clips(folder: Path, count: int = 12, frames: int = 6, side: int = 24) -> None:
    """Write ``count`` clips of ``frames`` noisy pictures each, classes in turn, below ``folder``/clips."""
    rng = np.random.default_rng(0)
    for clip in range(count):
        place = folder / "clips" / f"{clip:05d}"
        place.mkdir(parents=True)
        for frame in range(frames):
            noise = rng.integers(-30, 30, (side, side, 3))
            picture = np.clip(np.array(_COLOURS[clip % 3]) + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(place / f"{frame:03d}.png"), picture)


def write_list(path: Path, clips: range, columns: str = "") -> None:
    """Write a CSV list; ``columns`` adds AU12 to each clip, some of them missing."""
    lines = ["video,label" + (",AU12" if columns else "")]
    for clip in clips:
        more = "" if not columns else ("," if clip % 4 == 3 else f",{clip % 2}")
        lines.append(f"clips/{clip:05d},{CLASSES[clip % 3]}{more}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write twelve clips once and return plain settings; ``changes`` are merged one level deep."""
    if not (folder / "clips").exists():
        write_clips(folder)
        for fold, test in ((1, range(9, 12)), (2, range(0, 3))):
            write_list(folder / f"train{fold}.csv", range(0, 9) if fold == 1 else range(3, 12), "more")
            write_list(folder / f"test{fold}.csv", test, "more")
    plain: dict[str, Any] = {
        "data": {
            "dataset": "csv",
            "train": str(folder / "train{fold}.csv"),
            "test": str(folder / "test{fold}.csv"),
            "root": str(folder),
            "labels": "names",
            "classes": list(CLASSES),
            "frames": 4,
            "size": 16,
            "workers": 0,
        },
        "backbone": {
            "name": "custom",
            "weights": "random",
            "custom": {
                "embed_dim": 16,
                "layers": 1,
                "width": 16,
                "head_width": 8,
                "patch": 8,
                "text_layers": 1,
                "text_width": 16,
                "text_heads": 2,
            },
        },
        "temporal": {"heads": 2, "dim_head": 8, "mlp_dim": 16},
        "optimiser": {"batch": 4, "epochs": 2, "milestones": [1], "clip": 1.0},
        "run": {"out": str(folder / "run"), "device": "cpu", "checkpoint_every": 1},
        "log": {"every": 1, "tensorboard": False},
    }
    for section, values in changes.items():
        plain[section] = {**plain.get(section, {}), **values} if isinstance(values, dict) else values
    return plain


def write_config(folder: Path, **changes: Any) -> Path:
    """Write :func:`settings` as YAML and return the file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(folder, **changes)), encoding="utf-8")
    return path


def recipe(folder: Path, **changes: Any) -> RunConfig:
    return parse_config(settings(folder, **changes), "test")


def built(folder: Path, **changes: Any) -> Learner:
    config = recipe(folder, **changes)
    learner = build_learner(config, read_backbone(config), seed=1)
    choose_trained(learner, config.optimiser)
    return learner


def clips(count: int = 2, frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, frames, 3, 16, 16), dtype=torch.uint8, generator=generator)

"""Shards of rendered clips: what is in them, how they are written, and how a training reads them back.

A folder holds ``{split}-{first clip:06d}.safetensors``, each with `SHARD` clips (the last may hold fewer). A clip is
16 grey frames of 64 x 64 pixels around one aligned face. A model's crop of 48 pixels lies in the middle of each frame:
the landmark template ``loose_crop(128)`` falls on x' = (x - 64) * 59.08 / 128 + 32, so the 8 pixels around the crop
leave room to shift, turn and scale it. Faces are aligned frame by frame, with a detector's inaccuracy. Frames carry
the renderer's light, soft focus and a little sensor noise; contrast, compression and occlusion are left to training.

Clip ``i`` of a seed and split is always the same clip, whatever the shards. Clips ``i`` with ``i % 8 == 7`` show the
frames of clip ``i - 1`` in reverse: the same pictures, another direction.

Shape suffixes: N clips, T = 16 frames, A action units.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from streamfer.errors import OutputError, SourceNotFoundError, SourceUnreadableError
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.course import DIRECTIONS, FRAMES, PHASES
from streamfer_builtin.render.expressions import EMOTIONS

SIDE = 64
"""Side of a frame, pixels."""
SHARD = 100
"""Clips in a shard."""
FORMAT = "streamfer-rendered-clips-1"
_NAMES = {"emotions": EMOTIONS, "action_units": ACTION_UNITS, "phases": PHASES, "directions": DIRECTIONS}


@dataclass(frozen=True, slots=True)
class RenderedClips:
    """Clips with labels; every array has N rows.

    Attributes:
        frames: uint8 (N, T, 64, 64), grey.
        emotions: int64 (N,), index into `EMOTIONS`: what the window shows last and most.
        preceding: int64 (N,), the emotion that is shown, and fades, before it; -1 for none.
        action_units: float16 (N, T, A), intensity 0-1 of each of `ACTION_UNITS` in each frame.
        envelope: float16 (N, T), strength 0-1 of the emotion's expression (0 throughout in neutral clips).
        phase: uint8 (N, T), index into `PHASES`: rest, onset, apex, offset of that expression.
        direction: uint8 (N,), index into `DIRECTIONS`: onset, offset, full, held, or none (neutral clips).
        identity: int64 (N,), whose face's shape it is; skin, hair and light are drawn for each clip. Identities of
            the two splits are made of different components and never equal.
        pose: float16 (N, T, 3), yaw, pitch and roll of the head in degrees before alignment took the roll out.
            Negative yaw: turned towards the left of the picture; negative pitch: looking up; positive roll:
            counter-clockwise.
        light: float16 (N, 4): unit direction towards the main light (right, up, towards the viewer) and the share of
            light that comes from everywhere.
        reverse_of: int64 (N,), index of the clip whose frames these are in reverse; -1 for none.
        index: int64 (N,), index of the clip within its split.
    """

    frames: NDArray[np.uint8]
    emotions: NDArray[np.int64]
    preceding: NDArray[np.int64]
    action_units: NDArray[np.float16]
    envelope: NDArray[np.float16]
    phase: NDArray[np.uint8]
    direction: NDArray[np.uint8]
    identity: NDArray[np.int64]
    pose: NDArray[np.float16]
    light: NDArray[np.float16]
    reverse_of: NDArray[np.int64]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)

    @staticmethod
    def joined(parts: list[RenderedClips]) -> RenderedClips:
        """Clips of several parts, one after the other; at least one part."""
        return RenderedClips(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


_FIELDS = tuple(field.name for field in fields(RenderedClips))
_SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "frames": ("uint8", (FRAMES, SIDE, SIDE)),
    "emotions": ("int64", ()),
    "preceding": ("int64", ()),
    "action_units": ("float16", (FRAMES, len(ACTION_UNITS))),
    "envelope": ("float16", (FRAMES,)),
    "phase": ("uint8", (FRAMES,)),
    "direction": ("uint8", ()),
    "identity": ("int64", ()),
    "pose": ("float16", (FRAMES, 3)),
    "light": ("float16", (4,)),
    "reverse_of": ("int64", ()),
    "index": ("int64", ()),
}


def shard_path(folder: Path, split: str, first: int) -> Path:
    """Where the shard that begins with clip ``first`` lies."""
    return folder / f"{split}-{first:06d}.safetensors"


def save_shard(clips: RenderedClips, path: Path, *, seed: int) -> None:
    """Write a shard so that a reader sees either nothing or all of it.

    Raises:
        OutputError: the folder cannot be made, or the disk is full.
    """
    arrays = {name: np.ascontiguousarray(getattr(clips, name)) for name in _FIELDS}
    names = {name: json.dumps(list(values)) for name, values in _NAMES.items()}
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, unfinished, {"format": FORMAT, "seed": str(seed), **names})
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder or make room") from error


def load_shard(path: Path) -> RenderedClips:
    """Read one shard.

    Raises:
        SourceUnreadableError: the file is no shard of this format, or names other classes or action units.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in _FIELDS}
    except (OSError, SafetensorError) as error:
        raise SourceUnreadableError(f"{path}: not a shard of rendered clips; delete it and render again") from error
    wanted = {"format": FORMAT} | {name: json.dumps(list(values)) for name, values in _NAMES.items()}
    for name, value in wanted.items():
        if metadata.get(name) != value:
            raise SourceUnreadableError(f"{path}: its {name} are not this version's; delete it and render again")
    for name, (dtype, shape) in _SHAPES.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != (len(arrays["frames"]), *shape):
            raise SourceUnreadableError(f"{path}: {name} is {array.dtype} {array.shape}; delete it and render again")
    return RenderedClips(**arrays)


def shard_seed(path: Path) -> int:
    """Seed a readable shard was rendered with."""
    with safe_open(path, framework="numpy") as file:
        return int(file.metadata()["seed"])


def load_shards(folder: Path, split: str) -> RenderedClips:
    """Read all finished shards of ``split`` (``train`` or ``val``) in the order of their clips.

    Raises:
        SourceNotFoundError: the folder holds no shard of that split.
        SourceUnreadableError: a shard cannot be read.
    """
    paths = sorted(folder.glob(f"{split}-[0-9]*.safetensors"))
    if not paths:
        raise SourceNotFoundError(
            f"{folder}: no rendered clips of split {split}; run python -m streamfer_builtin.mini render"
        )
    return RenderedClips.joined([load_shard(path) for path in paths])

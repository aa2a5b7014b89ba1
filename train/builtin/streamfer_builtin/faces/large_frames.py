"""Which input size keeps small faces of a 1080p frame findable: recall by face size, and the time it costs.

Frames are 1920 x 1080 walls of validation composites at their own scale, so every face size from 32 px up occurs in
known numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamfer_builtin.faces.detectors import Detector, Found, OnnxDetector, milliseconds, suppressed
from streamfer_builtin.faces.labels import FloatArray, Picture
from streamfer_builtin.faces.metrics import Reference, Tally, tally

WIDTH, HEIGHT = 1920, 1080
BANDS = ((32.0, 48.0), (48.0, 64.0), (64.0, 96.0), (96.0, 400.0))
"""Face sizes in pixels of the frame: square root of the box's area, from, to."""
_TILE_OVERLAP = 0.15


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to look at a large frame: ``tiles`` columns and rows, each shrunk to ``longer_side`` pixels."""

    longer_side: int
    tiles: tuple[int, int] = (1, 1)

    @property
    def name(self) -> str:
        """As printed in the table."""
        columns, rows = self.tiles
        return f"{self.longer_side}" if self.tiles == (1, 1) else f"{columns}x{rows} tiles at {self.longer_side}"


SETTINGS = (
    Setting(640), Setting(960), Setting(1280), Setting(1920), Setting(640, (2, 2)), Setting(640, (3, 2)),
)  # fmt: skip


def walls(samples: list[tuple[Picture, Reference]]) -> list[tuple[Picture, Reference]]:
    """1080p frames, each a grid of square pictures of one size with their references moved along."""
    side = samples[0][0].shape[0]
    columns, rows = WIDTH // side, HEIGHT // side
    frames = []
    for start in range(0, len(samples) - columns * rows + 1, columns * rows):
        frame = np.full((HEIGHT, WIDTH, 3), 64, np.uint8)
        boxes, landmarks, counted = [], [], []
        for place in range(columns * rows):
            picture, reference = samples[start + place]
            left, top = place % columns * side, place // columns * side
            frame[top : top + side, left : left + side] = picture
            boxes.append(reference.boxes + np.array([left, top, left, top], np.float32))
            landmarks.append(reference.landmarks + np.array([left, top], np.float32))
            counted.append(reference.counted)
        joined = Reference(np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(counted))
        frames.append((frame, joined))
    return frames


def find_in_tiles(detector: Detector, frame: Picture, tiles: tuple[int, int]) -> Found:
    """Faces of a frame searched in overlapping tiles; a face cut by a tile is found whole by its neighbour."""
    columns, rows = tiles
    height, width = frame.shape[:2]
    wide = round(width / (columns - (columns - 1) * _TILE_OVERLAP))
    tall = round(height / (rows - (rows - 1) * _TILE_OVERLAP))
    parts: list[Found] = []
    for top in np.linspace(0, height - tall, rows).round().astype(int):
        for left in np.linspace(0, width - wide, columns).round().astype(int):
            found = detector.find(np.ascontiguousarray(frame[top : top + tall, left : left + wide]))
            shift = np.array([left, top], np.float32)
            parts.append(Found(found.boxes + np.tile(shift, 2), found.landmarks + shift, found.scores))
    return suppressed(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def pass_milliseconds(weights: Path, setting: Setting) -> float:
    """CPU time of all passes that a setting needs for one frame, one thread, without resizing and decoding."""
    columns, rows = setting.tiles
    wide = WIDTH / (columns - (columns - 1) * _TILE_OVERLAP)
    tall = HEIGHT / (rows - (rows - 1) * _TILE_OVERLAP)
    scale = min(1.0, setting.longer_side / max(wide, tall))
    height, width = (-(-round(side * scale) // 32) * 32 for side in (tall, wide))
    return columns * rows * milliseconds(weights, height, width, runs=20)


def large_frame_table(weights: Path, samples: list[tuple[Picture, Reference]], threshold: float) -> str:
    """A Markdown table: recall by size band, false positives a frame and milliseconds for each setting."""
    frames = walls(samples)
    header = " | ".join(f"{low:.0f}-{high:.0f} px" for low, high in BANDS)
    lines = [f"| input, longer side | {header} | false a frame | ms a frame |", "|---" * (len(BANDS) + 3) + "|"]
    for setting in SETTINGS:
        detector = OnnxDetector(weights, longer_side=setting.longer_side)
        sums = [Tally() for _ in BANDS]
        for frame, reference in frames:
            found = find_in_tiles(detector, frame, setting.tiles).above(threshold)
            for index, band in enumerate(BANDS):
                sums[index] += tally(found, _in_band(reference, band))
        recalls = " | ".join(f"{each.recall:.3f} ({each.faces})" for each in sums)
        false = sums[0].false_per_picture
        lines.append(f"| {setting.name} | {recalls} | {false:.2f} | {pass_milliseconds(weights, setting):.1f} |")
    return "\n".join(lines) + "\n"


def _in_band(reference: Reference, band: tuple[float, float]) -> Reference:
    sides: FloatArray = np.maximum(reference.boxes[:, 2:] - reference.boxes[:, :2], 0)
    sizes = np.sqrt(sides.prod(axis=1))
    return Reference(
        reference.boxes, reference.landmarks, reference.counted & (sizes >= band[0]) & (sizes < band[1])
    )  # fmt: skip

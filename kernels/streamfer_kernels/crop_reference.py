"""The definition of :func:`streamfer_kernels.crop_faces` in plain torch: for CPUs, and to check the kernel against.

Shape suffixes: H, W frame, S crop, P samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from streamfer_kernels.crops import MOST_SAMPLES, Colours


def reference_crops(
    luma: torch.Tensor,
    chroma: torch.Tensor | None,
    matrices: torch.Tensor,
    frame_index: torch.Tensor | None,
    size: int,
    colours: Colours,
    scales: Sequence[float],
    offsets: Sequence[float],
) -> torch.Tensor:
    """Return float32 crops (F, 3, S, S); arguments as for the operator."""
    device = luma.device
    indices = frame_index.tolist() if frame_index is not None else [0] * len(matrices)
    scale = torch.tensor(scales, device=device)[:, None, None]
    offset = torch.tensor(offsets, device=device)[:, None, None]
    out = torch.full((len(matrices), 3, size, size), math.nan, device=device)
    for face, (matrix, frame) in enumerate(zip(matrices.tolist(), indices, strict=True)):
        inverse = _inverse(matrix)
        if inverse is None or not 0 <= frame < len(luma):
            continue
        uv = None if chroma is None else chroma[frame]
        out[face] = _mean_colours(luma[frame], uv, inverse, size, colours) * scale + offset
    return out


def _inverse(matrix: list[list[float]]) -> list[list[float]] | None:
    (a, b, shift_x), (c, d, shift_y) = matrix
    area = a * d - b * c
    if not (1e-12 < abs(area) < 1e12 and abs(shift_x) < 1e9 and abs(shift_y) < 1e9):
        return None
    x_by_u, x_by_v, y_by_u, y_by_v = d / area, -b / area, -c / area, a / area
    return [
        [x_by_u, x_by_v, -x_by_u * shift_x - x_by_v * shift_y],
        [y_by_u, y_by_v, -y_by_u * shift_x - y_by_v * shift_y],
    ]


def _samples(x_step: float, y_step: float) -> int:
    return min(MOST_SAMPLES, max(1, math.ceil(math.hypot(x_step, y_step) - 1e-3)))


def _mean_colours(
    luma: torch.Tensor, chroma: torch.Tensor | None, inverse: list[list[float]], size: int, colours: Colours
) -> torch.Tensor:
    across, down = (_samples(inverse[0][axis], inverse[1][axis]) for axis in (0, 1))
    place = torch.arange(size, device=luma.device, dtype=torch.float64)
    total = torch.zeros(3, size, size, device=luma.device)
    for row in range(down):
        v = (place + (row + 0.5) / down - 0.5)[:, None]
        for column in range(across):
            u = (place + (column + 0.5) / across - 0.5)[None, :]
            x, y = (by_u * u + by_v * v + shift for by_u, by_v, shift in inverse)
            total += _colours_at(luma, chroma, x.float(), y.float(), colours)
    return total / (across * down)


def _colours_at(
    luma: torch.Tensor, chroma: torch.Tensor | None, x: torch.Tensor, y: torch.Tensor, colours: Colours
) -> torch.Tensor:
    if chroma is None:
        return torch.stack([_bilinear(luma[..., channel], x, y) for channel in range(3)])
    brightness = (_bilinear(luma, x, y) - colours.y_offset) * colours.y_scale
    half_x, half_y = (x - colours.chroma_x) / 2, (y - colours.chroma_y) / 2
    u, v = (_bilinear(chroma[:, start::2], half_x, half_y) - 128 for start in (0, 1))
    red = brightness + colours.red_v * v
    green = brightness + colours.green_u * u + colours.green_v * v
    blue = brightness + colours.blue_u * u
    return torch.stack([red, green, blue]).clamp(0, 255)


def _bilinear(plane_HW: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    height, width = plane_HW.shape
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, above = x.long(), y.long()
    right, below = (left + 1).clamp(max=width - 1), (above + 1).clamp(max=height - 1)
    across, down = x - left, y - above
    a, b, c, d = (plane_HW[row, column].float() for row in (above, below) for column in (left, right))
    first, second = a + (b - a) * across, c + (d - c) * across
    return first + (second - first) * down

"""From a face in a frame to the square of pixels a model was trained to see.

Coordinates are pixel indices: the centre of the first pixel is (0, 0). A transform is a float64 (2, 3) matrix
that takes frame coordinates to crop coordinates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from streamfer.faces.images import as_rgb
from streamfer.geometry import CropProfile

if TYPE_CHECKING:
    import torch

#: Where a detector's box holds the five landmarks of a frontal face (fractions of its width and height): medians
#: over 1,500 pictures labelled by YuNet, made symmetric. They stand in where a detector gives no landmarks.
LANDMARKS_IN_BOX = np.array(
    [(0.266, 0.360), (0.734, 0.360), (0.500, 0.579), (0.304, 0.741), (0.696, 0.741)], np.float64
)
#: The picture is shrunk by area averaging first when a crop needs less than this scale; the warp does the rest.
SHRINK_BELOW = 0.8


def landmarks_within(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the landmarks (N, 5, 2) that a frontal face would have in boxes (N, 4), pixels."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sizes = boxes[:, None, 2:] - boxes[:, None, :2]
    return (boxes[:, None, :2] + LANDMARKS_IN_BOX * sizes).astype(np.float32)


def similarity_transforms(points: NDArray[np.floating], targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the similarities (N, 2, 3) nearest by least squares from points (N, K, 2) to targets (K, 2) or (N, K, 2).

    A similarity is a rotation, one scale and a shift; NaN where the points of a face coincide or are not finite.
    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (PAMI 1991),
    which in the plane is one complex division: with both sets centred and read as complex numbers z and w, the
    rotation and scale are sum(conj(z) w) / sum(|z|^2).
    """
    source = np.asarray(points, np.float64)
    target = np.broadcast_to(np.asarray(targets, np.float64), source.shape)
    source_mean, target_mean = source.mean(axis=1), target.mean(axis=1)
    z = (source - source_mean[:, None]) @ np.array([1, 1j])
    w = (target - target_mean[:, None]) @ np.array([1, 1j])
    spread = (z.conj() * z).real.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = (z.conj() * w).sum(axis=1) / np.where(spread > 1e-9, spread, np.nan)
    matrices = np.empty((len(source), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = turn.real, -turn.imag
    matrices[:, 1, 0], matrices[:, 1, 1] = turn.imag, turn.real
    matrices[:, :, 2] = target_mean - np.einsum("nij,nj->ni", matrices[:, :, :2], source_mean)
    return matrices


def box_transforms(boxes: NDArray[np.floating], size: int, margin: float) -> NDArray[np.float64]:
    """Return the maps (N, 2, 3) that squash boxes (N, 4), grown by ``margin`` on each side, to size x size."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    grown = (boxes[:, 2:] - boxes[:, :2]) * margin
    corner = boxes[:, :2] - grown
    scale = size / np.maximum(boxes[:, 2:] + grown - corner, 1e-6)
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0], matrices[:, 1, 1] = scale[:, 0], scale[:, 1]
    # Box edges lie between pixels, indices on their centres: hence the halves.
    matrices[:, :, 2] = (0.5 - corner) * scale - 0.5
    return matrices


def crop_transforms(
    boxes: NDArray[np.floating], landmarks: NDArray[np.floating], profile: CropProfile
) -> NDArray[np.float64]:
    """Return the maps (N, 2, 3) from frame to crop pixels that ``profile`` asks for.

    A face without landmarks (NaN), or whose landmarks coincide, is cut as if a frontal face filled its box, so
    that crops with and without landmarks look alike.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if profile.kind == "box":
        return box_transforms(boxes, profile.size, profile.margin)
    points = np.asarray(landmarks, np.float64).reshape(-1, 5, 2)
    targets = np.asarray(profile.landmarks, np.float64)
    matrices = similarity_transforms(points, targets)
    lacking = ~np.isfinite(matrices).all(axis=(1, 2))
    if lacking.any():
        matrices[lacking] = similarity_transforms(landmarks_within(boxes[lacking]), targets)
    return matrices


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Return the uint8 (size, size, 3) crop of a uint8 RGB picture, free of aliasing, edge pixels repeated."""
    height, width = image.shape[:2]
    (x1, y1, x2, y2), small, local = _steps(matrix, size, width, height)
    window: NDArray[np.integer | np.floating] = image[y1:y2, x1:x2]
    if small != (x2 - x1, y2 - y1):
        window = cv2.resize(window, small, interpolation=cv2.INTER_AREA)
    crop = cv2.warpAffine(window, local, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8)


def _steps(
    matrix: NDArray[np.float64], size: int, width: int, height: int
) -> tuple[tuple[int, int, int, int], tuple[int, int], NDArray[np.float64]]:
    """Return how a crop is cut: of which window (x1 y1 x2 y2), shrunk to (width, height), by which map from there."""
    # Plain numbers, since arrays of two take ten times as long.
    (a, b, c), (d, e, f) = matrix.tolist()
    window = x1, y1, x2, y2 = _source_window(matrix, size, width, height)
    full = x2 - x1, y2 - y1
    shrink_x, shrink_y = (min(1.0, scale / SHRINK_BELOW) for scale in (math.hypot(a, d), math.hypot(b, e)))
    small = max(1, round(full[0] * shrink_x)), max(1, round(full[1] * shrink_y))
    # Crop from shrunken window: index u of the window is frame index (u + 0.5) * step - 0.5 + corner.
    across, down = full[0] / small[0], full[1] / small[1]
    x, y = 0.5 * across - 0.5 + x1, 0.5 * down - 0.5 + y1
    local = np.array([(a * across, b * down, c + (a * x + b * y)), (d * across, e * down, f + (d * x + e * y))])
    return window, small, local


def crop_faces(
    image: NDArray[np.uint8], boxes: NDArray[np.floating], landmarks: NDArray[np.floating], profile: CropProfile
) -> NDArray[np.uint8]:
    """Cut the faces of one frame (uint8 RGB (H, W, 3)): uint8 (F, S, S, 3) with S = ``profile.size``.

    Boxes (F, 4) may reach beyond the frame, whose edge is then repeated; landmarks (F, 5, 2) are NaN where absent.

    Raises:
        ValueError: the frame has no pixels, or a box is not finite.
    """
    image = as_rgb(image)
    matrices = crop_transforms(boxes, landmarks, profile)
    crops = np.empty((len(matrices), profile.size, profile.size, 3), np.uint8)
    if len(matrices) and image.size == 0:
        raise ValueError("crop_faces: the frame has no pixels")
    for crop, matrix in zip(crops, _finite(matrices), strict=True):
        crop[:] = warp(image, matrix, profile.size)
    return crops


def _finite(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(matrices).all():
        raise ValueError("crop_faces: a box holds numbers that are not finite")
    return matrices


def crop_surface(
    picture: torch.Tensor, boxes: NDArray[np.floating], landmarks: NDArray[np.floating], profile: CropProfile
) -> torch.Tensor:
    """Cut the faces of a frame as :func:`crop_faces` does, on the GPU on which it lies: uint8 RGB (F, S, S, 3).

    Mostly the same numbers, else a level off. One copy goes to the GPU, and nothing waits for it.
    """
    import torch

    size, device = profile.size, picture.device
    height, width = picture.shape[:2]
    matrices = _finite(crop_transforms(boxes, landmarks, profile))
    plans = [_steps(matrix, size, width, height) for matrix in matrices]
    # From pixels of the crop to the shrunken window in units of grid_sample, -1 to 1 between the outermost centres.
    to_window = np.zeros((len(plans), 2, 3), np.float32)
    for row, (_, small, local) in zip(to_window, plans, strict=True):
        row[:] = cv2.invertAffineTransform(local) * (2 / np.maximum(np.array(small) - 1, 1)[:, None])
        row[:, 2] -= 1
    places = torch.arange(size, dtype=torch.float32, device=device)
    pixels = torch.stack([*torch.meshgrid(places, places, indexing="xy"), torch.ones_like(places).expand(size, size)])
    grids = torch.einsum("nij,jhw->nhwi", sent(to_window, device), pixels)
    crops = torch.empty((len(plans), size, size, 3), dtype=torch.uint8, device=device)
    for crop, grid, ((x1, y1, x2, y2), small, _) in zip(crops, grids, plans, strict=True):
        window = picture[y1:y2, x1:x2].permute(2, 0, 1).float()
        if small != (x2 - x1, y2 - y1):
            window = _averages(y2 - y1, small[1], device) @ window
            window = (window @ _averages(x2 - x1, small[0], device).T).round_()
        cut = torch.nn.functional.grid_sample(window[None], grid[None], padding_mode="border", align_corners=True)
        crop.copy_(cut[0].permute(1, 2, 0).round_())
    return crops


def sent(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Return an array on a device; nothing waits for the copy."""
    import torch

    here = torch.from_numpy(array)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here


def _averages(full: int, small: int, device: torch.device) -> torch.Tensor:
    """Return the shares (small, full) of a line's pixels in those of the same line shrunk by averaging."""
    import torch

    step = full / small
    first = torch.arange(small, dtype=torch.float32, device=device)[:, None] * step
    pixel = torch.arange(full, dtype=torch.float32, device=device)
    return ((first + step).minimum(pixel + 1) - first.maximum(pixel)).clamp_(min=0) / step


def _source_window(matrix: NDArray[np.float64], size: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of the frame (x1 y1 x2 y2) that a crop reads: at least one pixel, some to spare."""
    (a, b, c), (d, e, f) = matrix.tolist()
    corners = [(x - c, y - f) for x in (-1, size) for y in (-1, size)]
    whole = a * e - b * d
    xs, ys = [(e * x - b * y) / whole for x, y in corners], [(a * y - d * x) / whole for x, y in corners]
    spare = 2 + 2 / max(1e-6, math.hypot(a, d))
    left = min(max(0, math.floor(min(xs) - spare)), width - 1)
    top = min(max(0, math.floor(min(ys) - spare)), height - 1)
    right = max(left + 1, min(width, math.ceil(max(xs) + spare) + 1))
    bottom = max(top + 1, min(height, math.ceil(max(ys) + spare) + 1))
    return left, top, right, bottom

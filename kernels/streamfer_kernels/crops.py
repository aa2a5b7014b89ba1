"""Faces cut out of frames on the device: aligned, antialiased, converted to RGB and normalised by one launch.

A crop pixel (u, v) covers a parallelogram of the frame. It is the mean of a regular grid of samples in there, at
crop coordinates u + (i + 1/2) / k - 1/2: one sample for each pixel of the frame that the side spans (k is that
length rounded up, 16 at most), each interpolated bilinearly between pixel centres, edges repeated. Pixel centres
are at whole numbers, as for cv2.warpAffine.

NV12 is interpolated before it is converted, luma and chroma each on their own grid; a sample's colours are then
held to 0..255. Chroma sits on the left between two rows (MPEG-2, H.264 and most decoders) or in the centre (JPEG).
Constants: ITU-R BT.601-7 and BT.709-6, section 3.

Shape suffixes: K frames, F faces, S side of a crop.
"""
# Fake implementations and set-ups of gradients take all of an operator's arguments.
# ruff: noqa: ARG001

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch

from streamfer_kernels import checks
from streamfer_kernels.backend import choice
from streamfer_kernels.devices import on_device_of_first

ColourMatrix = Literal["bt601", "bt709"]
ChromaSite = Literal["left", "centre"]
PixelFormat = Literal["rgb", "nv12"]
#: Samples along a side of a crop pixel, at most: beyond 16 frame pixels a crop pixel, some are skipped.
MOST_SAMPLES = 16
LARGEST_SIDE = 1024
_PIXELS = 256
_LUMA_WEIGHTS: dict[ColourMatrix, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


@dataclass(frozen=True, slots=True)
class Colours:
    """How stored values become red, green and blue, 0 to 255: (y - offset) scale, plus parts of u and v - 128."""

    y_offset: float
    y_scale: float
    red_v: float
    green_u: float
    green_v: float
    blue_u: float
    chroma_x: float
    chroma_y: float


def colours(matrix: ColourMatrix, full_range: bool, chroma: ChromaSite = "left") -> Colours:
    """Return the constants of a colour matrix and range; chroma offsets are in luma pixels."""
    red, blue = _LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    y_scale, c_scale = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    return Colours(
        y_offset=0.0 if full_range else 16.0,
        y_scale=y_scale,
        red_v=2 * (1 - red) * c_scale,
        green_u=-2 * (1 - blue) * blue / green * c_scale,
        green_v=-2 * (1 - red) * red / green * c_scale,
        blue_u=2 * (1 - blue) * c_scale,
        chroma_x=0.0 if chroma == "left" else 0.5,
        chroma_y=0.5,
    )


def crop_faces(
    frames: torch.Tensor,
    matrices: torch.Tensor,
    size: int,
    *,
    frame_index: torch.Tensor | None = None,
    pixel_format: PixelFormat = "rgb",
    colour_matrix: ColourMatrix = "bt709",
    full_range: bool = False,
    chroma: ChromaSite = "left",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Cut one square crop for each matrix: (F, 3, S, S), RGB / 255, less mean, over std.

    A face whose matrix is singular or not finite, or whose frame does not exist, becomes a crop of NaN.

    Args:
        frames: uint8. ``rgb``: (K, H, W, 3), pixels packed, any distance between rows and frames. ``nv12``:
            (K, 3 H / 2, W), luma rows and then rows of interleaved chroma, as decoders give it; H and W even.
        matrices: float32 (F, 2, 3), contiguous: from frame pixels to crop pixels, as for cv2.warpAffine.
        size: S, pixels.
        frame_index: int32 or int64 (F,): which frame a face is in; None where there is one frame.
        pixel_format: ``rgb`` or ``nv12``.
        colour_matrix: ``bt601`` or ``bt709`` (NV12).
        full_range: whether luma spans 0..255, not 16..235 (NV12).
        chroma: where chroma samples sit: ``left`` or ``centre`` (NV12).
        mean: of the normalisation, red, green, blue in 0..1.
        std: likewise.
        dtype: of the crops: float32, bfloat16 or float16.

    Raises:
        TypeError: an argument of another type or dtype.
        ValueError: a shape, stride, device or number that does not fit.
    """
    luma, chroma_plane = _planes(frames, pixel_format)
    checks.tensor("matrices", matrices, (None, 2, 3), (torch.float32,), frames.device)
    checks.contiguous("matrices", matrices)
    checks.whole_number("size", size, 1, LARGEST_SIDE)
    if frame_index is not None:
        checks.tensor("frame_index", frame_index, (matrices.shape[0],), (torch.int32, torch.int64), frames.device)
        checks.contiguous("frame_index", frame_index)
    elif frames.shape[0] != 1:
        raise ValueError(f"frame_index is None with {frames.shape[0]} frames; expected one index for each matrix")
    for name, found, expected in (
        ("colour_matrix", colour_matrix, get_args(ColourMatrix)),
        ("chroma", chroma, get_args(ChromaSite)),
    ):
        if found not in expected:
            raise ValueError(f"{name} is {found!r}; expected {' or '.join(expected)}")
    if dtype not in checks.FLOATS:
        raise TypeError(f"dtype is {dtype}; expected {checks.dtype_names(checks.FLOATS)}")
    scales, offsets = _normalisation(mean, std)
    checks.no_gradients("crop_faces", matrices=matrices)
    fast = choice(
        "crop_faces", frames.device, dtype, faces=matrices.shape[0], side=size, planar=int(chroma_plane is not None)
    )
    constants = colours(colour_matrix, full_range, chroma)
    crops: torch.Tensor = _crop(
        luma, chroma_plane, matrices, frame_index, size, _as_list(constants), scales, offsets, dtype,
        fast.backend == "triton",
    )  # fmt: skip
    return crops


def _planes(frames: torch.Tensor, pixel_format: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    if pixel_format == "rgb":
        checks.tensor("frames", frames, (None, None, None, 3), (torch.uint8,))
        if frames.stride(3) != 1 or (frames.shape[2] > 1 and frames.stride(2) != 3):
            raise ValueError(f"frames has strides {frames.stride()}; expected packed pixels (strides ..., 3, 1)")
        return frames, None
    if pixel_format != "nv12":
        raise ValueError(f"pixel_format is {pixel_format!r}; expected rgb or nv12")
    checks.tensor("frames", frames, (None, None, None), (torch.uint8,))
    rows, width = frames.shape[1:]
    if rows % 3 or width % 2:
        raise ValueError(f"frames has shape {tuple(frames.shape)}; expected (K, 3 H / 2, W) with H and W even")
    checks.rows_contiguous("frames", frames)
    height = rows // 3 * 2
    return frames[:, :height], frames[:, height:]


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Scales and offsets of values in 0..255."""
    for name, values in (("mean", mean), ("std", std)):
        if not hasattr(values, "__len__") or not all(isinstance(value, Real) for value in values):
            raise TypeError(f"{name} is {values!r}; expected 3 numbers (red, green, blue)")
        if len(values) != 3:
            raise ValueError(f"{name} has {len(values)} numbers; expected 3 (red, green, blue)")
    if not all(math.isfinite(value) for value in mean):
        raise ValueError(f"mean is {tuple(mean)}; expected finite numbers")
    if not all(0 < value < math.inf for value in std):
        raise ValueError(f"std is {tuple(std)}; expected positive numbers")
    return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def _as_list(constants: Colours) -> list[float]:
    return [
        constants.y_offset, constants.y_scale, constants.red_v, constants.green_u, constants.green_v,
        constants.blue_u, constants.chroma_x, constants.chroma_y,
    ]  # fmt: skip


@torch.library.custom_op(
    "streamfer_kernels::crop_faces",
    mutates_args=(),
    schema="(Tensor luma, Tensor? chroma, Tensor matrices, Tensor? frame_index, int size, float[] colours, "
    "float[] scales, float[] offsets, ScalarType dtype, bool fast) -> Tensor",
)
def _crop(
    luma: torch.Tensor,
    chroma: torch.Tensor | None,
    matrices: torch.Tensor,
    frame_index: torch.Tensor | None,
    size: int,
    colours: Sequence[float],
    scales: Sequence[float],
    offsets: Sequence[float],
    dtype: torch.dtype,
    fast: bool,
) -> torch.Tensor:
    if fast:
        return launch_crop(luma, chroma, matrices, frame_index, size, colours, scales, offsets, dtype)
    from streamfer_kernels.crop_reference import reference_crops

    return reference_crops(luma, chroma, matrices, frame_index, size, Colours(*colours), scales, offsets).to(dtype)


@_crop.register_fake
def _(
    luma: torch.Tensor, chroma: torch.Tensor | None, matrices: torch.Tensor, frame_index: torch.Tensor | None,
    size: int, colours: Sequence[float], scales: Sequence[float], offsets: Sequence[float], dtype: torch.dtype,
    fast: bool,
) -> torch.Tensor:  # fmt: skip
    return matrices.new_empty(matrices.shape[0], 3, size, size, dtype=dtype)


@on_device_of_first
def launch_crop(
    luma: torch.Tensor,
    chroma: torch.Tensor | None,
    matrices: torch.Tensor,
    frame_index: torch.Tensor | None,
    size: int,
    colours: Sequence[float],
    scales: Sequence[float],
    offsets: Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Cut the crops with Triton."""
    from streamfer_kernels.crop_kernels import crop

    faces, device = matrices.shape[0], luma.device
    out = torch.empty(faces, 3, size, size, dtype=dtype, device=device)
    second = chroma if chroma is not None else luma
    index = frame_index if frame_index is not None else matrices
    crop[(faces * -(-size * size // _PIXELS),)](
        luma, second, matrices, index, out,
        luma.shape[0], luma.shape[2], luma.shape[1], luma.stride(0), luma.stride(1),
        second.stride(0), second.stride(1), *colours, *scales, *offsets,
        SIDE=size, PIXELS=_PIXELS, MOST=MOST_SAMPLES, PLANAR=chroma is not None, INDEXED=frame_index is not None,
        num_warps=4,
    )  # fmt: skip
    return out

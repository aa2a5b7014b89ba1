"""Triton kernel that cuts faces out of frames: warp, antialiasing, colour conversion and normalisation at once.

What it computes is defined in ``crops.py``.
"""
# Kernels are typed by Triton, whose decorator and tensors mypy cannot see.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bilinear(plane, x, y, width, height, row_stride, PIXEL: tl.constexpr):
    """Sample one channel between pixel centres; edges are repeated. PIXEL: distance of neighbours in a row."""
    x = tl.minimum(tl.maximum(x, 0.0), (width - 1).to(tl.float32))
    y = tl.minimum(tl.maximum(y, 0.0), (height - 1).to(tl.float32))
    left, above = x.to(tl.int32), y.to(tl.int32)
    right, below = tl.minimum(left + 1, width - 1), tl.minimum(above + 1, height - 1)
    across, down = x - left.to(tl.float32), y - above.to(tl.float32)
    upper, lower = plane + above.to(tl.int64) * row_stride, plane + below.to(tl.int64) * row_stride
    a = tl.load(upper + left * PIXEL).to(tl.float32)
    b = tl.load(upper + right * PIXEL).to(tl.float32)
    c = tl.load(lower + left * PIXEL).to(tl.float32)
    d = tl.load(lower + right * PIXEL).to(tl.float32)
    first, second = a + (b - a) * across, c + (d - c) * across
    return first + (second - first) * down


@triton.jit
def sample(
    luma, chroma, x, y, width, height, row_stride, chroma_stride, y_offset, y_scale, red_v, green_u, green_v, blue_u,
    chroma_x, chroma_y, PLANAR: tl.constexpr,
):  # fmt: skip
    """Return red, green and blue, 0 to 255, at a point of the frame."""
    if PLANAR:
        brightness = (bilinear(luma, x, y, width, height, row_stride, 1) - y_offset) * y_scale
        cx, cy = (x - chroma_x) * 0.5, (y - chroma_y) * 0.5
        u = bilinear(chroma, cx, cy, width // 2, height // 2, chroma_stride, 2) - 128.0
        v = bilinear(chroma + 1, cx, cy, width // 2, height // 2, chroma_stride, 2) - 128.0
        red = brightness + red_v * v
        green = brightness + green_u * u + green_v * v
        blue = brightness + blue_u * u
        red = tl.minimum(tl.maximum(red, 0.0), 255.0)
        green = tl.minimum(tl.maximum(green, 0.0), 255.0)
        blue = tl.minimum(tl.maximum(blue, 0.0), 255.0)
    else:
        red = bilinear(luma, x, y, width, height, row_stride, 3)
        green = bilinear(luma + 1, x, y, width, height, row_stride, 3)
        blue = bilinear(luma + 2, x, y, width, height, row_stride, 3)
    return red, green, blue


@triton.jit(do_not_specialize=["frames", "width", "height"])
def crop(
    luma, chroma, matrices, frame_index, out, frames, width, height, frame_stride, row_stride,
    chroma_frame_stride, chroma_stride, y_offset, y_scale, red_v, green_u, green_v, blue_u, chroma_x, chroma_y,
    red_scale, green_scale, blue_scale, red_offset, green_offset, blue_offset,
    SIDE: tl.constexpr, PIXELS: tl.constexpr, MOST: tl.constexpr, PLANAR: tl.constexpr, INDEXED: tl.constexpr,
):  # fmt: skip
    """PIXELS pixels of one face, three channels each."""
    tiles = tl.cdiv(SIDE * SIDE, PIXELS)
    face = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = (tl.program_id(0) % tiles) * PIXELS + tl.arange(0, PIXELS)
    frame = face * 0
    if INDEXED:
        frame = tl.load(frame_index + face).to(tl.int64)
    a, b = tl.load(matrices + face * 6), tl.load(matrices + face * 6 + 1)
    c, d = tl.load(matrices + face * 6 + 3), tl.load(matrices + face * 6 + 4)
    shift_x, shift_y = tl.load(matrices + face * 6 + 2), tl.load(matrices + face * 6 + 5)
    area = a * d - b * c
    # False for NaN and infinity too: each comparison with them fails.
    sound = (tl.abs(area) > 1e-12) & (tl.abs(area) < 1e12) & (tl.abs(shift_x) < 1e9) & (tl.abs(shift_y) < 1e9)
    sound = sound & (frame >= 0) & (frame < frames)
    area = tl.where(sound, area, 1.0)
    a, b = tl.where(sound, a, 1.0), tl.where(sound, b, 0.0)
    c, d = tl.where(sound, c, 0.0), tl.where(sound, d, 1.0)
    shift_x, shift_y = tl.where(sound, shift_x, 0.0), tl.where(sound, shift_y, 0.0)
    frame = tl.where(sound, frame, 0)
    x_by_u, x_by_v, y_by_u, y_by_v = d / area, -b / area, -c / area, a / area
    # One sample a pixel of the frame, at most MOST: between 1 and 1.001 there is no need of a second one.
    across = tl.minimum(tl.maximum(tl.ceil(tl.sqrt(x_by_u * x_by_u + y_by_u * y_by_u) - 1e-3), 1.0), MOST)
    down = tl.minimum(tl.maximum(tl.ceil(tl.sqrt(x_by_v * x_by_v + y_by_v * y_by_v) - 1e-3), 1.0), MOST)
    columns, rows = across.to(tl.int32), down.to(tl.int32)
    u0, v0 = (pixel % SIDE).to(tl.float32) - shift_x, (pixel // SIDE).to(tl.float32) - shift_y
    luma += frame * frame_stride
    chroma += frame * chroma_frame_stride
    red = tl.zeros((PIXELS,), tl.float32)
    green = tl.zeros((PIXELS,), tl.float32)
    blue = tl.zeros((PIXELS,), tl.float32)
    for row in range(0, rows):
        v = v0 + ((row + 0.5) / down - 0.5)
        for column in range(0, columns):
            u = u0 + ((column + 0.5) / across - 0.5)
            r, g, bl = sample(
                luma, chroma, x_by_u * u + x_by_v * v, y_by_u * u + y_by_v * v, width, height, row_stride,
                chroma_stride, y_offset, y_scale, red_v, green_u, green_v, blue_u, chroma_x, chroma_y, PLANAR,
            )  # fmt: skip
            red += r
            green += g
            blue += bl
    share = 1.0 / (across * down)
    share = tl.where(sound, share, float("nan"))
    inside = pixel < SIDE * SIDE
    place = out + face * (3 * SIDE * SIDE) + pixel
    kind = out.dtype.element_ty
    red = red * share * red_scale + red_offset
    green = green * share * green_scale + green_offset
    blue = blue * share * blue_scale + blue_offset
    tl.store(place, red.to(kind), mask=inside)
    tl.store(place + SIDE * SIDE, green.to(kind), mask=inside)
    tl.store(place + 2 * SIDE * SIDE, blue.to(kind), mask=inside)

"""Face crops against warps, conversions and averages of other makers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import DEVICE
from torch.nn import functional as F

from streamfer_kernels import crop_faces, use

MODES = pytest.mark.parametrize("mode", ["triton", "torch"])
#: Colour bars of 75 % in BT.601 and BT.709, limited range: 8-bit RGB and rounded Y, Cb, Cr (ITU-R BT.1729, table 1).
BARS = {
    "bt601": {(191, 191, 191): (180, 128, 128), (191, 191, 0): (162, 44, 142), (0, 191, 191): (131, 156, 44),
              (0, 191, 0): (112, 72, 58), (191, 0, 191): (84, 184, 198), (191, 0, 0): (65, 100, 212),
              (0, 0, 191): (35, 212, 114), (0, 0, 0): (16, 128, 128)},
    "bt709": {(191, 191, 191): (180, 128, 128), (191, 191, 0): (168, 44, 136), (0, 191, 191): (145, 147, 44),
              (0, 191, 0): (133, 63, 52), (191, 0, 191): (63, 193, 204), (191, 0, 0): (51, 109, 212),
              (0, 0, 191): (28, 212, 120), (0, 0, 0): (16, 128, 128)},
}  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (max(2, height // 6), max(2, width // 6), 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def similarity(angle: float, scale: float, x: float, y: float) -> torch.Tensor:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return torch.tensor([[[c, -s, x], [s, c, y]]], dtype=torch.float32, device=DEVICE)


def on_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@MODES
@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
def test_enlarging_is_opencvs_warp(mode: str, angle: float) -> None:
    shown = picture(40, 52)
    matrix = similarity(angle, 1.7, 3.0, 9.0)
    expected = cv2.warpAffine(
        shown.astype(np.float32), matrix[0].cpu().numpy(), (24, 24), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    with use(mode):  # type: ignore[arg-type]
        crops = crop_faces(on_device(shown)[None], matrix, 24)
    found = 255 * crops[0].permute(1, 2, 0).cpu().numpy()
    # OpenCV rounds coordinates to 1/32 of a pixel.
    assert np.abs(found - expected).mean() < 0.5
    assert np.abs(found - expected).max() < 6


@MODES
def test_shrinking_is_the_mean_of_a_finer_grid(mode: str) -> None:
    shown = on_device(picture(60, 60, seed=1))
    matrix = similarity(0.3, 1 / 2.6, -1.0, 2.0)  # 2.6 frame pixels a crop pixel: 3 x 3 samples
    size, many = 10, 3
    inverse = torch.linalg.inv(torch.cat([matrix[0].double().cpu(), torch.tensor([[0.0, 0.0, 1.0]])]))[:2]
    fine = (torch.arange(size * many, dtype=torch.float64) + 0.5) / many - 0.5
    u, v = torch.meshgrid(fine, fine, indexing="xy")
    x, y = (row[0] * u + row[1] * v + row[2] for row in inverse)
    grid = torch.stack([x * 2 / 59 - 1, y * 2 / 59 - 1], -1)[None]
    frame = shown.cpu().double().permute(2, 0, 1)[None]
    sampled = F.grid_sample(frame, grid, align_corners=True, padding_mode="border")
    expected = F.avg_pool2d(sampled, many)[0] / 255
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(shown[None], matrix, size)
    torch.testing.assert_close(found[0].double().cpu(), expected, atol=1e-4, rtol=0)


@MODES
def test_shrinking_shows_no_moire(mode: str) -> None:
    stripes = torch.zeros(64, 64, 3, dtype=torch.uint8, device=DEVICE)
    stripes[:, ::2] = 255  # finer than the crop can show: grey is the only right answer
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(stripes[None], similarity(0.0, 1 / 4, -0.375, -0.375), 14)
    assert float((found - 0.5).abs().max()) < 1e-5


@MODES
@pytest.mark.parametrize("standard", BARS)
def test_colour_bars(mode: str, standard: str) -> None:
    for rgb, (y, u, v) in BARS[standard].items():
        frame = torch.empty(1, 12, 8, dtype=torch.uint8, device=DEVICE)
        frame[:, :8], frame[:, 8:, ::2], frame[:, 8:, 1::2] = y, u, v
        with use(mode):  # type: ignore[arg-type]
            found = crop_faces(
                frame, similarity(0.2, 1.0, 0, 0), 4, pixel_format="nv12",
                colour_matrix=standard,  # type: ignore[arg-type]
            )  # fmt: skip
        levels = 255 * found[0, :, 2, 2].cpu()
        assert float((levels - torch.tensor(rgb, dtype=torch.float32)).abs().max()) < 2, (rgb, levels)


@MODES
def test_full_range_is_jfif(mode: str) -> None:
    rgb = picture(16, 16, seed=4)
    jfif = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)  # OpenCV's own: BT.601, full range
    flat = jfif[8, 8]
    frame = torch.empty(1, 24, 16, dtype=torch.uint8, device=DEVICE)
    frame[:, :16], frame[:, 16:, ::2], frame[:, 16:, 1::2] = int(flat[0]), int(flat[2]), int(flat[1])
    options = {"pixel_format": "nv12", "colour_matrix": "bt601", "full_range": True}
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(frame, similarity(0, 1, 0, 0), 8, **options)  # type: ignore[arg-type]
    assert np.abs(255 * found[0, :, 3, 3].cpu().numpy() - rgb[8, 8]).max() < 2.5


@MODES
@pytest.mark.parametrize(("site", "at"), [("left", 0.0), ("centre", 0.5)])
def test_chroma_lies_where_it_was_said(mode: str, site: str, at: float) -> None:
    # Chroma that rises with x: its value at luma column c tells where its samples sit.
    frame = torch.full((1, 24, 16), 126, dtype=torch.uint8, device=DEVICE)
    frame[:, 16:, ::2] = (torch.arange(8, device=DEVICE) * 4 + 110).to(torch.uint8)
    frame[:, 16:, 1::2] = 128
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(
            frame, similarity(0, 1, 0, 0), 16, pixel_format="nv12", full_range=True, chroma=site,  # type: ignore[arg-type]
        )  # fmt: skip
    column = torch.arange(2, 14)
    expected = 126 + 1.8556 * (110 + 4 * (column - at) / 2 - 128)
    assert float((255 * found[0, 2, 8, 2:14].cpu() - expected).abs().max()) < 0.05


@MODES
def test_frames_rows_and_normalisation(mode: str) -> None:
    frames = torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8, device=DEVICE)
    padded = torch.zeros(3, 20, 40, 3, dtype=torch.uint8, device=DEVICE)[:, :, :30]  # rows further apart
    padded.copy_(frames)
    matrices = similarity(0, 1, -2, -3).expand(4, 2, 3).contiguous()
    index = torch.tensor([2, 0, 1, 2], device=DEVICE)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(padded, matrices, 9, frame_index=index, mean=mean, std=std, dtype=torch.bfloat16)
    plain = frames[index][:, 3:12, 2:11].permute(0, 3, 1, 2).float() / 255
    expected = (plain - torch.tensor(mean, device=DEVICE)[:, None, None]) / torch.tensor(std, device=DEVICE)[
        :, None, None
    ]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.01)


@MODES
def test_senseless_faces_are_nan_and_their_neighbours_are_not(mode: str) -> None:
    frames = torch.randint(0, 256, (2, 9, 9, 3), dtype=torch.uint8, device=DEVICE)
    good = similarity(0.1, 1, 0, 0)
    flat = torch.tensor([[[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]], device=DEVICE)
    nan, far = good.clone(), good.clone()
    nan[0, 1, 2], far[0, 0, 2] = float("nan"), float("inf")
    matrices = torch.cat([good, flat, nan, far, good, good])
    index = torch.tensor([0, 0, 0, 0, 2, 1], device=DEVICE)
    with use(mode):  # type: ignore[arg-type]
        found = crop_faces(frames, matrices, 5, frame_index=index)
    assert found.isnan().flatten(1).all(1).tolist() == [False, True, True, True, True, False]
    assert not found[[0, 5]].isnan().any()


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 17), st.floats(-3.2, 3.2), st.floats(0.3, 4),
    st.floats(-40, 40), st.booleans(),
)  # fmt: skip
def test_kernel_and_definition_agree(
    h: int, w: int, size: int, angle: float, scale: float, x: float, nv12: bool
) -> None:
    shape = (1, 3 * h, 2 * w) if nv12 else (1, h, w, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(h * w)).to(DEVICE)
    crops = []
    for mode in ("triton", "torch"):
        with use(mode):  # type: ignore[arg-type]
            crops.append(
                crop_faces(frames, similarity(angle, scale, x, -x), size, pixel_format="nv12" if nv12 else "rgb")
            )
    # A number of samples may differ where a length is a whole number but for rounding; then means differ a little.
    assert float((crops[0] - crops[1]).abs().mean()) < 2e-3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"frames": torch.zeros(1, 4, 4, 3)}, TypeError, "frames is float32; expected uint8"),
        ({"frames": torch.zeros(1, 4, 4, 4, dtype=torch.uint8)}, ValueError, "frames has shape"),
        ({"frames": torch.zeros(1, 4, 8, 3, dtype=torch.uint8)[:, :, ::2]}, ValueError, "packed pixels"),
        ({"frames": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}, ValueError, "frame_index is None with 2 frames"),
        ({"frames": torch.zeros(1, 7, 4, dtype=torch.uint8), "pixel_format": "nv12"}, ValueError, "H and W even"),
        ({"pixel_format": "yuv"}, ValueError, "pixel_format is 'yuv'"),
        ({"matrices": torch.zeros(0, 2, 3)}, ValueError, "matrices has shape"),
        ({"matrices": torch.zeros(1, 2, 3).double()}, TypeError, "matrices is float64"),
        ({"matrices": torch.zeros(1, 2, 3, requires_grad=True)}, ValueError, "inference"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"size": 4.0}, TypeError, "size is a float"),
        ({"std": (1, 1, 0)}, ValueError, "std is"),
        ({"mean": (1, 1)}, ValueError, "mean has 2"),
        ({"mean": 0.5}, TypeError, "mean is 0.5; expected 3 numbers"),
        ({"std": ("1", 1, 1)}, TypeError, "std is .*; expected 3 numbers"),
        ({"mean": (0, float("nan"), 0)}, ValueError, "mean is .*; expected finite numbers"),
        ({"colour_matrix": "bt2020"}, ValueError, "bt601 or bt709"),
        ({"dtype": torch.float64}, TypeError, "dtype is"),
    ],
)
def test_bad_input_is_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "frames": torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "matrices": torch.eye(2, 3)[None].contiguous(), "size": 4,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        crop_faces(**{**arguments, **changes})  # type: ignore[arg-type]

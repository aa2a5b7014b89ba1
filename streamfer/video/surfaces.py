"""Pictures that NVDEC decodes: only those that are wanted become RGB, on the GPU, and are copied to the host once.

They stay on the GPU as well, for the crops of a model that runs there.

FFmpeg copies each picture out of the decoder's few surfaces by itself, so none is kept from it. A stream that is cut at
its left or top (rare) shows there what the CPU's decoder hides.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av
    import torch
    from av.codec.hwaccel import HWAccel
    from av.stream import Stream

T = TypeVar("T")

#: Shares of red and blue in luma by a matrix's number (ITU-T H.273); the others are read as BT.601, as FFmpeg does.
_SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
_BT601 = (0.299, 0.114)
_FULL = 2
#: Forms of surfaces: 8 bits, and 10 to 16 in the upper bits of 16.
_FORMS = frozenset({"nv12", "p010le", "p016le"})

log = logging.getLogger(__name__)


def gpu_of(device: str) -> int | None:
    """Return the number of the NVIDIA GPU that a device of torch is, such as ``cuda:1``; None where it is none."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None


def opened(gpu: int | None, opening: Callable[[HWAccel | None], T]) -> tuple[T, bool]:
    """Return what ``opening`` makes for FFmpeg to decode on a GPU, or with None on the CPU, and whether on the GPU.

    A GPU whose memory is full refuses for a while: the CPU decodes what is opened meanwhile.
    """
    if gpu is None or not usable(gpu):
        return opening(None), False
    try:
        with _accelerator(gpu) as accelerator:
            return opening(accelerator), True
    except Exception:
        reason = _refusal(gpu)
        if reason is None:
            raise
    _say_once(reason)
    return opening(None), False


@functools.cache
def usable(gpu: int) -> bool:
    """Whether FFmpeg accepts a GPU; says so once where not."""
    reason = _refusal(gpu)
    if reason:
        log.warning("nvdec.absent", extra={"gpu": gpu, "reason": reason})
        return False
    log.info("nvdec.used", extra={"gpu": gpu})
    return True


def _refusal(gpu: int) -> str | None:
    """Return why FFmpeg does not accept a GPU at this moment; None where it does."""
    from av import CodecContext

    try:
        with _accelerator(gpu) as accelerator:
            CodecContext.create("h264", "r", hwaccel=accelerator)
    except Exception as error:  # whatever it is: the CPU decodes as well
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


@contextmanager
def _accelerator(gpu: int) -> Iterator[HWAccel]:
    """Make a GPU the thread's current one for as long as a stream is opened with what is given."""
    import torch
    from av.codec.hwaccel import HWAccel

    # FFmpeg refuses a primary context that torch has made before it; it takes the thread's, which is the same one, as
    # it opens a stream, and keeps it.
    before = torch.cuda.current_device()
    torch.cuda.set_device(gpu)
    try:
        torch.empty(1, device="cuda")
        context: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
        yield HWAccel("cuda", device=str(gpu), options=context, is_hw_owned=True)
    finally:
        torch.cuda.set_device(before)


def suits(stream: Stream | None) -> bool:
    """Whether what NVDEC gives of a stream can be relied on.

    Of VP9, AV1 and others FFmpeg states the sizes of surfaces, not of pictures, which may be odd; H.264's and HEVC's in
    4:2:0 are even.
    """
    context = stream.codec_context if isinstance(stream, VideoStream) else None
    if context is None or context.name not in ("h264", "hevc"):
        return False
    return context.width % 2 == context.height % 2 == 0


def on_device(frame: av.VideoFrame) -> torch.Tensor | None:
    """Return a picture as uint8 RGB (H, W, 3) where it lies; None of forms and sizes that FFmpeg must convert.

    Rounds as FFmpeg does on x86: equal to it in 8 bits, within a level on average beyond, where FFmpeg smooths colours.
    """
    from torch.utils.dlpack import from_dlpack

    form = frame.sw_format or frame.format
    if form.name not in _FORMS or frame.height % 2 or frame.width % 2:
        return None
    # Without a stream, which PyAV refuses: FFmpeg copies the picture on the one on which torch works.
    luma, chroma = (from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    return _rgb(luma, chroma, frame.colorspace, full=frame.color_range == _FULL)


def _rgb(luma: torch.Tensor, chroma: torch.Tensor, matrix: int, *, full: bool) -> torch.Tensor:
    """Return RGB of luma (H, W) and chroma (H/2, W/2, 2), by the number of a matrix, and whether 0 is black."""
    import torch

    black, light, colour = (0.0, 1.0, 1.0) if full else (16.0, 255 / 219, 255 / 224)
    y, c = _levels(luma, full=full), _levels(chroma, full=full)
    # Whole levels, and both terms of green rounded by themselves. Few, large steps: each costs the CPU a launch.
    terms = ((c - 128).mul_(colour)[..., None] * _terms(matrix, c.device)).floor_()
    tint = torch.stack([terms[..., 1, 0], terms[..., 0, 0] + terms[..., 1, 1], terms[..., 0, 1]], dim=-1)
    y = (y - black).mul_(light).floor_()
    rows, columns = tint.shape[:2]
    rgb = y.reshape(rows, 2, columns, 2, 1) + tint.reshape(rows, 1, columns, 1, 3)
    return rgb.clamp_(0, 255).to(torch.uint8).reshape(2 * rows, 2 * columns, 3)


@functools.cache
def _terms(matrix: int, device: torch.device) -> torch.Tensor:
    """Return what blue and red differences (rows) add: to green and blue, to red and green (columns)."""
    import torch

    red, blue = _SHARES.get(matrix, _BT601)
    green = 1 - red - blue
    shares = [[-2 * blue * (1 - blue) / green, 2 * (1 - blue)], [2 * (1 - red), -2 * red * (1 - red) / green]]
    return torch.tensor(shares, device=device)


def _levels(plane: torch.Tensor, *, full: bool) -> torch.Tensor:
    """Return a plane in levels of 8 bits, float."""
    levels = plane.float()
    if plane.element_size() == 2:
        levels.mul_(255 / 65472 if full else 1 / 256)
        return levels.floor_() if levels.ndim == 2 else levels
    return levels


def fetched(
    frame: av.VideoFrame, upright: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[NDArray[np.uint8], torch.Tensor] | None:
    """Return a picture that NVDEC decoded as RGB (H, W, 3) turned ``upright``: on the host, and where it lies.

    None where FFmpeg must convert it.
    """

    def both() -> tuple[NDArray[np.uint8], torch.Tensor] | None:
        rgb = on_device(frame)
        if rgb is None:
            return None
        rgb = upright(rgb)
        return _to_host(rgb), rgb

    return if_it_fits(both)


def if_it_fits(work: Callable[[], T]) -> T | None:
    """Return what ``work`` makes on a GPU; None where its memory does not suffice, which is said once."""
    import torch

    try:
        return work()
    except RuntimeError as error:
        # Where cuBLAS finds no room, that is an error like any other, by its text.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "ALLOC_FAILED" not in str(error):
            raise
        _say_once(str(error).partition(".")[0])
        return None


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("nvdec.memory", extra={"reason": reason})


def _to_host(rgb: torch.Tensor) -> NDArray[np.uint8]:
    """Return a copy in page-locked memory; waits for it, asleep, and for what was asked of the GPU before it."""
    import torch

    # torch keeps pinned memory for the next picture, once nobody holds this one.
    host = torch.empty(rgb.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(rgb, non_blocking=True)
    copied: Any = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(rgb.device))
    copied.synchronize()
    return host.numpy()

"""From a decoded FFmpeg picture to an upright RGB array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.buffer import Buffer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from streamfer.video.surfaces import fetched

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels become displayed ones: mirror left-right first, then turn clockwise."""

    rotation: int = 0  #: degrees clockwise, one of 0, 90, 180, 270
    mirrored: bool = False  #: whether the stored picture is mirrored

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Displayed (width, height) in pixels of a stored picture."""
        return (height, width) if self.rotation % 180 else (width, height)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn ``image`` (H, W, 3) upright; the result is C-contiguous."""
        if self.mirrored:
            image = image[:, ::-1]
        if self.rotation:
            image = np.rot90(image, -self.rotation // 90)
        return np.ascontiguousarray(image)

    def apply_where_it_lies(self, image: torch.Tensor) -> torch.Tensor:
        """Do what :meth:`apply` does on any device."""
        if self.mirrored:
            image = image.flip(1)
        return image.rot90(-self.rotation // 90).contiguous() if self.rotation else image


UPRIGHT = Orientation()


def orientation(frame: av.VideoFrame) -> Orientation:
    """Read the display matrix that travels with ``frame`` (containers, EXIF of JPEG stills).

    The matrix maps stored (x, y), y downwards, to (a·x + c·y, b·x + d·y), 16.16 fixed point (ISO/IEC 14496-12,
    6.2.2); angles are rounded to quarter turns.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18.1 cannot list a frame's side data when a kind it does not know (EXIF) is among them. The
        # angle alone remains: a mirrored EXIF orientation is turned, not mirrored.
        return Orientation(rotation=round(-frame.rotation / 90) % 4 * 90)
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(cast(Buffer, data)), dtype=np.int32, count=5).astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return Orientation(rotation=round(np.degrees(np.arctan2(b, a)) / 90) % 4 * 90, mirrored=bool(mirrored))


@dataclass(frozen=True, slots=True)
class PictureForm:
    """What a stream's pictures are like until they change."""

    width: int  #: and height: as displayed, pixels
    height: int
    turn: Orientation
    pixel_format: str
    angle: int  #: degrees by which the frame itself says that it is turned

    @classmethod
    def of(cls, frame: av.VideoFrame, before: PictureForm | None = None) -> PictureForm:
        """Return the form of one picture; ``before`` is that of the stream's picture before it."""
        # PyAV ties a frame and its side data in a circle: whoever asks every picture for them keeps all pictures until
        # Python collects its garbage, which a large process seldom does.
        same = before is not None and before.angle == frame.rotation
        turn = before.turn if same and before is not None else orientation(frame)
        return cls(*turn.size(frame.width, frame.height), turn, frame.format.name, frame.rotation)

    def change_from(self, before: PictureForm | None) -> str:
        """Say in words what differs from the form before; empty where nothing does, or nothing came before."""
        if before is None or self == before:
            return ""
        old, new = f"{before.width}x{before.height}", f"{self.width}x{self.height}"
        if old != new:
            return f"its pictures change from {old} to {new}"
        if self.turn != before.turn:
            return f"its pictures turn from {before.turn.rotation} to {self.turn.rotation} degrees"
        return f"its pictures change from {before.pixel_format} to {self.pixel_format}"


class RgbConverter:
    """Converts decoded pictures of one stream; keeps FFmpeg's scaler between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame, turn: Orientation) -> NDArray[np.uint8]:
        """Return uint8 RGB (H, W, 3), C-contiguous, upright.

        Colours follow the stream's matrix and range; one thread, because the pipeline owns the thread budget.
        """
        return self.convert_both(frame, turn)[0]

    def convert_both(self, frame: av.VideoFrame, turn: Orientation) -> tuple[NDArray[np.uint8], torch.Tensor | None]:
        """Return what :meth:`convert` does and the same on the GPU that decoded it; None where the CPU did."""
        if frame.format.name == "cuda" and (found := fetched(frame, turn.apply_where_it_lies)) is not None:
            return found
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        return turn.apply(rgb.to_ndarray().astype(np.uint8, copy=False)), None

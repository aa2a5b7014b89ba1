"""What the pipeline asks of an expression model: encode crops once, read windows of features many times; in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from streamfer.geometry import CropProfile

if TYPE_CHECKING:
    import torch

NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Abstention:
    """What a face and a window need for the model to name an expression; None sets no limit."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min_side: NonNegative | None = None  #: geometric mean of the sides of the face's box in its frame, pixels
    min_pose: Share | None = None  #: factor of :mod:`streamfer.faces.quality`, 0 (profile) to 1 (frontal)
    min_sharpness: Share | None = None  #: likewise, 0 to 1
    min_probability: Share | None = None  #: of the most probable class, calibrated


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Identity of a loaded model, as records carry it."""

    name: str  #: registered name or the file's stem
    digest: str  #: sha256 of the weights file, hex
    classes: tuple[str, ...]  #: emotion names in the order of the probabilities
    frames: int  #: features that a window holds (16 in DFER-CLIP)
    feature_dim: int
    crop: CropProfile  #: geometry of the crops that :meth:`ExpressionModel.encode` takes
    precision: str  #: ``fp32``, ``bf16`` or ``fp16``: what the image encoder computes in
    device: str  #: torch's, resolved
    licence: str  #: of the weights, in plain words
    action_units: tuple[str, ...] = ()  #: names, such as ``AU06``, in the order of the intensities
    action_thresholds: tuple[float, ...] = ()  #: of each the intensity from which it counts as present; may be empty
    abstention: Abstention = Abstention()  #: below these limits a record says ``unsure`` instead of an expression
    takes_tensors: bool = False  #: whether crops may also come as a tensor on ``device``


@runtime_checkable
class ExpressionModel(Protocol):
    """A frame encoder with its readers of frames and windows, split so that no frame is ever encoded twice."""

    @property
    def info(self) -> ModelInfo:
        """Identity of the model."""

    def encode(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode face crops, uint8 RGB (F, S, S, 3) on the host, to float32 (F, D) on the model's device.

        Where ``info.takes_tensors``, they may also come as a tensor on that device.
        """

    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Read action units from features, float32 (F, D) on the model's device: intensities (F, A) on the host.

        0 (absent) to 1 on the scale of the model's training (not FACS's A to E), in the order of
        ``info.action_units``; A = 0 where the model reads none.
        """

    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        """Read windows of features, float32 (B, T, D) on the model's device, to calibrated probabilities (B, C).

        On the host; rows sum to 1, classes are in the order of ``info.classes``, T = ``info.frames``.
        """


class FixedBlocks:
    """The same model, asked for ``size`` rows at a time, the last rows of a block filled up with zeros.

    Matrix products choose their blocking by the number of rows, which moves results by the last bits; rows of one
    product do not. So equal files give equal numbers, alone or beside others.
    """

    def __init__(self, model: ExpressionModel, size: int) -> None:
        self._model = model
        self._size = size

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    def encode(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat(self._blocks(self._model.encode, crops))

    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        return np.concatenate(self._blocks(self._model.actions, features))

    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        return np.concatenate(self._blocks(self._model.classify, windows))

    def _blocks(self, call: Callable[[Any], Any], rows: Any) -> list[Any]:
        found = [] if len(rows) else [call(rows)]
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            missing = self._size - len(part)
            if missing and isinstance(part, np.ndarray):
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            elif missing:
                import torch

                part = torch.cat([part, part.new_zeros((missing, *part.shape[1:]))])
            found.append(call(part)[: self._size - missing])
        return found

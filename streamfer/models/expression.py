"""What the pipeline asks of an expression model: encode crops once, read windows of features many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol, runtime_checkable

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
    """What a face and a window need for the model to name an expression; None sets no limit.

    Attributes:
        min_side: geometric mean of the sides of the face's box in its frame, pixels.
        min_pose: pose factor of :mod:`streamfer.faces.quality`, 0 (profile) to 1 (frontal).
        min_sharpness: sharpness factor, likewise, 0 to 1.
        min_probability: of the most probable class, calibrated.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    min_side: NonNegative | None = None
    min_pose: Share | None = None
    min_sharpness: Share | None = None
    min_probability: Share | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Identity of a loaded model, as records carry it.

    Attributes:
        name: registered name or the file's stem.
        digest: sha256 of the weights file, hex.
        classes: emotion names in the order of the probabilities.
        frames: features a window holds (16 in DFER-CLIP).
        feature_dim: size of one feature.
        crop: geometry of the crops that :meth:`ExpressionModel.encode` takes.
        precision: ``fp32``, ``bf16`` or ``fp16``: what the image encoder computes in.
        device: torch device, resolved.
        licence: licence of the weights in plain words.
        action_units: names, such as ``AU06``, in the order of the intensities; none if the model reads none.
        action_thresholds: for each of them, the intensity from which it counts as present; may be empty.
        abstention: below these limits a record says ``unsure`` instead of an expression.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    frames: int
    feature_dim: int
    crop: CropProfile
    precision: str
    device: str
    licence: str
    action_units: tuple[str, ...] = ()
    action_thresholds: tuple[float, ...] = ()
    abstention: Abstention = Abstention()


@runtime_checkable
class ExpressionModel(Protocol):
    """A frame encoder with its readers of frames and windows, split so that no frame is ever encoded twice."""

    @property
    def info(self) -> ModelInfo:
        """Identity of the model."""

    def encode(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode face crops.

        Args:
            crops: uint8 RGB (F, S, S, 3) on the host, S = ``info.crop.size``.

        Returns:
            float32 (F, D) on the model's device.
        """

    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Read action units from single frames.

        Args:
            features: float32 (F, D) on the model's device, as :meth:`encode` returns them.

        Returns:
            float32 (F, A) intensities on the host, 0 (absent) to 1 on the scale of the model's training (not
            FACS's A to E), in the order of ``info.action_units``; A = 0 where the model reads none.
        """

    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        """Read windows of features.

        Args:
            windows: float32 (B, T, D) on the model's device, T = ``info.frames``.

        Returns:
            float32 (B, C) calibrated probabilities, rows sum to 1, classes in ``info.classes`` order.
        """

"""An expression model without weights, for tests of everything around models."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.geometry import CropProfile, loose_crop
from streamfer.models.expression import Abstention, ModelInfo
from streamfer.models.vocabulary import SEVEN_CLASSES


class FakeExpressionModel:
    """Features are plain statistics of a crop, probabilities a softmax of the window's mean feature.

    The intensity of the k-th action unit is the k-th feature, so there are at most as many as classes.

    The same crop gives the same feature bit for bit, whatever the batch. ``encoded`` counts crops and
    ``seen`` holds a digest of each, so a test can tell whether a crop was encoded twice.
    """

    def __init__(
        self,
        *,
        classes: tuple[str, ...] = SEVEN_CLASSES,
        frames: int = 16,
        crop: CropProfile | None = None,
        name: str = "fake",
        action_units: tuple[str, ...] = (),
        abstention: Abstention = Abstention(),  # noqa: B008 (frozen)
    ) -> None:
        self.encoded = 0
        self.batches: list[int] = []
        self.seen: list[str] = []
        self._info = ModelInfo(
            name=name,
            digest=hashlib.sha256(repr((name, classes, frames)).encode()).hexdigest(),
            classes=classes,
            frames=frames,
            feature_dim=len(classes),
            crop=crop or loose_crop(32),
            precision="fp32",
            device="cpu",
            licence="none: not a model",
            action_units=action_units,
            action_thresholds=(0.5,) * len(action_units),
            abstention=abstention,
        )

    @property
    def info(self) -> ModelInfo:
        """Identity of the model."""
        return self._info

    def encode(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode uint8 RGB crops (F, S, S, 3) to float32 (F, D): means over D horizontal bands, in [0, 1]."""
        self.encoded += len(crops)
        self.batches.append(len(crops))
        self.seen.extend(hashlib.sha256(crop.tobytes()).hexdigest() for crop in crops)
        dim = self._info.feature_dim
        features = np.zeros((len(crops), dim), dtype=np.float32)
        for row, crop in enumerate(crops):
            for column, band in enumerate(np.array_split(crop, dim)):
                features[row, column] = float(band.sum(dtype=np.int64)) / max(band.size, 1) / 255
        return torch.from_numpy(features)

    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Read features, float32 (F, D), to intensities (F, A): the first A of the features."""
        intensities: NDArray[np.float32] = features[:, : len(self._info.action_units)].to(torch.float32).numpy()
        return intensities

    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        """Read windows of features, float32 (B, T, D), to probabilities (B, C)."""
        if not len(windows):
            return np.empty((0, len(self._info.classes)), dtype=np.float32)
        scores = 8 * windows.to(torch.float32).mean(dim=1)
        probabilities: NDArray[np.float32] = scores.softmax(dim=-1).numpy()
        return probabilities

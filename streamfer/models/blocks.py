"""Any expression model in batches of one size, so that what it says of a face does not depend on the face's company."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamfer.models.expression import ExpressionModel, ModelInfo

if TYPE_CHECKING:
    import torch


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
        """Identity of the model."""
        return self._model.info

    def encode(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode face crops, uint8 RGB (F, S, S, 3), to float32 (F, D)."""
        import torch

        return torch.cat(self._blocks(self._model.encode, crops))

    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Read action units from features, float32 (F, D), to (F, A)."""
        return np.concatenate(self._blocks(self._model.actions, features))

    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        """Read windows of features, float32 (B, T, D), to probabilities (B, C)."""
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

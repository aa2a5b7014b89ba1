"""DFER-CLIP behind the pipeline's seam: crops to features, features to action units, windows to probabilities.

Shape suffixes: F frames, S image side, B windows, T frames of a window, C classes, D feature size, A
action units.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from streamfer.errors import ConfigError, InternalError
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.expression import ModelInfo
from streamfer.models.precision import DTYPES, Precision
from streamfer.models.residual import fold_norms


def prepare_pixels(crops_FSS3: torch.Tensor, profile: PixelProfile) -> torch.Tensor:
    """Turn uint8 crops into the encoder's input.

    Args:
        crops_FSS3: uint8 RGB on any device; resized, whatever its aspect, if S is not ``profile.size``.
        profile: preprocessing stored with the weights.

    Returns:
        float32 (F, 3, S, S) in [0, 1], or normalised where the profile says so; channels last in memory.
    """
    pixels_F3SS = crops_FSS3.permute(0, 3, 1, 2).to(torch.float32) / 255
    if pixels_F3SS.shape[-2:] != (profile.size, profile.size):
        smooth = profile.interpolation != "area"
        pixels_F3SS = F.interpolate(
            pixels_F3SS,
            size=(profile.size, profile.size),
            mode=profile.interpolation,
            align_corners=False if smooth else None,
            antialias=smooth,
        ).clamp(0, 1)
    if profile.mean is not None and profile.std is not None:
        mean = pixels_F3SS.new_tensor(profile.mean)[:, None, None]
        std = pixels_F3SS.new_tensor(profile.std)[:, None, None]
        pixels_F3SS = (pixels_F3SS - mean) / std
    return pixels_F3SS


class DferClipModel:
    """A loaded DFER-CLIP: the image encoder in the chosen precision, everything after it in fp32."""

    def __init__(
        self, model: DferClip, card: ModelCard, *, digest: str, device: str = "cpu", precision: Precision = "fp32"
    ) -> None:
        """Take over ``model``: it is moved to ``device``, its image encoder converted to ``precision``.

        The norms of a convolutional encoder are folded into its convolutions, so the model cannot be trained on.

        Raises:
            InternalError: the model still has prompts; bake it first.
        """
        if model.text_features is None:
            raise InternalError("DferClipModel takes a baked model: call bake() first")
        self._card = card
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._model = model.requires_grad_(False).eval().to(self._device)
        if card.config.vision.is_resnet:
            fold_norms(self._model.image_encoder)
        # Converting once is faster than autocast, which casts the weights again at each call.
        self._model.image_encoder.to(dtype=self._dtype)
        if card.config.vision.is_resnet:
            self._model.image_encoder.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            self._class_features_CD = self._model.class_features()
        self._info = ModelInfo(
            name=card.name,
            digest=digest,
            classes=card.config.classes,
            frames=card.config.temporal.frames,
            feature_dim=card.config.embed_dim,
            crop=card.crop,
            precision=precision,
            device=str(self._device),
            licence=card.licence,
            action_units=card.config.action_units,
            action_thresholds=card.action_thresholds,
            abstention=card.abstention,
        )

    @property
    def info(self) -> ModelInfo:
        """Identity of the model."""
        return self._info

    @property
    def card(self) -> ModelCard:
        """What the weights file says about itself."""
        return self._card

    @torch.inference_mode()
    def encode(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode face crops, uint8 RGB (F, S, S, 3), to float32 (F, D) on the model's device.

        A crop's feature does not depend on the others: between batch sizes it moves by less than 1e-5 of its
        size in fp32, and by bf16's rounding at most in bf16 (the matrix kernels choose their blocking by
        batch).

        Raises:
            ConfigError: not an array of uint8 RGB squares.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2]:
            raise ConfigError(f"crops are {crops.dtype} {crops.shape}; expected uint8 (F, S, S, 3)")
        if not len(crops):
            return torch.empty(0, self._info.feature_dim, device=self._device)
        on_device = torch.from_numpy(np.ascontiguousarray(crops)).to(self._device)
        pixels_F3SS = prepare_pixels(on_device, self._card.pixels).to(self._dtype)
        if not self._card.config.vision.is_resnet:
            pixels_F3SS = pixels_F3SS.contiguous()
        return self._model.encode_frames(pixels_F3SS).float()

    @torch.inference_mode()
    def actions(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Read action units from features, float32 (F, D), to intensities (F, A) in [0, 1] on the host."""
        intensities_FA = self._model.action_intensities(features.to(self._device, torch.float32))
        intensities: NDArray[np.float32] = intensities_FA.cpu().numpy()
        return intensities

    @torch.inference_mode()
    def logits(self, windows: torch.Tensor) -> torch.Tensor:
        """Read windows of features, float32 (B, T, D), to float32 logits (B, C), uncalibrated."""
        windows_BTD = windows.to(self._device, torch.float32)
        return self._model.window_logits(windows_BTD, self._class_features_CD)

    @torch.inference_mode()
    def classify(self, windows: torch.Tensor) -> NDArray[np.float32]:
        """Read windows of features, float32 (B, T, D), to calibrated probabilities (B, C) on the host."""
        if not len(windows):
            return np.empty((0, len(self._info.classes)), dtype=np.float32)
        calibrated_BC = self.logits(windows) / self._card.calibration_temperature
        probabilities: NDArray[np.float32] = calibrated_BC.softmax(dim=-1).cpu().numpy()
        return probabilities

"""DFER-CLIP behind the pipeline's seam: crops to features, features to action units, windows to probabilities.

Shape suffixes: F frames, S image side, B windows, T frames of a window, C classes, D feature size, A
action units.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from streamfer.arguments import checked
from streamfer.errors import ConfigError, InternalError
from streamfer.files import as_listed
from streamfer.models.attention import AttentionChoice, choose_attention, use_attention
from streamfer.models.card import ModelCard, PixelProfile
from streamfer.models.dfer_clip import DferClip
from streamfer.models.efficient import fold_norms
from streamfer.models.expression import ModelInfo
from streamfer.models.packing import pack_convolutions, packed_transformer
from streamfer.models.precision import DTYPES, Precision, choose_device, choose_precision
from streamfer.models.registry import DEFAULT_MODEL, find_model
from streamfer.models.vision import fold_activations
from streamfer.models.weights import read_weights

if TYPE_CHECKING:
    from streamfer.models.graphs import Graphs

log = logging.getLogger(__name__)

_PYTORCH = AttentionChoice("torch", "PyTorch")
#: Crops up to this side are resized by matrices, pixels.
_SMALL = 64


def prepare_pixels(crops_FSS3: torch.Tensor, profile: PixelProfile) -> torch.Tensor:
    """Turn uint8 RGB crops on any device into the encoder's input, resized whatever their aspect.

    float32 (F, 3, S, S) in [0, 1], or normalised where the profile says so; channels last in memory.
    """
    pixels_F3SS = _sized(crops_FSS3, profile)
    if profile.mean is not None and profile.std is not None:
        device = pixels_F3SS.device
        # In place: they are of this call's making.
        pixels_F3SS.sub_(_channels(profile.mean, device)).div_(_channels(profile.std, device))
    return pixels_F3SS


def _sized(crops_FSS3: torch.Tensor, profile: PixelProfile) -> torch.Tensor:
    side, size = crops_FSS3.shape[1], profile.size
    pixels_FSS3 = crops_FSS3.to(torch.float32) / 255
    if crops_FSS3.shape[1:3] == (size, size):
        return pixels_FSS3.permute(0, 3, 1, 2)
    if crops_FSS3.device.type == "cpu" and crops_FSS3.shape[2] == side <= _SMALL:
        # The same sums as products of matrices, in half the time.
        rows, columns = _resizer(side, size, profile.interpolation)
        wide_FSX = (pixels_FSS3.reshape(-1, 3 * side) @ columns).reshape(-1, side, 3 * size)
        return (rows @ wide_FSX).reshape(-1, size, size, 3).permute(0, 3, 1, 2).clamp_(0, 1)
    return _resized(pixels_FSS3.permute(0, 3, 1, 2), (size, size), profile.interpolation).clamp(0, 1)


def _resized(pictures: torch.Tensor, size: tuple[int, int], how: str) -> torch.Tensor:
    smooth = how != "area"
    return F.interpolate(pictures, size=size, mode=how, align_corners=False if smooth else None, antialias=smooth)


@cache
def _resizer(side: int, size: int, how: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what resizes the rows of pictures, (size, side), and their columns of three colours, (3 side, 3 size)."""
    rows = _resized(torch.eye(side)[None, None], (size, side), how)[0, 0].contiguous()
    return rows, torch.kron(rows.T.contiguous(), torch.eye(3))


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return one number a channel, (3, 1, 1); made once, because a CUDA graph cannot copy from the host."""
    return torch.tensor(values, device=device)[:, None, None]


class DferClipModel:
    """A loaded DFER-CLIP: the image encoder in the chosen precision, everything after it in fp32."""

    def __init__(
        self,
        model: DferClip,
        card: ModelCard,
        *,
        digest: str,
        device: str = "cpu",
        precision: Precision = "fp32",
        attention: AttentionChoice = _PYTORCH,
    ) -> None:
        """Take over ``model``: it is moved to ``device``, its image encoder converted to ``precision``.

        Norms and activations are folded into the layers beside them, and on a CPU a transformer's weights are laid out
        anew, so the model cannot be trained on. On CUDA the encoder and the reader of windows are recorded as graphs,
        which takes a second or two the first time.

        Raises:
            InternalError: the model still has prompts; bake it first.
        """
        if model.text_features is None:
            raise InternalError("DferClipModel takes a baked model: call bake() first")
        self.card = card
        self._device = torch.device(device)
        self._dtype = DTYPES[precision]
        self._model = model.requires_grad_(False).eval()
        encoder = self._model.image_encoder
        if card.config.vision.is_resnet:
            fold_norms(encoder)
        else:
            fold_activations(encoder)
        self._packed = packed_transformer(encoder, card.pixels, self._dtype, self._device)
        # Converting once is faster than autocast, which casts the weights again at each call.
        encoder.to(dtype=self._dtype)
        if card.config.vision.is_resnet:
            encoder.to(memory_format=torch.channels_last)
            pack_convolutions(encoder, card.pixels.size, self._device)
        self._model.to(self._device)
        use_attention(self._model, attention.implementation)
        with torch.inference_mode():
            self._class_features_CD = self._model.class_features()
        self.info = ModelInfo(
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
            takes_tensors=True,
        )
        #: On CUDA, which form of the encoder runs at each batch size, and the times behind it, for people.
        self.forms: list[str] = []
        self._encoder: Graphs | None = None
        self._reader: Graphs | None = None
        if self._device.type == "cuda":
            self._record(attention)

    @torch.inference_mode()
    def _record(self, attention: AttentionChoice) -> None:
        from streamfer.models.graphs import Graphs
        from streamfer.models.tuning import Tuner, cache_file, machine

        side, frames = self.card.crop.size, self.card.config.temporal.frames
        self._encoder = Graphs((side, side, 3), torch.uint8, self._device)
        key = f"{machine(self._device)} | {self.card.config.vision} {self.info.precision} {side}"
        tuner = Tuner(self._encoder, self._encode, self._model.image_encoder)
        self.forms = tuner.tune(attention, key, cache_file()).lines
        self._reader = Graphs((frames, self.info.feature_dim), torch.float32, self._device)
        Tuner(self._reader, self._probabilities, self._model.temporal_net).tune(_PYTORCH, "", None)

    @torch.inference_mode()
    def encode(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Encode face crops, uint8 RGB (F, S, S, 3) on the host or the device, to float32 (F, D) on the device.

        A crop's feature does not depend on the others: between batch sizes it moves by less than 1e-5 of its size in
        fp32, and by bf16's rounding at most in bf16 (the matrix kernels choose their blocking by batch).

        Raises:
            ConfigError: not an array of uint8 RGB squares.
        """
        square = crops.ndim == 4 and crops.shape[3] == 3 and crops.shape[1] == crops.shape[2]
        if crops.dtype not in (np.uint8, torch.uint8) or not square:
            raise ConfigError(f"crops are {crops.dtype} {crops.shape}; expected uint8 (F, S, S, 3)")
        if not len(crops):
            return torch.empty(0, self.info.feature_dim, device=self._device)
        batch = crops if isinstance(crops, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(crops))
        if self._encoder is not None and batch.shape[1:] == self._encoder.shape:
            return self._encoder(batch)
        return self._encode(batch.to(self._device))

    def _encode(self, crops_FSS3: torch.Tensor) -> torch.Tensor:
        if self._packed is not None:
            if crops_FSS3.shape[1] != self.card.pixels.size:
                crops_FSS3 = 255 * _sized(crops_FSS3, self.card.pixels).permute(0, 2, 3, 1)
            return self._packed(crops_FSS3).float()
        pixels_F3SS = prepare_pixels(crops_FSS3, self.card.pixels).to(self._dtype)
        if not self.card.config.vision.is_resnet:
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
            return np.empty((0, len(self.info.classes)), dtype=np.float32)
        windows_BTD = windows.to(self._device, torch.float32)
        reader = self._reader
        fits = reader is not None and windows_BTD.shape[1:] == reader.shape
        probabilities_BC = reader(windows_BTD) if reader is not None and fits else self._probabilities(windows_BTD)
        probabilities: NDArray[np.float32] = probabilities_BC.cpu().numpy()
        return probabilities

    def _probabilities(self, windows_BTD: torch.Tensor) -> torch.Tensor:
        return (self.logits(windows_BTD) / self.card.calibration_temperature).softmax(dim=-1)


@checked
def load_model(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "auto",
    precision: str = "auto",
    attention: str = "auto",
) -> DferClipModel:
    """Load one expression model by name or from a weights file.

    What a whole run needs besides (detectors, tracker, captioner) is loaded by :mod:`streamfer.build`.

    Args:
        name_or_path: a name that :func:`streamfer.models.list_models` returns, or a path.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: of the image encoder: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        attention: of image encoder and temporal transformer: ``auto``, ``torch`` or ``triton``.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: the file is damaged or foreign.
        DeviceError: the device is absent, or cannot run the attention asked for.
        ConfigError: device, precision or attention is not a value they can have.
    """
    path, digest = as_listed(find_model(os.fspath(name_or_path)))
    where = choose_device(device)
    exact = choose_precision(precision, where.device)
    choice = choose_attention(attention, where.device)
    network, card = read_weights(path)
    runs: dict[str, Any] = {"device": where.device, "precision": exact.precision, "attention": choice}
    model = DferClipModel(network, card, digest=digest, **runs)
    reasons = {"device_reason": where.reason, "precision_reason": exact.reason, "attention_reason": choice.reason}
    told = {"model": card.name, "licence": card.licence, "digest": model.info.digest[:12], "forms": model.forms}
    log.info("model.loaded", extra={**told, **runs, "attention": choice.implementation, **reasons})
    return model

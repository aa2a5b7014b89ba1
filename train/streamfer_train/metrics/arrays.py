"""Predictions and targets as checked float64 and int64 arrays, whatever they came as."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.errors import ConfigError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
#: What the metrics take: a tensor on any device, in any float type, or an array.
Values: TypeAlias = torch.Tensor | NDArray[Any]


def as_floats(values: Values) -> FloatArray:
    """Return float64 on the host; bf16 tensors are fine."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def as_scores(scores_NC: Values) -> FloatArray:
    """Return logits or probabilities as float64 (N, C); a ConfigError where N is 0, C below 2, or one is not finite."""
    checked = as_floats(scores_NC)
    if checked.ndim != 2 or not checked.shape[0] or checked.shape[1] < 2:
        raise ConfigError(
            f"scores have shape {checked.shape}; expected (clips, classes), one clip and two classes or more"
        )
    if not np.isfinite(checked).all():
        rows = np.flatnonzero(~np.isfinite(checked).all(axis=1))
        raise ConfigError(
            f"scores of {len(rows)} clip(s) are not finite (the first is row {rows[0]}): the model diverged"
        )
    return checked


def as_labels(labels_N: Values, count: int, classes: int) -> IntArray:
    """Return class numbers as int64 (N,); a ConfigError where they are not ``count``, or not in 0..classes - 1."""
    checked = np.asarray(labels_N.detach().cpu() if isinstance(labels_N, torch.Tensor) else labels_N)
    if checked.shape != (count,):
        raise ConfigError(f"labels have shape {checked.shape}; expected ({count},), one a clip")
    wrong = np.flatnonzero((checked < 0) | (checked >= classes) | (checked != np.floor(checked)))
    if len(wrong):
        raise ConfigError(f"label {checked[wrong[0]]} of row {wrong[0]} is outside 0..{classes - 1}")
    return checked.astype(np.int64)


def plain(value: Any) -> Any:
    """Return a report, or a part of one, as JSON has it: numbers with six digits, None where they are not finite."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return round(float(value), 6) if math.isfinite(value) else None
    return value

"""What cameras and codecs do to a picture: light, tint, blur, noise, loss of resolution, compression."""

from __future__ import annotations

import cv2
import numpy as np

from streamfer_builtin.faces.labels import Picture


def colour_shifted(picture: Picture, rng: np.random.Generator, strength: float = 1.0) -> Picture:
    """Random gain, offset and gamma per channel through a look-up table, and sometimes no colour at all."""
    levels = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal() * 0.28 * strength)
    gain = np.exp(rng.normal() * 0.18 * strength)
    tints = 1 + rng.normal(size=3) * 0.08 * strength
    offset = rng.normal() * 0.06 * strength
    table = np.stack([levels**gamma * gain * tint + offset for tint in tints], axis=-1)
    table = np.clip(table * 255, 0, 255).astype(np.uint8)
    shifted = np.asarray(cv2.LUT(picture, table.reshape(256, 1, 3)), np.uint8)
    if rng.random() < 0.08 * strength:
        return greyed(shifted)
    return shifted


def greyed(picture: Picture) -> Picture:
    """The picture without colour, still three channels."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.repeat(grey[..., None], 3, axis=2)


def tinted(picture: Picture, dark: np.ndarray, light: np.ndarray) -> Picture:
    """A grey picture coloured by the ramp black, ``dark``, ``light``, white (RGB, 0-255)."""
    levels = np.array([0, 80, 180, 255], np.float32)
    ramp = np.stack([np.zeros(3), dark, light, np.full(3, 255)])
    table = np.stack([np.interp(np.arange(256), levels, ramp[:, channel]) for channel in range(3)], axis=-1)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(np.clip(table, 0, 255).astype(np.uint8)[grey])


def lit_unevenly(picture: Picture, rng: np.random.Generator) -> Picture:
    """A smooth field of light and shadow over the picture."""
    grid = rng.uniform(0.45, 1.35, size=(3, 3)).astype(np.float32)
    field = cv2.resize(grid, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(picture * field[..., None], 0, 255), np.uint8)


def degraded(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture after a random camera and codec; geometry is unchanged."""
    height, width = picture.shape[:2]
    if rng.random() < 0.25:
        picture = lit_unevenly(picture, rng)
    if rng.random() < 0.25:
        small = rng.uniform(0.4, 0.9)
        size = (max(8, int(width * small)), max(8, int(height * small)))
        less = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(less, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.25:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.8)), np.uint8)
    if rng.random() < 0.12:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        way = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        middle = np.array([length / 2, length / 2])
        cv2.line(kernel, (middle - way).astype(int).tolist(), (middle + way).astype(int).tolist(), 1.0, 1)
        picture = np.asarray(cv2.filter2D(picture, -1, kernel / max(kernel.sum(), 1)), np.uint8)
    if rng.random() < 0.3:
        shape = (height, width, 1 if rng.random() < 0.5 else 3)
        noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(1, 14))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(18, 80))])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return colour_shifted(picture, rng, 0.7)

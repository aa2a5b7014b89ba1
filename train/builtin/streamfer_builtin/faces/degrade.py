"""What cameras, codecs and old film do to a picture: light, tint, blur, noise, loss of resolution, compression."""

from __future__ import annotations

import cv2
import numpy as np

from streamfer_builtin.faces.labels import Picture

_GREY_SHARE = 0.35
_FILM_SHARE = 0.35
_BANK = 1 << 21


class Degrader:
    """Random damage that keeps every pixel in its place.

    Noise is taken from a bank drawn once: drawing it anew would cost more than all the rest.
    """

    def __init__(self, seed: int = 5) -> None:
        self._noise = np.random.default_rng(seed).standard_normal(_BANK).astype(np.float32)

    def degraded(self, picture: Picture, rng: np.random.Generator, strength: float = 1.0) -> Picture:
        """``picture`` (RGB uint8) after a random camera and codec; ``strength`` scales how often each fault occurs."""
        grey = rng.random() < _GREY_SHARE * strength
        if grey:
            picture = greyed(picture)
        if rng.random() < 0.2 * strength:
            picture = lit_unevenly(picture, rng)
        if rng.random() < 0.2 * strength:
            picture = coarsened(picture, rng)
        if rng.random() < 0.2 * strength:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
        if rng.random() < 0.12 * strength:
            picture = smeared(picture, rng)
        film = grey and rng.random() < _FILM_SHARE
        dark = rng.random() < 0.12 * strength
        picture = colour_shifted(picture, rng, tinted=not grey, dark=dark, hard=film)
        if film:
            picture = self._filmed(picture, rng)
        if dark or film or rng.random() < 0.25 * strength:
            picture = self.noisy(picture, rng, 5.0 if dark else 0.0)
        if rng.random() < 0.3 * strength:
            quality = int(rng.integers(15, 75))
            coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        return picture

    def noisy(self, picture: Picture, rng: np.random.Generator, least: float) -> Picture:
        """Normal noise of 1 to 14 grey levels, for all colours alike or each for itself, fine or grainy."""
        height, width = picture.shape[:2]
        channels = 1 if rng.random() < 0.6 else 3
        count = height * width * channels
        start = int(rng.integers(_BANK - count))
        noise = self._noise[start : start + count].reshape(height, width, channels)
        strength = float(rng.uniform(max(1.0, least), 14.0))
        noise = np.asarray(cv2.multiply(noise, np.full(1, strength)), np.float32).reshape(noise.shape)
        if channels == 1:
            noise = np.asarray(cv2.merge([noise[..., 0]] * 3), np.float32)
        return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)

    def _filmed(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """Dark corners, scratches and dust of an old film."""
        height, width = picture.shape[:2]
        if rng.random() < 0.5:
            rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
            columns = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
            fall = (1 - float(rng.uniform(0.2, 0.6)) * (rows + columns) / 2)[..., None]
            picture = (picture * fall).astype(np.uint8)
        for _ in range(int(rng.integers(0, 4))):
            x, shade = int(rng.integers(width)), int(rng.choice([20, 235]))
            cv2.line(picture, (x, 0), (x + int(rng.integers(-3, 4)), height), (shade,) * 3, 1, cv2.LINE_AA)
        for _ in range(int(rng.integers(0, 8))):
            spot = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(picture, spot, int(rng.integers(1, 3)), (int(rng.choice([20, 235])),) * 3, -1)
        return picture


def colour_shifted(
    picture: Picture, rng: np.random.Generator, *, tinted: bool, dark: bool = False, hard: bool = False
) -> Picture:
    """Random gain, offset and gamma a channel through a table; ``dark`` dims it, ``hard`` raises the contrast."""
    levels = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal() * 0.22)
    gain = np.exp(rng.normal() * 0.14)
    offset = rng.normal() * 0.05
    if dark:
        gain, offset = gain * rng.uniform(0.15, 0.5), abs(offset) * 0.5
    if hard:
        steep = rng.uniform(3, 8)
        levels = 1 / (1 + np.exp(-steep * (levels - rng.uniform(0.35, 0.6))))
    tints = 1 + rng.normal(size=3) * (0.08 if tinted else 0.0)
    table = np.stack([levels**gamma * gain * tint + offset for tint in tints], axis=-1)
    return np.asarray(cv2.LUT(picture, np.clip(table * 255, 0, 255).astype(np.uint8).reshape(256, 1, 3)), np.uint8)


def greyed(picture: Picture) -> Picture:
    """The picture without colour, still three channels."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def lit_unevenly(picture: Picture, rng: np.random.Generator) -> Picture:
    """A smooth field of light and shadow over the picture."""
    grid = rng.uniform(0.45, 1.3, size=(3, 3)).astype(np.float32)
    field = cv2.resize(grid, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(picture, cv2.merge([field] * 3), dtype=cv2.CV_8U), np.uint8)


def coarsened(picture: Picture, rng: np.random.Generator) -> Picture:
    """Shrunk and enlarged again, as small videos are."""
    height, width = picture.shape[:2]
    small = rng.uniform(0.35, 0.9)
    less = cv2.resize(picture, (max(8, int(width * small)), max(8, int(height * small))), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(less, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def smeared(picture: Picture, rng: np.random.Generator) -> Picture:
    """Motion blur of 3 to 9 pixels in a random direction."""
    length = int(rng.integers(3, 10))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    way = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    middle = np.array([length / 2, length / 2])
    cv2.line(kernel, (middle - way).astype(int).tolist(), (middle + way).astype(int).tolist(), 1.0, 1)
    return np.asarray(cv2.filter2D(picture, -1, kernel / max(float(kernel.sum()), 1.0)), np.uint8)

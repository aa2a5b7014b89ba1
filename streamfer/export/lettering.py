"""Words on a picture: chips beside faces, and subtitles at its foot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Ground of a subtitle, and how much of the picture it hides.
_GROUND: Colour = (20, 20, 20)
_COVER = 0.72
_INK: Colour = (240, 240, 240)
#: Share of the picture's width that a subtitle may take, and lines of one text: what is longer ends in an ellipsis.
_SUBTITLE_WIDTH = 0.94
_SUBTITLE_LINES = 4


@lru_cache(maxsize=512)
def chip(words: str, small: str, colour: Colour, size: int) -> NDArray[np.uint8]:
    """Return a picture of ``words``, and of ``small`` below them, on ``colour``: uint8 RGB (h, w, 3)."""
    fonts = [ImageFont.load_default(size), ImageFont.load_default(max(11, round(0.75 * size)))]
    lines = [(text, font, font.getbbox(text)) for text, font in zip((words, small), fonts, strict=True) if text]
    pad = max(2, size // 4)
    width = max(right - left for _, _, (left, _, right, _) in lines)
    height = sum(bottom - top for _, _, (_, top, _, bottom) in lines)
    picture = Image.new("RGB", (round(width) + 2 * pad, round(height) + (1 + len(lines)) * pad), colour)
    # Dark letters on light colours, light ones on dark: by the colour's luminance.
    light = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 140
    ink = (0, 0, 0) if light else (255, 255, 255)
    y = float(pad)
    for text, font, (left, top, _, bottom) in lines:
        ImageDraw.Draw(picture).text((pad - left, y - top), text, font=font, fill=ink)
        y += bottom - top + pad
    return np.asarray(picture, np.uint8)


def paste(image: NDArray[np.uint8], piece: NDArray[np.uint8], x: int, y: int) -> None:
    """Put a picture above (x, y) of uint8 RGB ``image`` (h, w, 3), moved inside where it would not fit."""
    height, width = image.shape[:2]
    tall, wide = min(piece.shape[0], height), min(piece.shape[1], width)
    left, top = min(max(0, x), width - wide), min(max(0, y - tall), height - tall)
    image[top : top + tall, left : left + wide] = piece[:tall, :wide]


def subtitle(image: NDArray[np.uint8], texts: Sequence[tuple[str, Colour]], size: int) -> None:
    """Write texts at the foot of uint8 RGB ``image`` (h, w, 3), each behind a bar of its colour, the first on top."""
    foot = image.shape[0]
    for text, colour in reversed(texts):
        letters = _letters(text, size, image.shape[1])
        tall = min(letters.shape[0], foot)
        place = image[foot - tall : foot]
        ink = letters[:tall, :, None].astype(np.float32) / 255
        ground = place * (1 - _COVER) + np.array(_GROUND) * _COVER
        place[:] = (ground * (1 - ink) + np.array(_INK) * ink).astype(np.uint8)
        place[:, : max(2, size // 4)] = colour
        foot -= tall


@lru_cache(maxsize=64)
def _letters(text: str, size: int, width: int) -> NDArray[np.uint8]:
    """Return how much of each pixel the lines of a text cover: uint8 (h, width)."""
    font = ImageFont.load_default(size)
    lines = wrapped(text, font, _SUBTITLE_WIDTH * width)
    pad, step = max(2, size // 3), round(1.3 * size)
    picture = Image.new("L", (width, len(lines) * step + pad), 0)
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text(((1 - _SUBTITLE_WIDTH) / 2 * width, pad / 2 + number * step), line, 255, font)
    return np.asarray(picture, np.uint8)


def wrapped(text: str, font: _Font, width: float) -> list[str]:
    """Break a text into lines of at most ``width`` pixels; a fifth line is not begun, an ellipsis says so."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _SUBTITLE_LINES:
        lines = [*lines[: _SUBTITLE_LINES - 1], f"{lines[_SUBTITLE_LINES - 1].rsplit(' ', 1)[0]} …"]
    return lines

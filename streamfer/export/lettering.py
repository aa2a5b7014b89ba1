"""Words on a picture: chips beside faces, and subtitles at its foot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
_Rectangle = tuple[float, float, float, float]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Ground of a subtitle, and how much of the picture it hides.
_GROUND: Colour = (20, 20, 20)
_COVER = 0.72
_INK: Colour = (240, 240, 240)
#: Share of the picture's width that a subtitle may take, and lines of one text: what is longer ends in an ellipsis.
_SUBTITLE_WIDTH = 0.94
_SUBTITLE_LINES = 4
#: Places for chips along each margin.
_MARGIN_LINES = 24


@lru_cache(maxsize=512)
def chip(words: str, small: str, colour: Colour, size: int) -> NDArray[np.uint8]:
    """Return a picture of ``words``, and of ``small`` below them, on ``colour``: uint8 RGB (h, w, 3)."""
    fonts = [ImageFont.load_default(size), ImageFont.load_default(max(11, round(0.75 * size)))]
    lines = [(text, font, font.getbbox(text)) for text, font in zip((words, small), fonts, strict=True) if text]
    pad = max(2, size // 4)
    width = max(right - left for _, _, (left, _, right, _) in lines)
    height = sum(bottom - top for _, _, (_, top, _, bottom) in lines)
    picture = Image.new("RGB", (round(width) + 2 * pad, round(height) + (1 + len(lines)) * pad), colour)
    # Dark letters on light colours, light ones on dark, whichever stand out more (WCAG 2.2, contrast ratio).
    linear = [(value / 255) ** 2.2 for value in colour]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179
    ink = (0, 0, 0) if light else (255, 255, 255)
    y = float(pad)
    for text, font, (left, top, _, bottom) in lines:
        ImageDraw.Draw(picture).text((pad - left, y - top), text, font=font, fill=ink)
        y += bottom - top + pad
    return np.asarray(picture, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Tag:
    """What is to be said of one face."""

    key: tuple[int, int]  #: who it is, the same in every frame
    box: tuple[float, float, float, float]  #: x1, y1, x2, y2 in pixels
    chip: NDArray[np.uint8]  #: uint8 RGB (h, w, 3)


class Layout:
    """Where the chips of one video stand: beside their faces, on no face and on no other chip; where they stood before.

    A chip that finds no place beside its face goes to the margin, linked by a line; one that finds none there stands
    in its own face; one more is left out.
    """

    def __init__(self) -> None:
        self._chosen: dict[tuple[int, int], int] = {}

    def places(self, tags: Sequence[Tag], width: int, height: int) -> list[tuple[int, int] | None]:
        """Return the left upper corner of each chip in the upper ``height`` rows of a picture, or None."""
        faces = [tag.box for tag in tags]
        taken: list[_Rectangle] = []
        found: dict[tuple[int, int], tuple[int, int] | None] = {}
        # Who keeps a place goes first, so that a newcomer moves nobody.
        for tag in sorted(tags, key=lambda tag: (tag.key not in self._chosen, tag.key)):
            options = list(_options(tag, width, height))
            before = self._chosen.get(tag.key, 0)
            order = [before, *(number for number in range(len(options)) if number != before)]
            others = [box for box in faces if box is not tag.box]
            found[tag.key] = None
            for avoided in ([*faces, *taken], [*others, *taken]):
                fit = next((n for n in order if n < len(options) and _free(options[n], avoided, width, height)), None)
                if fit is not None:
                    self._chosen[tag.key] = fit
                    found[tag.key] = round(options[fit][0]), round(options[fit][1])
                    taken.append(options[fit])
                    break
        return [found[tag.key] for tag in tags]


def link(image: NDArray[np.uint8], tag: Tag, place: tuple[int, int], colour: Colour, thickness: int) -> None:
    """Draw a line from a chip to its face where they do not touch."""
    tall, wide = tag.chip.shape[:2]
    chip_box = (place[0], place[1], place[0] + wide, place[1] + tall)
    ends = [(min(max(tag.box[side], chip_box[side]), tag.box[side + 2]),
             min(max(chip_box[side], tag.box[side]), chip_box[side + 2])) for side in (0, 1)]  # fmt: skip
    at_face, at_chip = ((round(ends[0][end]), round(ends[1][end])) for end in (0, 1))
    if max(abs(at_face[0] - at_chip[0]), abs(at_face[1] - at_chip[1])) > thickness:
        cv2.line(image, at_face, at_chip, colour, thickness, cv2.LINE_AA)


def paste(image: NDArray[np.uint8], piece: NDArray[np.uint8], x: int, y: int) -> None:
    """Put a picture with its left upper corner at (x, y) of uint8 RGB ``image``; what reaches beyond it is cut."""
    place = image[max(0, y) : y + piece.shape[0], max(0, x) : x + piece.shape[1]]
    place[:] = piece[: place.shape[0], : place.shape[1]]


def subtitle(image: NDArray[np.uint8], texts: Sequence[tuple[str, Colour]], size: int) -> int:
    """Write texts at the foot of uint8 RGB ``image`` (h, w, 3), each behind a bar of its colour, the first on top.

    Returns the number of rows above them.
    """
    foot = int(image.shape[0])
    for text, colour in reversed(texts):
        letters = _letters(text, size, image.shape[1])
        tall = min(letters.shape[0], foot)
        place = image[foot - tall : foot]
        ink = letters[:tall, :, None].astype(np.float32) / 255
        ground = place * (1 - _COVER) + np.array(_GROUND) * _COVER
        place[:] = (ground * (1 - ink) + np.array(_INK) * ink).astype(np.uint8)
        place[:, : max(2, size // 4)] = colour
        foot -= tall
    return foot


def _options(tag: Tag, width: int, height: int) -> Iterator[_Rectangle]:
    """Yield where a chip may stand, x1 y1 x2 y2 in pixels, the best first: the same number is the same side."""
    left, top, right, bottom = tag.box
    tall, wide = tag.chip.shape[:2]
    rows = (top - tall, bottom)
    corners = [(x, y) for y in rows for x in (left, right - wide)]
    corners += [(x, y) for x in (right, left - wide) for y in (top, bottom - tall)]
    corners += [(x, y) for y in (top - 2 * tall, bottom + tall) for x in (left, right - wide)]
    lines = range(_MARGIN_LINES)
    corners += [(x, line * tall) for line in lines for x in (0.0, float(width - wide))]
    # In its own face: at the chin, which says least, or under the brow of a face that fills the picture.
    corners += [(left, bottom - tall), (left, top), (0.0, float(height - tall))]
    for x, y in corners:
        # A face at the edge keeps its chip in the picture.
        inside = min(max(0.0, x), float(max(0, width - wide)))
        yield inside, y, inside + wide, y + tall


def _free(place: _Rectangle, avoided: Sequence[_Rectangle], width: int, height: int) -> bool:
    x1, y1, x2, y2 = place
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        return False
    return all(x2 <= left or right <= x1 or y2 <= top or bottom <= y1 for left, top, right, bottom in avoided)


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

"""What an overlay writes: letters that can be read, texts that fit, labels that cover neither faces nor each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from streamfer.export.lettering import Layout, Tag, chip, subtitle, wrapped
from streamfer.export.overlay import _COLOURS


@pytest.mark.parametrize("colour", _COLOURS)
def test_letters_stand_out_from_every_colour(colour: tuple[int, int, int]) -> None:
    def luminance(pixel: Any) -> float:
        parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in pixel / 255]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    picture = chip("neutral", "", colour, 40).reshape(-1, 3).astype(float)
    ground = np.array(colour, float)
    low, high = sorted((luminance(ground), luminance(picture[np.abs(picture - ground).sum(axis=1).argmax()])))
    assert (high + 0.05) / (low + 0.05) >= 4.5, "as WCAG asks of texts"


def test_a_subtitle_darkens_the_foot_of_the_picture_and_nothing_else() -> None:
    image = np.full((120, 160, 3), 200, np.uint8)
    subtitle(image, [("One face.", (255, 0, 0)), ("Another.", (0, 0, 255))], 12)
    lines = np.flatnonzero((image != 200).any(axis=(1, 2)))
    assert lines.min() > 60
    assert lines.max() == 119
    assert image[-3, 0].tolist() == [0, 0, 255]
    assert image[lines.min() + 3, 0].tolist() == [255, 0, 0]
    assert int(image[lines.min() :].max()) > 220  # letters


def test_a_text_that_is_too_long_says_that_it_goes_on() -> None:
    font = ImageFont.load_default(12)
    lines = wrapped("the inner ends of the eyebrows are raised " * 8, font, 150)
    assert len(lines) == 4
    assert lines[-1].endswith(" …")
    assert all(font.getlength(line) <= 170 for line in lines)
    assert wrapped("short", font, 150) == ["short"]


@pytest.mark.parametrize("size", [(360, 640), (2160, 3840)])
def test_labels_cover_neither_faces_nor_each_other(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(4)
    layout = Layout()
    corners = [(x, y) for y in (0.05, 0.35, 0.65) for x in (0.04, 0.24, 0.44, 0.64, 0.84)]
    for step in range(10):
        tags = []
        for track, (column, row) in enumerate(corners, start=1):
            x, y = column + 0.004 * step, row + rng.uniform(-0.004, 0.004)
            box = (x * width, y * height, (x + 0.08) * width, (y + 0.2) * height)
            piece = chip(f"abcd{track:04d} happiness 90%", "", (0, 0, 0), max(12, height // 28))
            tags.append(Tag((0, track), box, piece))
        places = layout.places(tags, width, height)
        shown = [
            (place[0], place[1], place[0] + tag.chip.shape[1], place[1] + tag.chip.shape[0], tag)
            for tag, place in zip(tags, places, strict=True)
            if place is not None
        ]
        assert len(shown) >= 12
        for number, (x1, y1, x2, y2, tag) in enumerate(shown):
            assert min(x1, y1) >= 0
            assert (x2 <= width, y2 <= height) == (True, True)
            others = [other[:4] for other in shown[number + 1 :]] + [one.box for one in tags if one is not tag]
            assert all(x2 <= a + 1 or c <= x1 + 1 or y2 <= b + 1 or d <= y1 + 1 for a, b, c, d in others)


def test_a_label_stays_on_its_side_while_it_can() -> None:
    layout, piece = Layout(), np.zeros((20, 60, 3), np.uint8)
    low, high = (100.0, 5.0, 150.0, 60.0), (100.0, 40.0, 150.0, 95.0)
    assert layout.places([Tag((0, 1), low, piece)], 400, 300) == [(100, 60)]
    assert layout.places([Tag((0, 1), high, piece)], 400, 300) == [(100, 95)]
    assert Layout().places([Tag((0, 1), high, piece)], 400, 300) == [(100, 20)]

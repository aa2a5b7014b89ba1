"""Cues: hidden marks in a text that name what the words behind them speak of.

A decoder that learns texts with their cues says what it planned: each cue is a promise that the next words keep, and
what was promised can be counted while it writes. Readers never see them: :func:`plain` takes them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: Private characters of Unicode, which no text has.
_FIRST = 0xE000
_EMOTION = chr(0xE0FF)
_ANY = re.compile("[\ue000-\ue0ff]")
_BEHIND_BLANK = re.compile(" ([\ue000-\ue0ff]+)")
_FIRST_LETTER = re.compile("^([\ue000-\ue0ff]*)(.)")
_PARTS = re.compile("[\ue000-\ue0ff]|[^\ue000-\ue0ff]+")


def unit_cues(units: Iterable[int]) -> str:
    """Return the marks of action units."""
    return "".join(chr(_FIRST + unit) for unit in sorted(units))


def emotion_cue() -> str:
    """Return the mark of the emotion."""
    return _EMOTION


def plain(text: str) -> str:
    """Return a text without its cues.

    >>> plain(f"{unit_cues([12])}the lip corners rise")
    'the lip corners rise'
    """
    return _ANY.sub("", text)


def capital(text: str) -> str:
    """Return a text whose first letter is a capital, cues before it or not."""
    return _FIRST_LETTER.sub(lambda found: f"{found[1]}{found[2].upper()}", text)


def parts(text: str) -> Iterator[str | int | None]:
    """Yield the parts of a text in order: words as they are, action units by number, and None for the emotion.

    A blank belongs to the words behind it: marks come before it.
    """
    for part in _PARTS.findall(_BEHIND_BLANK.sub(r"\1 ", text)):
        if not _ANY.match(part):
            yield part
        else:
            yield None if part == _EMOTION else ord(part) - _FIRST

"""What a question about a face asks for: its kind, the movements or expressions that it is about, and when.

Understood is English about what streamfer measures, by the words in ``questions.toml``. Whatever else is asked
(honesty, thoughts, identity, clothes) is told apart here, so that nothing is answered that no measurement holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from streamfer.captions.checks import SIDES
from streamfer.captions.protocol import wants_yes_or_no
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS, IMPLIES
from streamfer.files import table_beside

Kind = Literal[
    "yes_no", "either", "order", "when", "how_long", "how_often", "how_strong", "how_sure", "expression", "movements",
    "change", "people", "why", "sides", "unseen", "unknown", "foreign",
]  # fmt: skip

_DATA = table_beside(__file__)
_ENGLISH = frozenset(_DATA["function_words"].split()).union(*EMOTION_WORDS.values())
_UNSEEN = re.compile(rf"\b(?:{'|'.join(_DATA['unseen'])})\b")
_SCOPES, _KINDS, _ASPECTS = (
    {name: re.compile("|".join(ways)) for name, ways in _DATA[table].items()}
    for table in ("scopes", "kinds", "aspects")
)
_PEOPLE, _DOING, _NEGATED = (re.compile(_DATA["phrases"][name]) for name in ("people", "doing", "negated"))
#: Kinds of which nothing can be said without a movement or an expression.
_OF_SOMETHING = ("when", "how_long", "how_often")
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question, or one side of it, is about: action units together, or an expression."""

    units: frozenset[int] = frozenset()
    emotion: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A question, understood."""

    kind: Kind  #: what is wanted
    subjects: tuple[Subject, ...] = ()  #: what it is about; for ``order`` the earlier one first
    negated: bool = False  #: it asks whether something is not so
    #: Seconds from and to, where only a part is asked about; ``inf`` is the end, and negative numbers count from there.
    window: tuple[float, float] | None = None
    regions: tuple[str, ...] = ()  #: of the vocabulary, where a part of the face is asked about
    #: Of ``when``: ``start``, ``stop``, ``peak``; of ``yes_no``: ``always``; of ``people``: ``alone`` or ``several``;
    #: of ``either``: ``peak`` or ``longer``, which is more so; of ``expression``: ``start`` or ``stop``; of
    #: ``movements``: ``before`` or ``after`` the subject.
    aspect: str = ""
    scope: str = ""  #: whether ``any`` face, or ``every`` one, does, or how many (``count``); empty for one person's


def understand(question: str) -> Query:
    text = " ".join(question.lower().replace("’", "'").split()).rstrip("?!. ")
    if _foreign(text):
        return Query("foreign")
    for pattern, words in _DATA["otherwise"]:
        text = re.sub(pattern, words, text)
    text, window = _take_window(text)
    if re.match(r"why\b|(?:for )?what (?:reason|makes|made|caused?)", text):
        return Query("why")
    if people := _people(text):
        return people
    if _UNSEEN.search(text) or SIDES.search(text):
        return Query("unseen" if _UNSEEN.search(text) else "sides")
    subjects, scope = _subjects(text), _first(_SCOPES, text)
    if scope == "count" and subjects:
        return Query("yes_no", subjects, window=window, scope=scope)
    query = _about_the_face(text, subjects, window)
    return replace(query, scope=scope) if query.kind == "yes_no" and scope != "count" else query


def _about_the_face(text: str, subjects: tuple[Subject, ...], window: tuple[float, float] | None) -> Query:
    said = read(text)
    # "Are the eyes open?" asks whether they are not closed.
    negated = bool(_NEGATED.search(text) or (said.denied and not said.units))
    for kind, pattern in _KINDS.items():
        if pattern.search(text) and (subjects or kind not in _OF_SOMETHING):
            # "Neither happy nor sad", "happy or sad": what any of them is.
            sides = tuple(side for part in re.split(r"\bn?or\b", text) for side in _subjects(part))
            return Query(kind, sides or subjects, negated, window, aspect=_first(_ASPECTS, text))
    if subjects and re.match(r"how \w+ (?:is|are|was|were|does|do|did)\b", text):
        return Query("how_strong", subjects, window=window)
    return _order(text) or _plain(text, subjects, window, negated=negated)


def _plain(text: str, subjects: tuple[Subject, ...], window: tuple[float, float] | None, *, negated: bool) -> Query:
    """Return a question that no first word gives away."""
    alternatives = [_subjects(part) for part in re.split(r"\b(?:or|than)\b", text)]
    if len(alternatives) > 1 and all(alternatives):
        aspect = "longer" if re.search(r"\blonge(?:r|st)\b", text) else _first(_ASPECTS, text)
        return Query("either", tuple(one for (one,) in alternatives), window=window, aspect=aspect)
    moving = not subjects and re.search(r"\bmov(?:e|es|ed|ing)\b", text)
    if (wants_yes_or_no(text) and not moving) or (subjects and len(text.split()) < 4):
        return Query("yes_no" if subjects else "unknown", subjects, negated, window, aspect=_first(_ASPECTS, text))
    if re.search(r"\b(?:emotions?|expressions?|moods?|feel\w*|look|looks|seem|seems)\b", text):
        return Query("expression", window=window, aspect=_first(_ASPECTS, text))
    regions = [room for name, rooms in _DATA["regions"].items() if re.search(rf"\b{name}", text) for room in rooms]
    if moving or (re.search(r"\b(?:what|which|describe|tell|list)\b", text) and (regions or _DOING.search(text))):
        beside = re.search(r"\b(?:before|after)\b", text)
        parts = () if beside else tuple(regions)
        return Query("movements", subjects if beside else (), False, window, parts, beside[0] if beside else "")
    return Query("unknown", window=window)


def _first(patterns: dict[Any, re.Pattern[str]], text: str) -> str:
    """Return the name of the first pattern that is found; empty for none."""
    return next((name for name, pattern in patterns.items() if pattern.search(text)), "")


def _people(text: str) -> Query | None:
    if not _PEOPLE.search(text) or _subjects(text):
        return None
    several = bool(re.search(r"more than one|several|two|three|other|else", text)) and wants_yes_or_no(text)
    return Query("people", aspect="several" if several else "alone" if "alone" in text else "")


def _order(text: str) -> Query | None:
    """Return a question about what comes before what; the earlier side first."""
    found = re.split(r"\b(before|after|and then|then|followed by)\b", text, maxsplit=1)
    if len(found) == 3:
        sides = [_subjects(found[0]), _subjects(found[2])]
        if all(sides):
            earlier, later = sides[::-1] if found[1] == "after" else sides
            return Query("order", earlier + later, aspect="yes_no" if wants_yes_or_no(text) else "")
    if re.search(r"\bfirst\b", text):
        known = tuple(side for part in re.split(r"\bor\b|\band\b", text) for side in _subjects(part))
        return Query("order", known) if len(known) > 1 else None
    return None


def _subjects(text: str) -> tuple[Subject, ...]:
    """Return what a stretch of text is about, as one subject: all its action units at once, else its expression."""
    said = read(text)
    numbers = {int(number) for number in re.findall(r"\b(?:au|action unit) ?0*(\d+)\b", text)}
    # A closed mouth has no parted lips, and so no dropped jaw.
    denied = {unit for unit in said.denied if not IMPLIES.get(unit, frozenset()) & said.denied}
    units = said.units | denied | (numbers & ACTION_UNITS.keys())
    if re.search(r"\bblink\w*\b", text):
        units |= {43}
    if units:
        return (Subject(units),)
    emotions = (*said.emotions, *said.denied_emotions)
    return (Subject(emotion=emotions[0]),) if emotions else ()


def _take_window(text: str) -> tuple[str, tuple[float, float] | None]:
    """Take a stretch of time out of a question."""
    unit = r"(?:s|sec|secs|seconds?)"
    inf = float("inf")
    patterns: tuple[tuple[str, Callable[[re.Match[str]], tuple[float, float]]], ...] = (
        (rf"\b(?:between|from) (?:second )?{_NUMBER}(?: ?{unit})? (?:and|to) (?:second )?{_NUMBER}(?: ?{unit}\b)?",
         lambda m: (float(m[1]), float(m[2]))),
        (rf"\b(?:at|around|about) (?:second {_NUMBER}|{_NUMBER} ?{unit}\b)",
         lambda m: (float(m[1] or m[2]), float(m[1] or m[2]))),
        (rf"\bin the first (?:{_NUMBER} )?seconds?\b", lambda m: (0.0, float(m[1] or 1))),
        (rf"\bin the last (?:{_NUMBER} )?seconds?\b", lambda m: (-float(m[1] or 1), inf)),
        (r"\b(?:at|in) the (?:very )?(?:start|beginning)\b", lambda _: (0.0, 0.5)),
        (r"\b(?:at|in|by|towards?|near) the (?:very )?end\b", lambda _: (-0.5, inf)),
    )  # fmt: skip
    for pattern, window in patterns:
        if match := re.search(pattern, text):
            return " ".join((text[: match.start()] + text[match.end() :]).split()), window(match)
    return text, None


def _foreign(text: str) -> bool:
    words = re.findall(r"[^\W\d_]+", text)
    if not words or any(not word.isascii() for word in words):
        return bool(words)
    known = sum(word in _ENGLISH for word in words)
    return known / len(words) < 0.34

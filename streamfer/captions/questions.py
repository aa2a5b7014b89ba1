"""What a question about a face asks for: its kind, the movements or expressions that it is about, and when.

Understood is English about what streamfer measures. Whatever else is asked (honesty, thoughts, identity, clothes) is
told apart here, so that nothing is answered that no measurement holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from streamfer.captions.protocol import wants_yes_or_no
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS

Kind = Literal[
    "yes_no", "either", "order", "when", "how_long", "how_often", "how_strong", "how_sure", "expression", "movements",
    "change", "people", "why", "unseen", "unknown", "foreign",
]  # fmt: skip

#: What no face shows.
_UNSEEN = re.compile(
    r"\b(?:l(?:ies|ie|ied|iar|ying)\b(?! down)|tell(?:s|ing)? the truth|truth\w*|(?:dis)?honest\w*|decei\w+|decepti\w+"
    r"|genuine\w*|sincere\w*|fak(?:e|ing|ed)|pretend\w*|really (?:feel|mean)\w*|hid(?:e|es|ing|den)|trust\w*|guilty"
    r"|think(?:s|ing)?|thought\w*|want(?:s|ed)?|intend\w*|intention\w*|plan(?:s|ning)|believe\w*|know(?:s|ing)?"
    r"|remember\w*|(?:wo)?m[ae]n|boys?|girls?|male|female|gender|sex|old|young|age|aged|years|child\w*|adult|teenager"
    r"|baby|race|ethnic\w*|nationality|asian|african|european|american|black|white|skin|religio\w+|muslim|jewish"
    r"|christian|who|whose|name\w*|famous|celebrity|identity|recogni[sz]e|wear\w*|cloth\w*|shirt|dress\w*|hat|glasses"
    r"|jewel\w*|hair\w*|beard|makeup|tattoo|ill|sick|health\w*|disease|depress(?:ed|ion)|autis\w+|drunk|pregnant|tired"
    r"|sleepy|pain|intelligen\w+|smart|attractive|beautiful|handsome|pretty|ugly|personality|criminal|gay|straight"
    r"|married|job|say(?:s|ing)?|speak\w*|talk\w*|words?|voice|where|background|room|weather|colou?r|nod\w*|head"
    r"|look(?:s|ing)? (?:at|away|to))\b"
)
#: Everyday words that the reader of captions does not have, in words that it has.
_SAID_OTHERWISE = (
    # Who calls a person so does not ask for it.
    (r"\b(?:the|this|that) (?:(?:wo)?man|boy|girl|lady|gentleman|guy|child|kid|baby)\b", "the person"),
    (r"\blaugh(?:s|ed|ing|ter)?\b", "smile with parted lips"),
    (r"\b(?:beam(?:s|ing)?|smirk(?:s|ing)?)\b", "smile"),
    (r"\bpout(?:s|ed|ing)?\b", "pucker the lips"),
    (r"\byawn(?:s|ed|ing)?\b", "stretch the mouth wide open"),
    (r"\bscowl(?:s|ed|ing)?\b", "frown"),
    (r"\bgasp(?:s|ed|ing)?\b", "drop the jaw"),
)
_FUNCTION_WORDS = """
a about action actions after an and any anybody anyone are as at au be been before brow brows by can chin comes could
describe did do does emotion ever expression eyebrows eyes face faces facial feel first from give happen happens has
have he her him his how i in is it jaw last lip lips long look looking looks many me moment more most mouth move
movement movements much never nose not of often on or people person present second seconds see seem seems she show
shown shows smile smiles smiling some someone start stop strong strongest strongly tell than that the their them then
there they this time times to unit units until visible was were what when which while who whose why will with would
you your
"""
_ENGLISH = frozenset(_FUNCTION_WORDS.split()).union(*EMOTION_WORDS.values())
_REGIONS = {
    "brow": ("brows",), "forehead": ("brows",), "eye": ("eyes",), "lid": ("eyes",), "cheek": ("cheeks",),
    "nose": ("nose",), "mouth": ("mouth", "jaw"), "lip": ("mouth",), "chin": ("chin",), "jaw": ("jaw",),
    "upper face": ("brows", "eyes"), "lower face": ("mouth", "chin", "jaw"),
}  # fmt: skip
_PEOPLE = re.compile(
    r"\b(?:how many (?:people|persons?|faces?|others?)|alone|(?:more than one|several|two|three|other|any) (?:person"
    r"|people|faces?)|someone else|anybody|anyone|a (?:person|face) (?:in|to be seen|here))\b"
)
#: Whose face is meant, where it is not one person's alone.
_SCOPES = (
    ("count", r"^how many (?:of the(?:m|se)? )?(?:people|persons?|faces|of them)\b"),
    ("every", r"\b(?:every(?:one|body)|all (?:of (?:them|the)|the|three|four)? ?(?:people|persons|faces|them)?"
              r"|both (?:people|faces|of them)|each (?:person|face|of them))\b"),
    ("any", r"\b(?:(?:any|some|no)(?:one|body)|no one|any of them|one of them)\b"),
)  # fmt: skip
#: What may stand before the question itself, and what is asked then.
_POLITE = (
    (r"^(?:(?:and|so|well|please|hey|okay|ok),? )+", ""),
    (r"^(?:(?:can|could|would|will) you )?(?:please )?(?:tell me|say|see) (?:if|whether) |^is it (?:true|so) that "
     r"|^(?:would you say|do you (?:think|believe)|does it (?:look|seem) (?:to you )?(?:like|as if)) (?:that )?",
     "is it so that "),
    (r"^(?:(?:can|could|would|will) you )?(?:please )?(?:tell me|say|see) (?=when|what|which|how|at|since|until|for)",
     ""),
    (r"^(?:can|could|would|will) you (?:please )?(?=show|find|tell|give|name|describe|list)", ""),
)  # fmt: skip
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question, or one side of it, is about: action units together, or an expression."""

    units: frozenset[int] = frozenset()
    emotion: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A question, understood.

    Attributes:
        kind: what is wanted.
        subjects: what it is about; for ``order`` the earlier one first.
        negated: it asks whether something is not so.
        window: seconds from and to, where only a part is asked about; ``inf`` stands for the end, and negative numbers
            count from there.
        regions: of the vocabulary, where a part of the face is asked about.
        aspect: of ``when``: ``start``, ``stop``, ``peak``; of ``people``: ``alone`` or ``several``; of ``either``:
            ``peak`` or ``longer``, which is more so.
        scope: whether ``any`` face, or ``every`` one, does, or how many (``count``); empty for one person's.
    """

    kind: Kind
    subjects: tuple[Subject, ...] = ()
    negated: bool = False
    window: tuple[float, float] | None = None
    regions: tuple[str, ...] = ()
    aspect: str = ""
    scope: str = ""


def understand(question: str) -> Query:
    """Return what a question asks for."""
    text = " ".join(question.lower().replace("’", "'").split()).rstrip("?!. ")
    if _foreign(text):
        return Query("foreign")
    # "Isn't she smiling?" asks whether she is; "is she not smiling?" whether she is not.
    text = re.sub(r"\b(is|are|was|were|do|does|did|has|have|can|could|will|would)n't\b", r"\1", text)
    for pattern, words in (*_POLITE, *_SAID_OTHERWISE):
        text = re.sub(pattern, words, text)
    text, window = _take_window(text)
    if re.match(r"why\b|(?:for )?what (?:reason|makes|made|caused?)", text):
        return Query("why")
    people = _people(text)
    if people is None and _UNSEEN.search(text):
        return Query("unseen")
    if people is not None:
        return people
    query = _about_the_face(text, window)
    scope = next((name for name, pattern in _SCOPES if re.search(pattern, text)), "")
    if query.kind == "yes_no" and scope != "count":
        return replace(query, scope=scope)
    return Query("yes_no", one, window=window, scope=scope) if scope == "count" and (one := _subjects(text)) else query


def _subjects(text: str) -> tuple[Subject, ...]:
    one = _together(text)
    return () if one is None else (one,)


def _about_the_face(text: str, window: tuple[float, float] | None) -> Query:
    subjects = _subjects(text)
    negated = bool(re.search(r"\b(?:not|never|no|nobody|without|neither)\b", text))
    parts = {name for name, rooms in _REGIONS.items() if re.search(rf"\b{name}", text) for _ in rooms}
    regions = tuple(dict.fromkeys(room for name in parts for room in _REGIONS[name]))
    if re.match(r"how (?:sure|certain|confident|likely)", text):
        return Query("how_sure", subjects, window=window)
    for kind, pattern in _KINDS:
        if re.search(pattern, text):
            # "Neither happy nor sad", "happy or sad": what any of them is.
            sides = tuple(side for part in re.split(r"\bn?or\b", text) for side in _subjects(part))
            if subjects or kind in ("change", "expression"):
                return Query(kind, sides or subjects, negated, window, aspect=_aspect(text))
            if kind == "how_strong":
                return Query(kind, (), window=window)
    return _order(text) or _plain(text, subjects, negated, window, regions)


def _plain(
    text: str,
    subjects: tuple[Subject, ...],
    negated: bool,
    window: tuple[float, float] | None,
    regions: tuple[str, ...],
) -> Query:
    """Return a question that no first word gives away."""
    alternatives = [_together(part) for part in re.split(r"\bor\b", text)]
    if len(alternatives) > 1 and all(alternatives):
        aspect = "longer" if re.search(r"\blonge(?:r|st)\b", text) else _aspect(text)
        return Query("either", tuple(one for one in alternatives if one), window=window, aspect=aspect)
    if wants_yes_or_no(text):
        kind: Kind = "yes_no" if subjects else "unknown"
    elif re.search(r"\b(?:emotions?|expressions?|moods?|feel\w*|look|looks|seem|seems)\b", text):
        kind = "expression"
    elif re.search(r"\b(?:what|which|describe|tell|list)\b", text) and (regions or re.search(_DOING, text)):
        kind = "movements"
    else:
        kind = "unknown"
    aspect = _aspect(text) if kind == "yes_no" else ""
    return Query(kind, subjects if kind == "yes_no" else (), negated and kind == "yes_no", window, regions, aspect)


_KINDS: tuple[tuple[Kind, str], ...] = (
    ("change", r"\b(?:expression|emotion|mood|face)\b.*\bchang\w+|\bchang\w+\b.*\b(?:expression|emotion|mood|face)\b"),
    ("expression", r"\b(?:expression|emotion|mood)\b.*\b(?:gets?|getting|becomes?|turns?|improves?|better|worse)\b"),
    ("when", r"^(?:when|since when|until when|at (?:what|which) (?:time|moment|second|point)"
             r"|(?:show|find|tell|give|name)(?: me)? the .*(?:moments?|times?|seconds?|points?))\b"),
    ("how_long", r"^(?:for )?how (?:long|many seconds)\b"),
    ("how_often", r"^how (?:often|many times|frequently)\b"),
    ("how_strong", r"^(?:how (?:strong|strongly|much|intense|intensely|wide|widely|far|high|big|clear|clearly|hard"
                   r"|tight|tightly|pronounced|marked)|(?:with )?what (?:strength|intensity))\b"),
)  # fmt: skip
_DOING = r"\b(?:do|does|doing|happen\w*|move\w*|show\w*|seen?|visible|actions?|units?|face|going on|describe)\b"


def _aspect(text: str) -> str:
    for name, pattern in (
        ("blink", r"\bblink\w*\b"),
        ("peak", r"\b(?:strong(?:est|er)|peak\w*|most|more|widest|highest|clear(?:est|er))\b"),
        ("stop", r"\b(?:stop\w*|end\w*|fade\w*|until|gone|last)\b"),
        ("start", r"\b(?:start\w*|beg[ai]n\w*|first|since|sets? in|onset)\b"),
    ):
        if re.search(pattern, text):
            return name
    return ""


def _people(text: str) -> Query | None:
    if not _PEOPLE.search(text) or _together(text) is not None:
        return None
    several = bool(re.search(r"more than one|several|two|three|other|else", text)) and wants_yes_or_no(text)
    return Query("people", aspect="several" if several else "alone" if "alone" in text else "")


def _order(text: str) -> Query | None:
    """Return a question about what comes before what; the earlier side first."""
    found = re.split(r"\b(before|after|and then|then|followed by)\b", text, maxsplit=1)
    if len(found) == 3:
        first, word, second = found
        sides = [_together(first), _together(second)]
        if all(sides):
            earlier = sides if word != "after" else sides[::-1]
            return Query(
                "order", tuple(side for side in earlier if side), aspect="yes_no" if wants_yes_or_no(text) else ""
            )
    if (
        re.search(r"\bfirst\b", text)
        and len(sides := [_together(part) for part in re.split(r"\bor\b|\band\b", text)]) > 1
    ):
        known = tuple(side for side in sides if side)
        return Query("order", known) if len(known) > 1 else None
    return None


def _together(text: str) -> Subject | None:
    """Return what a stretch of text is about: all its action units at once, else its expression."""
    said = read(text)
    numbers = {int(number) for number in re.findall(r"\b(?:au|action unit) ?0*(\d+)\b", text)}
    units = said.units | said.denied | frozenset(numbers & ACTION_UNITS.keys())
    emotions = (*said.emotions, *said.denied_emotions)
    if not emotions and (word := next((name for name in EMOTION_WORDS if re.search(rf"\b{name}\b", text)), None)):
        emotions = (word,)
    if re.search(r"\bblink\w*\b", text):
        units |= {43}
    if emotions and not units:
        return Subject(emotion=emotions[0])
    return Subject(units) if units else None


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

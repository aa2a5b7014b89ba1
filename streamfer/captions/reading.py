"""Reading a caption back: which action units and emotions it names, and which it denies.

A text is cut into clauses and phrases. In each phrase the parts of the face and the actions are found, an action is
tied to the part that it moves, and the pair is looked up: ("lip corners", "raise") is unit 12. Lists share: "the
brows are lowered and drawn together", "raises inner brow, outer brow and chin". A phrase with a negation denies.
Understood are FACS names, Exp-BLIP's verb forms, our own grammar, and the everyday words of language models, which
``reading.toml`` lists; the same reader refuses synthetic captions and scores captioners.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from streamfer.captions.vocabulary import EMOTION_WORDS
from streamfer.files import table_beside


@dataclass(frozen=True, slots=True)
class Mentions:
    """What a text says: units affirmed and denied, and emotions (as nouns, in order of appearance) likewise."""

    units: frozenset[int]
    denied: frozenset[int]
    emotions: tuple[str, ...]
    denied_emotions: tuple[str, ...]


def read(text: str) -> Mentions:
    """Return what ``text`` mentions; an empty text mentions nothing.

    >>> found = read("The inner brows are raised and the person smiles, but the lips are not parted.")
    >>> sorted(found.units), sorted(found.denied)
    ([1, 12], [25])
    """
    units: set[int] = set()
    denied: set[int] = set()
    emotions: dict[str, None] = {}
    denied_emotions: dict[str, None] = {}
    for clause in _clauses(text):
        phrases = list(_phrases(clause))
        _share(phrases)
        for phrase in phrases:
            pairs = set(phrase.pairs())
            named = phrase.standing | _found(_UNITS, pairs)
            (denied if phrase.negated else units).update(named)
            if not phrase.negated:
                # A closed mouth has no parted lips.
                denied |= _found(_AT_REST, pairs) - named
            for emotion in phrase.emotions:
                (denied_emotions if phrase.negated else emotions)[emotion] = None
    return Mentions(frozenset(units), frozenset(denied), tuple(emotions), tuple(denied_emotions))


class _Token(NamedTuple):
    """A part or an action at a place of a phrase."""

    start: int
    kind: str  # "part", "place" (a part that only says where), "action", or "pull" (an action without direction)
    name: str


@dataclass(slots=True)
class _Phrase:
    """A stretch between separators, with what was found in it."""

    text: str
    negated: bool
    tokens: list[_Token]
    standing: set[int]
    emotions: list[str]
    relative: bool
    lent_parts: list[str] = field(default_factory=list)
    lent_actions: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """Parts that can move; those that only say where count if there are no others."""
        return [t.name for t in self.tokens if t.kind == "part"] or [t.name for t in self.tokens if t.kind == "place"]

    @property
    def actions(self) -> list[str]:
        """Actions that mean something by themselves."""
        return [t.name for t in self.tokens if t.kind == "action"]

    @property
    def starts_with_action(self) -> bool:
        """Whether nothing but adverbs and articles stands before the first action."""
        first = next((t for t in self.tokens if t.kind in ("action", "pull")), None)
        return (
            first is not None
            and re.fullmatch(r"\s*(?:(?:an?|the|very|most|just|\w+ly)\s+)*", self.text[: first.start]) is not None
        )

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every part with the actions tied to it, own ones by their order, lent ones with all."""
        for part in self.lent_parts:
            yield from ((part, action) for action in self.actions)
        for action in self.lent_actions:
            yield from ((part, action) for part in self.parts)
        movable = any(t.kind == "part" for t in self.tokens)
        for parts, actions in _groups([t for t in self.tokens if not (movable and t.kind == "place")]):
            # "Pulled down" goes down; only "pulled" alone goes where the muscle pulls.
            directed = [a for a in actions if a != "pull"] or actions
            yield from ((part, action) for part in parts for action in directed)


def _found(table: dict[tuple[str, str], tuple[int, ...]], pairs: set[tuple[str, str]]) -> set[int]:
    if pairs & {("mouth", "wide"), ("mouth", "stretch")}:
        pairs = pairs - {("mouth", "open")}  # "wide open" is one thing
    return {unit for pair in pairs for unit in table.get(pair, ())}


def _groups(tokens: list[_Token]) -> list[tuple[list[str], list[str]]]:
    """Tie parts and actions by their order: ``part action action | part action``, or ``action part | action part``."""
    groups: list[tuple[list[str], list[str]]] = []
    if not tokens:
        return groups
    first_is_part = tokens[0].kind in ("part", "place")
    for token in tokens:
        is_part = token.kind in ("part", "place")
        parts, actions = groups[-1] if groups else ([], [])
        # A group ends where what it began with comes again after the other kind.
        if not groups or (is_part == first_is_part and (actions if is_part else parts)):
            groups.append(([], []))
        (groups[-1][0] if is_part else groups[-1][1]).append(token.name)
    if len(groups) > 1 and not groups[-1][0] and not first_is_part:
        # Behind "pulls the chin" comes "up": what has no part of its own belongs to the part before.
        groups[-2][1].extend(groups.pop()[1])
    return groups


def _share(phrases: list[_Phrase]) -> None:
    """Lend parts to phrases that have only actions, and actions to phrases that are nothing but a part."""
    for place, phrase in enumerate(phrases):
        before = next((other for other in reversed(phrases[:place]) if other.text.strip()), None)
        after = phrases[place + 1] if place + 1 < len(phrases) else None
        own_parts = [t for t in phrase.tokens if t.kind == "part"]
        if phrase.actions and not phrase.parts:
            _lend_parts(phrase, before, after)
        elif (
            own_parts
            and phrase.text.rstrip().endswith("_")
            and not any(t.kind in ("action", "pull") for t in phrase.tokens)
        ):
            _lend_actions(phrase, before, phrases[place + 1 :])


def _lend_parts(phrase: _Phrase, before: _Phrase | None, after: _Phrase | None) -> None:
    adverb_alone = all(action in _ADVERBS for action in phrase.actions) and _ADVERB_FIRST.match(phrase.text)
    goes_before = phrase.starts_with_action or not (before and (before.parts or before.lent_parts))
    if after and after.parts and after.starts_with_action and goes_before and not adverb_alone:
        phrase.lent_parts = after.parts[:1]
    elif before:
        named = [t.name for t in before.tokens if t.kind == "part" or (phrase.relative and t.kind == "place")]
        phrase.lent_parts = named[-1:] or before.parts[-1:] or before.lent_parts


def _lend_actions(phrase: _Phrase, before: _Phrase | None, later: list[_Phrase]) -> None:
    if before and (before.lent_actions or (before.starts_with_action and before.actions)):
        phrase.lent_actions = before.lent_actions or before.actions
        return
    for other in later:
        if other.actions:
            first = other.tokens[0]
            phrase.lent_actions = other.actions if first.kind == "part" else []
            return


#: Words that a negation before them still covers: "without a smile or raised brows".
_CARRIES_NEGATION = {"or", "nor"}


def _clauses(text: str) -> list[str]:
    plain = " ".join(text.lower().replace("’", "'").split())
    plain = _PREFERENCES.sub(", not ", _HARMLESS.sub(" and ", plain))
    return _CLAUSE_ENDS.split(plain)


def _phrases(clause: str) -> Iterator[_Phrase]:
    clause, expressions = _consume(clause, _EXPRESSIONS)
    # Parts go first: "inner and outer brows" holds a separator that is none.
    clause, parts = _consume(clause, _PARTS)
    bare, actions = _consume(clause, _ACTIONS)
    emotions = [(match.start(), _EMOTION_OF[match.group()]) for match in _EMOTION.finditer(bare)]
    negated, start, opened_by = False, 0, ""
    for piece in [*_SEPARATORS.finditer(clause), None]:
        stop = piece.start() if piece else len(clause)
        text = clause[start:stop]
        negated = negated or opened_by == "without" or _NEGATIONS.search(text) is not None
        tokens = []
        for place, name in _between(parts, start, stop):
            where = "place" if _SAYS_WHERE.search(clause[start:place]) else "part"
            tokens += [_Token(place - start, where, one) for one in name.split("+")]
        for place, name in _between(actions, start, stop):
            tokens.append(_Token(place - start, "pull" if name == "pull" else "action", name))
        standing = {int(unit) for _, units in _between(expressions, start, stop) for unit in units.split("+")}
        felt = [emotion for _, emotion in _between(emotions, start, stop)]
        yield _Phrase(text, negated, sorted(tokens), standing, felt, opened_by in ("which", "that"))
        if piece is None:
            return
        negated = negated and _goes_on(piece.group(), clause[piece.end() :])
        start, opened_by = piece.end(), piece.group()


def _between(found: list[tuple[int, str]], start: int, stop: int) -> list[tuple[int, str]]:
    return [item for item in found if start <= item[0] < stop]


def _goes_on(separator: str, rest: str) -> bool:
    """Whether a negation covers what comes behind a separator: behind "or", or a comma of a list that ends in "or"."""
    if separator in _CARRIES_NEGATION:
        return True
    following = re.search(r"\b(and|or|nor|with|who|which|that)\b", rest)
    return separator == "," and following is not None and following.group() in _CARRIES_NEGATION


def _consume(text: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> tuple[str, list[tuple[int, str]]]:
    """Find patterns in order of rank, each place once; return the text with blanks there, and places with names."""
    found = []
    for pattern, name in patterns:
        found += [(match.start(), name) for match in pattern.finditer(text)]
        text = pattern.sub(lambda match: "_" * len(match.group()), text)
    return text, sorted(found)


def _patterns(table: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns with their names, in order of rank."""
    found = []
    for name, ways in _DATA[table].items():
        pattern = "|".join(ways)
        for piece, text in _DATA["pieces"].items():
            pattern = pattern.replace(f"<{piece}>", text)
        found.append((re.compile(rf"\b(?:{pattern})\b"), name))
    return tuple(found)


def _table(name: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the units of each part with an action."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for units, rows in _DATA[name].items():
        for row in rows:
            parts, actions = (side.split(", ") for side in row.split(": "))
            found |= {(part, action): tuple(map(int, units.split("+"))) for part in parts for action in actions}
    return found


_DATA = table_beside(__file__)
_EXPRESSIONS, _PARTS, _ACTIONS = (_patterns(table) for table in ("expressions", "parts", "actions"))
_UNITS, _AT_REST = _table("units"), _table("at_rest")
_ADVERBS = frozenset(_DATA["adverbs"])
_CLAUSE_ENDS, _SEPARATORS, _NEGATIONS, _HARMLESS, _PREFERENCES, _ADVERB_FIRST, _SAYS_WHERE = (
    re.compile(_DATA["grammar"][name])
    for name in ("clause_ends", "separators", "negations", "harmless", "preferences", "adverb_first", "says_where")
)
_EMOTION_OF = {word: emotion for emotion, words in EMOTION_WORDS.items() for word in words}
_EMOTION = re.compile(rf"\b(?:{'|'.join(sorted(_EMOTION_OF, key=len, reverse=True))})\b(?! (?:position|pose|angle))")

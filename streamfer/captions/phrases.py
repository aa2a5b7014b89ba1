"""What a sentence can say of each action unit: which part of the face it moves, and the ways to say how.

All of it is our own wording. A row names its units, the parts (after "the"), what they are ("are lifted"), what one
does with them ("lift {}"), what they do by themselves ("rise"), and adjectives that stand before a short name of the
part ("lifted inner brows"). Every combination within a row is English, which the tests read back one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from streamfer.captions.vocabulary import ACTION_UNITS, inflect


@dataclass(frozen=True, slots=True)
class Wording:
    """The ways to speak of one unit, or of units that one phrase covers together."""

    units: frozenset[int]
    plural: bool
    parts: tuple[str, ...]
    states: tuple[str, ...]
    deeds: tuple[str, ...]
    moves: tuple[str, ...]
    adjectives: tuple[str, ...]
    short: tuple[str, ...]

    @property
    def order(self) -> int:
        """Place of its first unit in reading order."""
        return min(list(ACTION_UNITS).index(unit) for unit in self.units)


def _wording(
    units: str, parts: str, states: str, deeds: str, moves: str, adjectives: str, short: str, *, plural: bool = True
) -> Wording:
    numbers = frozenset(int(unit) for unit in units.split("+"))
    rows = (tuple(item.strip() for item in text.split("|") if item.strip()) for text in
            (parts, states, deeds, moves, adjectives, short))  # fmt: skip
    return Wording(numbers, plural, *rows)


SINGLE = (
    _wording(
        "1", "inner ends of the eyebrows | inner corners of the brows | inner eyebrows | inner parts of the brows",
        "raised | lifted | drawn upward | pulled up", "raise {} | lift {} | draw {} upward | pull {} up",
        "rise | move upward | go up", "raised | lifted | elevated", "inner brows | inner eyebrows",
    ),
    _wording(
        "2", "outer ends of the eyebrows | outer corners of the brows | outer eyebrows | outer parts of the brows",
        "raised | lifted | drawn upward | pulled up", "raise {} | lift {} | draw {} upward | pull {} up",
        "rise | move upward | go up", "raised | lifted | arched", "outer brows | outer eyebrows",
    ),
    _wording(
        "4", "eyebrows | brows", "lowered | pulled down | drawn together | furrowed | knitted",
        "lower {} | pull {} down | draw {} together | knit {} | furrow {}", "sink | move down | come together",
        "lowered | furrowed | knitted", "brows | eyebrows",
    ),
    _wording(
        "5", "upper eyelids | upper lids", "raised | lifted | pulled up | drawn upward",
        "raise {} | lift {} | pull {} up | draw {} upward", "rise | go up | move upward",
        "raised | lifted | elevated", "upper lids | upper eyelids",
    ),
    _wording(
        "7", "eyelids | lids", "tightened | tensed | drawn tight | narrowed", "tighten {} | tense {} | narrow {}",
        "tighten | narrow | tense", "tightened | tensed | narrowed", "lids | eyelids",
    ),
    _wording(
        "43", "eyes", "closed | shut | kept closed | held shut", "close {} | shut {} | keep {} closed | hold {} shut",
        "close | stay shut | remain closed", "closed | shut", "eyes",
    ),
    _wording(
        "6", "cheeks", "raised | lifted | pushed up | pulled upward",
        "raise {} | lift {} | push {} up | pull {} upward",
        "rise | move upward | go up", "raised | lifted", "cheeks",
    ),
    _wording(
        "11", "nasolabial folds | folds beside the nose | creases beside the nose",
        "deepened | made deeper | etched deeply", "deepen {} | make {} deeper", "deepen | become deeper",
        "deepened | deeper", "nasolabial folds | nasolabial creases",
    ),
    _wording(
        "9", "nose", "wrinkled | crinkled | scrunched up", "wrinkle {} | crinkle {} | scrunch {} up",
        "wrinkles | crinkles", "wrinkled | crinkled | scrunched", "nose", plural=False,
    ),
    _wording(
        "10", "upper lip", "raised | lifted | pulled up | drawn upward",
        "raise {} | lift {} | pull {} up | draw {} upward",
        "rises | moves upward | goes up", "raised | lifted | curled", "upper lip", plural=False,
    ),
    _wording(
        "12", "lip corners | corners of the mouth | mouth corners",
        "pulled up | drawn upward | turned up | lifted", "pull {} up | draw {} upward | lift {} | turn {} up",
        "rise | turn up | move upward", "lifted | upturned | raised", "lip corners | mouth corners",
    ),
    _wording(
        "14", "lip corners | corners of the mouth | mouth corners",
        "tightened | tucked in | drawn inward | dimpled", "tighten {} | tuck {} in | draw {} inward",
        "tighten | move inward | dimple", "tightened | dimpled | tucked-in", "lip corners | mouth corners",
    ),
    _wording(
        "15", "lip corners | corners of the mouth | mouth corners",
        "pulled down | turned down | drawn downward | lowered",
        "pull {} down | turn {} down | draw {} downward | lower {}", "sink | droop | turn down",
        "lowered | drooping | downturned", "lip corners | mouth corners",
    ),
    _wording(
        "16", "lower lip", "pulled down | drawn downward | lowered | depressed",
        "pull {} down | lower {} | draw {} downward | depress {}", "sinks | moves down | goes down",
        "dropped | lowered | depressed", "lower lip", plural=False,
    ),
    _wording(
        "20", "lips", "stretched | stretched sideways | drawn sideways | stretched back",
        "stretch {} | stretch {} sideways | draw {} sideways", "stretch | stretch sideways", "stretched", "lips",
    ),
    _wording(
        "18", "lips", "puckered | puckered up | pursed", "pucker {} | purse {}", "pucker | pucker up",
        "puckered | pursed", "lips",
    ),
    _wording(
        "22", "lips", "funnelled | funnelled outward | flared outward | shaped like a funnel",
        "funnel {} | funnel {} outward | flare {} outward | shape {} like a funnel", "funnel outward | flare outward",
        "funnelled | flared", "lips",
    ),
    _wording(
        "23", "lips", "tightened | narrowed | made thin | tensed", "tighten {} | narrow {} | tense {}",
        "tighten | narrow | become thinner", "tightened | thinned | tensed", "lips",
    ),
    _wording(
        "24", "lips", "pressed together | pressed | pressed against each other | squeezed together",
        "press {} together | press {} | squeeze {} together", "press together | press against each other",
        "pressed | compressed", "lips",
    ),
    _wording(
        "28", "lips", "sucked in | rolled inward | sucked inward | rolled in",
        "suck {} in | roll {} inward | suck {} inward | roll {} in", "roll inward | roll in", "sucked-in | rolled-in",
        "lips",
    ),
    _wording(
        "8", "lips", "pulled toward each other | drawn toward each other | moved toward each other",
        "pull {} toward each other | draw {} toward each other | bring {} toward each other",
        "move toward each other | go toward each other", "converging", "lips",
    ),
    _wording(
        "25", "lips", "parted | separated | apart | held apart",
        "part {} | separate {} | hold {} apart | keep {} apart",
        "part | separate | stay apart", "parted | separated", "lips",
    ),
    _wording(
        "19", "tongue", "visible | stuck out | poked out | shown", "stick {} out | show {} | poke {} out",
        "shows | sticks out | pokes out", "visible | protruding", "tongue", plural=False,
    ),
    _wording(
        "17", "chin", "raised | pushed up | pushed upward | lifted", "raise {} | push {} up | push {} upward | lift {}",
        "rises | moves upward | bunches up", "raised | lifted | bunched", "chin", plural=False,
    ),
    _wording(
        "26", "jaw", "dropped | lowered | let down | left hanging", "drop {} | lower {} | let {} hang | let {} drop",
        "drops | hangs open | falls", "dropped | lowered | hanging", "jaw", plural=False,
    ),
    _wording(
        "27", "mouth", "stretched wide open | stretched open | opened wide | stretched wide",
        "stretch {} wide open | stretch {} open | open {} wide | stretch {}", "gapes | gapes wide | opens wide",
        "stretched | gaping | wide-open", "mouth", plural=False,
    ),
    _wording(
        "21", "neck", "tightened | tensed | strained", "tighten {} | tense {} | strain {}", "tightens | tenses",
        "tightened | tensed | strained", "neck", plural=False,
    ),
)  # fmt: skip

#: Units that everyday language takes together; one of these stands in for all of its units.
JOINT = (
    _wording(
        "1+2", "eyebrows | brows | whole eyebrows", "raised | lifted | arched high | pulled up",
        "raise {} | lift {} | arch {} | pull {} up", "rise | go up | move upward", "raised | lifted | arched",
        "brows | eyebrows",
    ),
    _wording(
        "1+4", "inner ends of the eyebrows | inner eyebrows | inner corners of the brows",
        "drawn up and together | lifted and furrowed | raised and knitted", "draw {} up and together", "",
        "raised, furrowed | lifted, knitted", "inner brows | inner eyebrows",
    ),
    _wording(
        "23+24", "lips", "tightened and pressed together | narrowed and pressed",
        "tighten and press {} | narrow and press {}", "", "tightened, pressed | thin, pressed", "lips",
    ),
    _wording(
        "25+26", "mouth", "dropped open | left hanging open", "drop {} open | let {} hang open | let {} fall open",
        "falls open | hangs open | drops open", "loosely hanging", "mouth", plural=False,
    ),
)  # fmt: skip


@cache
def wordings(units: frozenset[int]) -> tuple[tuple[Wording, ...], tuple[Wording, ...]]:
    """Return, for units that are present, the rows of single units in reading order, and the joint rows that fit."""
    single = {next(iter(row.units)): row for row in SINGLE}
    ordered = tuple(single[unit] for unit in ACTION_UNITS if unit in units)
    return ordered, tuple(row for row in JOINT if row.units <= units)


def third_person(deed: str) -> str:
    """Inflect every verb of a deed: ``tighten and press {}`` becomes ``tightens and presses {}``."""
    words = deed.split(" ")
    verbs = {0} | ({2} if words[1:2] == ["and"] else set())
    return " ".join(inflect(word) if place in verbs else word for place, word in enumerate(words))


def gerund(deed: str) -> str:
    """Turn every verb of a deed into its -ing form: ``knit {}`` becomes ``knitting {}``."""
    words = deed.split(" ")
    verbs = {0} | ({2} if words[1:2] == ["and"] else set())
    return " ".join(_ing(word) if place in verbs else word for place, word in enumerate(words))


def _ing(verb: str) -> str:
    if verb in ("knit", "let", "drop"):
        return f"{verb}{verb[-1]}ing"
    return f"{verb[:-1] if verb.endswith('e') else verb}ing"

"""Checks that every text about a face has to pass, whoever wrote it: a language model, a captioner, or our own grammar.

The same checks guard synthesised training captions (``streamfer_train.captions``) and what an endpoint or a captioner
writes beside a run. What fails is replaced by words made from the labels. ``checks.toml`` lists the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from streamfer.captions.reading import Mentions, read
from streamfer.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS, OPPOSED, implied
from streamfer.files import table_beside


class Truth(Protocol):
    """What is known of a face: units that are present (None where nobody looked), and its emotions as nouns."""

    @property
    def action_units(self) -> frozenset[int] | None: ...

    @property
    def emotions(self) -> tuple[str, ...]: ...


#: Bounds of a caption in words; language models that lose the thread go on for pages, or stop at a word.
SHORTEST, LONGEST = 3, 200
#: A stretch of this many words that comes twice is a loop; shorter ones ("the corners of the mouth are") are English.
LOOP_WORDS = 10
_DATA = table_beside(__file__)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


#: What no text may say, with what is told of one that does.
_REFUSED = [(_any_of(kind["words"]), kind["fault"]) for kind in _DATA["refused"].values()]
#: One half of a face is not measured apart from the other.
SIDES = _any_of(_DATA["refused"]["sides"]["words"])
_FEELINGS, _TOPIC, _SMALL_WORDS = (_any_of(_DATA["words"][name]) for name in ("feelings", "topic", "small"))
_POINTS_BACK = re.compile(r"^\W*(?:it|they|these|both)\b", re.IGNORECASE)
_CODES = re.compile(r"\baus?\b|\bau\s?\d+\b|\baction units?\b|\bfacs\b", re.IGNORECASE)
_MARKUP = re.compile(r"```|</?\w+>|https?://|[{}\[\]]|\([^)]*;|^\s*(?:[-*#]|\d+\.)\s", re.MULTILINE)
_QUOTED = re.compile(r"[\"“]([^\"“”]*)[\"”]")
_FOREIGN = re.compile(r"[^\x20-\x7e‘’“”–—…éï]")


def faults(text: str, labels: Truth, *, emotion_allowed: bool = True, complete: bool = True) -> tuple[str, ...]:
    """Return why ``text`` must not stand for ``labels``; empty if it may.

    Refused are refusals and nonsense (markup, foreign script, length, repetition), codes ("AU"), words about the
    person instead of the expression (identity, age, gender, health, honesty), units that are absent or not coded,
    contradictions with the text itself or the label, emotions beside the label (all emotions
    where ``emotion_allowed`` is false), and with ``complete`` units or emotions of the label that are left out.
    """
    shape = shape_faults(text)
    return tuple(shape or _content_faults(text, labels, emotion_allowed=emotion_allowed, complete=complete))


def shape_faults(text: str, *, english: bool = True) -> list[str]:
    """Return what is wrong with a text whatever it speaks of; of one in another language less can be told."""
    words = len(text.split())
    found = []
    if not (SHORTEST if english else 1) <= words <= LONGEST:
        found.append(f"has {words} words instead of {SHORTEST}-{LONGEST}")
    if _MARKUP.search(text):
        found.append("holds markup")
    if code := _CODES.search(text):
        found.append(f'says "{code.group()}"')
    if english and _FOREIGN.search(text.replace("\n", " ")):
        found.append("holds characters of no English sentence")
    for pattern, fault in _REFUSED if english else ():
        if said := pattern.search(text.replace("’", "'")):
            found.append(fault.format(said.group().lower()))
    if repeats(text):
        found.append("repeats itself")
    return found


def off_topic(text: str) -> list[str]:
    """Return the first sentence that describes no face in English: what a picture says, or another language."""
    for sentence in re.split(r"[.!?](?:\s|$)|\n", text):
        said = read(sentence)
        named = said.units | said.denied or (*said.emotions, *said.denied_emotions)
        about = _TOPIC.search(sentence) or _POINTS_BACK.search(sentence)
        described = named or (about and _SMALL_WORDS.search(sentence))
        if sentence.strip() and not described:
            return [f'says "{sentence.strip()[:40]}", which describes no face in English']
    return []


def _content_faults(text: str, labels: Truth, *, emotion_allowed: bool, complete: bool) -> list[str]:
    said = read(text)
    true = labels.action_units or frozenset()
    found = [f"names unit {unit} ({ACTION_UNITS[unit].name}), which is absent"
             for unit in sorted(said.units - implied(true))]  # fmt: skip
    found += contradictions(said, labels)
    for pattern, what in ((_FEELINGS, "speaks of {}, which no label gives"), (_QUOTED, 'quotes "{}"')):
        words = (match.group(1 if pattern is _QUOTED else 0).lower() for match in pattern.finditer(text))
        found += [what.format(word) for word in words if word not in labels.emotions]
    if not emotion_allowed:
        found += [f"speaks of {emotion}, which is not asked for" for emotion in said.emotions if emotion != "neutral"]
    elif not labels.emotions:
        found += [f"speaks of {emotion}, which no label gives" for emotion in said.emotions if emotion != "neutral"]
    if complete:
        # What another unit brings along is said with it.
        found += [f"leaves out unit {unit} ({ACTION_UNITS[unit].name})"
                  for unit in sorted(true - implied(said.units))]  # fmt: skip
        found += [f"leaves out {emotion}" for emotion in labels.emotions
                  if emotion_allowed and not _named(emotion, said.emotions, text)]  # fmt: skip
    return list(dict.fromkeys(found))


def _named(emotion: str, said: tuple[str, ...], text: str) -> bool:
    if emotion == "neutral":
        return True  # silence is neutral enough
    return emotion in said if emotion in EMOTION_WORDS else emotion in text.lower()


def contradictions(said: Mentions, label: Truth | None = None) -> Iterator[str]:
    """Yield, as clear phrases, what a text says against itself, and against ``label`` where one is given.

    Leaving something out is no contradiction; naming an absent unit is one only where the label has its opposite.
    """
    true = (label.action_units if label else None) or frozenset()
    for unit in sorted(said.units & said.denied):
        yield f"affirms and denies unit {unit} ({ACTION_UNITS[unit].name})"
    for pair in sorted(OPPOSED, key=sorted):
        first, second = sorted(pair)
        if pair <= said.units and not pair <= true:
            yield f"has both unit {first} ({ACTION_UNITS[first].name}) and unit {second} ({ACTION_UNITS[second].name})"
        elif label and not pair <= said.units and any({a} == pair & said.units and {b} == pair & true
                                                      for a, b in ((first, second), (second, first))):  # fmt: skip
            yield f"names the opposite of a labelled unit among {first} and {second}"
    if set(said.emotions) & set(said.denied_emotions):
        yield f"affirms and denies {sorted(set(said.emotions) & set(said.denied_emotions))[0]}"
    if "neutral" in said.emotions and len(said.emotions) > 1:
        yield f"calls the face neutral and speaks of {next(e for e in said.emotions if e != 'neutral')}"
    if label:
        for unit in sorted(said.denied & true - said.units):
            yield f"denies unit {unit} ({ACTION_UNITS[unit].name}), which is present"
        wrong = [emotion for emotion in said.emotions if emotion not in label.emotions]
        if label.emotions and wrong:
            yield f"speaks of {wrong[0]} where the label is {' and '.join(label.emotions)}"


def repeats(text: str, words: int = LOOP_WORDS) -> bool:
    """Whether a sentence or clause, a word, or any stretch of ``words`` words comes twice where once is enough."""
    clauses = [" ".join(clause.split()) for clause in re.split(r"[!?;:,]|\.(?!\d)|\band\b", text.lower())]
    long = [clause for clause in clauses if len(clause.split()) >= 3]
    doubled = re.search(r"\b(?!(?:that|had)\b)(\w+)\s+\1\b", text.lower())
    return doubled is not None or len(set(long)) < len(long) or repetition(text, words) > 0


def repetition(text: str, words: int = LOOP_WORDS) -> float:
    """Return the share of stretches of ``words`` words that came before in the same text, 0-1."""
    spoken = re.findall(r"[\w'-]+", text.lower())
    stretches = list(zip(*(spoken[start:] for start in range(words)), strict=False))
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0

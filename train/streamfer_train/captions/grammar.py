"""A grammar of captions: thousands of sentences for one set of labels, drawn by seed, without any language model.

And captions by rule, one fixed sentence a label set: the first of Exp-BLIP's three kinds of text (BMVC 2023, section
3.1), in the wording of its released files to the letter, so that captions and scores stay comparable.

A caption reads the face from brow to neck. Its units are cut into one to three sentences; each sentence has a frame
("the lips are parted", "the person parts the lips", "the face shows parted lips", or "with parted lips"), a way in and
a place or moment at its end. Then comes the emotion: a face shows actions, a feeling is inferred, so its sentences say
"consistent with" and the like, and give as reasons only actions that are present and belong to the emotion's prototype.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from streamfer.captions.english import sentence
from streamfer.captions.vocabulary import (
    ACTION_UNITS,
    EMOTION_WORDS,
    PROTOTYPES,
    Wording,
    gerund,
    join,
    third_person,
    wordings,
)  # fmt: skip
from streamfer.files import table_beside
from streamfer_train.captions.labels import FaceLabels

#: The words that synthesised captions and questions are made of.
SENTENCES = table_beside(__file__)
_WAYS: dict[str, list[str]] = SENTENCES["feeling"]
_WORDS, _RESTING = SENTENCES["actions"], SENTENCES["resting"]
#: One fixed text for label sets without action units.
NEUTRAL_CAPTION: str = _RESTING["fixed"]
_PERSONS, _FACES, _SHOWS, _SEEN = (_WORDS[name] for name in ("persons", "faces", "shows", "seen"))
#: How the released captions begin.
_OPENING = "It is a people who"
#: Rows that share a sentence, each with its adverb and a blank behind it, or with nothing.
_Group = Sequence[tuple[Wording, str]]


def describe(labels: FaceLabels, seed: int | str) -> str:
    """Return one caption of ``labels``; the same seed always gives the same text.

    It mentions exactly the action units that are present. Without coded units it speaks of the emotion alone; with
    none present, of a face at rest.
    """
    # Text seeds make the draw independent of Python's hash seed and of neighbouring numbers.
    draw = random.Random(f"{seed}")
    sentences = list(action_sentences(labels, draw))
    if labels.emotions:
        sentences.append(emotion_sentence(labels, draw))
    return " ".join(sentences)


def captions(labels: FaceLabels, count: int, seed: int | str = 0) -> tuple[str, ...]:
    """Return up to ``count`` different captions; fewer only where the grammar has no more to say."""
    found: dict[str, None] = {}
    for attempt in range(20 * count):
        if len(found) == count:
            break
        found[describe(labels, f"{seed}/{attempt}")] = None
    return tuple(found)


def action_sentences(labels: FaceLabels, draw: random.Random) -> Iterator[str]:
    """Sentences over the units present, or one over a face at rest; nothing where nobody coded."""
    if labels.action_units is None:
        return
    if not labels.action_units:
        yield resting_sentence(draw)
        return
    chosen = _choose(labels.action_units, draw)
    ways_on = draw.sample(_WORDS["ways_on"], len(_WORDS["ways_on"]))
    frames = draw.sample(_FRAMES, len(_FRAMES))
    for number, group in enumerate(_cut(chosen, draw)):
        frame = frames[number % len(frames)]
        worded = [(row, _adverb(row, labels, draw)) for row in group]
        lead = ways_on[number % len(ways_on)] if number else draw.choice(_WORDS["ways_in"])
        # One adverbial a sentence is enough.
        end = "" if number or lead.endswith(", ") else draw.choice(_WORDS["ends"])
        yield sentence(f"{lead}{frame(worded, draw)}{end}")


def resting_sentence(draw: random.Random) -> str:
    """Return one sentence over a face without any action, of several thousand: what is coded and absent."""
    details = [draw.choice(_RESTING[part]) for part in ("brows", "eyes", "mouth") if draw.random() < 0.75]
    whole = draw.choice(_RESTING["whole"])
    if not details:
        text = whole
    elif draw.random() < 0.5:
        text = f"{whole}: {join(details)}"
    else:
        text = f"{join(details)}, and {whole}" if len(details) < 3 else join([*details, whole])
    return sentence(f"{draw.choice(_RESTING['leads'])}{text}")


def _choose(units: frozenset[int], draw: random.Random) -> list[Wording]:
    """Rows that cover each unit once, joint ones now and then, in reading order."""
    single, joint = wordings(units)
    rows = list(single)
    for row in draw.sample(joint, len(joint)):
        covered = [other for other in rows if other.units <= row.units]
        if draw.random() < 0.5 and frozenset().union(*(other.units for other in covered)) == row.units:
            rows = [other for other in rows if other not in covered] + [row]
    return sorted(rows, key=lambda row: row.order)


def _cut(rows: list[Wording], draw: random.Random) -> Iterator[list[Wording]]:
    """Cut rows into sentences of at most four."""
    start = 0
    while start < len(rows):
        size = draw.randint(1, 4)
        yield rows[start : start + size]
        start += size


def _adverb(row: Wording, labels: FaceLabels, draw: random.Random) -> str:
    """Adverb with a blank behind it where all units of the row have the same intensity; else nothing."""
    strengths = {labels.intensities.get(unit) for unit in row.units}
    strength = strengths.pop()
    return f"{draw.choice(_WORDS['adverbs'][str(strength)])} " if strength and not strengths else ""


def _states(group: _Group, draw: random.Random) -> str:
    """``the brows are lowered, the nose is wrinkled and the lips are parted``."""
    return join(f"the {draw.choice(row.parts)} {row.be} {adverb}{draw.choice(row.states)}" for row, adverb in group)


def _moves(group: _Group, draw: random.Random) -> str:
    """``the brows sink and the lips part``; a row that cannot move by itself is given as a state."""
    return join(
        f"the {draw.choice(row.parts)} {adverb}{draw.choice(row.moves)}"
        if row.moves
        else _states([(row, adverb)], draw)
        for row, adverb in group
    )


def _deeds(group: _Group, draw: random.Random) -> str:
    """``the person lowers the brows and parts the lips``."""
    return f"{draw.choice(_PERSONS)} {_acts(group, draw, third_person)}"


def _acts(group: _Group, draw: random.Random, form: Callable[[str], str]) -> str:
    return join(adverb + form(draw.choice(row.deeds)).format(f"the {draw.choice(row.parts)}") for row, adverb in group)


def _shapes(group: _Group, draw: random.Random) -> str:
    """``the face shows lowered brows and a wrinkled nose``."""
    return f"{draw.choice(_FACES)} {draw.choice(_SHOWS)} {_shape_list(group, draw)}"


def _with_shapes(group: _Group, draw: random.Random) -> str:
    """``the face is seen with lowered brows and a wrinkled nose``."""
    return f"{draw.choice(_FACES)} {draw.choice(_SEEN)} with {_shape_list(group, draw)}"


def _with_states(group: _Group, draw: random.Random) -> str:
    """``the face appears with the brows lowered and the lips parted``."""
    absolute = join(f"the {draw.choice(row.parts)} {adverb}{draw.choice(row.states)}" for row, adverb in group)
    return f"{draw.choice(_FACES)} {draw.choice(_SEEN)} with {absolute}"


def _mixed(group: _Group, draw: random.Random) -> str:
    """``the person lowers the brows, parting the lips``; a single row is a deed."""
    if len(group) < 2:
        return _deeds(group, draw)
    tail = _acts(group[1:], draw, gerund)
    return f"{_deeds(group[:1], draw)}, {tail}"


def _shape_list(group: _Group, draw: random.Random) -> str:
    """``lowered brows and a wrinkled nose``."""
    shapes = ((f"{adverb}{draw.choice(row.adjectives)} {draw.choice(row.short)}", row.plural) for row, adverb in group)
    return join(words if plural else f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words, plural in shapes)


_FRAMES = (_states, _moves, _deeds, _shapes, _with_shapes, _with_states, _mixed)


def emotion_sentence(labels: FaceLabels, draw: random.Random) -> str:
    """Return a sentence over all emotions of ``labels``, with reasons where actions that are present give any."""
    known = [emotion for emotion in labels.emotions if emotion in EMOTION_WORDS and emotion != "neutral"]
    parts = []
    if known:
        parts.append(_inferred(labels, known, draw))
    elif "neutral" in labels.emotions:
        parts.append(draw.choice(_WAYS["neutral"]))
    foreign = [emotion for emotion in labels.emotions if emotion not in EMOTION_WORDS]
    parts += [draw.choice(_WAYS["called"]).format('" and "'.join(foreign))] if foreign else []
    return sentence("; ".join(parts))


def reasons_for(labels: FaceLabels, emotion: str) -> frozenset[int]:
    """Return units that are present and belong to the prototype of ``emotion``."""
    return (labels.action_units or frozenset()) & frozenset(PROTOTYPES.get(emotion, ()))


def _inferred(labels: FaceLabels, emotions: list[str], draw: random.Random) -> str:
    if len(emotions) > 1:
        text = join(_with_reasons(labels, emotions, draw))
        if "{" not in text and any(reasons_for(labels, emotion) for emotion in emotions) and draw.random() < 0.7:
            return f"{draw.choice(('this blends', 'the expression mixes', 'the face combines signs of'))} {text}"
        return draw.choice(_WAYS["plain"]).format(f"a mix of {join(emotions)}")
    (emotion,) = emotions
    rows = _pick(reasons_for(labels, emotion), draw)
    if not rows or draw.random() < 0.25:
        return draw.choice(_WAYS["plain"]).format(emotion)
    plural = len(rows) > 1 or rows[0].plural
    return draw.choice(_WAYS["because"]).format(
        reasons=_named(rows, draw),
        emotion=emotion,
        speak="speak" if plural else "speaks",
        suggest="suggest" if plural else "suggests",
        make="make" if plural else "makes",
        be="are" if plural else "is",
    )


def _with_reasons(labels: FaceLabels, emotions: list[str], draw: random.Random) -> list[str]:
    """``surprise (the lifted brows)`` for each; an action speaks for one emotion only, the first that names it."""
    parts, named = [], frozenset[int]()
    for emotion in emotions:
        rows = _pick(reasons_for(labels, emotion) - named, draw)
        named = named.union(*(row.units for row in rows))
        parts.append(f"{emotion} ({_named(rows, draw)})" if rows else emotion)
    return parts


def _pick(units: frozenset[int], draw: random.Random) -> list[Wording]:
    """One to three rows of the units that speak for an emotion, in reading order."""
    single, _ = wordings(units)
    return sorted(draw.sample(single, min(len(single), draw.randint(1, 3))), key=lambda row: row.order)


def _named(rows: list[Wording], draw: random.Random) -> str:
    return join(f"the {draw.choice(row.adjectives)} {draw.choice(row.short)}" for row in rows)


def action_caption(labels: FaceLabels, opening: str = _OPENING) -> str | None:
    """Return the sentence over the action units present in ascending order, or None without any.

    >>> action_caption(FaceLabels.of([24, 10, 14, 17]))
    'It is a people who raises upper lip, tightens lip corner, raises chin and presses lips.'
    """
    if not labels.action_units:
        return None
    return f"{opening} {join(ACTION_UNITS[unit].third_person for unit in sorted(labels.action_units))}."


def emotion_caption(labels: FaceLabels) -> str | None:
    """Return the sentence over the emotions, or None without any.

    >>> emotion_caption(FaceLabels.of(None, "happily", "surprised"))
    'The face shows happiness and surprise.'
    """
    return f"The face shows {join(labels.emotions)}." if labels.emotions else None


def rule_caption(labels: FaceLabels) -> str | None:
    """Return both sentences, as far as there are labels for them: what Cat-BLIP is trained on."""
    sentences = [sentence for sentence in (action_caption(labels), emotion_caption(labels)) if sentence]
    return " ".join(sentences) or None

"""A grammar of captions: thousands of sentences for one set of labels, drawn by seed, without any language model.

A caption reads the face from brow to neck. Its units are cut into one to three sentences; each sentence has a frame
("the lips are parted", "the person parts the lips", "the face shows parted lips", or "with parted lips"), a way in and
a place or moment at its end. Then comes the emotion, with the actions that speak for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from streamfer.captions.english import sentence
from streamfer.captions.vocabulary import Wording, gerund, join, third_person, wordings
from streamfer_train.captions.feeling import emotion_sentence
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.sentences import SENTENCES

_WORDS, _RESTING = SENTENCES["actions"], SENTENCES["resting"]
#: One fixed text for label sets without action units.
NEUTRAL_CAPTION: str = _RESTING["fixed"]
_PERSONS, _FACES, _SHOWS, _SEEN = (_WORDS[name] for name in ("persons", "faces", "shows", "seen"))


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
        adverbs = [_adverb(row, labels, draw) for row in group]
        lead = ways_on[number % len(ways_on)] if number else draw.choice(_WORDS["ways_in"])
        # One adverbial a sentence is enough.
        end = "" if number or lead.endswith(", ") else draw.choice(_WORDS["ends"])
        yield sentence(f"{lead}{frame(group, adverbs, draw)}{end}")


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


def _states(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the brows are lowered, the nose is wrinkled and the lips are parted``."""
    return join(
        f"the {draw.choice(row.parts)} {row.be} {adverb}{draw.choice(row.states)}"
        for row, adverb in zip(rows, adverbs, strict=True)
    )


def _moves(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the brows sink and the lips part``; a row that cannot move by itself is given as a state."""
    return join(
        f"the {draw.choice(row.parts)} {adverb}{draw.choice(row.moves)}"
        if row.moves
        else _states([row], [adverb], draw)
        for row, adverb in zip(rows, adverbs, strict=True)
    )


def _deeds(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the person lowers the brows and parts the lips``."""
    deeds = (_deed(row, adverb, draw, third_person) for row, adverb in zip(rows, adverbs, strict=True))
    return f"{draw.choice(_WORDS['persons'])} {join(deeds)}"


def _deed(row: Wording, adverb: str, draw: random.Random, form: Callable[[str], str]) -> str:
    deed = form(draw.choice(row.deeds)).format(f"the {draw.choice(row.parts)}")
    return f"{adverb}{deed}"


def _shapes(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the face shows lowered brows and a wrinkled nose``."""
    return f"{draw.choice(_WORDS['faces'])} {draw.choice(_WORDS['shows'])} {_shape_list(rows, adverbs, draw)}"


def _with_shapes(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the face is seen with lowered brows and a wrinkled nose``."""
    return f"{draw.choice(_WORDS['faces'])} {draw.choice(_WORDS['seen'])} with {_shape_list(rows, adverbs, draw)}"


def _with_states(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the face appears with the brows lowered and the lips parted``."""
    absolute = join(
        f"the {draw.choice(row.parts)} {adverb}{draw.choice(row.states)}"
        for row, adverb in zip(rows, adverbs, strict=True)
    )
    return f"{draw.choice(_WORDS['faces'])} {draw.choice(_WORDS['seen'])} with {absolute}"


def _mixed(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    """``the person lowers the brows, parting the lips``; a single row is a deed."""
    if len(rows) < 2:
        return _deeds(rows, adverbs, draw)
    tail = join(_deed(row, a, draw, gerund) for row, a in zip(rows[1:], adverbs[1:], strict=True))
    return f"{_deeds(rows[:1], adverbs[:1], draw)}, {tail}"


def _shape_list(rows: Sequence[Wording], adverbs: Sequence[str], draw: random.Random) -> str:
    return join(_shape(row, adverb, draw) for row, adverb in zip(rows, adverbs, strict=True))


def _shape(row: Wording, adverb: str, draw: random.Random) -> str:
    """``a wrinkled nose``, ``lowered brows``."""
    words = f"{adverb}{draw.choice(row.adjectives)} {draw.choice(row.short)}"
    article = "" if row.plural else "an " if words[0] in "aeiou" else "a "
    return f"{article}{words}"


_FRAMES = (_states, _moves, _deeds, _shapes, _with_shapes, _with_states, _mixed)

"""Questions and answers from labels: Q1 the whole face, Q2 a region's actions, Q3 one action unit, yes or no.

Source: the three question types of Exp-VQA (Pattern Recognition 168, 2025); all wordings are our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from streamfer.captions.vocabulary import ACTION_UNITS, IMPLIES, in_order, wordings
from streamfer_train.captions.grammar import SENTENCES, describe
from streamfer_train.captions.labels import FaceLabels

Kind = Literal["global", "region", "unit"]

#: Regions that questions name, and the vocabulary's regions in each.
ASKED_REGIONS: dict[str, list[str]] = SENTENCES["questions"]["regions"]
_WHOLE, _PART = SENTENCES["questions"]["whole"], SENTENCES["questions"]["part"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer; ``unit`` is set for Q3, ``region`` for Q2."""

    kind: Kind
    question: str
    answer: str
    unit: int | None = None
    region: str | None = None


def global_question(labels: FaceLabels, seed: int | str) -> Question:
    """Q1: describe the whole face, with the emotion and its reasons as far as they are labelled."""
    draw = random.Random(f"q1/{seed}")
    known = "actions" if not labels.emotions else "emotion" if labels.action_units is None else "both"
    return Question("global", draw.choice(_WHOLE[known]), describe(labels, seed))


def region_question(labels: FaceLabels, region: str, seed: int | str) -> Question | None:
    """Q2: describe what one region does; None where its units were not all looked for and none is present."""
    units = region_units(region)
    present = (labels.action_units or frozenset()) & units
    if labels.action_units is None or (not present and not units <= present | labels.absent):
        return None
    draw = random.Random(f"q2/{region}/{seed}")
    strengths = {unit: labels.intensities[unit] for unit in present if unit in labels.intensities}
    answer = (
        describe(FaceLabels(present, (), strengths), f"q2/{region}/{seed}")
        if present
        else draw.choice(_PART["nothing"]).format(region=region)
    )
    if not present and region in ("nose", "mouth", "upper face", "lower face"):
        answer = answer.replace(" rest.", " rests.")
    return Question("region", draw.choice(_PART["region"]).format(region=region), answer, region=region)


def unit_question(unit: int, present: bool, seed: int | str) -> Question:
    """Q3: whether one action unit shows; the answer is ``yes`` or ``no``."""
    draw = random.Random(f"q3/{unit}/{seed}")
    (row,) = wordings(frozenset({unit}))[0]
    part = draw.choice(row.parts)
    text = draw.choice(_PART["unit"]).format(
        Is=row.be.capitalize(),
        be=row.be,
        part=part,
        state=draw.choice(row.states),
        deed=draw.choice(row.deeds).format(f"the {part}"),
    )
    return Question("unit", text, "yes" if present else "no", unit=unit)


def region_units(region: str) -> frozenset[int]:
    """Units that show in a region of :data:`ASKED_REGIONS`."""
    rooms = ASKED_REGIONS[region]
    return frozenset(number for number, unit in ACTION_UNITS.items() if unit.region in rooms)


def questions(
    faces: Iterable[FaceLabels], *, seed: int = 0, regions: int = 1, units: int = 2
) -> Iterator[tuple[int, Question]]:
    """Yield (index of the face, question) over many faces: Q1 each, ``regions`` Q2 and ``units`` Q3.

    Q3 is balanced: over the whole set each unit is asked as often with the answer yes as with no, as far as faces
    with that answer exist, so that always answering "no" is worth nothing.
    """
    asked: dict[tuple[int, bool], int] = {}
    for index, labels in enumerate(faces):
        draw = random.Random(f"{seed}/{index}")
        if labels.action_units is not None or labels.emotions:
            yield index, global_question(labels, f"{seed}/{index}")
        fitting = [region_question(labels, region, f"{seed}/{index}") for region in ASKED_REGIONS]
        known = [question for question in fitting if question]
        for question in draw.sample(known, min(regions, len(known))):
            yield index, question
        for unit, present in _balanced(labels, units, asked, draw):
            yield index, unit_question(unit, present, f"{seed}/{index}")


def _balanced(
    labels: FaceLabels, count: int, asked: dict[tuple[int, bool], int], draw: random.Random
) -> Iterator[tuple[int, bool]]:
    """Choose units whose answer has been asked less often than its opposite, those first that lag the most."""
    present = labels.action_units or frozenset()
    # A unit that another brings along is neither a fair yes nor a fair no.
    brought = frozenset().union(*(IMPLIES.get(unit, frozenset()) for unit in present)) - present
    options = [(unit, unit in present) for unit in in_order(present | (labels.absent - brought))]
    draw.shuffle(options)
    lag = {option: asked.get((option[0], not option[1]), 0) - asked.get(option, 0) for option in options}
    for option in sorted(options, key=lambda one: -lag[one])[:count]:
        # Faces come one by one: an answer may lead by one, never by more.
        if lag[option] >= 0:
            asked[option] = asked.get(option, 0) + 1
            yield option

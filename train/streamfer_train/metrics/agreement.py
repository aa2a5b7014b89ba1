"""Whether captions say what the labels say: units mentioned, emotions, contradictions, repetition.

Every measure reads texts with :func:`streamfer.captions.reading.read`, so it costs no model and no download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamfer.captions.checks import contradictions, repeats
from streamfer.captions.reading import Mentions, read
from streamfer.captions.vocabulary import ACTION_UNITS, EMOTION_WORDS
from streamfer.errors import ConfigError
from streamfer_train.captions.labels import FaceLabels


@dataclass(frozen=True, slots=True)
class UnitScore:
    """Precision, recall and F1 (0-1) of the mentions of one unit, or of all together, and how often it is true."""

    precision: float
    recall: float
    f1: float
    support: int

    @classmethod
    def of(cls, hits: int, false: int, missed: int) -> UnitScore:
        """Score counts; what cannot be said for want of cases is 0."""
        precision = hits / (hits + false) if hits + false else 0.0
        recall = hits / (hits + missed) if hits + missed else 0.0
        f1 = 2 * hits / (2 * hits + false + missed) if hits + false + missed else 0.0
        return cls(precision, recall, f1, hits + missed)


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What a set of captions is worth against its labels.

    ``micro`` counts all mentions together, ``macro_f1`` is the mean over units that occur in the labels;
    ``emotion_agreement`` is the share of captions with an emotion label that name an emotion of the label and no
    other, ``contradictions`` and ``repetitions`` are the shares of captions with at least one. All in 0-1.
    """

    count: int
    micro: UnitScore
    macro_f1: float
    units: dict[int, UnitScore]
    emotion_agreement: float | None
    contradictions: float
    repetitions: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate(captions: Sequence[str], labels: Sequence[FaceLabels]) -> CaptionReport:
    """Score captions against the labels of the same faces.

    Only coded units count.

    Raises:
        ConfigError: there are no captions, or not as many as labels.
    """
    if not captions or len(captions) != len(labels):
        raise ConfigError(f"{len(captions)} captions for {len(labels)} labels; give one caption for every label")
    counts = {unit: [0, 0, 0] for unit in ACTION_UNITS}
    agreed, with_emotion, contradicting, repeating = 0, 0, 0, 0
    for text, label in zip(captions, labels, strict=True):
        said = read(text)
        _count_units(said, label, counts)
        if label.emotions:
            with_emotion += 1
            agreed += emotions_agree(text, said, label)
        contradicting += any(True for _ in contradictions(said, label))
        repeating += repeats(text)
    scores = {unit: UnitScore.of(*numbers) for unit, numbers in counts.items() if numbers[0] + numbers[2]}
    totals = [sum(numbers[place] for numbers in counts.values()) for place in range(3)]
    return CaptionReport(
        len(captions),
        UnitScore.of(*totals),
        sum(score.f1 for score in scores.values()) / len(scores) if scores else 0.0,
        scores,
        agreed / with_emotion if with_emotion else None,
        contradicting / len(captions),
        repeating / len(captions),
    )


def _count_units(said: Mentions, label: FaceLabels, counts: dict[int, list[int]]) -> None:
    if label.action_units is None:
        return
    spoken, true = said.units, label.action_units
    coded = ACTION_UNITS.keys() if label.coded is None else label.coded
    for unit in coded:
        if unit in spoken or unit in true:
            counts[unit][0 if unit in spoken and unit in true else 1 if unit in spoken else 2] += 1


def emotions_agree(text: str, said: Mentions, label: FaceLabels) -> bool:
    """Whether a text names an emotion of the label and none beside the label.

    Emotions outside the vocabulary are looked up word for word. Neutral labels agree with texts that name nothing.
    """
    named = set(said.emotions) | {e for e in label.emotions if e not in EMOTION_WORDS and e in text.lower()}
    if not named:
        return label.emotions == ("neutral",)
    return named <= set(label.emotions)


def most_frequent_caption(labels: Sequence[FaceLabels]) -> FaceLabels:
    """Return the one label set that a caption of the most frequent units would speak of: the floor to beat.

    Takes as many of the most frequent units as maximise micro-F1 over ``labels``, and the most frequent emotion.
    """
    sets = [label.action_units for label in labels if label.action_units is not None]
    often = sorted(ACTION_UNITS, key=lambda unit: -sum(unit in units for units in sets))
    total = sum(map(len, sets))
    best, hits = (0.0, 0), 0
    for size, unit in enumerate(often, start=1):
        hits += sum(unit in units for units in sets)
        best = max(best, (2 * hits / (size * len(sets) + total) if sets else 0.0, size))
    emotions = [label.emotions for label in labels if label.emotions]
    return FaceLabels(frozenset(often[: best[1]]), max(set(emotions), key=emotions.count) if emotions else ())

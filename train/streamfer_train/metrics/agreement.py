"""Whether captions say what the labels say: units mentioned, emotions, contradictions, repetition.

Every measure reads texts with :func:`streamfer.captions.reading.read`, so it costs no model and no download.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What a set of captions is worth against its labels; all in 0-1."""

    count: int
    micro: UnitScore  #: of all mentions together
    macro_f1: float  #: mean over units that occur in the labels
    units: dict[int, UnitScore]
    emotion_agreement: float | None  #: share, of captions with emotion labels, that name one of them and no other
    contradictions: float  #: share of captions with at least one
    repetitions: float  #: likewise


def evaluate(captions: Sequence[str], labels: Sequence[FaceLabels]) -> CaptionReport:
    """Score captions against the labels of the same faces.

    Only coded units count.

    Raises:
        ConfigError: there are no captions, or not as many as labels.
    """
    if not captions or len(captions) != len(labels):
        raise ConfigError(f"{len(captions)} captions for {len(labels)} labels; give one caption for every label")
    said = [read(text) for text in captions]
    units, micro = _unit_scores(said, labels)
    named = [place for place, label in enumerate(labels) if label.emotions]
    agreed = [emotions_agree(captions[place], said[place], labels[place]) for place in named]
    contradicting = [any(True for _ in contradictions(*pair)) for pair in zip(said, labels, strict=True)]
    return CaptionReport(
        len(captions),
        micro,
        sum(score.f1 for score in units.values()) / len(units) if units else 0.0,
        units,
        sum(agreed) / len(agreed) if agreed else None,
        sum(contradicting) / len(captions),
        sum(map(repeats, captions)) / len(captions),
    )


def _unit_scores(said: Sequence[Mentions], labels: Sequence[FaceLabels]) -> tuple[dict[int, UnitScore], UnitScore]:
    """Return the score of each coded unit that occurs, and of all mentions together; what cannot be said is 0."""
    from sklearn.metrics import precision_recall_fscore_support

    looked_for = [(label.action_units or frozenset()) | label.absent for label in labels]
    coded_NU = np.array([[unit in units for unit in ACTION_UNITS] for units in looked_for])
    true_NU, said_NU = (
        coded_NU & np.array([[unit in units for unit in ACTION_UNITS] for units in sets])
        for sets in ([label.action_units or () for label in labels], [mentions.units for mentions in said])
    )
    each, together = (
        precision_recall_fscore_support(true_NU, said_NU, average=way, zero_division=0) for way in (None, "micro")
    )
    found = {
        unit: UnitScore(float(precision), float(recall), float(f1), int(support))
        for unit, precision, recall, f1, support in zip(ACTION_UNITS, *each, strict=True)
    }
    precision, recall, f1 = map(float, together[:3])
    micro = UnitScore(precision, recall, f1, int(true_NU.sum()))
    return {unit: score for unit, score in found.items() if score.support}, micro


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
    return FaceLabels(frozenset(often[: best[1]]), Counter(emotions).most_common(1)[0][0] if emotions else ())

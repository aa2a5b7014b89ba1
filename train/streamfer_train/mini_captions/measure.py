"""What the captioner is worth on the val parts: units mentioned, emotion, contradictions, repetition, answers, speed.

Shape suffixes: R numbers of a row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamfer.models.captioning.context import ClipContext
from streamfer.models.captioning.mini import MiniCaptioner
from streamfer.models.captioning.mini_plan import Draft, Planner
from streamfer_train.captions.grammar import describe
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import unit_question
from streamfer_train.metrics.agreement import contradictions, evaluate, most_frequent_caption
from streamfer_train.metrics.mentions import read
from streamfer_train.mini_captions.faces import UNITS
from streamfer_train.mini_captions.features import FeatureFile

THRESHOLDS = tuple(number / 100 for number in range(14, 72, 2))
#: Threshold at which chances are read, and rounds over all units.
_EVEN = 0.35
_ROUNDS = 3
_ROWS = 96


@dataclass(frozen=True, slots=True)
class Exam:
    """Showings with the labels that their captions are held to: places of the keyframes in a file's rows, labels."""

    file: FeatureFile
    rows: tuple[tuple[int, ...], ...]
    labels: tuple[FaceLabels, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: Sequence[int]) -> Exam:
        """Return some of the showings."""
        return Exam(self.file, tuple(self.rows[i] for i in index), tuple(self.labels[i] for i in index))


def stills(file: FeatureFile, labels: Sequence[FaceLabels]) -> Exam:
    """Return the plain crops of the photographs whose action units are known."""
    known = [number for number, one in enumerate(labels) if one.action_units is not None]
    return Exam(file, tuple((number * file.views,) for number in known), tuple(labels[number] for number in known))


def plans(captioner: MiniCaptioner, exam: Exam, thresholds: tuple[float, ...]) -> list[Draft]:
    """Return what the captioner would mention of each showing, from `thresholds` on instead of the card's own."""
    opposed = frozenset(map(frozenset, captioner.card.opposed))
    planner = Planner(captioner.vocabulary, thresholds, opposed)
    return _drafts(captioner, exam, planner=planner, plans_only=True)


def fit_thresholds(captioner: MiniCaptioner, exam: Exam) -> tuple[tuple[float, ...], float, float]:
    """Choose each unit's threshold for the best micro-F1 of all.

    Units are weighed once, at one threshold for all, and then moved one at a time: that what is planned changes the
    chances of what follows is left out of account. Units that the labels do not know keep the common threshold.

    Returns thresholds, the micro-F1 that one threshold for all would have, and that of these.
    """
    even = (_EVEN,) * len(UNITS)
    drafts = plans(captioner, exam, even)
    chance_NU = np.array([[draft.chances.get(unit, 0.0) for unit in UNITS] for draft in drafts])
    true_NU = np.array([[unit in (one.action_units or ()) for unit in UNITS] for one in exam.labels])
    coded_NU = np.array([[one.coded is None or unit in one.coded for unit in UNITS] for one in exam.labels])

    def micro_f1(from_U: NDArray[np.float64]) -> float:
        said_NU = (chance_NU >= from_U) & coded_NU
        hits = int((said_NU & true_NU).sum())
        return 2 * hits / max(int(said_NU.sum() + (true_NU & coded_NU).sum()), 1)

    common = max(THRESHOLDS, key=lambda one: micro_f1(np.full(len(UNITS), one)))
    best_U = np.full(len(UNITS), common)
    for _ in range(_ROUNDS):
        for place in np.flatnonzero(coded_NU.any(axis=0)):
            tried = {one: micro_f1(np.where(np.arange(len(UNITS)) == place, one, best_U)) for one in THRESHOLDS}
            best_U[place] = max(tried, key=lambda one: (tried[one], -abs(one - common)))
    chosen = tuple(float(one) for one in best_U)
    return chosen, round(micro_f1(np.full(len(UNITS), common)), 4), round(micro_f1(best_U), 4)


def captions(captioner: MiniCaptioner, exam: Exam) -> list[str]:
    """Describe every showing."""
    return [captioner.vocabulary.text(draft.ids) for draft in _drafts(captioner, exam)]


def described(captioner: MiniCaptioner, exam: Exam) -> dict[str, Any]:
    """Score descriptions against the labels, beside the one caption that suits most faces."""
    texts = captions(captioner, exam)
    report = evaluate(texts, exam.labels)
    floor = most_frequent_caption(exam.labels)
    fixed = [describe(floor, 0)] * len(exam)
    least = evaluate(fixed, exam.labels)
    actions = [FaceLabels(one.action_units, (), coded=one.coded) for one in exam.labels]
    against = list(zip(map(read, texts), actions, strict=True))
    return {
        "count": len(exam),
        "micro_f1": round(report.micro.f1, 4),
        "micro_precision": round(report.micro.precision, 4),
        "micro_recall": round(report.micro.recall, 4),
        "macro_f1": round(report.macro_f1, 4),
        "floor_micro_f1": round(least.micro.f1, 4),
        "floor_units": sorted(floor.action_units or ()),
        "emotion_agreement": round(report.emotion_agreement or 0.0, 4),
        "floor_emotion_agreement": round(least.emotion_agreement or 0.0, 4),
        # Of a text with itself; and with the labelled units besides. A wrong emotion counts above, not here.
        "contradictions": round(sum(any(contradictions(said)) for said, _ in against) / len(exam), 4),
        "contradictions_with_labels": round(sum(any(contradictions(*pair)) for pair in against) / len(exam), 4),
        "repetitions": round(report.repetitions, 4),
        "words": round(sum(len(text.split()) for text in texts) / len(texts), 1),
        "different": len(set(texts)),
        "units": {f"AU{unit:02d}": _rounded(asdict(score)) for unit, score in report.units.items()},
        "examples": texts[:5],
    }


def answered(captioner: MiniCaptioner, exam: Exam, seed: int = 0) -> dict[str, Any]:
    """Score yes and no, each unit asked as often with either answer, as far as showings allow."""
    draw = random.Random(f"answered/{seed}")
    asked: list[tuple[int, int, bool]] = []
    for unit in UNITS:
        yes = [i for i, one in enumerate(exam.labels) if unit in (one.action_units or ())]
        no = [i for i, one in enumerate(exam.labels) if unit in one.absent]
        count = min(len(yes), len(no), 100)
        asked += [(i, unit, True) for i in draw.sample(yes, count)] + [(i, unit, False) for i in draw.sample(no, count)]
    limit = captioner.card.max_question_tokens
    questions = [unit_question(unit, present, f"{seed}/{i}").question for i, unit, present in asked]
    found: list[float] = []
    for start in range(0, len(asked), _ROWS):
        part = exam.at([i for i, _, _ in asked[start : start + _ROWS]])
        ids = [captioner.vocabulary.question(text, limit) for text in questions[start : start + _ROWS]]
        found += captioner.probability_of_yes(_features(part), list(map(len, part.rows)), ids)
    right = [(p >= 0.5) == present for p, (_, _, present) in zip(found, asked, strict=True)]
    return {
        "count": len(asked),
        "accuracy": round(sum(right) / max(len(right), 1), 4),
        "units": {
            f"AU{unit:02d}": round(sum(own) / len(own), 4)
            for unit in UNITS
            if (own := [one for one, (_, other, _) in zip(right, asked, strict=True) if other == unit])
        },
    }


def speed(captioner: MiniCaptioner, repeats: int = 12) -> dict[str, float]:
    """Return milliseconds a description of two random keyframes, alone and in batches of 16, with torch's threads."""
    side = captioner.info.crop.size
    clips = np.random.default_rng(0).integers(0, 256, (16, 2, side, side, 3), dtype=np.uint8)
    captioner.caption([clips[0]])
    alone = []
    for clip in clips[:repeats]:
        began = time.perf_counter()
        captioner.caption([clip])
        alone.append(time.perf_counter() - began)
    began = time.perf_counter()
    captioner.caption(list(clips))
    together = (time.perf_counter() - began) / len(clips)
    return {
        "ms_a_caption": round(1e3 * sorted(alone)[len(alone) // 2], 1),
        "ms_a_caption_in_16": round(1e3 * together, 1),
        "threads": torch.get_num_threads(),
    }


def _drafts(captioner: MiniCaptioner, exam: Exam, **how: Any) -> list[Draft]:
    question = captioner.vocabulary.question(captioner.card.question, captioner.card.max_question_tokens)
    found: list[Draft] = []
    for start in range(0, len(exam), _ROWS):
        part = exam.at(range(start, min(start + _ROWS, len(exam))))
        counts = list(map(len, part.rows))
        found += captioner.write(_features(part), counts, [question] * len(part), [ClipContext()] * len(part), **how)
    return found


def _features(exam: Exam) -> torch.Tensor:
    return torch.from_numpy(exam.file.rows[[row for rows in exam.rows for row in rows]].astype(np.float32))


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}

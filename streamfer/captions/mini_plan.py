"""How the built-in captioner decides what to mention before it finds the words.

A plan is read off the decoder one unit at a time. The softmax says which unit comes next; divided by what is left
once the units before it in reading order were passed over, this is the unit's own probability, given the picture and
what was chosen before. A unit is mentioned from its threshold on, which was fitted on data: greedy words would leave
out whatever is likely but not certain, and whatever can be worded in many ways.

The words keep to the plan by cues: before the decoder speaks of a unit, or of the emotion, it says so by the plan's own
token, which is not shown. Only cues of what was planned may come, each unit once before the emotion and once as its
reason; and while one is missing, neither the emotion nor the end of the text may.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfer.captions.mini_vocabulary import MiniVocabulary

Logits = NDArray[np.floating[Any]]


@dataclass(slots=True)
class Draft:
    """One row's answer while it grows.

    Attributes:
        limit: most words.
        emotion: id of the emotion that the plan will hold if it holds one at all; None leaves it to the model.
        closed: yes or no may be the answer.
        ids: everything chosen so far, cues included.
        planning: no words yet.
        done: the end token came, or the limit was reached.
        complete: the end token came.
        words: words so far.
        plan: units that were planned, and the emotion; both by id.
        said: units that the words have spoken of, before the emotion (and, emptied there, behind it).
        felt: the words have come to the emotion.
        chances: probability of each unit, given the picture and what was planned before it.
    """

    limit: int
    emotion: int | None = None
    closed: bool = True
    ids: list[int] = field(default_factory=list)
    planning: bool = True
    done: bool = False
    complete: bool = False
    words: int = 0
    plan: frozenset[int] = frozenset()
    said: set[int] = field(default_factory=set)
    felt: bool = False
    chances: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Planner:
    """Chooses the next token of each row.

    Attributes:
        vocabulary: of the model.
        thresholds: probability from which each of the vocabulary's units is mentioned.
        opposed: pairs of units of which a plan holds one at most.
    """

    vocabulary: MiniVocabulary
    thresholds: tuple[float, ...]
    opposed: frozenset[frozenset[int]] = frozenset()

    def step(self, drafts: Iterable[Draft], logits_BV: Logits) -> list[int]:
        """Extend every draft by one token; return the tokens, padding for those that are done."""
        return [self._next(draft, logits_V) for draft, logits_V in zip(drafts, logits_BV, strict=True)]

    def _next(self, draft: Draft, logits_V: Logits) -> int:
        if draft.done:
            return self.vocabulary.pad
        token = self._planned(draft, logits_V) if draft.planning else self._spoken(draft, logits_V)
        if token == self.vocabulary.end:
            draft.done = draft.complete = True
            return token
        draft.ids.append(token)
        if not draft.planning and token < self.vocabulary.first_word:
            self._cue(draft, token)
        if token == self.vocabulary.say:
            draft.plan = frozenset(draft.ids) - {token}
        spoken = token in (self.vocabulary.yes, self.vocabulary.no)
        draft.planning = draft.planning and not spoken and token != self.vocabulary.say
        if spoken or token >= self.vocabulary.first_word:
            draft.words += 1
            # The end token of a text that just fills the limit still comes; what would be one word more does not.
            draft.done = spoken or draft.words >= draft.limit
            draft.complete = spoken
        return token

    def _cue(self, draft: Draft, token: int) -> None:
        if self._is_feeling(token):
            draft.felt, draft.said = True, set()
        else:
            draft.said.add(token)

    def _is_feeling(self, token: int) -> bool:
        return self.vocabulary.emotion(self.vocabulary.emotions[0]) <= token < self.vocabulary.first_word

    def _spoken(self, draft: Draft, logits_V: Logits) -> int:
        """Return the likeliest of what may come next: a word, a cue of the plan, or the end."""
        known = self.vocabulary
        feeling = {token for token in draft.plan if self._is_feeling(token)}
        units = draft.plan - feeling - draft.said
        missing = set() if draft.felt else units or feeling

        def likeliest(*tokens: int) -> int:
            return max(sorted(tokens), key=lambda token: float(logits_V[token]))

        word = known.first_word + int(logits_V[known.first_word :].argmax())
        wanted = likeliest(word, known.end, *range(known.unit(known.units[0]), known.first_word))
        if wanted == word or wanted in units or (wanted == known.end and not missing):
            return wanted
        if missing & units:
            return likeliest(*units)
        if missing and (wanted == known.end or self._is_feeling(wanted)):
            return likeliest(*feeling)
        # A unit that was not planned, or was spoken of before.
        return likeliest(word, *units) if missing else likeliest(word, known.end, *units)

    def _planned(self, draft: Draft, logits_V: Logits) -> int:
        known = self.vocabulary
        units, first = known.units, known.unit(known.units[0])
        feelings = first + len(units)
        weights = np.exp(logits_V[: known.first_word] - logits_V[: known.first_word].max())
        answers = weights[known.yes] + weights[known.no]
        # A yes or no stands behind what was asked about, and behind nothing else.
        if draft.closed and len(draft.ids) == 1 and answers > weights[known.say] + weights[first:].sum():
            return known.yes if weights[known.yes] >= weights[known.no] else known.no
        if draft.ids and draft.ids[-1] >= feelings:
            return known.say
        passed = max((token - first + 1 for token in draft.ids), default=0)
        left = float(weights[known.say] + weights[first + passed :].sum())
        for place in range(passed, len(units)):
            weight = float(weights[first + place])
            draft.chances[units[place]] = chance = weight / left if left > 0 else 0.0
            if chance >= self.thresholds[place] and not self._opposed(units[place], draft, first):
                return first + place
            left -= weight
        feeling = feelings + int(weights[feelings:].argmax())
        if weights[feeling] < weights[known.say]:
            return known.say
        return feeling if draft.emotion is None else draft.emotion

    def _opposed(self, unit: int, draft: Draft, first: int) -> bool:
        return any(frozenset((unit, self.vocabulary.units[token - first])) in self.opposed for token in draft.ids)

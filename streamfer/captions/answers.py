"""Answers from measurements, with their times; what no measurement holds is said to be so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamfer.captions.english import movement
from streamfer.captions.questions import Query, Subject
from streamfer.captions.timeline import Episode, Face, Timeline
from streamfer.captions.vocabulary import ACTION_UNITS, in_order, join

_DENIED = ((" reads ", " does not read "), (" blink", " do not blink"), (" are ", " are not "), (" is ", " is not "))
UNSEEN = "I can't see that from a face."
_OFFER = (
    "I can say which expression a face shows, what its parts do, when, how strongly, and how many people are in view."
)
FOREIGN = (
    "The built-in answers read English only. Ask in English, or let a language model answer: --captioner openai:MODEL."
)
#: An onset or offset this close to the edge of what is seen is none, seconds.
_EDGE = 0.25
_MOST_TIMES = 4
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in words, and yes or no where the question wants one; None for neither."""

    text: str
    yes: bool | None = None


def answer(query: Query, timeline: Timeline, face: Face) -> Said:
    """Answer a question that was understood about one face of a file."""
    return _Answering(timeline, face, query).answer()


class _Answering:
    """One question about one face."""

    def __init__(self, timeline: Timeline, face: Face, query: Query) -> None:
        self._timeline, self._query = timeline, query
        self._face = face
        if query.window is not None:
            low, high = (edge if edge >= 0 else face.end + edge for edge in query.window)
            if low == high:
                low, high = low - _EDGE, high + _EDGE
            self._face = replace(
                face,
                pictures=[picture for picture in face.pictures if low <= picture[0] <= high],
                seen=[moment for moment in face.seen if low <= moment <= high],
                labels=[label for label in face.labels if label[0] < high and label[1] > low],
            )

    def answer(self) -> Said:
        """Return the answer of the question's kind."""
        fixed = {
            "foreign": FOREIGN,
            "why": f"{UNSEEN} Why a face moves is not in its movements. {_OFFER}",
            "unseen": f"{UNSEEN} {_OFFER}",
            "unknown": f"{UNSEEN} {_OFFER}",
        }
        if self._query.kind in fixed:
            return Said(fixed[self._query.kind])
        if self._query.window is not None and not self._face.seen and not self._face.labels:
            return Said("The face is not seen then.")
        for subject in self._query.subjects:
            if missing := self._unread(subject):
                return Said(f"I can't tell: {missing}.")
        found = {
            "people": self._people,
            "yes_no": self._yes_no,
            "either": self._either,
            "order": self._order,
            "when": self._when,
            "how_long": self._how_long,
            "how_often": self._how_often,
            "how_strong": self._how_strong,
            "how_sure": self._how_sure,
            "expression": self._expression,
            "movements": self._movements,
            "change": self._change,
        }
        return found[self._query.kind]()

    # -- what there is ----------------------------------------------------------------------------------------

    def _unread(self, subject: Subject) -> str:
        """Return why nothing can be known of a subject; empty where it can."""
        if subject.emotion is not None and subject.emotion not in self._timeline.classes:
            known = join(self._timeline.classes) or "none"
            return f"{subject.emotion} is none of the expressions that the model tells apart ({known})"
        missing = [unit for unit in in_order(subject.units) if unit not in self._timeline.units]
        if missing:
            return f"the model does not read whether {movement(missing[0])} ({ACTION_UNITS[missing[0]].name})"
        return ""

    def _episodes(self, subject: Subject) -> list[Episode]:
        if subject.emotion is not None:
            return self._timeline.of_emotion(self._face, subject.emotion)
        return self._timeline.of_units(self._face, subject.units, blinks=self._query.aspect == "blink")

    def _name(self, subject: Subject) -> str:
        if subject.emotion is not None:
            return f"the expression reads as {subject.emotion}"
        if self._query.aspect == "blink":
            return "the eyes blink"
        return join(movement(unit) for unit in in_order(subject.units))

    def _denied(self, subject: Subject) -> str:
        """Return the name with a "not" in it."""
        name = self._name(subject)
        for verb, denied in _DENIED:
            name = name.replace(verb, denied)
        return name

    def _span(self) -> str:
        return f"{self._face.start:.1f} to {self._face.end:.1f} s"

    # -- the kinds --------------------------------------------------------------------------------------------

    def _people(self) -> Said:
        count, most = len(self._timeline.faces), self._timeline.most
        people = f"{_small(count)} {'person' if count == 1 else 'people'}"
        at_once = f", at most {_small(most)} at once" if most and most != count else ""
        text = f"{people.capitalize()} can be seen{at_once}."
        if self._query.aspect == "several":
            return Said(f"{'Yes' if count > 1 else 'No'}: {text[0].lower()}{text[1:]}", count > 1)
        if self._query.aspect == "alone":
            return Said(f"{'Yes' if count == 1 else 'No'}: {text[0].lower()}{text[1:]}", count == 1)
        return Said(text)

    def _yes_no(self) -> Said:
        (subject,) = self._query.subjects
        episodes = self._episodes(subject)
        holds = bool(episodes) != self._query.negated
        head = "Yes" if holds else "No"
        if episodes:
            return Said(f"{head}: {self._name(subject)} {self._times(episodes)}.", holds)
        return Said(f"{head}: {self._denied(subject)} in what is seen ({self._span()}).", holds)

    def _either(self) -> Said:
        found = [(subject, self._episodes(subject)) for subject in self._query.subjects]
        there = [(subject, episodes) for subject, episodes in found if episodes]
        if not there:
            return Said(f"Neither: {join((self._denied(subject) for subject, _ in found), 'and')}.")
        said = join(f"{self._name(subject)} {self._times(episodes)}" for subject, episodes in there)
        if len(there) == len(found):
            return Said(f"Both: {said}.")
        return Said(f"{said[0].upper()}{said[1:]}.")

    def _order(self) -> Said:
        sides = [(subject, self._episodes(subject)) for subject in self._query.subjects]
        wanted = self._query.aspect == "yes_no"
        for subject, episodes in sides:
            if not episodes:
                text = f"{self._denied(subject)} in what is seen ({self._span()})"
                return Said(f"No: {text}." if wanted else f"{text[0].upper()}{text[1:]}.", False if wanted else None)
        ones, others = sides[0][1], sides[1][1]
        before = ones[0].peak_at < others[0].peak_at
        told = [f"{self._name(subject)} {self._times(episodes[:1])}" for subject, episodes in sides[:2]]
        if wanted:
            return Said(f"{'Yes' if before else 'No'}: {told[0]}, and {told[1]}.", before)
        text = ", and later ".join(told if before else told[::-1])
        return Said(f"{text[0].upper()}{text[1:]}.")

    def _when(self) -> Said:
        subject = self._query.subjects[0]
        episodes = self._episodes(subject)
        if not episodes:
            return self._never(subject)
        name = self._name(subject)
        if self._query.aspect == "peak":
            best = max(episodes, key=lambda one: one.strength)
            return Said(_sentence(f"{name} most at {best.peak_at:.1f} s"))
        if self._query.aspect == "start":
            first = episodes[0]
            early = first.start - self._face.start < _EDGE
            return Said(_sentence(f"{name} from {'the first moment on' if early else f'{first.start:.1f} s on'}"))
        if self._query.aspect == "stop":
            last = episodes[-1]
            late = self._face.end - last.end < _EDGE
            return Said(_sentence(f"{name} until {'the end of what is seen' if late else f'{last.end:.1f} s'}"))
        return Said(_sentence(f"{name} {self._times(episodes)}"))

    def _how_long(self) -> Said:
        subject = self._query.subjects[0]
        episodes = self._episodes(subject)
        if not episodes:
            return self._never(subject)
        total = sum(one.seconds for one in episodes)
        return Said(_sentence(f"{self._name(subject)} for {total:.1f} s in all, {self._times(episodes)}"))

    def _how_often(self) -> Said:
        subject = self._query.subjects[0]
        episodes = self._episodes(subject)
        if not episodes:
            return self._never(subject)
        count = len(episodes)
        times = "once" if count == 1 else "twice" if count == 2 else f"{_small(count)} times"
        return Said(_sentence(f"{times}: {self._name(subject)} {self._times(episodes)}"))

    def _how_strong(self) -> Said:
        if not self._query.subjects:
            return self._expression()
        subject = self._query.subjects[0]
        episodes = self._episodes(subject)
        if not episodes:
            return Said(f"Not at all: {self._denied(subject)} in what is seen ({self._span()}).")
        best = max(episodes, key=lambda one: one.strength)
        if subject.emotion is not None:
            return Said(_sentence(f"{self._name(subject)} with {best.strength:.0%}, most at {best.peak_at:.1f} s"))
        word = "strongly" if best.strength >= 0.7 else "slightly" if best.strength < 0.2 else "clearly"
        return Said(_sentence(f"{word}: {self._name(subject)} most at {best.peak_at:.1f} s"))

    def _how_sure(self) -> Said:
        labels = [label for label in self._face.labels if label[2] is not None]
        if self._query.subjects and (emotion := self._query.subjects[0].emotion):
            labels = [label for label in labels if label[2] == emotion]
        if not labels:
            return Said(f"There is no such label in what is seen ({self._span()}).")
        best = max(labels, key=lambda label: label[3])
        return Said(f"At best {best[3]:.0%}, for {best[2]} from {best[0]:.1f} to {best[1]:.1f} s.")

    def _expression(self) -> Said:
        counts: dict[str, float] = {}
        for _, _, label, chance in self._face.labels:
            if label is not None:
                counts[label] = counts.get(label, 0.0) + chance
        if not counts:
            return Said(f"The expression cannot be read in what is seen ({self._span()}).")
        ranked = sorted(counts, key=lambda name: -counts[name])[:3]
        said = [f"{name} {self._times(self._timeline.of_emotion(self._face, name))}" for name in ranked]
        return Said(f"The expression reads as {'; '.join(said)}.")

    def _movements(self) -> Said:
        read, regions = self._timeline.units, self._query.regions
        wanted = [unit for unit, about in ACTION_UNITS.items()
                  if unit in read and (not regions or about.region in regions)]  # fmt: skip
        if not wanted:
            return Said("I can't tell: the model reads no movement there.")
        found = [(unit, self._timeline.of_units(self._face, [unit])) for unit in wanted]
        said = [f"{movement(unit)} {self._times(episodes[:2])}" for unit, episodes in found if episodes]
        if not said:
            return Said(f"No movement stands out there in what is seen ({self._span()}).")
        return Said(_sentence("; ".join(said)))

    def _change(self) -> Said:
        names = list(dict.fromkeys(label for _, _, label, _ in self._face.labels if label is not None))
        if len(names) < 2:
            only = f"the expression reads as {names[0]} throughout" if names else "no expression can be read"
            return Said(f"No: {only} ({self._span()}).", False)
        said = [f"{name} {self._times(self._timeline.of_emotion(self._face, name))}" for name in names[:4]]
        return Said(f"Yes: the expression reads as {join(said, 'then')}.", True)

    # -- words ------------------------------------------------------------------------------------------------

    def _never(self, subject: Subject) -> Said:
        return Said(f"Never: {self._denied(subject)} in what is seen ({self._span()}).")

    def _times(self, episodes: Sequence[Episode]) -> str:
        whole = len(episodes) == 1 and episodes[0].seconds >= self._face.end - self._face.start - 2 * _EDGE
        if whole and episodes[0].seconds > 0:
            return f"throughout ({episodes[0].start:.1f} to {episodes[0].end:.1f} s)"
        said = [
            f"at {one.start:.1f} s" if one.seconds < 0.05 else f"from {one.start:.1f} to {one.end:.1f} s"
            for one in episodes[:_MOST_TIMES]
        ]
        more = len(episodes) - len(said)
        return join([*said, f"{_small(more)} more times"] if more > 1 else said)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _small(count: int) -> str:
    return _SMALL[count] if count < len(_SMALL) else str(count)

"""Answers from measurements, with their times; what no measurement holds is said to be so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamfer.captions.english import movement, number_word, sentence, strength_word
from streamfer.captions.questions import Query, Subject
from streamfer.captions.timeline import Episode, Face, Timeline
from streamfer.captions.vocabulary import ACTION_UNITS, in_order, join
from streamfer.files import table_beside

_DATA = table_beside(__file__)
_DENIED, _FIXED = _DATA["denied"], _DATA["fixed"]
#: An onset or offset this close to the edge of what is seen is none, seconds.
_EDGE = 0.25
_MOST_TIMES = 4


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in words, and yes or no where the question wants one; None for neither."""

    text: str
    yes: bool | None = None


def _verdict(holds: bool, told: str) -> Said:
    return Said(f"{'yes' if holds else 'no'}: {told}", holds)


def answer(query: Query, timeline: Timeline, face: Face) -> Said:
    """Answer a question that was understood about one face of a file."""
    if query.kind in _FIXED:
        return Said(_FIXED[query.kind])
    if query.scope and len(timeline.faces) > 1:
        return _of_all(query, timeline)
    if query.window is not None:
        low, high = (edge if edge >= 0 else face.end + edge for edge in query.window)
        if low == high:
            low, high = low - _EDGE, high + _EDGE
        face = replace(
            face,
            pictures=[picture for picture in face.pictures if low <= picture[0] <= high],
            seen=[moment for moment in face.seen if low <= moment <= high],
            labels=[label for label in face.labels if label[0] < high and label[1] > low],
        )
        if not face.seen and not face.labels:
            return Said("The face is not seen then.")
    asked = _Answering(timeline, face, query)
    for subject in query.subjects:
        if missing := asked.unread(subject):
            return Said(f"I can't tell: {missing}.")
    found: Said = getattr(asked, query.kind)()
    return Said(sentence(found.text), found.yes)


def _of_all(query: Query, timeline: Timeline) -> Said:
    """Answer whether any face, or every one, does something, or how many do."""
    one = replace(query, scope="", negated=False)
    found = {number: answer(one, timeline, face) for number, face in sorted(timeline.faces.items()) if face.labels}
    there = [number for number, said in found.items() if said.yes]
    if all(said.yes is None for said in found.values()):
        return next(iter(found.values()))
    holds = (len(there) == len(found) if query.scope == "every" else bool(there)) != query.negated
    count = f"{number_word(len(there)) if there else 'none'} of {number_word(len(found))} faces"
    told = "; ".join([count, *(f"track {number}: {found[number].text[5:-1]}" for number in there)])
    if query.scope == "count":
        return Said(sentence(told))
    return Said(sentence(_verdict(holds, told).text), holds)


class _Answering:
    """One question about one face; a method a kind of question, whose words become a sentence."""

    def __init__(self, timeline: Timeline, face: Face, query: Query) -> None:
        self._timeline, self._face, self._query = timeline, face, query
        self._seen = f"in what is seen ({face.start:.1f} to {face.end:.1f} s)"

    def unread(self, subject: Subject) -> str:
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
        return movement(*in_order(subject.units))

    def _denied(self, subject: Subject) -> str:
        """Return the name with a "not" in it; each of several movements may be there without the others."""
        name = self._name(subject)
        if " and the " in name:
            return f"at no time {name} together"
        for verb, denied in _DENIED:
            name = name.replace(verb, denied)
        return name

    def _absent(self, subject: Subject) -> str:
        return f"{self._denied(subject)} {self._seen}"

    def _found(self) -> tuple[str, str, list[Episode]]:
        """Return what is asked about, its opposite, and when any of the subjects, or (negated) none, is there."""
        subjects, end = self._query.subjects, self._face.start
        there = sorted((one for subject in subjects for one in self._episodes(subject)), key=lambda one: one.start)
        names = join(map(self._name, subjects), "or"), join(map(self._denied, subjects))
        if not self._query.negated:
            return *names, there
        gaps: list[Episode] = []
        for one in [*there, Episode(self._face.end, self._face.end, 0.0, 0.0)]:
            if one.start - end > _EDGE:
                gaps.append(Episode(end, one.start, (end + one.start) / 2, 0.0))
            end = max(end, one.end)
        return names[1], names[0], gaps

    def _lasts(self, episodes: Sequence[Episode]) -> bool:
        """Whether something is there as long as the face is seen."""
        return len(episodes) == 1 and episodes[0].seconds >= self._face.end - self._face.start - 2 * _EDGE

    def _times(self, episodes: Sequence[Episode]) -> str:
        if self._lasts(episodes) and episodes[0].seconds > 0:
            return f"throughout ({episodes[0].start:.1f} to {episodes[0].end:.1f} s)"
        said = [
            f"at {one.start:.1f} s" if one.seconds < 0.05 else f"from {one.start:.1f} to {one.end:.1f} s"
            for one in episodes[:_MOST_TIMES]
        ]
        more = len(episodes) - len(said)
        return join([*said, f"{number_word(more)} more times"] if more > 1 else said)

    def _told(self, subject: Subject, episodes: Sequence[Episode]) -> str:
        return f"{self._name(subject)} {self._times(episodes)}"

    def _emotions(self, names: Sequence[str]) -> list[str]:
        return [f"{name} {self._times(self._timeline.of_emotion(self._face, name))}" for name in names]

    # -- the kinds --------------------------------------------------------------------------------------------

    def people(self) -> Said:
        count, most = len(self._timeline.faces), self._timeline.most
        at_once = f", at most {number_word(most)} at once" if most and most != count else ""
        text = f"{number_word(count)} {'person' if count == 1 else 'people'} can be seen{at_once}"
        if not self._query.aspect:
            return Said(text)
        return _verdict(count > 1 if self._query.aspect == "several" else count == 1, text)

    def yes_no(self) -> Said:
        (subject,) = self._query.subjects
        episodes = self._episodes(subject)
        told = self._told(subject, episodes) if episodes else self._absent(subject)
        holds = self._lasts(episodes) if self._query.aspect == "always" else bool(episodes)
        return _verdict(holds != self._query.negated, told)

    def either(self) -> Said:
        found = [(subject, self._episodes(subject)) for subject in self._query.subjects]
        there = [self._told(*one) for one in found if one[1]]
        if not there:
            return Said(f"neither: {join(self._denied(subject) for subject, _ in found)}")
        if self._query.aspect in ("peak", "longer") and len(there) > 1:
            more = "longer" if self._query.aspect == "longer" else "more strongly"
            best, *rest = (subject for subject, episodes in sorted(found, key=lambda one: -self._extent(one[1])))
            return Said(f"{self._name(best)} {more} than {join(map(self._name, rest))}")
        return Said(f"{'both: ' if len(there) == len(found) else ''}{join(there)}")

    def _extent(self, episodes: Sequence[Episode]) -> float:
        if self._query.aspect == "longer":
            return sum(one.seconds for one in episodes)
        return max((one.strength for one in episodes), default=0.0)

    def order(self) -> Said:
        sides = [(subject, self._episodes(subject)) for subject in self._query.subjects]
        wanted = self._query.aspect == "yes_no"
        for subject, episodes in sides:
            if not episodes:
                return _verdict(False, self._absent(subject)) if wanted else Said(self._absent(subject))
        before = sides[0][1][0].peak_at < sides[1][1][0].peak_at
        told = [self._told(subject, episodes[:1]) for subject, episodes in sides[:2]]
        if wanted:
            return _verdict(before, f"{told[0]}, and {told[1]}")
        return Said(", and later ".join(told if before else told[::-1]))

    def when(self) -> Said:
        name, opposite, episodes = self._found()
        if not episodes:
            return Said(f"never: {opposite} {self._seen}")
        if self._query.kind == "how_long":
            return Said(f"{name} for {sum(one.seconds for one in episodes):.1f} s in all, {self._times(episodes)}")
        if self._query.kind == "how_often":
            count = {1: "once", 2: "twice"}.get(len(episodes), f"{number_word(len(episodes))} times")
            return Said(f"{count}: {name} {self._times(episodes)}")
        return Said(f"{name} {self._moment(episodes)}")

    how_long = how_often = when

    def _moment(self, episodes: Sequence[Episode]) -> str:
        if self._query.aspect == "peak":
            return f"most at {max(episodes, key=lambda one: one.strength).peak_at:.1f} s"
        if self._query.aspect == "start":
            first = episodes[0].start
            return "from the first moment on" if first - self._face.start < _EDGE else f"from {first:.1f} s on"
        if self._query.aspect == "stop":
            last = episodes[-1].end
            return "until the end of what is seen" if self._face.end - last < _EDGE else f"until {last:.1f} s"
        return self._times(episodes)

    def how_strong(self) -> Said:
        if not self._query.subjects:
            return self.expression()
        subject = self._query.subjects[0]
        if not (episodes := self._episodes(subject)):
            return Said(f"not at all: {self._absent(subject)}")
        best = max(episodes, key=lambda one: one.strength)
        if subject.emotion is not None:
            return Said(f"{self._name(subject)} with {best.strength:.0%}, most at {best.peak_at:.1f} s")
        return Said(f"{strength_word(best.strength)}ly: {self._name(subject)} most at {best.peak_at:.1f} s")

    def how_sure(self) -> Said:
        emotion = self._query.subjects[0].emotion if self._query.subjects else None
        labels = [label for label in self._face.labels if label[2] is not None and emotion in (None, label[2])]
        if not labels:
            return Said(f"there is no such label {self._seen}")
        best = max(labels, key=lambda label: label[3])
        return Said(f"at best {best[3]:.0%}, for {best[2]} from {best[0]:.1f} to {best[1]:.1f} s")

    def expression(self) -> Said:
        counts: dict[str, float] = {}
        for _, _, label, chance in self._face.labels:
            if label is not None:
                counts[label] = counts.get(label, 0.0) + chance
        if not counts:
            return Said(f"the expression cannot be read {self._seen}")
        ranked = sorted(counts, key=lambda name: -counts[name])[:3]
        if self._query.aspect in ("start", "stop"):
            in_time = [label for _, _, label, _ in sorted(self._face.labels, key=lambda one: one[0]) if label]
            ranked = in_time[:1] if self._query.aspect == "start" else in_time[-1:]
        return Said(f"the expression reads as {'; '.join(self._emotions(ranked))}")

    def movements(self) -> Said:
        regions = self._query.regions
        wanted = [unit for unit, about in ACTION_UNITS.items()
                  if unit in self._timeline.units and (not regions or about.region in regions)]  # fmt: skip
        if not wanted:
            return Said("I can't tell: the model reads no movement there")
        found = [(unit, self._timeline.of_units(self._face, [unit])) for unit in wanted]
        for subject in self._query.subjects:
            if not (there := self._episodes(subject)):
                return Said(self._absent(subject))
            after, peak = self._query.aspect == "after", there[0].peak_at
            found = [(unit, [one for one in episodes if (one.peak_at > peak) == after and unit not in subject.units])
                     for unit, episodes in found]  # fmt: skip
        said = [f"{movement(unit)} {self._times(episodes[:2])}" for unit, episodes in found if episodes]
        return Said("; ".join(said) or f"no movement stands out there {self._seen}")

    def change(self) -> Said:
        names = list(dict.fromkeys(label for _, _, label, _ in self._face.labels if label is not None))
        if len(names) < 2:
            only = f"the expression reads as {names[0]} throughout" if names else "no expression can be read"
            return _verdict(False, f"{only} {self._seen}")
        return _verdict(True, f"the expression reads as {join(self._emotions(names[:4]), 'then')}")

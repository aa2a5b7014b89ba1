"""Asking about one face of a video or picture: what has to be collected of a run, and who answers.

Measurements answer, unless a captioner that answers questions, or an endpoint, is named: then the face's keyframes are
chosen as for captions. Who runs the pipeline is none of this module's concern: :class:`Inquiry` is given its events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from streamfer.captions.answers import Said, answer
from streamfer.captions.checks import faults
from streamfer.captions.measurements import Measurements, measure
from streamfer.captions.prompts import facts
from streamfer.captions.protocol import CaptionerInfo, CaptionError, wants_yes_or_no
from streamfer.captions.questions import Query, understand
from streamfer.captions.timeline import Face, Timeline
from streamfer.captions.writers import MeasuredWriter
from streamfer.config import Config
from streamfer.errors import ConfigError, ModelError, SourceError
from streamfer.pipeline.events import Event, FrameFaces, SourceDone
from streamfer.pipeline.loop import Pipeline
from streamfer.pipeline.observer import ObservedClip, ObserverPlan, RunContext
from streamfer.video.frames import Source


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said about a face."""

    text: str  #: ``yes`` or ``no`` where a probability is given
    probability: float | None  #: of yes, 0 to 1; None for an answer in words
    question: str  #: as it was put
    track: int  #: the face
    track_id: str
    start: float  #: of the stretch of the video that was looked at, seconds
    end: float
    keyframes: tuple[float, ...]  #: times of the pictures that a model saw, seconds
    tracks: tuple[int, ...]  #: numbers of all faces in the file, ascending
    model: CaptionerInfo  #: who answered
    yes: bool | None = None  #: None where the question wants no yes or no, or nothing can be said
    replaced: str = ""  #: why a model's own answer was replaced by one from measurements; empty where it stands


def _check(question: str, model: CaptionerInfo) -> None:
    """Look whether a model takes this question (ConfigError) before anything is computed."""
    if not model.answers:
        raise ConfigError(
            f"model {model.name!r} describes faces and was not trained to answer; choose one that answers questions "
            "with --captioner ('streamfer models list' shows them), or leave it out: measurements answer"
        )
    if (words := len(question.split())) > model.max_question_tokens:
        raise ConfigError(
            f"the question has {words} words and the model reads {model.max_question_tokens} tokens at most; "
            f"shorten it: {question[:40]!r}..."
        )


class Inquiry:
    """One question about one face of a file; the :class:`~streamfer.pipeline.observer.ClipObserver` of its run.

    Arguments are those of :meth:`streamfer.Session.ask`: ``path`` for messages alone, the question without blanks
    around it. ``answerer`` comes from :func:`streamfer.captions.choosing.load_model`.

    Raises:
        ConfigError: the question is too long, or the model takes none.
    """

    def __init__(
        self,
        path: str,
        question: str,
        config: Config,
        answerer: Any | None = None,
        *,
        track: int | None = None,
        at: float | None = None,
        in_words: bool = False,
    ) -> None:
        self._path, self._track, self._at, self._in_words = path, track, at, in_words
        self._answerer: Any = answerer
        self._info = answerer.info if answerer is not None else MeasuredWriter().info
        _check(question, self._info)
        self._asked = question
        self._reach = 1 / config.sampling.fps
        self._timeline = Timeline()
        self._clips: dict[int, ObservedClip] = {}
        self._emit: Callable[[Event], None] = self._timeline.take
        clip = config.clip
        # What begins later has nothing to do with the question.
        self._enough = float("inf") if at is None or clip.mode == "whole" else at + clip.seconds + clip.stride
        captions = config.captions.model_copy(update={"when": "all", "max_faces": max(config.captions.max_faces, 32)})
        #: How the pipeline shows its clips to this inquiry.
        self.plan = ObserverPlan(self._info.crop, self._open, captions)

    def _open(self, run: RunContext) -> Inquiry:
        self._emit = run.emit
        return self

    def take(self, entry: ObservedClip | SourceDone) -> None:
        """Keep the most telling clip of each track, or the one around the moment that is asked about."""
        if isinstance(entry, SourceDone):
            self._emit(entry)
            return
        track = entry.label.faces[0].track
        before = self._clips.get(track)
        if self._worth(entry) >= 0 and (before is None or self._worth(entry) > self._worth(before)):
            self._clips[track] = entry

    def close(self) -> None:
        """Nothing is left to do."""

    def read(self, pipeline: Pipeline, sources: Iterable[Source]) -> Answer:
        """Run a pipeline that was built with :attr:`plan` over the file, and answer.

        Raises:
            ConfigError: there is no such track.
            SourceError: the file cannot be decoded, or shows no face.
        """
        for event in pipeline.events(sources):
            if isinstance(event, SourceDone) and event.error is not None:
                raise event.error
            self._timeline.take(event)
            if isinstance(event, FrameFaces) and event.seconds > self._enough:
                pipeline.stop()
        face = self._choose()
        query = understand(self._asked)
        if self._at is not None and query.window is None:
            query = replace(query, window=(self._at, self._at))
        measured = answer(query, self._timeline, face)
        if self._answerer is None:
            return self._answer(measured, face)
        return self._by_model(measured, query, face)

    def _worth(self, clip: ObservedClip) -> float:
        if self._at is None:
            return clip.keyframes.strength
        start, end = map(clip.label.clip.moment, clip.keyframes.seen_pts)
        if not start - self._reach <= self._at <= end + self._reach:
            return -1.0
        # The clip in whose middle the moment lies.
        return max(0.0, end - start - abs(2 * self._at - start - end))

    def _choose(self) -> Face:
        faces = {number: face for number, face in self._timeline.faces.items() if face.labels}
        if not faces:
            raise SourceError(
                f"{self._path}: no face was found; a smaller one with --set faces.min_size=10, or another --detector"
            )
        if self._track is not None and self._track not in faces:
            there = ", ".join(map(str, sorted(faces)))
            raise ConfigError(f"{self._path}: no track {self._track}; the faces here are {there}")
        wanted = [face for number, face in faces.items() if self._track in (None, number)]
        at, reach = self._at, self._reach
        seen = [face for face in wanted if at is None or any(abs(moment - at) <= reach for moment in face.seen)]
        if not seen:
            others = [f"track {number} at {face.start:.1f}–{face.end:.1f} s" for number, face in sorted(faces.items())]
            more = " and more" if len(others) > 8 else ""
            raise SourceError(f"{self._path}: no face at {at:g} s; there is {', '.join(others[:8])}{more}")
        return max(seen, key=lambda face: (len(face.labels), face.area, -face.track))

    def _by_model(self, measured: Said, query: Query, face: Face) -> Answer:
        clip = self._clips.get(face.track)
        if clip is None or (self._info.crop is not None and not len(clip.keyframes.portraits)):
            raise SourceError(
                f"{self._path}: the face is too small among the others; raise the number kept with "
                "--set captions.max_faces=64"
            )
        known, asked = measure(clip.label, clip.units, clip.people), ([clip.keyframes.portraits], [self._asked])
        if hasattr(self._answerer, "answer"):
            text = self._from_endpoint(measured, query, clip, known)
        elif self._info.crop is None:
            raise ConfigError(f"model {self._info.name!r} reads text alone; leave --captioner out: measurements answer")
        elif wants_yes_or_no(self._asked) and not self._in_words:
            (chance,) = self._answerer.answer_yes_no(*asked)
            return self._answer(Said("yes" if chance >= 0.5 else "no", chance >= 0.5), face, clip, probability=chance)
        else:
            text = self._answerer.caption(*asked)[0]
        # A short answer may be right.
        padded = text if len(text.split()) > 2 else f"{text} is the answer"
        wrong = () if query.kind == "foreign" else faults(padded, known, complete=False)
        if measured.yes is not None and re.match("no\\b" if measured.yes else "yes\\b", text.lower()):
            wrong += ("contradicts the measurements",)
        if wrong:
            return self._answer(measured, face, clip, replaced="; ".join(wrong))
        return self._answer(Said(text), face, clip)

    def _from_endpoint(self, measured: Said, query: Query, clip: ObservedClip, known: Measurements) -> str:
        told = facts(known)
        if query.kind not in ("foreign", "unknown"):
            told += f"\nAnswer by the measurements of the whole file: {measured.text}"
        try:
            found: str = self._answerer.answer(self._asked, told, clip.keyframes.portraits)
        except CaptionError as error:
            raise ModelError(f"captioner {self._info.name}: {error}") from error
        return found

    def _answer(self, said: Said, face: Face, clip: ObservedClip | None = None, **more: Any) -> Answer:
        start, end, keyframes = face.start, face.end, tuple[float, ...]()
        if clip is not None:
            span = clip.label.clip
            start, end, keyframes = span.start_time, span.end_time, tuple(map(span.moment, clip.keyframes.pts))
        tracks = tuple(sorted(number for number, one in self._timeline.faces.items() if one.labels))
        found = Answer(
            said.text, None, self._asked, face.track, face.track_id, start, end, keyframes, tracks, self._info
        )
        return replace(found, yes=said.yes, **more)

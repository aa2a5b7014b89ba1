"""Asking about one face of a video or picture: the face is found and its keyframes are chosen as for captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamfer.build import LoadedModels, build_pipeline
from streamfer.captions.protocol import Captioner, CaptionerInfo, check_questions, wants_yes_or_no
from streamfer.config import Config
from streamfer.errors import ConfigError, SourceError
from streamfer.pipeline.events import FrameFaces, SourceDone
from streamfer.pipeline.observer import ClipObserver, ObservedClip, ObserverPlan, RunContext
from streamfer.records import ClipSpan
from streamfer.video import find_sources, open_source


@dataclass(frozen=True, slots=True)
class Answer:
    """What a captioner says about a face.

    Attributes:
        text: the answer; ``yes`` or ``no`` where a probability is given.
        probability: of yes, 0 to 1; None for an answer in words.
        question: as it was put to the model.
        track, track_id: the face.
        start, end: the stretch of the video that was looked at, seconds.
        keyframes: times of the pictures that the model saw, seconds.
        tracks: numbers of all faces in the file, ascending.
        model: who answered.
    """

    text: str
    probability: float | None
    question: str
    track: int
    track_id: str
    start: float
    end: float
    keyframes: tuple[float, ...]
    tracks: tuple[int, ...]
    model: CaptionerInfo


@dataclass(slots=True)
class _Face:
    """One track of the file: how much of it there is, and the clip that is worth most words."""

    clips: int = 0
    area: float = 0.0
    spans: list[tuple[float, float]] = field(default_factory=list)
    best: ObservedClip | None = None


class KeyframeCollector:
    """Keeps the most expressive clip of every track; a :class:`~streamfer.pipeline.observer.ClipObserver`.

    Args:
        run: of which it is a part.
        at: only clips around this time count, seconds.
        reach: how far from a face's pictures it still counts as there, seconds.
        faces: filled with what is found, by track number.
    """

    def __init__(self, run: RunContext, at: float | None, reach: float, faces: dict[int, _Face]) -> None:
        self._emit = run.emit
        self._at = at
        self._reach = reach
        self._faces = faces

    def take(self, entry: ObservedClip | SourceDone) -> None:
        """Look at a clip; pass an end on."""
        if isinstance(entry, SourceDone):
            self._emit(entry)
            return
        reading = entry.label.faces[0]
        face = self._faces.setdefault(reading.track, _Face())
        face.clips += 1
        face.area = max(face.area, reading.box[2] * reading.box[3])
        face.spans.append(_seen(entry))
        if not len(entry.keyframes.portraits) or self._worth(entry) < 0:
            return
        if face.best is None or self._worth(entry) > self._worth(face.best):
            face.best = entry

    def close(self) -> None:
        """Nothing is left to do."""

    def _worth(self, job: ObservedClip) -> float:
        """Return what makes one clip of a track better than another; negative for one that does not count."""
        if self._at is None:
            return job.keyframes.strength
        start, end = _seen(job)
        if not start - self._reach <= self._at <= end + self._reach:
            return -1.0
        # The clip in whose middle the moment lies.
        return max(0.0, end - start - abs(2 * self._at - start - end))


def _moment(clip: ClipSpan, pts: int) -> float:
    """Return the time of one of a clip's pictures, seconds as the clip's own."""
    numerator, denominator = clip.time_base
    return clip.start_time + (pts - clip.start_pts) * numerator / denominator


def _seen(job: ObservedClip) -> tuple[float, float]:
    """Return when the clip's face is truly seen first and last, seconds."""
    first, last = job.keyframes.seen_pts
    return _moment(job.label.clip, first), _moment(job.label.clip, last)


def check_question(question: str, model: CaptionerInfo) -> str:
    """Return a question stripped of blanks, as far as it can be checked before anything is computed.

    Raises:
        ConfigError: it is empty, has more words than the model reads tokens, or the model takes no questions.
    """
    (asked,) = check_questions([question], 1)
    if not model.answers:
        raise ConfigError(
            f"model {model.name!r} describes faces and was not trained to answer; choose one that answers questions "
            "with --model ('streamfer models list' shows them)"
        )
    if (words := len(asked.split())) > model.max_question_tokens:
        raise ConfigError(
            f"the question has {words} words and the model reads {model.max_question_tokens} tokens at most; "
            f"shorten it: {asked[:40]!r}..."
        )
    return asked


def ask(
    path: str | Path,
    question: str,
    *,
    captioner: Captioner,
    models: LoadedModels,
    config: Config | None = None,
    track: int | None = None,
    at: float | None = None,
    in_words: bool = False,
) -> Answer:
    """Ask about a face of a video or picture.

    Args:
        path: a file or http(s) URL.
        question: one beginning with "is", "does" and the like is answered with the probability of yes.
        captioner: who answers.
        models: expression model and detectors, which find the face and its keyframes.
        config: settings; the defaults if None.
        track: number of the face; the one that is longest in the picture if None.
        at: look around this time, seconds; the most expressive clip if None.
        in_words: answer in words whatever the question begins with.

    Raises:
        ConfigError: the question is empty or too long, the model takes none, or there is no such track.
        SourceError: the file is absent, cannot be decoded, or shows no face.
    """
    asked = check_question(question, captioner.info)
    config = config or Config()
    faces = _faces(str(path), captioner.info, models, config, at)
    chosen = _choose(path, faces, track, at)
    job = faces[chosen].best
    if job is None:
        raise SourceError(f"{path}: no face at {at:g} s; {_where(faces)}" if at is not None else _too_crowded(path))
    probability: float | None = None
    if wants_yes_or_no(asked) and not in_words:
        (probability,) = captioner.answer_yes_no([job.keyframes.portraits], [asked])
        text = "yes" if probability >= 0.5 else "no"
    else:
        (caption,) = captioner.caption([job.keyframes.portraits], [asked])
        text = caption.text
    clip = job.label.clip
    return Answer(
        text=text,
        probability=probability,
        question=asked,
        track=chosen,
        track_id=job.label.faces[0].track_id,
        start=clip.start_time,
        end=clip.end_time,
        keyframes=tuple(_moment(clip, pts) for pts in job.keyframes.pts),
        tracks=tuple(sorted(faces)),
        model=captioner.info,
    )


def _faces(path: str, model: CaptionerInfo, models: LoadedModels, config: Config, at: float | None) -> dict[int, _Face]:
    """Run the pipeline over one file and return its faces, by track."""
    specs = find_sources([path])
    if len(specs) != 1:
        raise ConfigError(f"{path}: holds {len(specs)} sources; ask about one file")
    faces: dict[int, _Face] = {}

    def collector(run: RunContext) -> ClipObserver:
        # Analysed frames lie this far apart.
        return KeyframeCollector(run, at, 1 / config.sampling.fps, faces)

    every = config.captions.model_copy(update={"when": "all", "max_faces": max(config.captions.max_faces, 32)})
    pipeline = build_pipeline(config, models, live=False, observed=ObserverPlan(model.crop, collector, every))
    # What lies this far behind the moment cannot share a clip with it.
    enough = np.inf if at is None or config.clip.mode == "whole" else at + config.clip.seconds + config.clip.stride
    for event in pipeline.events([open_source(specs[0], decode_threads=models.budget.decode)]):
        if isinstance(event, SourceDone) and event.error is not None:
            raise event.error
        if isinstance(event, FrameFaces) and event.seconds > enough:
            pipeline.stop()
    return faces


def _choose(path: str | Path, faces: dict[int, _Face], track: int | None, at: float | None) -> int:
    if not faces:
        raise SourceError(
            f"{path}: no face was found; a smaller one with --set faces.min_size=10, or try another --detector"
        )
    if track is not None:
        if track not in faces:
            raise ConfigError(f"{path}: no track {track}; the faces here are {', '.join(map(str, sorted(faces)))}")
        return track
    there = [number for number, face in faces.items() if face.best is not None]
    if not there:
        raise SourceError(f"{path}: no face at {at:g} s; {_where(faces)}" if at is not None else _too_crowded(path))
    return max(there, key=lambda number: (faces[number].clips, faces[number].area, -number))


def _where(faces: dict[int, _Face]) -> str:
    """Return in words when which face can be seen."""
    seen = [
        f"track {number} at {min(start for start, _ in face.spans):.1f}–{max(end for _, end in face.spans):.1f} s"
        for number, face in sorted(faces.items())
    ]
    return f"there is {', '.join(seen[:8])}{' and more' if len(seen) > 8 else ''}"


def _too_crowded(path: str | Path) -> str:
    return f"{path}: the face is too small among the others; raise the number kept with --set captions.max_faces=64"

"""Everything that is wrong with the data, found before training starts and listed in one report."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

from streamfer.errors import ConfigError, StreamferError
from streamfer.models.vocabulary import canonical
from streamfer.video.container import open_container, video_stream
from streamfer.video.locate import SourceSpec
from streamfer_train.dfer_clip.data_config import DataConfig
from streamfer_train.dfer_clip.entries import Clip, Identity, Problem, read_list
from streamfer_train.dfer_clip.folds import Fold, hold_out, shared_clips
from streamfer_train.dfer_clip.frames import is_picture

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
# Listing a folder waits for the disk, not for the processor.
_THREADS = 16
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What :func:`check_clips` found."""

    #: the folds with the clips that can be used, their ``kind`` and ``frames`` as found on the disk
    folds: tuple[Fold, ...]
    problems: tuple[Problem, ...]
    clips: int

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep training from starting."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that training can live with."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def summary(self) -> str:
        """Return how many errors and warnings there are, in a line."""
        return f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')} in {self.clips:,} clips"

    def text(self, examples: int | None = _EXAMPLES) -> str:
        """Return the report: problems grouped by kind, the largest group first."""
        lines = [self.summary()]
        for severity, problems in (("error", self.errors), ("warning", self.warnings)):
            groups: defaultdict[str, list[Problem]] = defaultdict(list)
            for problem in problems:
                groups[problem.kind].append(problem)
            for kind, group in sorted(groups.items(), key=lambda item: -len(item[1])):
                lines.append(f"{severity}: {kind} ({len(group):,})")
                lines += [f"  {problem.where}: {problem.what}" for problem in group[:examples]]
                if examples is not None and len(group) > examples:
                    lines.append(f"  ... and {len(group) - examples:,} more")
        return "\n".join(lines)

    def raise_for_errors(self, full_report: Path | None = None) -> None:
        """Stop where there are errors: a ConfigError of one line says how many of each kind, and the first."""
        if not self.errors:
            return
        kinds = ", ".join(f"{number:,} x {kind}" for kind, number in Counter(p.kind for p in self.errors).most_common())
        first = self.errors[0]
        message = f"the data cannot be used: {kinds}; first: {first.where}: {first.what}"
        if sum(problem.kind == "missing clip" for problem in self.errors) >= max(2, self.clips):
            message += "; not one clip is there: set data.root to their folder"
        if full_report is not None:
            message += f"; all of them: {full_report}"
        raise ConfigError(message)


def check_clips(config: DataConfig, folds: Sequence[int] | None = None) -> CheckReport:
    """Read the lists of the folds and look at every clip once, decoding nothing.

    Found are: missing lists, lines with too few fields, unknown labels, clips that are missing or empty, folders with
    fewer frames than listed, labels that contradict FERV39k's folders, videos that do not open, duplicates, and clips
    in both train and test (errors); stray files, other frame counts, frames whose names have no zeros before their
    numbers, and shared videos or groups (warnings).
    """
    problems: list[Problem] = []
    parts: dict[Path, list[Clip]] = {}
    numbers = config.folds if folds is None else folds
    for number in numbers:
        for path in (config.train_list(number), config.test_list(number), config.held_out_list(number)):
            if path is not None and path not in parts:
                clips, found = read_list(path, config)
                parts[path], again = _without_duplicates(clips)
                problems += found + again
    listed = {clip.identity: clip for clips in parts.values() for clip in clips}
    seen = _look_at_all({clip.path for clip in listed.values()}, config, problems)
    for path, clips in parts.items():
        kept = [_as_seen(clip, seen[clip.path], config, problems) for clip in clips]
        parts[path] = [clip for clip in kept if clip is not None]
    found_folds = []
    for number in numbers:
        try:
            fold = _fold(number, parts, config)
        except ConfigError as error:
            problems.append(Problem("error", "held out", f"fold {number}", str(error)))
            continue
        found_folds.append(fold)
        problems += shared_clips(fold) + _missing_classes(fold)
    return CheckReport(tuple(found_folds), tuple(dict.fromkeys(problems)), len(listed))


@dataclass(frozen=True, slots=True)
class _Sight:
    """What lies on the disk for one clip; ``path`` differs from the listed one in its suffix.

    ``jump`` are two neighbouring frames of which the first has the larger number.
    """

    path: str
    kind: str  # "frames", "video" or "" for nothing usable
    frames: int | None = None
    stray: tuple[str, ...] = ()
    jump: tuple[str, ...] = ()
    fault: str = ""


def _look_at_all(paths: set[str], config: DataConfig, problems: list[Problem]) -> dict[str, _Sight]:
    ordered = sorted(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        sights = dict(zip(ordered, pool.map(partial(_look, config=config), ordered, chunksize=64), strict=True))
    for path, sight in sights.items():
        if sight.stray:
            shown = ", ".join(sight.stray[:3]) + (", ..." if len(sight.stray) > 3 else "")
            problems.append(Problem("warning", "stray files", path, f"{shown}: not counted as frames"))
        if sight.jump:
            shown = f"{sight.jump[0]} comes before {sight.jump[1]}"
            what = f"{shown}, because frames are read by character, as by the authors; pad their numbers with zeros"
            problems.append(Problem("warning", "order of frames", path, what))
    return sights


def _look(path: str, config: DataConfig) -> _Sight:
    if config.input != "video":
        try:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries]
        except NotADirectoryError:
            if config.input == "frames":
                return _Sight(path, "", fault="is a file; set data.input to video or auto")
        except FileNotFoundError:
            stem, suffix = os.path.splitext(path)
            if suffix.lower() in VIDEO_SUFFIXES and os.path.isdir(stem):
                return _look(stem, config)  # MAFW's own lists name films whose frames are what is there
            if config.input == "frames":
                return _Sight(path, "", fault="no such folder")
        except OSError as error:
            return _Sight(path, "", fault=f"cannot be listed ({error.strerror})")
        else:
            pictures = sorted(name for name in names if is_picture(name))
            stray = tuple(sorted(name for name in names if not is_picture(name)))
            return _Sight(path, "frames", len(pictures), stray, _jump(pictures))
    return _look_at_video(path)


def _jump(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first two frames, ordered by character, that are not in the order of their numbers."""
    if len({len(name) for name in names}) < 2:
        return ()
    keys = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)] for name in names]
    return next(((names[n], names[n + 1]) for n in range(len(keys) - 1) if keys[n] > keys[n + 1]), ())


def _look_at_video(path: str) -> _Sight:
    unpadded = str(Path(path).with_name(Path(path).name.lstrip("0") or "0"))
    candidates = [path, *(stem + suffix for stem in dict.fromkeys((path, unpadded)) for suffix in VIDEO_SUFFIXES)]
    found = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if found is None:
        return _Sight(path, "", fault="no such folder or video")
    if os.path.getsize(found) == 0:
        return _Sight(found, "", fault="the video has no bytes")
    try:
        spec = SourceSpec(url=found, source_id=PurePath(found).name, kind="file")
        with open_container(spec, timeout=20.0) as container:
            video_stream(container, spec, 1)
    except StreamferError as error:
        return _Sight(found, "", fault=str(error).removeprefix(f"{found}: "))
    return _Sight(found, "video")


def _as_seen(clip: Clip, sight: _Sight, config: DataConfig, problems: list[Problem]) -> Clip | None:
    """Return the clip with what was found of it, or None where it cannot be used."""
    fault = _fault(clip, sight, config)
    if fault is not None:
        problems.append(Problem("error", fault[0], clip.where, fault[1]))
        return None
    if sight.kind == "video":
        return replace(clip, path=sight.path, kind="video", frames=None)
    frames = sight.frames if clip.frames is None or config.count == "disk" else clip.frames
    if clip.frames is not None and clip.frames != sight.frames:
        uses = f"the first {frames} are used" if config.count == "list" else "those that are there are used"
        what = f"{clip.path}: {sight.frames} frames are there, {clip.frames} are listed; {uses}"
        problems.append(Problem("warning", "other frame count", clip.where, what))
    return replace(clip, path=sight.path, kind="frames", frames=frames)


def _fault(clip: Clip, sight: _Sight, config: DataConfig) -> tuple[str, str] | None:
    """Return kind and words of what makes a clip unusable, or None."""
    if not sight.kind:
        kind = "missing clip" if sight.fault.startswith("no such") else "unreadable clip"
        return kind, f"{sight.path}: {sight.fault}"
    wrong = _contradiction(clip, sight, config)
    if wrong is not None or sight.kind == "video":
        return wrong
    if not sight.frames:
        return "empty clip", f"{clip.path}: holds no picture"
    if clip.frames is not None and sight.frames < clip.frames and config.count == "list":
        what = f"{clip.path}: {sight.frames} frames are there, {clip.frames} are listed"
        return "missing frames", f"{what}; complete them, or set data.count to disk"
    return None


def _contradiction(clip: Clip, sight: _Sight, config: DataConfig) -> tuple[str, str] | None:
    """Return kind and words of what the list says against the disk, or None."""
    folder = canonical(PurePath(clip.path).parent.name) if config.dataset == "ferv39k" else clip.label
    if folder in config.class_names and folder != clip.label:
        return "label against folder", f"labelled {clip.label}, but lies in {PurePath(clip.path).parent}"
    if sight.kind == "frames" and (clip.start is not None or clip.end is not None):
        return "part of a folder", f"{clip.path}: start and end are for videos; this is a folder of frames"
    return None


def _without_duplicates(clips: Iterable[Clip]) -> tuple[list[Clip], list[Problem]]:
    first: dict[Identity, Clip] = {}
    problems = []
    for clip in clips:
        earlier = first.setdefault(clip.identity, clip)
        if earlier.label != clip.label:
            what = f"{clip.path} is {clip.label} here and {earlier.label} in {earlier.where}"
            problems.append(Problem("error", "two labels", clip.where, what))
        elif earlier is not clip:
            problems.append(
                Problem("warning", "listed twice", clip.where, f"{clip.path} stands in {earlier.where} already")
            )
    return list(first.values()), problems


def _fold(number: int, parts: dict[Path, list[Clip]], config: DataConfig) -> Fold:
    train = parts[config.train_list(number)]
    listed = config.held_out_list(number)
    if listed is None:
        train, held_out = hold_out(train, config.held_out)
    else:
        held_out = parts[listed]
        held = {clip.identity for clip in held_out}
        train = [clip for clip in train if clip.identity not in held]
    test = parts[config.test_list(number)]
    return Fold(number, config.class_names, tuple(train), tuple(held_out), tuple(test))


def _missing_classes(fold: Fold) -> list[Problem]:
    problems = []
    for part, counts in fold.counts().items():
        lacking = [name for name, number in counts.items() if not number]
        if lacking and any(counts.values()):
            what = f"no clip of {', '.join(lacking)} in {part}"
            problems.append(Problem("warning", "class without clips", f"fold {fold.number}", what))
    return problems


def _count(problems: Sequence[Problem], word: str) -> str:
    return f"{len(problems):,} {word}{'' if len(problems) == 1 else 's'}"

"""Folds: the clips that are learned from, chosen by, and tested on."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.data_config import HeldOutConfig
from streamfer_train.dfer_clip.entries import Clip, Identity, Problem, data_digest


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold's clips; no clip is in two of its parts."""

    number: int
    classes: tuple[str, ...]
    train: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    test: tuple[Clip, ...]

    @property
    def parts(self) -> dict[str, tuple[Clip, ...]]:
        return {"train": self.train, "held_out": self.held_out, "test": self.test}

    def digests(self) -> dict[str, str]:
        """Return a sha256 of each part, to be stored with a run (:func:`data_digest`)."""
        return {name: data_digest(clips) for name, clips in self.parts.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the clips of each class in each part, classes without any included, in the order of ``classes``."""
        found = {part: Counter(clip.label for clip in clips) for part, clips in self.parts.items()}
        return {part: {name: counter[name] for name in self.classes} for part, counter in found.items()}


def hold_out(clips: Sequence[Clip], config: HeldOutConfig) -> tuple[list[Clip], list[Clip]]:
    """Split a training list into what is learned from and what is held out, both in the list's order.

    The split depends on the clips' paths and ``config.seed`` alone, not on their order in the list. By clip, each
    class gives its share (rounded); by group, whole groups are taken in random order until the share is reached.

    Raises:
        ConfigError: clips are split by group and some have none, or there are too few groups.
    """
    if not config.fraction:
        return list(clips), []
    held = _held_groups(clips, config) if config.by == "group" else _held_clips(clips, config)
    return [clip for clip in clips if clip.identity not in held], [clip for clip in clips if clip.identity in held]


_Item = TypeVar("_Item")


def _held_clips(clips: Sequence[Clip], config: HeldOutConfig) -> set[Identity]:
    by_class: defaultdict[str, set[Identity]] = defaultdict(set)
    for clip in clips:
        by_class[clip.label].add(clip.identity)
    held: set[Identity] = set()
    for label, identities in sorted(by_class.items()):
        held |= set(_shuffled(identities, f"{config.seed}.{label}")[: round(config.fraction * len(identities))])
    return held


def _held_groups(clips: Sequence[Clip], config: HeldOutConfig) -> set[Identity]:
    groups: defaultdict[str, set[Identity]] = defaultdict(set)
    for clip in clips:
        if clip.group is None:
            raise ConfigError(
                f"data.held_out.by: group, but {clip.where} has no group; add the column 'group' or use by: clip"
            )
        groups[clip.group].add(clip.identity)
    if len(groups) < 2:
        raise ConfigError(f"data.held_out.by: group needs two groups at least; the training list has {len(groups)}")
    wanted, held = config.fraction * len(clips), set[Identity]()
    for name in _shuffled(groups, str(config.seed))[:-1]:
        # Whichever of stopping before this group and after it comes nearer to the share.
        if len(held) and len(held) + len(groups[name]) / 2 > wanted:
            break
        held |= groups[name]
    return held


def _shuffled(items: Iterable[_Item], seed: str) -> list[_Item]:
    ordered = sorted(items, key=str)
    random.Random(seed).shuffle(ordered)
    return ordered


def shared_clips(fold: Fold) -> list[Problem]:
    """Return what a fold's test list shares with the rest: the same clip, the same file, the same group."""
    learned = {clip.identity: clip for clip in (*fold.train, *fold.held_out)}
    files = {clip.path: clip for clip in learned.values()}
    groups = {clip.group: clip for clip in learned.values() if clip.group is not None}
    problems: list[Problem] = []
    for clip in fold.test:
        if (other := learned.get(clip.identity)) is not None:
            what = f"fold {fold.number} tests on {clip.path}, which it learns from ({other.where})"
            problems.append(Problem("error", "in train and test", clip.where, what))
        elif (other := files.get(clip.path)) is not None:
            what = f"fold {fold.number} learns from another part of {clip.path} ({other.where})"
            problems.append(Problem("warning", "one video in train and test", clip.where, what))
        elif clip.group is not None and (other := groups.pop(clip.group, None)) is not None:  # said once a group
            what = f"fold {fold.number} learns from group {clip.group!r} too ({other.where})"
            problems.append(Problem("warning", "one group in train and test", clip.where, what))
    return problems

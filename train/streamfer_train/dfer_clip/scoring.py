"""Any model on any list of labelled clips: class names matched by name, predictions, scores with intervals.

Shape suffixes: N clips, C classes, B clips of a batch, A action units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from streamfer.errors import ConfigError
from streamfer.models.vocabulary import canonical
from streamfer_train.dfer_clip.checks import CheckReport, check_clips
from streamfer_train.dfer_clip.data_config import DataConfig, HeldOutConfig
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.face_crops import Progress, with_face_crops
from streamfer_train.dfer_clip.loader import ClipDataset, each_once
from streamfer_train.dfer_clip.predictions import Predictions, collect
from streamfer_train.dfer_clip.subjects import Subject
from streamfer_train.metrics import classification
from streamfer_train.metrics.arrays import IntArray
from streamfer_train.metrics.intervals import Interval, bootstrap
from streamfer_train.recipes.loading import Batch, Loader


@dataclass(frozen=True, slots=True)
class Match:
    """How a model's classes and the data's go together, by name."""

    classes: tuple[str, ...]  #: names that are scored, in the data's order
    columns: tuple[int, ...]  #: place of each among the model's outputs
    left_out: tuple[str, ...]  #: the data's classes that the model does not know; their clips are not scored
    unused: tuple[str, ...]  #: the model's classes that the data does not have; their outputs are not read


def match_classes(model: Sequence[str], data: Sequence[str], *, subset: bool = False) -> Match:
    """Match classes by name; their order does not matter, nor does ``Happy`` for ``happiness``.

    Raises:
        ConfigError: the two differ and ``subset`` was not asked for, or they share fewer than two classes.
    """
    places = {canonical(name): place for place, name in enumerate(model)}
    known = {canonical(name) for name in data}
    shared = tuple(name for name in data if canonical(name) in places)
    left_out = tuple(name for name in data if canonical(name) not in places)
    unused = tuple(name for name in model if canonical(name) not in known)
    if (left_out or unused) and not subset:
        lacks = f"the model does not know {', '.join(left_out)}" if left_out else ""
        extra = f"the data has no {', '.join(unused)}" if unused else ""
        raise ConfigError(
            f"classes differ: {'; '.join(filter(None, (lacks, extra)))}. Give --subset to score the "
            f"{len(shared)} shared classes alone, or set data.classes"
        )
    if len(shared) < 2:
        raise ConfigError(f"model and data share {len(shared)} class(es) of {', '.join(data)}; scoring needs two")
    return Match(shared, tuple(places[canonical(name)] for name in shared), left_out, unused)


def clips_of(config: DataConfig, fold: int, progress: Progress | None = None) -> CheckReport:
    """Look at a fold's test list, cut faces where the configuration asks for it, and return it as ``folds[0].test``.

    The training list is not looked at: evaluating needs the test clips alone.

    Raises:
        ConfigError: the list has errors; how many of each kind, and the first, are named.
    """
    alone = config.model_copy(update={"train": config.test, "folds": (fold,), "held_out": HeldOutConfig()})
    found = check_clips(alone)
    # The test list stands in for the training list here, so all of it is "in both".
    problems = tuple(problem for problem in found.problems if problem.kind != "in train and test")
    found = replace(found, problems=problems)
    found.raise_for_errors()
    if config.faces == "detect":
        found = with_face_crops(found, alone, progress)
        found.raise_for_errors()
    return found


def predict(
    subject: Subject,
    clips: Sequence[Clip],
    config: DataConfig,
    match: Match,
    *,
    batch: int = 8,
    workers: int = 0,
    advance: Callable[[int], None] = lambda _done: None,
) -> Predictions:
    """Run a model on clips with the test sampling and the test view; its own temperature is applied.

    Raises:
        ConfigError: no clips.
        SourceUnreadableError: a frame cannot be read.
    """
    if not clips:
        raise ConfigError(f"no clip of {', '.join(match.classes)} is in the list; nothing can be scored")
    own = config.model_copy(update={"frames": subject.info.frames, "size": subject.size})
    dataset = ClipDataset(clips, own, training=False)
    loader: Loader[Batch] = Loader(dataset, batch_size=batch, sampler=each_once(len(clips)), workers=workers)
    found = collect(subject.predict, loader, subject.info.classes, advance)
    return Predictions(
        match.classes,
        found.logits_NC.double()[:, list(match.columns)] / subject.temperature,
        torch.tensor([match.classes.index(clip.label) for clip in clips]),
        found.index_N,
        _shared_heads(found.others, subject, config),
    )


def _shared_heads(others: Mapping[str, torch.Tensor], subject: Subject, config: DataConfig) -> dict[str, torch.Tensor]:
    """Return outputs and targets of the heads that model and data share; action units in the data's order."""
    units = shared_units(subject, config)
    if "actions" not in others or not units:
        return {}
    own = [subject.info.action_units.index(unit) for unit in units.values()]
    theirs = [config.actions.index(column) for column in units]
    return {"actions": others["actions"][:, own], "actions_target": others["actions_target"][:, theirs]}


def shared_units(subject: Subject, config: DataConfig) -> dict[str, str]:
    """Return the data's columns of action units that the model has, each with the model's name (AU6 is AU06)."""
    own = {unit.upper().replace("AU0", "AU"): unit for unit in subject.info.action_units}
    columns = {column: column.upper().partition("_")[0].replace("AU0", "AU") for column in config.actions}
    return {column: own[plain] for column, plain in columns.items() if plain in own}


def groups_of(clips: Sequence[Clip]) -> list[str] | None:
    """Return the groups of clips (film, person), where every one has one."""
    groups = [clip.group for clip in clips if clip.group is not None]
    return groups if len(groups) == len(clips) else None


def intervals(predictions: Predictions, groups: list[str] | None) -> dict[str, Interval]:
    """Return ``uar``, ``war``, ``ece`` and ``aurc``, each with the interval that resampled clips (or groups) give."""
    predictions.report()  # a ConfigError where outputs are not finite
    confidence, hit = predictions.confidences()
    labels, size = predictions.labels_N.numpy(), len(predictions.classes)
    chosen = predictions.logits_NC.numpy().argmax(axis=1)

    def statistics(rows: IntArray) -> dict[str, float]:
        table_CC = classification.confusion(chosen[rows], labels[rows], size)
        return {
            "uar": float(np.nanmean(classification.recalls(table_CC))),
            "war": float(hit[rows].mean()),
            "ece": classification.calibration_error(confidence[rows], hit[rows]),
            "aurc": classification.risk_coverage(confidence[rows], hit[rows]).area,
        }

    found = bootstrap(statistics, len(labels), groups=groups)
    ece = found["ece"]
    # A resample repeats clips, which raises its calibration error; so that interval is mirrored at the value.
    # Source: Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 5.2 (basic intervals).
    low, high = max(0.0, 2 * ece.value - ece.high), max(ece.value, 2 * ece.value - ece.low)
    return {**found, "ece": replace(ece, low=low, high=high)}

"""Any model on any list of labelled clips: class names matched by name, predictions, scores with intervals.

Shape suffixes: N clips, C classes, B clips of a batch, A action units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog
import torch

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.checks import CheckReport, check_clips
from streamfer_train.dfer_clip.classes import canonical
from streamfer_train.dfer_clip.data_config import DataConfig, HeldOutConfig
from streamfer_train.dfer_clip.entries import Clip
from streamfer_train.dfer_clip.face_crops import Progress, with_face_crops
from streamfer_train.dfer_clip.loader import ClipDataset, EvaluationSampler, Sample
from streamfer_train.dfer_clip.subjects import Subject
from streamfer_train.metrics import classification, detection, regression
from streamfer_train.metrics.arrays import BoolArray, FloatArray, IntArray, log_softmax
from streamfer_train.metrics.calibration import cross_fitted, fit_temperature
from streamfer_train.metrics.intervals import Interval, bootstrap
from streamfer_train.recipes.loading import Loader

log = structlog.get_logger(__name__)

#: Fewer clips than this cannot be split to fit a temperature on one half and judge it on the other.
_FEWEST_TO_CALIBRATE = 20


@dataclass(frozen=True, slots=True)
class Match:
    """How a model's classes and the data's go together, by name.

    Attributes:
        classes: names that are scored, in the data's order.
        columns: place of each among the model's outputs.
        left_out: the data's classes that the model does not know; their clips are not scored.
        unused: the model's classes that the data does not have; their outputs are not read.
    """

    classes: tuple[str, ...]
    columns: tuple[int, ...]
    left_out: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether both sides know the same classes."""
        return not self.left_out and not self.unused


def match_classes(model: Sequence[str], data: Sequence[str], *, subset: bool = False) -> Match:
    """Match classes by name; their order does not matter, nor does ``Happy`` for ``happiness``.

    Args:
        model: names in the order of the model's outputs.
        data: names of the data's classes.
        subset: score the shared classes alone where the two differ.

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


@dataclass(frozen=True, slots=True)
class Predicted:
    """A model's outputs on the clips that were scored, in the list's order.

    Attributes:
        clips: N clips.
        classes: C names, in the order of the columns.
        labels_N: place of each clip's label in ``classes``.
        logits_NC: divided by the model's own temperature, so that their softmax is what it reports.
        seconds: time that reading and predicting took.
        actions_NA: action units, where model and data have them; likewise ``valence_arousal_N2``.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    labels_N: IntArray
    logits_NC: FloatArray
    seconds: float
    actions_NA: FloatArray | None = None
    action_targets_NA: FloatArray | None = None
    valence_arousal_N2: FloatArray | None = None
    valence_arousal_targets_N2: FloatArray | None = None

    @property
    def probabilities_NC(self) -> FloatArray:
        """Probabilities, rows sum to 1."""
        return np.exp(log_softmax(self.logits_NC))

    @property
    def groups(self) -> list[str] | None:
        """The clips' groups (film, person), where every clip has one."""
        groups = [clip.group for clip in self.clips if clip.group is not None]
        return groups if len(groups) == len(self.clips) else None


def clips_of(config: DataConfig, fold: int, progress: Progress | None = None) -> CheckReport:
    """Look at a fold's test list, cut faces where the configuration asks for it, and return it as ``folds[0].test``.

    The training list is not looked at: evaluating needs the test clips alone.

    Raises:
        ClipListError: the list has errors; they are all in its ``report``.
        OutputError: face crops cannot be kept.
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
) -> Predicted:
    """Run a model on clips with the test sampling and the test view.

    Args:
        subject: the model; its frames and its image size are used whatever the configuration says.
        clips: clips that were checked; those of classes that are left out are skipped.
        config: how clips are read.
        match: of the model's classes and the data's.
        batch: clips a batch.
        workers: processes that read clips.
        advance: called with the number of clips done after each batch.

    Raises:
        ConfigError: no clip has a class that is scored.
        SourceUnreadableError: a frame cannot be read.
    """
    chosen = [clip for clip in clips if clip.label in match.classes]
    if not chosen:
        raise ConfigError(f"no clip of {', '.join(match.classes)} is in the list; nothing can be scored")
    own = config.model_copy(update={"frames": subject.frames, "size": subject.size})
    dataset = ClipDataset(chosen, own, training=False)
    loader: Loader[Sample] = Loader(
        dataset,
        batch_size=batch,
        sampler=EvaluationSampler(len(dataset)),
        workers=workers,
    )
    began = time.perf_counter()
    parts: dict[str, list[torch.Tensor]] = {}
    for sample in loader:
        outputs = subject.predict(sample["pixels"])
        targets = {f"target_{name}": sample[name] for name in ("actions", "valence_arousal")}
        for name, tensor in {**outputs, **targets}.items():
            parts.setdefault(name, []).append(tensor)
        advance(len(sample["index"]))
    values = {name: torch.cat(tensors).double().numpy() for name, tensors in parts.items()}
    return Predicted(
        clips=tuple(chosen),
        classes=match.classes,
        labels_N=np.array([match.classes.index(clip.label) for clip in chosen], dtype=np.int64),
        logits_NC=values["logits"][:, match.columns] / subject.temperature,
        seconds=time.perf_counter() - began,
        **_other_heads(values, subject, config),
    )


def _other_heads(values: Mapping[str, FloatArray], subject: Subject, config: DataConfig) -> dict[str, FloatArray]:
    """Outputs and targets of the other heads that model and data share; action units in the data's order."""
    found = {}
    if "valence_arousal" in values and not np.isnan(values["target_valence_arousal"]).all():
        found["valence_arousal_N2"] = values["valence_arousal"]
        found["valence_arousal_targets_N2"] = values["target_valence_arousal"]
    units = shared_units(subject, config)
    if "actions" in values and units:
        found["actions_NA"] = values["actions"][:, [subject.action_units.index(unit) for unit in units.values()]]
        found["action_targets_NA"] = values["target_actions"][:, [config.actions.index(column) for column in units]]
    return found


def shared_units(subject: Subject, config: DataConfig) -> dict[str, str]:
    """Return the data's columns of action units that the model has, each with the model's name (AU6 is AU06)."""
    own = {unit.upper().replace("AU0", "AU"): unit for unit in subject.action_units}
    columns = {column: column.upper().partition("_")[0].replace("AU0", "AU") for column in config.actions}
    return {column: own[plain] for column, plain in columns.items() if plain in own}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on one list.

    Attributes:
        predicted: what they rest on.
        report: scores of the model as it is, its own temperature applied.
        intervals: of UAR, WAR, ECE and AURC over other clips like these (bootstrap; whole groups where known).
        fitted_temperature: the factor on top of its own temperature that these clips ask for; 1 is calibrated.
        ece_cross_fitted: ECE if that factor were fitted on the other half of the clips; None for too few clips.
        risk_at: error rate among the most confident share of the clips, by that share.
        valence_arousal: scores of that head, where model and data have it; likewise ``actions``.
    """

    predicted: Predicted
    report: classification.Report
    intervals: dict[str, Interval]
    fitted_temperature: float
    ece_cross_fitted: float | None
    risk_at: dict[float, float]
    valence_arousal: regression.RegressionReport | None = None
    actions: detection.DetectionReport | None = None


def score(predicted: Predicted, *, units: Sequence[str] = (), samples: int = 1000, seed: int = 0) -> Evaluation:
    """Score predicted.

    Args:
        predicted: of a model on a list.
        units: names of the action units, in the order of their columns.
        samples: resamples of the bootstrap.
        seed: of the bootstrap and of the halves for calibration.

    Raises:
        ConfigError: outputs that are not finite.
    """
    logits_NC, labels_N = predicted.logits_NC, predicted.labels_N
    report = classification.report(logits_NC, labels_N, predicted.classes)
    confidence, hit = confidences(predicted)
    curve = classification.risk_coverage(confidence, hit)
    crossed = None
    if len(labels_N) >= _FEWEST_TO_CALIBRATE:
        calibrated = cross_fitted(logits_NC, labels_N, seed=seed)
        crossed = classification.report(calibrated, labels_N, predicted.classes).ece
    va, va_targets = predicted.valence_arousal_N2, predicted.valence_arousal_targets_N2
    au, au_targets = predicted.actions_NA, predicted.action_targets_NA
    return Evaluation(
        predicted=predicted,
        report=report,
        intervals=_intervals(predicted, samples, seed),
        fitted_temperature=fit_temperature(logits_NC, labels_N),
        ece_cross_fitted=crossed,
        risk_at={share: curve.risk_at(share) for share in (0.5, 0.8, 0.9, 1.0)},
        valence_arousal=(
            None if va is None or va_targets is None else regression.report(va, va_targets, ("valence", "arousal"))
        ),
        actions=None if au is None or au_targets is None else detection.report(au, au_targets, units),
    )


def confidences(predicted: Predicted) -> tuple[FloatArray, BoolArray]:
    """Return the probability of each clip's most probable class, and whether it is the label; both (N,)."""
    probabilities_NC = predicted.probabilities_NC
    return probabilities_NC.max(axis=1), probabilities_NC.argmax(axis=1) == predicted.labels_N


def _intervals(predicted: Predicted, samples: int, seed: int) -> dict[str, Interval]:
    confidence, hit = confidences(predicted)
    labels, size = predicted.labels_N, len(predicted.classes)
    chosen = predicted.logits_NC.argmax(axis=1)

    def statistics(rows: IntArray) -> dict[str, float]:
        table_CC = classification.confusion(chosen[rows], labels[rows], size)
        return {
            "uar": float(np.nanmean(classification.recalls(table_CC))),
            "war": float(hit[rows].mean()),
            "ece": classification.calibration_error(confidence[rows], hit[rows]),
            "aurc": classification.risk_coverage(confidence[rows], hit[rows]).area,
        }

    found = bootstrap(statistics, len(labels), groups=predicted.groups, samples=samples, seed=seed)
    return {**found, "ece": _unbiased(found["ece"])}


def _unbiased(ece: Interval) -> Interval:
    """Mirror the interval at the value: a resample repeats clips, which raises its calibration error.

    Source: Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 5.2 (basic intervals).
    """
    return replace(ece, low=max(0.0, 2 * ece.value - ece.high), high=max(ece.value, 2 * ece.value - ece.low))

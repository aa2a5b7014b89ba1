"""What an evaluation leaves behind: predictions as a table, the report as JSON and Markdown, and pictures.

Of one model on one list, or of the folds and seeds of a run under one protocol, from what training stored.
Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamfer.errors import ConfigError
from streamfer.files import write_text, write_whole
from streamfer_train.dfer_clip.entries import Clip, data_digest
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.protocols import Selection, combine_runs, meaning, results_table
from streamfer_train.dfer_clip.scoring import Match, groups_of, intervals
from streamfer_train.dfer_clip.subjects import Subject
from streamfer_train.metrics import detection, pictures
from streamfer_train.metrics.arrays import plain
from streamfer_train.metrics.classification import fit_temperature, risk_coverage
from streamfer_train.metrics.intervals import Interval, t_interval
from streamfer_train.metrics.published import dynamic_rows, markdown_table, published, written

PREDICTIONS, REPORT, PAGE = "predictions.parquet", "report.json", "report.md"
PICTURES = ("confusion.png", "reliability.png", "risk_coverage.png")
#: Where training puts the predictions of a fold: see :mod:`streamfer_train.dfer_clip.runs`.
_PLACE = re.compile(r"seed(\d+)/fold(\d+)/predictions/")
_COVERAGES = (0.5, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one model, as it is and with its own temperature, said of one list."""

    subject: Subject
    dataset: str
    table: str
    fold: int
    match: Match
    clips: Sequence[Clip]  #: those that are scored, in the order of ``predictions``
    predictions: Predictions
    seconds: float  #: of reading and predicting
    units: tuple[str, ...] = ()  #: the model's names of the action units that are scored
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Model, data and fold in a few words."""
        place = f"{self.dataset} fold {self.fold}" if self.dataset != "csv" else Path(self.table).name
        return f"{self.subject.info.name} on {place}"

    def remarks(self) -> Iterator[str]:
        """Yield what a reader of the numbers has to know before comparing them."""
        subject, match = self.subject, self.match
        if subject.fold is not None and self.dataset != "csv" and subject.fold != self.fold:
            yield (
                f"The model was trained on fold {subject.fold}: its training list holds clips of this test list, "
                "and the numbers flatter."
            )
        if match.left_out:
            yield f"Left out, because the model does not know them: {', '.join(match.left_out)}."
        if match.unused:
            yield f"Not read, because the data has none of them: {', '.join(match.unused)}."
        labels = {clip.label for clip in self.clips}
        if absent := [name for name in match.classes if name not in labels]:
            yield f"No clip is labelled {', '.join(absent)}; UAR is the mean over the others."
        if groups_of(self.clips) is None:
            yield (
                "Intervals resample clips as if they were independent; with a column 'group' (film, person) "
                "they would resample whole groups."
            )


def write_report(folder: Path, evaluation: Evaluation) -> str:
    """Write predictions, report and pictures into a folder; return the page. A ConfigError: outputs are not finite."""
    around = intervals(evaluation.predictions, groups_of(evaluation.clips))
    document = to_document(evaluation, around)
    write_predictions(folder / PREDICTIONS, evaluation)
    page = to_markdown(document, around)
    write_pages(folder, document, page, evaluation.title, evaluation.predictions)
    return page


def to_document(evaluation: Evaluation, around: dict[str, Interval]) -> dict[str, Any]:
    """Return the whole report as plain JSON values; ``around`` holds the intervals of the main scores."""
    subject, clips, predictions = evaluation.subject, evaluation.clips, evaluation.predictions
    curve, others = risk_coverage(*predictions.confidences()), predictions.others
    document: dict[str, Any] = {
        "title": evaluation.title,
        "made": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "streamfer": version("streamfer"),
        "model": {
            "name": subject.info.name,
            "origin": subject.origin,
            **{name: getattr(subject.info, name) for name in ("digest", "frames", "licence", "device", "precision")},
            "classes": list(subject.info.classes),
            "pixels": subject.size,
            "calibration_temperature": subject.temperature,
        },
        "data": {
            "dataset": evaluation.dataset,
            "list": evaluation.table,
            "fold": evaluation.fold,
            "clips": len(clips),
            "digest": data_digest(clips),
            "classes": list(predictions.classes),
            "left_out": list(evaluation.match.left_out),
            "unused": list(evaluation.match.unused),
        },
        "scores": predictions.report().to_dict(),
        "intervals": plain(around),
        # A factor on top of the model's own temperature: 1 is calibrated.
        "calibration": {"further_temperature": plain(fit_temperature(predictions.logits_NC, predictions.labels_N))},
        "risk_at_coverage": {f"{share:g}": plain(curve.risk_at(share)) for share in _COVERAGES},
        "seconds": round(evaluation.seconds, 2),
        "clips_per_second": round(len(clips) / max(evaluation.seconds, 1e-9), 2),
        "remarks": list(evaluation.remarks()),
        "warnings": list(evaluation.warnings),
    }
    if "actions" in others:
        document["actions"] = plain(detection.report(others["actions"], others["actions_target"], evaluation.units))
    return document


def write_pages(folder: Path, document: Any, page: str, title: str, predictions: Predictions) -> None:
    """Write a report as JSON and as a page, with its three pictures; a ConfigError without matplotlib."""
    confidence, hit = predictions.confidences()
    confusion, reliability, risk = (folder / name for name in PICTURES)
    pictures.confusion_picture(predictions.report(), confusion, title)
    pictures.reliability_picture(confidence, hit, reliability)
    pictures.risk_coverage_picture(title, risk_coverage(confidence, hit), risk, "What abstaining gains")
    write_text(folder / PAGE, page)
    write_text(folder / REPORT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Write one row a clip: where it is listed, its label, the predicted class, and a probability for each class."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    predictions, clips = evaluation.predictions, evaluation.clips
    probabilities_NC = predictions.probabilities_NC
    columns: dict[str, Any] = {
        "clip": [clip.path for clip in clips],
        "where": [clip.where for clip in clips],
        "group": pa.array([clip.group for clip in clips], pa.string()),
        "label": [clip.label for clip in clips],
        "predicted": [predictions.classes[place] for place in probabilities_NC.argmax(axis=1)],
        "confidence": probabilities_NC.max(axis=1).astype("float32"),
    }
    for place, name in enumerate(predictions.classes):
        columns[f"p_{name}"] = probabilities_NC[:, place].astype("float32")
    write_whole(path, lambda stream: pq.write_table(pa.table(columns), stream))


def to_markdown(document: dict[str, Any], around: dict[str, Interval]) -> str:
    """Return the report as a page that shows the pictures beside it."""
    rows = zip(map(sum, document["scores"]["confusion"]), document["scores"]["recalls"].items(), strict=True)
    more = [*_action_units(document.get("actions")), *_published(document["data"]["dataset"])]
    if document["warnings"]:
        more += ["## About the data", "", *(f"- {warning}" for warning in document["warnings"]), ""]
    own = {
        **{name: around[name].percent() for name in ("uar", "war")},
        **{name: around[name].plain() for name in ("ece", "aurc")},
        "remarks": "".join(f"\n- {remark}" for remark in document["remarks"]) + "\n" * bool(document["remarks"]),
        "classes": "\n".join(f"| {name} | {n:,} | {'–' if r is None else f'{r:.1%}'} |" for n, (name, r) in rows),
        "calibration": _calibration_sentence(document["calibration"]["further_temperature"]),
        "risk": _risk_sentence(document["risk_at_coverage"]),
        "more": "".join(f"\n{line}" for line in more),
    }
    page = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return page.removesuffix("\n").format(**document, own=own)


def _calibration_sentence(factor: float) -> str:
    if 0.95 <= factor <= 1.05:
        return f"Its temperature fits these clips (a further one of {factor:.2f} would be best)."
    kind = "too sure" if factor > 1 else "too hesitant"
    return f"Its probabilities are {kind}: on these clips a further temperature of {factor:.2f} fits best."


def _risk_sentence(risk_at: dict[str, float]) -> str:
    parts = [f"{risk:.1%} of the most confident {float(share):.0%}" for share, risk in risk_at.items() if share != "1"]
    return f"Of all clips it gets {risk_at['1']:.1%} wrong; {', '.join(parts)}."


def _action_units(actions: dict[str, Any] | None) -> list[str]:
    if actions is None:
        return []
    rows = [
        [name, f"{unit['count']:,}", f"{unit['positives']:,}", written(unit["auc"], 3), written(unit["f1"], 3)]
        for name, unit in actions["units"].items()
    ]
    rows.append(["mean", "", "", written(actions["mean_auc"], 3), written(actions["mean_f1"], 3)])
    return ["## Action units", "", *markdown_table(("unit", "clips", "present", "AUC", "F1 at 0.5"), rows), ""]


def _published(dataset: str) -> list[str]:
    """The published numbers beside this one: theirs are means over the folds."""
    rows = dynamic_rows(dataset)
    if not rows:
        return []
    folds = published("dynamic", dataset, "folds")
    alone = f", means over {folds} folds; the numbers above are of one list and do not compare" if folds > 1 else ""
    table = markdown_table(("method", "UAR", "WAR", "ECE", "AURC", "", "source"), rows)
    return ["## Published numbers", "", f"The epoch chosen on the test list{alone}.", "", *table, ""]


def read_runs(out: Path, selection: Selection, classes: Sequence[str]) -> dict[tuple[int, int], Predictions]:
    """Read the test predictions of every finished (fold, seed) of a run; a ConfigError where there are none."""
    found = {}
    for path in sorted(out.glob(f"seed*/fold*/predictions/{selection}_test.safetensors")):
        place = _PLACE.search(path.as_posix())
        if place is not None:
            found[int(place[2]), int(place[1])] = Predictions.read(path, tuple(classes))
    if not found:
        raise ConfigError(f"{out}: holds no predictions of the protocol {selection}; train the recipe first")
    return found


def write_runs(folder: Path, dataset: str, selection: Selection, runs: Mapping[tuple[int, int], Predictions]) -> str:
    """Write ``report.json``, ``report.md`` and pictures of a protocol's runs; returns the page.

    Scores are means over folds and seeds, as papers report them; the pictures show all clips pooled.

    Raises:
        ConfigError: a seed lacks a fold that another has.
    """
    reports = {key: found.report() for key, found in runs.items()}
    result = combine_runs(selection, {key: found.numbers() for key, found in reports.items()})
    logits_NC, labels_N, index_N = (
        torch.cat([getattr(found, name) for found in runs.values()]) for name in ("logits_NC", "labels_N", "index_N")
    )
    pooled = Predictions(next(iter(runs.values())).classes, logits_NC, labels_N, index_N)
    recalls = {}
    for name in pooled.classes:
        known = [found.recalls[name] for found in reports.values() if not np.isnan(found.recalls[name])]
        if known:
            recalls[name] = t_interval(known)
    title = f"{dataset}, {selection}: all folds and seeds"
    document = {"dataset": dataset, **result.to_dict(), "recalls": plain(recalls)}
    document["pooled"] = pooled.report().to_dict()
    page = Path(__file__).with_name("run_scores.md").read_text(encoding="utf-8")
    rows = [[name, interval.percent()] for name, interval in recalls.items()]
    page = page.format(
        title=title,
        meaning=meaning(dataset, selection, len(result.folds)),
        folds=len(result.folds),
        seeds=len(result.seeds),
        results=results_table(dataset, [result]),
        recalls="\n".join(markdown_table(("class", "recall"), rows)),
    )
    write_pages(folder, document, page, title, pooled)
    return page

"""What an evaluation leaves behind: predictions as a table, the report as JSON and Markdown, and pictures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streamfer.files import write_text, write_whole
from streamfer_train.dfer_clip.entries import data_digest
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.scoring import Evaluation, Match, groups_of
from streamfer_train.dfer_clip.subjects import Subject
from streamfer_train.metrics import pictures
from streamfer_train.metrics.classification import risk_coverage
from streamfer_train.metrics.intervals import Interval
from streamfer_train.metrics.published import dynamic_rows, published

PREDICTIONS, REPORT, PAGE = "predictions.parquet", "report.json", "report.md"
PICTURES = ("confusion.png", "reliability.png", "risk_coverage.png")


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What was evaluated on what."""

    subject: Subject
    dataset: str
    table: str
    fold: int
    match: Match
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Model, data and fold in a few words."""
        place = f"{self.dataset} fold {self.fold}" if self.dataset != "csv" else Path(self.table).name
        return f"{self.subject.name} on {place}"

    def remarks(self, evaluation: Evaluation) -> list[str]:
        """Return what a reader of the numbers has to know before comparing them."""
        found = []
        subject, match = self.subject, self.match
        if subject.fold is not None and self.dataset != "csv" and subject.fold != self.fold:
            found.append(
                f"The model was trained on fold {subject.fold}: its training list holds clips of this test list, "
                "and the numbers flatter."
            )
        if match.left_out:
            found.append(f"Left out, because the model does not know them: {', '.join(match.left_out)}.")
        if match.unused:
            found.append(f"Not read, because the data has none of them: {', '.join(match.unused)}.")
        absent = [
            name for name, total in zip(match.classes, evaluation.report.confusion_CC.sum(1), strict=True) if not total
        ]
        if absent:
            found.append(f"No clip is labelled {', '.join(absent)}; UAR is the mean over the others.")
        if groups_of(evaluation.clips) is None:
            found.append(
                "Intervals resample clips as if they were independent; with a column 'group' (film, person) "
                "they would resample whole groups."
            )
        return found


def to_document(occasion: EvaluationContext, evaluation: Evaluation) -> dict[str, Any]:
    """Return the whole report as plain JSON values."""
    subject, clips = occasion.subject, evaluation.clips
    document: dict[str, Any] = {
        "title": occasion.title,
        "made": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "streamfer": version("streamfer"),
        "model": {
            **{name: getattr(subject, name) for name in ("name", "origin", "digest", "frames")},
            **{name: getattr(subject, name) for name in ("licence", "device", "precision")},
            "classes": list(subject.classes),
            "pixels": subject.size,
            "calibration_temperature": subject.temperature,
        },
        "data": {
            "dataset": occasion.dataset,
            "list": occasion.table,
            "fold": occasion.fold,
            "clips": len(clips),
            "digest": data_digest(clips),
            "classes": list(evaluation.predictions.classes),
            "left_out": list(occasion.match.left_out),
            "unused": list(occasion.match.unused),
        },
        "scores": evaluation.report.to_dict(),
        "intervals": {name: interval.to_dict() for name, interval in evaluation.intervals.items()},
        "calibration": {"further_temperature": round(evaluation.fitted_temperature, 6)},
        "risk_at_coverage": {f"{share:g}": round(risk, 6) for share, risk in evaluation.risk_at.items()},
        "seconds": round(evaluation.seconds, 2),
        "clips_per_second": round(len(clips) / max(evaluation.seconds, 1e-9), 2),
        "remarks": occasion.remarks(evaluation),
        "warnings": list(occasion.warnings),
    }
    if evaluation.actions is not None:
        document["actions"] = evaluation.actions.to_dict()
    return document


def write_report(folder: Path, occasion: EvaluationContext, evaluation: Evaluation) -> str:
    """Write predictions, report and pictures into a folder and return the report as a page.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError: matplotlib is not installed.
    """
    document = to_document(occasion, evaluation)
    write_predictions(folder / PREDICTIONS, evaluation)
    page = to_markdown(document, evaluation)
    write_pages(folder, document, page, occasion.title, evaluation.predictions)
    return page


def write_pages(folder: Path, document: Any, page: str, title: str, predictions: Predictions) -> None:
    """Write a report as JSON and as a page, and the three pictures that the page shows.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError: matplotlib is not installed.
    """
    confidence, hit = predictions.confidences()
    confusion, reliability, risk = (folder / name for name in PICTURES)
    pictures.confusion_picture(predictions.report(), confusion, title)
    pictures.reliability_picture(confidence, hit, reliability)
    pictures.risk_coverage_picture(title, risk_coverage(confidence, hit), risk, "What abstaining gains")
    write_text(folder / PAGE, page)
    write_text(folder / REPORT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Write one row a clip: where it is listed, its label, the predicted class, and a probability for each class.

    Raises:
        OutputError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    predictions, clips = evaluation.predictions, evaluation.clips
    probabilities_NC = predictions.probabilities_NC
    chosen = probabilities_NC.argmax(axis=1)
    columns: dict[str, Any] = {
        "clip": [clip.path for clip in clips],
        "where": [clip.where for clip in clips],
        "group": [clip.group for clip in clips],
        "label": [clip.label for clip in clips],
        "predicted": [predictions.classes[place] for place in chosen],
        "confidence": probabilities_NC.max(axis=1).astype("float32"),
    }
    for place, name in enumerate(predictions.classes):
        columns[f"p_{name}"] = probabilities_NC[:, place].astype("float32")
    table = pa.table({**columns, "group": pa.array(columns["group"], pa.string())})
    write_whole(path, lambda stream: pq.write_table(table, stream))


def to_markdown(document: dict[str, Any], evaluation: Evaluation) -> str:
    """Return the report as a page that shows the pictures beside it."""
    data, model, scores = document["data"], document["model"], document["scores"]
    lines = [
        f"# {document['title']}",
        "",
        f"{data['clips']:,} clips of `{data['list']}`, read by {model['origin']} `{model['name']}` "
        f"({model['digest'][:12]}; {model['frames']} frames of {model['pixels']} pixels; {model['precision']} on "
        f"{model['device']}; {document['clips_per_second']:g} clips a second). "
        f"{document['made'][:10]}, streamfer {document['streamfer']}.",
        "",
        "| UAR | WAR | ECE | AURC | NLL | Brier |",
        "|---|---|---|---|---|---|",
        "| " + " | ".join([*_cells(evaluation.intervals), f"{scores['nll']:.3f}", f"{scores['brier']:.3f}"]) + " |",
        "",
        "In brackets: 95 % bootstrap intervals.",
        *([""] + [f"- {remark}" for remark in document["remarks"]] if document["remarks"] else []),
        "",
        "| class | clips | recall |",
        "|---|---|---|",
        *(f"| {name} | {total:,} | {_percent(recall)} |" for name, total, recall in _rows(evaluation)),
        "",
        "![Confusion matrix](confusion.png)",
        "",
        "## Confidence",
        "",
        _calibration_sentence(evaluation),
        "",
        _risk_sentence(evaluation),
        "",
        "![Reliability](reliability.png) ![Risk and coverage](risk_coverage.png)",
        "",
        *_other_heads(document),
        *_published(data["dataset"]),
    ]
    if document["warnings"]:
        lines += ["## About the data", "", *(f"- {warning}" for warning in document["warnings"]), ""]
    return "\n".join(lines)


def _cells(intervals: dict[str, Interval]) -> list[str]:
    return [intervals[name].percent() for name in ("uar", "war")] + [
        intervals[name].plain() for name in ("ece", "aurc")
    ]


def _rows(evaluation: Evaluation) -> list[tuple[str, int, float]]:
    totals = evaluation.report.confusion_CC.sum(axis=1).tolist()
    return [
        (name, total, recall) for total, (name, recall) in zip(totals, evaluation.report.recalls.items(), strict=True)
    ]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _calibration_sentence(evaluation: Evaluation) -> str:
    factor = evaluation.fitted_temperature
    if 0.95 <= factor <= 1.05:
        return f"Its temperature fits these clips (a further one of {factor:.2f} would be best)."
    kind = "too sure" if factor > 1 else "too hesitant"
    return f"Its probabilities are {kind}: on these clips a further temperature of {factor:.2f} fits best."


def _risk_sentence(evaluation: Evaluation) -> str:
    parts = [f"{risk:.1%} of the most confident {share:.0%}" for share, risk in evaluation.risk_at.items() if share < 1]
    return f"Of all clips it gets {evaluation.risk_at[1.0]:.1%} wrong; {', '.join(parts)}."


def _other_heads(document: dict[str, Any]) -> list[str]:
    lines = []
    if actions := document.get("actions"):
        lines += ["## Action units", "", "| unit | clips | present | AUC | F1 at 0.5 |", "|---|---|---|---|---|"]
        for name, s in actions["units"].items():
            lines.append(f"| {name} | {s['count']:,} | {s['positives']:,} | {_number(s['auc'])} | {_number(s['f1'])} |")
        lines += [f"| mean | | | {_number(actions['mean_auc'])} | {_number(actions['mean_f1'])} |", ""]
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _published(dataset: str) -> list[str]:
    """The published numbers beside this one: theirs are means over the folds."""
    rows = dynamic_rows(dataset)
    if not rows:
        return []
    folds = published("dynamic", dataset, "folds")
    alone = f" over {folds} folds; the numbers above are of one list and do not compare" if folds > 1 else ""
    return [
        "## Published numbers",
        "",
        f"The epoch chosen on the test list, means{alone}." if alone else "The epoch chosen on the test list.",
        "",
        "| method | UAR | WAR | ECE | AURC | | source |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]

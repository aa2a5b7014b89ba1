"""The folds and seeds of one run under one protocol, from the predictions that training stored: one result.

Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from streamfer.errors import ConfigError
from streamfer.files import write_text
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.protocols import SELECTIONS, ProtocolResult, Selection, combine_runs, results_table
from streamfer_train.metrics import pictures
from streamfer_train.metrics.classification import Report, report, risk_coverage
from streamfer_train.metrics.intervals import Interval, t_interval

#: Where training puts the predictions of a fold: see :mod:`streamfer_train.dfer_clip.runs`.
_PLACE = re.compile(r"seed(\d+)/fold(\d+)/predictions/")


def read_runs(out: Path, selection: Selection, classes: Sequence[str]) -> dict[tuple[int, int], Predictions]:
    """Read the test predictions of every finished (fold, seed) of a run's folder.

    Raises:
        ConfigError: no predictions of that protocol are there.
        CheckpointError: a file is damaged.
    """
    found = {}
    for path in sorted(out.glob(f"seed*/fold*/predictions/{selection}_test.safetensors")):
        place = _PLACE.search(path.as_posix())
        if place is not None:
            found[int(place[2]), int(place[1])] = Predictions.read(path, tuple(classes))
    if not found:
        raise ConfigError(f"{out}: holds no predictions of the protocol {selection}; train the recipe first")
    return found


def score_runs(
    selection: Selection, runs: Mapping[tuple[int, int], Predictions]
) -> tuple[ProtocolResult, Report, dict[str, Interval]]:
    """Combine runs: the protocol's scores, a report over all clips pooled, and recalls with intervals over the runs.

    The scores are means over folds and seeds, as papers report them; the pooled report serves the pictures.

    Raises:
        ConfigError: a seed lacks a fold that another has.
    """
    reports = {key: report(found.logits_NC, found.labels_N, found.classes) for key, found in runs.items()}
    result = combine_runs(selection, {key: found.numbers() for key, found in reports.items()})
    logits, labels = _pooled(runs)
    pooled = report(logits, labels, next(iter(runs.values())).classes)
    recalls = {}
    for name in pooled.classes:
        known = [found.recalls[name] for found in reports.values() if not np.isnan(found.recalls[name])]
        if known:
            recalls[name] = t_interval(known)
    return result, pooled, recalls


def _pooled(runs: Mapping[tuple[int, int], Predictions]) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.cat([found.logits_NC for found in runs.values()]),
        torch.cat([found.labels_N for found in runs.values()]),
    )


def write_runs(
    folder: Path, dataset: str, selection: Selection, runs: Mapping[tuple[int, int], Predictions]
) -> tuple[ProtocolResult, dict[str, Interval]]:
    """Write ``report.json``, ``report.md`` and pictures of a protocol's runs; returns the result and the recalls.

    Raises:
        ConfigError: a seed lacks a fold that another has.
        OutputError: the folder cannot be written.
    """
    result, pooled, recalls = score_runs(selection, runs)
    logits, labels = _pooled(runs)
    probabilities_NC = logits.double().softmax(dim=1)
    confidence = probabilities_NC.max(dim=1).values.numpy()
    hit = (probabilities_NC.argmax(dim=1) == labels).numpy()
    title = f"{dataset}, {selection}: all folds and seeds"
    pictures.confusion_picture(pooled, folder / "confusion.png", title)
    pictures.reliability_picture(confidence, hit, folder / "reliability.png")
    pictures.risk_coverage_picture({selection: risk_coverage(confidence, hit)}, folder / "risk_coverage.png")
    document = {
        "dataset": dataset,
        **result.to_dict(),
        "recalls": {name: interval.to_dict() for name, interval in recalls.items()},
        "pooled": pooled.to_dict(),
    }
    write_text(folder / "report.json", json.dumps(document, indent=2) + "\n")
    lines = [
        f"# {title}",
        "",
        f"{SELECTIONS[selection]}. Means over {len(result.folds)} fold(s) and {len(result.seeds)} seed(s); in brackets "
        "95 % t intervals over the folds (over the seeds where there is one fold).",
        "",
        results_table(dataset, [result]),
        "| class | recall |",
        "|---|---|",
        *(f"| {name} | {interval.percent()} |" for name, interval in recalls.items()),
        "",
        "![Confusion matrix](confusion.png)",
        "",
        "![Reliability](reliability.png) ![Risk and coverage](risk_coverage.png)",
        "",
    ]
    write_text(folder / "report.md", "\n".join(lines))
    return result, recalls


def runs_table(result: ProtocolResult, recalls: Mapping[str, Interval]) -> Table:
    """Return the table that the command prints."""
    table = Table(header_style="bold", pad_edge=False, box=None)
    for name in ("score", "mean", "over folds", "over seeds"):
        table.add_column(name, justify="left" if name == "score" else "right", no_wrap=True)
    for name in ("uar", "war", "ece", "aurc"):
        score = result.scores[name]
        written = [i.percent() if name in ("uar", "war") else i.plain() for i in (score.over_folds, score.over_seeds)]
        ends = [text.partition(" ")[2] for text in written]
        table.add_row(name.upper(), written[0].partition(" ")[0], *ends)
    table.add_section()
    for name, interval in recalls.items():
        value, _, around = interval.percent().partition(" ")
        table.add_row(name, value, around, "")
    return table

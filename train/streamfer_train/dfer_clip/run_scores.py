"""The folds and seeds of one run under one protocol, from the predictions that training stored: one result.

Shape suffixes: N clips, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from streamfer.errors import ConfigError
from streamfer_train.dfer_clip.evaluation_report import write_pages
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.protocols import Selection, combine_runs, meaning, results_table
from streamfer_train.metrics.arrays import plain
from streamfer_train.metrics.intervals import t_interval
from streamfer_train.metrics.published import markdown_table

#: Where training puts the predictions of a fold: see :mod:`streamfer_train.dfer_clip.runs`.
_PLACE = re.compile(r"seed(\d+)/fold(\d+)/predictions/")


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
    document = {
        "dataset": dataset,
        **result.to_dict(),
        "recalls": plain(recalls),
        "pooled": pooled.report().to_dict(),
    }
    page = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
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

"""What comes out of a finished fold, and of all folds and seeds: scores, pictures, the exported model, one table."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from streamfer.errors import CheckpointError
from streamfer.files import write_text
from streamfer.models.card import SUFFIX, ModelCard
from streamfer.models.weights import write_weights
from streamfer_train.dfer_clip.config import RunConfig, described
from streamfer_train.dfer_clip.model import load_learner
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.protocols import (
    SELECTIONS,
    ProtocolResult,
    Selection,
    choose,
    combine_runs,
    results_table,
)
from streamfer_train.metrics.classification import fit_temperature
from streamfer_train.metrics.pictures import confusion_picture
from streamfer_train.recipes.checkpoint import LAST

log = logging.getLogger(__name__)

REPORT = "report.json"
SUMMARY = "summary"
LICENCE = (
    "Trained by the user; what the weights may be used for follows from the terms of the data and of the weights that "
    "training started from, both named under 'train' (DFEW, FERV39k and MAFW are for research only)."
)


def weights_of(folder: Path, selection: Selection) -> Path:
    """Return the checkpoint that holds a protocol's epoch."""
    return folder / (LAST if selection == "last" else f"{selection}.pt")


def write_report(folder: Path, config: RunConfig, history: list[dict[str, Any]], about: dict[str, Any]) -> Path:
    """Score a fold's protocols from its stored predictions, draw their confusion matrices, and export the model.

    Raises:
        CheckpointError: predictions or weights are missing or damaged.
    """
    classes = config.data.class_names
    protocols: dict[str, Any] = {}
    for selection, meaning in SELECTIONS.items():
        path = folder / "predictions" / f"{selection}_test.safetensors"
        if not path.exists():
            continue
        test = Predictions.read(path, classes)
        found = test.report()
        temperature, fitted_on = _temperature(folder, selection, test)
        protocols[selection] = {
            "meaning": meaning,
            "epoch": choose(history, selection, config.stop.metric),
            "scores": test.scores(),
            "test": found.to_dict(),
            "temperature": temperature,
            "temperature_fitted_on": fitted_on,
        }
        chosen = f"{selection}: epoch {protocols[selection]['epoch']}"
        confusion_picture(found, folder / f"confusion_{selection}.png", chosen)
    exported, note = _export(folder, config, protocols[config.export], about)
    document = {**about, "protocols": protocols, "exported": exported, "note": note}
    write_text(folder / REPORT, json.dumps(document, indent=2) + "\n")
    return folder / REPORT


def _temperature(folder: Path, selection: Selection, test: Predictions) -> tuple[float, str]:
    """Fit the calibration temperature on held-out clips, or say that it had to be the test list."""
    path = folder / "predictions" / f"{selection}_held_out.safetensors"
    if path.exists():
        held_out = Predictions.read(path, test.classes)
        return fit_temperature(held_out.logits_NC, held_out.labels_N), "held-out clips"
    return fit_temperature(test.logits_NC, test.labels_N), "the test list (nothing was held out: optimistic)"


def _export(
    folder: Path, config: RunConfig, protocol: dict[str, Any], about: dict[str, Any]
) -> tuple[str | None, str | None]:
    """Write the weights file; returns its name, or None and the reason why there is none."""
    learner, _, _ = load_learner(weights_of(folder, config.export))
    try:
        product = learner.product()
    except CheckpointError as error:
        log.warning("dfer_clip.not_exported", extra={"reason": str(error)})
        return None, str(error)
    name = f"dfer-clip-{config.data.dataset}-fold{about['fold']}-seed{about['seed']}"
    card = ModelCard(
        name=name,
        config=product.config,
        pixels=learner.sizes.pixels,
        crop=learner.sizes.crop,
        licence=LICENCE,
        calibration_temperature=protocol["temperature"],
        train={
            # The command line may hold folders of the user's machine, and a weights file travels.
            **{name: value for name, value in about.items() if name != "command"},
            "protocol": config.export,
            "epoch": protocol["epoch"],
            "scores": protocol["scores"],
            "recalls": protocol["test"]["recalls"],
            "calibration_fitted_on": protocol["temperature_fitted_on"],
            "text": {**config.text.model_dump(mode="json"), **described(config)},
        },
    )
    target = folder / f"{name}{SUFFIX}"
    write_weights(target, product, card)
    extra = {"path": str(target), "protocol": config.export, "epoch": protocol["epoch"]}
    log.info("dfer_clip.exported", extra=extra)
    return target.name, None


def write_summary(out: Path, config: RunConfig, reports: dict[tuple[int, int], Path]) -> list[ProtocolResult]:
    """Combine finished folds and seeds into ``summary.json`` and ``summary.md``; returns a result a protocol."""
    read = {key: json.loads(path.read_text(encoding="utf-8"))["protocols"] for key, path in reports.items()}
    results = [
        combine_runs(selection, {key: found[selection]["scores"] for key, found in read.items()})
        for selection in SELECTIONS
        if all(selection in found for found in read.values())
    ]
    document = {
        "dataset": config.data.dataset,
        "text": described(config),
        "finished": [{"fold": fold, "seed": seed} for fold, seed in sorted(reports)],
        "protocols": [result.to_dict() for result in results],
    }
    write_text(out / f"{SUMMARY}.json", json.dumps(document, indent=2) + "\n")
    text = described(config)
    said = f"\nText: {text['type']}, {text['source']} (sha256 {text['digest'][:12]}).\n" if text else ""
    write_text(out / f"{SUMMARY}.md", results_table(config.data.dataset, results) + said)
    return results

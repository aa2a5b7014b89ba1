"""A whole run: every fold under every seed, each resumable on its own, then averaged.

docs/training.md lists the files of a run's folder. Folds may be trained by separate commands (``--fold``) into it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamfer.files import write_text
from streamfer_train.dfer_clip.backbones import Backbone, at_models_size, read_backbone
from streamfer_train.dfer_clip.checks import CheckReport, check_clips
from streamfer_train.dfer_clip.config import MAY_CHANGE, RunConfig, described
from streamfer_train.dfer_clip.folds import Fold
from streamfer_train.dfer_clip.model import RECIPE, drawn_at_random
from streamfer_train.dfer_clip.protocols import ProtocolResult
from streamfer_train.dfer_clip.reports import REPORT, write_report, write_summary
from streamfer_train.dfer_clip.training import DferTask, build_trainer, parameter_groups
from streamfer_train.recipes.checkpoint import LAST
from streamfer_train.recipes.journal import counted
from streamfer_train.recipes.processes import ALONE, ProcessGroup, joined
from streamfer_train.recipes.run_folder import claim, origin

log = logging.getLogger(__name__)

DATA_REPORT, RUN = "data_report.txt", "run.json"


def folder_of(out: Path, seed: int, fold: int) -> Path:
    return out / f"seed{seed}" / f"fold{fold}"


def train(config: RunConfig, *, folds: Sequence[int] | None = None, resume: bool = False) -> list[ProtocolResult]:
    """Train every fold under every seed, report each, and combine those that are finished.

    A UserError: the data has errors, the folder holds another run or one that was begun, or see ``Trainer.run``.
    """
    config, wanted = at_models_size(config), _wanted(config, folds)
    out = config.run.out
    with joined(config.run.device, config.run.backend) as world:
        lasts = [folder_of(out, seed, fold) / LAST for seed in config.seeds for fold in wanted]
        plain = config.model_dump(mode="json")
        world.share(lambda: claim(out, plain, MAY_CHANGE, () if resume else lasts))
        found = world.share(lambda: _checked(config, wanted))
        backbone = world.first(lambda: read_backbone(config))
        for seed in config.seeds:
            for fold in found:
                _train_fold(config, fold, seed, world, backbone, resume=resume)
        results = world.share(lambda: _summarise(config))
        return results if world.leads else []


def check(config: RunConfig, *, folds: Sequence[int] | None = None, cut_faces: bool = False) -> str:
    """Return what would be trained, after raising what keeps training from starting; nothing is written but crops."""
    config, wanted = at_models_size(config), _wanted(config, folds)
    report = check_clips(config.data, wanted)
    to_cut = config.data.faces == "detect" and not report.errors
    if to_cut and cut_faces:
        report = _cut_faces(report, config)
    print(report.text())
    report.raise_for_errors()
    backbone = read_backbone(config)
    # What training would refuse is refused now: a batch larger than a list, nothing to train.
    learner = [DferTask(config, fold, config.seeds[0], ALONE, backbone) for fold in report.folds][-1].learner
    drawn = ", ".join(drawn_at_random(learner, backbone)) or "nothing"
    lines = [f"backbone {backbone.source}; drawn at random: {drawn}", *_text(config)]
    for group in parameter_groups(learner, config.optimiser):
        count = sum(weight.numel() for weight in group["params"])
        lines.append(f"  {group['name']}: {count:,} weights learn at {group['lr']:g}")
    for fold in report.folds:
        steps = len(fold.train) // config.optimiser.batch
        clips = ", ".join(f"{len(clips):,} {name.replace('_', ' ')}" for name, clips in fold.parts.items())
        lines.append(f"fold {fold.number}: {clips} clips; {steps:,} steps an epoch, {config.optimiser.epochs} epochs")
    if to_cut and not cut_faces:
        lines.append("faces were not looked for: training cuts them first, or --check --cut-faces does now")
    if not learner.exportable:
        lines.append("temporal adapters: evaluated from its checkpoint, not exported for streaming")
    return "\n".join(lines)


def _text(config: RunConfig) -> list[str]:
    """Say loudly whose words the prompts are."""
    text = described(config)
    if not text:
        return []
    line = f"TEXT: {text['type']} of {text['source']} (sha256 {text['digest'][:12]})"
    if text["type"] == "class_descriptor" and "words" in text["source"]:
        line += ", NOT the authors' tokens: results differ from the paper; set text.descriptors to their models/Text.py"
    return [line]


def _wanted(config: RunConfig, folds: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(config.data.known_fold, folds))) if folds else config.data.folds


def _checked(config: RunConfig, folds: Sequence[int]) -> tuple[Fold, ...]:
    """Look at all clips, write down what is odd about them, and cut their faces where that is asked for."""
    report, path = check_clips(config.data, folds), config.run.out / DATA_REPORT
    write_text(path, report.text(examples=None) + "\n")
    counts = {"clips": report.clips, "errors": len(report.errors), "warnings": len(report.warnings)}
    log.info("dfer_clip.data", extra={**counts, "report": str(path)})
    print(f"data: {report.summary()}; all of it: {path}", file=sys.stderr)
    report.raise_for_errors(path)
    if config.data.faces == "as_is":
        return report.folds
    cut = _cut_faces(report, config)
    write_text(path, cut.text(examples=None) + "\n")
    cut.raise_for_errors(path)
    return cut.folds


def _cut_faces(report: CheckReport, config: RunConfig) -> CheckReport:
    from streamfer_train.dfer_clip.face_crops import with_face_crops

    with counted("faces", wanted=config.log.progress) as progress:
        cut = with_face_crops(report, config.data, progress)
    missed = len(cut.problems) - len(report.problems)
    where = config.data.face_crops.cache
    print(f"faces: {report.clips:,} clips cut or found in {where}; {missed:,} without a face", file=sys.stderr)
    return cut


def _train_fold(
    config: RunConfig, fold: Fold, seed: int, world: ProcessGroup, backbone: Backbone, *, resume: bool
) -> None:
    folder = folder_of(config.run.out, seed, fold.number)
    if world.share(lambda: resume and _finished(folder, config)):
        if world.leads:
            log.info("dfer_clip.finished_before", extra={"fold": fold.number, "seed": seed})
        return
    about = _about(config, fold, seed, world, backbone)
    world.share(lambda: write_text(folder / RUN, json.dumps(about, indent=2) + "\n"))
    progress = build_trainer(config, fold, seed, folder, world, backbone).run(resume=resume)
    length = {"epochs": progress.epochs, "epochs_extended_from": progress.extended}
    world.share(lambda: write_report(folder, config, progress.history, {**about, **length}))


def _finished(folder: Path, config: RunConfig) -> bool:
    """Whether a fold was reported after as many epochs as are asked for."""
    path = folder / REPORT
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("epochs", 0) >= config.optimiser.epochs


def _about(config: RunConfig, fold: Fold, seed: int, world: ProcessGroup, backbone: Backbone) -> dict[str, Any]:
    """Return where a fold's numbers come from, as plain JSON."""
    return {
        "recipe": RECIPE,
        "dataset": config.data.dataset,
        "fold": fold.number,
        "seed": seed,
        "backbone": backbone.source,
        "text": described(config),
        "data_digests": fold.digests(),
        "clips": fold.counts(),
        **origin(world),
    }


def _summarise(config: RunConfig) -> list[ProtocolResult]:
    """Combine what is finished, by earlier commands too; seeds that lack a fold that another has wait for it."""
    found = [path.parent.parent.name.removeprefix("seed") for path in config.run.out.glob(f"seed*/fold*/{REPORT}")]
    seeds = sorted({*config.seeds, *(int(name) for name in found if name.isdecimal())})
    done = {
        (fold, seed): folder_of(config.run.out, seed, fold) / REPORT
        for fold in config.data.folds
        for seed in seeds
        if (folder_of(config.run.out, seed, fold) / REPORT).exists()
    }
    by_seed = {seed: {fold for fold, other in done if other == seed} for seed in seeds}
    shared = set.intersection(*by_seed.values())
    complete = {key: path for key, path in done.items() if key[0] in shared}
    missing = [fold for fold in config.data.folds if fold not in shared]
    if missing:
        log.info("dfer_clip.folds_to_come", extra={"folds": missing})
    return write_summary(config.run.out, config, complete) if complete else []

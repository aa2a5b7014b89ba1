"""``streamfer evaluate dfer-clip``: one model on one list of clips, or the runs of a recipe over folds and seeds."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from streamfer.errors import ConfigError
from streamfer.threads import available_cores
from streamfer_train.dfer_clip.config import load_config
from streamfer_train.dfer_clip.data_config import DataConfig, FacesConfig
from streamfer_train.dfer_clip.evaluation_report import Evaluation, read_runs, write_report, write_runs
from streamfer_train.dfer_clip.predictions import Predictions
from streamfer_train.dfer_clip.protocols import Selection
from streamfer_train.dfer_clip.reports import weights_of
from streamfer_train.dfer_clip.scoring import clips_of, match_classes, predict, shared_units
from streamfer_train.dfer_clip.subjects import Subject, read_subject
from streamfer_train.recipes.journal import counted, new_bar


def run(options: argparse.Namespace) -> None:
    """Evaluate and report, or raise a UserError about options, data, the model or the report's folder."""
    console = Console(highlight=False)
    if options.out is not None and options.out.is_file():
        raise ConfigError(f"{options.out}: is no folder; choose another --out")
    if not options.weights or options.folds:
        _report_runs(options, console)
        return
    data = _data(options)
    subject = read_subject(_weights(options), device=options.device, precision=options.precision)
    evaluation = _measured(options, subject, data, _fold(options.fold, subject, data))
    folder = options.out or Path("runs/evaluate") / subject.info.name.replace("/", "_")
    _show(console, write_report(folder, evaluation), folder)


def _measured(options: argparse.Namespace, subject: Subject, data: DataConfig, fold: int) -> Evaluation:
    match = match_classes(subject.info.classes, data.class_names, subset=options.subset)
    with counted("faces", wanted=data.faces == "detect") as progress:
        found = clips_of(data.model_copy(update={"size": subject.size}), fold, progress)
    clips = [clip for clip in found.folds[0].test if clip.label in match.classes]
    # One process a core, none where starting them would take longer than reading.
    workers = 0 if len(clips) <= 4 * options.batch else available_cores()
    with new_bar() as bar:
        task, began = bar.add_task("clips", total=len(clips)), time.perf_counter()
        advance, workers = partial(bar.advance, task), workers if options.workers is None else options.workers
        predictions = predict(subject, clips, data, match, batch=options.batch, workers=workers, advance=advance)
        seconds = time.perf_counter() - began
    return Evaluation(
        subject=subject,
        dataset=data.dataset,
        table=str(data.test_list(fold)),
        fold=fold,
        match=match,
        clips=clips,
        predictions=predictions,
        seconds=seconds,
        units=tuple(shared_units(subject, data).values()),
        warnings=tuple(f"{problem.where}: {problem.what}" for problem in found.problems),
    )


def _show(console: Console, page: str, folder: Path) -> None:
    """Print a report as far as its first picture, and where the whole is."""
    console.print(Markdown(page.partition("![")[0]))
    console.print(f"report: {folder / 'report.md'}", soft_wrap=True)


def _report_runs(options: argparse.Namespace, console: Console) -> None:
    """Combine the folds of a recipe: stored predictions of a run with its seeds, or a checkpoint for each fold."""
    if options.config is None or (options.protocol is None and not options.folds):
        raise ConfigError(
            "--weights is missing: name an installed model or a file; or give -c and --protocol to combine the folds "
            "and seeds of a run"
        )
    config = load_config(options.config, options.set)
    protocol: Selection = options.protocol or "best_on_test"  # so the authors choose what they publish
    if options.folds:
        runs = _folds(options, _data(options))
        folder = options.out or Path("runs/evaluate/folds")
    else:
        runs = read_runs(config.run.out, protocol, config.data.class_names)
        folder = options.out or config.run.out / f"evaluation_{protocol}"
    _show(console, write_runs(folder, config.data.dataset, protocol, runs), folder)


def _folds(options: argparse.Namespace, data: DataConfig) -> dict[tuple[int, int], Predictions]:
    """Return the predictions of each fold's own checkpoint on its own test list, by (fold, 0)."""
    if "{fold}" not in str(options.weights):
        raise ConfigError("--folds: --weights must name one checkpoint a fold, as in DFEW-set{fold}-model.pth")
    found = {}
    for fold in data.folds:
        weights = str(options.weights).replace("{fold}", str(fold))
        subject = read_subject(weights, device=options.device, precision=options.precision)
        if subject.fold not in (None, fold):
            raise ConfigError(f"{weights}: was trained on fold {subject.fold}, which holds clips of fold {fold}'s test")
        found[fold, 0] = _measured(options, subject, data, fold).predictions
    return found


def _weights(options: argparse.Namespace) -> str:
    """Return the file that ``--weights`` means: of a fold's folder the checkpoint of the protocol."""
    weights = str(options.weights)
    if not Path(weights).is_dir():
        return weights
    path = weights_of(Path(weights), options.protocol or "last")
    if not path.is_file():
        raise ConfigError(f"{weights}: holds no {path.name}; give the folder of one fold, as in OUT/seed1/fold1")
    return str(path)


def _data(options: argparse.Namespace) -> DataConfig:
    if options.config is not None:
        data = load_config(options.config, options.set).data
        if options.list is not None:
            data = data.model_copy(update={"test": str(options.list)})
    elif options.list is not None:
        data = own_videos(options.list)
    else:
        raise ConfigError("nothing to evaluate on: give a recipe with -c, or a CSV file of clips with --list")
    if options.faces is not None:
        data = data.model_copy(update={"faces": options.faces})
    return data


def own_videos(table: Path) -> DataConfig:
    """Return the data section for a plain CSV of one's own clips; relative paths in it start at its folder."""
    listed, faces = str(table), FacesConfig(cache=table.parent / ".face_crops")
    return DataConfig(dataset="csv", train=listed, test=listed, root=table.parent, labels="names", face_crops=faces)


def _fold(asked: int | None, subject: Subject, data: DataConfig) -> int:
    if asked is not None:
        return data.known_fold(asked)
    if subject.fold is not None and subject.fold in data.folds:
        return subject.fold
    if len(data.folds) > 1:
        raise ConfigError(
            f"the recipe has folds {', '.join(map(str, data.folds))} and the weights do not say which one they were "
            "trained on; give --fold (on another fold's test list they were trained on its clips)"
        )
    return data.folds[0]

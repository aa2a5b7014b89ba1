"""Which epoch of a run is reported, and how folds and seeds become one number.

Three protocols choose an epoch: ``best_on_test`` takes the best epoch on the test list, which is what the authors do
and what papers compare with, but flatters; ``last`` takes the last epoch; ``held_out`` takes the best epoch on clips
kept out of training, and the test list is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from streamfer.errors import ConfigError
from streamfer_train.metrics.arrays import plain
from streamfer_train.metrics.intervals import FoldsAndSeeds, combine
from streamfer_train.metrics.published import dynamic_rows, markdown_table, published

Selection = Literal["best_on_test", "last", "held_out"]
Metric = Literal["war", "uar", "nll"]

#: What a reader has to know about a number of each protocol.
SELECTIONS: dict[Selection, str] = {
    "best_on_test": "best epoch on the test list: comparable with published numbers, flatters by choosing",
    "last": "last epoch: nothing was chosen on the test list",
    "held_out": "best epoch on held-out training clips: nothing was chosen on the test list",
}


def choose(history: Sequence[Mapping[str, Any]], selection: Selection, metric: Metric = "uar") -> int:
    """Return the epoch (from 1) that a protocol reports; the earlier one where two are equally good.

    Args:
        history: of every epoch in order ``epoch``, and scores by name, rates in 0-1: ``test``, ``held_out``.
        selection: the protocol. ``best_on_test`` goes by WAR, as the authors do.
        metric: what ``held_out`` goes by; the lower the better for ``nll``.

    Raises:
        ConfigError: no epochs, or no held-out scores where they are asked for.
    """
    if not history:
        raise ConfigError("a run without a finished epoch has nothing to report; let it train on")
    best = history[-1]
    if selection == "best_on_test":
        best = max(history, key=lambda epoch: epoch["test"]["war"])
    elif selection == "held_out":
        if not all(metric in epoch["held_out"] for epoch in history):
            raise ConfigError("protocol held_out: the run held no clips out; set data.held_out.fraction, as 0.1")
        sign = -1 if metric == "nll" else 1
        best = max(history, key=lambda epoch: sign * epoch["held_out"][metric])
    return int(best["epoch"])


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One protocol over all folds and seeds."""

    selection: Selection
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    scores: dict[str, FoldsAndSeeds]
    runs: dict[tuple[int, int], dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "protocol": self.selection,
            "meaning": SELECTIONS[self.selection],
            "folds": list(self.folds),
            "seeds": list(self.seeds),
            "scores": plain(self.scores),
            "runs": [{"fold": fold, "seed": seed, **numbers} for (fold, seed), numbers in sorted(self.runs.items())],
        }


def combine_runs(selection: Selection, runs: Mapping[tuple[int, int], Mapping[str, float]]) -> ProtocolResult:
    """Combine the scores of (fold, seed) runs: mean over folds, then seeds, with intervals over both.

    Only scores that every run has are combined.

    Raises:
        ConfigError: no runs, or a seed lacks a fold that another has.
    """
    if not runs:
        raise ConfigError("no runs to combine; train at least one fold")
    shared = [name for name in next(iter(runs.values())) if all(name in numbers for numbers in runs.values())]
    scores = {name: combine({key: numbers[name] for key, numbers in runs.items()}) for name in shared}
    folds, seeds = sorted({fold for fold, _ in runs}), sorted({seed for _, seed in runs})
    kept = {key: dict(numbers) for key, numbers in runs.items()}
    return ProtocolResult(selection, tuple(folds), tuple(seeds), scores, kept)


def results_table(dataset: str, results: Sequence[ProtocolResult]) -> str:
    """Return one Markdown table: our protocols with intervals first, then the published numbers to beat."""
    rows = []
    for result in results:
        count = f"{len(result.folds)} × {len(result.seeds)}"
        cells = [_cell(result, name) for name in ("uar", "war", "ece", "aurc")]
        said = meaning(dataset, result.selection, len(result.folds))
        rows.append([f"**streamfer, {result.selection}**", *cells, count, said])
    columns = ("method", "UAR", "WAR", "ECE", "AURC", "folds × seeds", "protocol or source")
    return "\n".join(markdown_table(columns, [*rows, *dynamic_rows(dataset)])) + "\n"


def meaning(dataset: str, selection: Selection, folds: int) -> str:
    """Return what a reader has to know about a number: papers average all official folds, and so must it to compare."""
    official = published("dynamic", dataset, "folds")
    said = SELECTIONS[selection]
    if selection != "best_on_test":
        return said
    if not official:
        return said.replace("comparable with published numbers, flatters", "flatters")
    missing = f"not comparable with published numbers ({folds} of {official} folds), flatters"
    return said if folds == official else said.replace("comparable with published numbers, flatters", missing)


def _cell(result: ProtocolResult, name: str) -> str:
    score = result.scores.get(name)
    if score is None:
        return "–"
    # One seed leaves the folds, one fold leaves the seeds; with both, the folds say more about the number.
    interval = score.over_folds if score.over_folds.count > 1 else score.over_seeds
    return interval.percent() if name in ("uar", "war") else interval.plain()

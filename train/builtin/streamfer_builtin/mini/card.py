"""The model card in Markdown: prose from a template, every number from what was measured at export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from streamfer.errors import OutputError
from streamfer.models.card import ModelCard
from streamfer_builtin.mini.units import RENDERED_ONLY

_SETS = {
    "still": "FER2013 val, still picture (16 equal frames)",
    "still_flipped": "the same, mirrored view averaged in (not the shipped path)",
    "clips": "FER2013 val, clip of drifting views",
    "picture_head": "picture head of training (not shipped)",
}
_HELD_OUT = {"still": "held-out people of faces, still picture", "clips": "held-out people of faces, clip"}


def write(card: ModelCard, size_bytes: int, to: Path) -> None:
    """Write the card of an exported model; `size_bytes` is the size of its weights file.

    Raises:
        OutputError: it cannot be written.
    """
    name = "card.md" if "images" in card.train["recipe"] else "card_rendered.md"
    template = Template((resources.files("streamfer_builtin.mini") / name).read_text(encoding="utf-8"))
    try:
        to.write_text(template.substitute(values(card, size_bytes)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{to}: cannot write the card ({error.strerror}); choose another path with --to") from error


def values(card: ModelCard, size_bytes: int) -> dict[str, str]:
    """Return the text of every placeholder of the templates."""
    metrics = card.train["metrics"]
    speed, calibration, motion = metrics["speed"], metrics["calibration"], metrics["motion"]
    probe = motion["onset_or_offset"]
    return {
        "name": card.name,
        "date": str(card.train["date"]),
        "parameters": f"{metrics['parameters'] / 1e6:.2f} M",
        "size": f"{size_bytes / 1e6:.1f} MB",
        "side": str(card.pixels.size),
        "classes": ", ".join(card.config.classes),
        "licence": card.licence,
        "emotions": emotions_table(card.config.classes, metrics),
        "temperature": f"{calibration['temperature']:.3f}",
        "fitted_on": f"{calibration['fitted_on']:,}",
        "reported_on": f"{calibration['reported_on']:,}",
        "still_ece": f"{calibration['still_ece']:.3f}",
        "still_ece_before": f"{calibration['still_ece_before']:.3f}",
        "clips_ece": f"{calibration['clips_ece']:.3f}",
        "clips_ece_before": f"{calibration['clips_ece_before']:.3f}",
        "units": units_table(metrics["action_units"]),
        "mean_auc": f"{metrics['action_units']['photographs']['mean_auc']:.3f}",
        "rendered_mean_auc": f"{metrics['action_units']['rendered']['mean_auc']:.3f}",
        "present_above": f"{metrics['action_units']['present_above']:g}",
        "rendered_only": ", ".join(RENDERED_ONLY),
        "rendered_train": f"{metrics['rendered_clips']['train']:,}",
        "rendered_val": f"{metrics['rendered_clips']['val']:,}",
        "temporal_uar": _percent(motion["temporal"]["uar"]),
        "averaging_uar": _percent(motion["averaging_picture_head"]["uar"]),
        "stills_uar": _percent(motion["averaging_stills"]["uar"]),
        "gain": f"{100 * motion['gain_uar']:.1f}",
        "direction": _percent(probe["clip_feature"]["accuracy"]),
        "direction_uar": _percent(probe["clip_feature"]["uar"]),
        "direction_blind": _percent(probe["mean_feature"]["accuracy"]),
        "direction_count": f"{probe['clip_feature']['count']:,}",
        "pose": _bands("head pose", metrics["by_pose"]),
        "quality": _bands("picture", metrics["by_quality"]),
        "crops_per_second": f"{speed['crops_per_second']:,}",
        "ms_per_window": f"{speed['ms_per_window']:.2f}",
        "threads": str(speed["threads"]),
        "commands": "\n".join(card.train["commands"]),
        "epochs": _epochs(card.train["recipe"]),
    }


def emotions_table(classes: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """Return accuracy, UAR and the recall of each class, in per cent, one row a set."""
    rows = [(text, metrics["fer2013_val"][key]) for key, text in _SETS.items()]
    held_out = metrics.get("faces_held_out", {})
    rows += [(text, held_out[key]) for key, text in _HELD_OUT.items() if key in held_out]
    return _table(
        ("set", "n", "accuracy", "UAR", *classes),
        (
            (
                text,
                f"{s['count']:,}",
                _percent(s["accuracy"]),
                _percent(s["uar"]),
                *(_percent(s["recalls"].get(c)) for c in classes),
            )
            for text, s in rows
        ),
    )


def units_table(measured: Mapping[str, Any]) -> str:
    """Return each action unit's threshold, and AUC and F1 on photographs and on rendered frames."""
    photographs, rendered = measured["photographs"]["units"], measured["rendered"]["units"]
    rows = []
    for name, threshold in measured["thresholds"].items():
        cells = [name, f"{threshold:.2f}"]
        for scores in (photographs.get(name), rendered.get(name)):
            if scores is None:
                cells += ["–", "–", "–"]
            else:
                cells += [f"{scores['positives']:,}", _decimal(scores["auc"]), _decimal(scores["f1"])]
        rows.append(cells)
    header = ("unit", "threshold", "photographs with it", "AUC", "F1", "rendered frames with it", "AUC", "F1")
    return _table(header, rows)


def _bands(what: str, measured: Mapping[str, Mapping[str, float]]) -> str:
    return _table(
        (what, "n", "accuracy", "UAR"),
        ((name, f"{s['count']:,}", _percent(s["accuracy"]), _percent(s["uar"])) for name, s in measured.items()),
    )


def _epochs(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    stages = [name for name in ("images", "joint", "clips") if name in recipe]
    return ", ".join(f"{name} {recipe[name]['epochs_done']} of {recipe[name]['epochs']}" for name in stages)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

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

#: Rows of the first table: what a row says, and where its numbers are.
_ROWS = (
    ("FER+ clear majority, stills", "clear", "still"),
    ("the same as clips of drifting views", "clear", "clips"),
    ("the same, picture head of training (not shipped)", "clear", "head"),
    ("the same, the half that training watched, stills", "clear_watched", None),
    ("FER2013's own labels, stills", "fer2013", "still"),
    ("the same as clips", "fer2013", "clips"),
    ("aligned faces of people held out, stills", "faces", "still"),
    ("the same as clips", "faces", "clips"),
)


def write(card: ModelCard, size_bytes: int, to: Path) -> None:
    """Write the card of an exported model; `size_bytes` is the size of its weights file.

    Raises:
        OutputError: it cannot be written.
    """
    template = Template((resources.files("streamfer_builtin.mini") / "card.md").read_text(encoding="utf-8"))
    try:
        to.write_text(template.substitute(values(card, size_bytes)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{to}: cannot write the card ({error.strerror}); choose another path with --to") from error


def values(card: ModelCard, size_bytes: int) -> dict[str, str]:
    """Return the text of every placeholder of the template."""
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
        "agreement": _bands("annotators who agree", metrics["by_agreement"]),
        "pose": _bands("head pose", metrics["by_pose"]),
        "quality": _bands("picture", metrics["by_quality"]),
        "crops_per_second": f"{speed['crops_per_second']:,}",
        "ms_per_window": f"{speed['ms_per_window']:.2f}",
        "threads": str(speed["threads"]),
        "command": card.train["command"],
        "epochs": _epochs(card.train["recipe"]),
        "start": _start(card.train["recipe"]["joint"]["start"]),
        "absent_below": f"{metrics['action_units']['absent_below']:g}",
        "false_share": _false_shares(metrics["action_units"]["false_share"]),
        **_silence(metrics["abstention"]),
    }


def _silence(abstention: Mapping[str, Any]) -> dict[str, str]:
    """Return what is said of faces that get no answer."""
    limits = abstention["limits"]
    return {
        "least_right": _percent(abstention["least_right"]),
        "min_side": f"{limits['min_side']:g}",
        "min_pose": f"{limits['min_pose']:g}",
        "min_sharpness": f"{limits['min_sharpness']:g}",
        "min_probability": f"{limits['min_probability']:g}",
        "by_side": _risks("side of the face, px", abstention["by_side"], abstention["answered"]),
        "by_yaw": _risks("yaw, degrees", abstention["by_yaw"]),
        "by_sharpness": _risks("sharpness", abstention["by_sharpness"]),
    }


def emotions_table(classes: Sequence[str], metrics: Mapping[str, Any]) -> str:
    """Return accuracy, UAR and the recall of each class, in per cent, one row a set."""
    rows = []
    for text, of, way in _ROWS:
        scores = metrics[of] if way is None else metrics[of][way]
        recalls = (_percent(scores["recalls"].get(name)) for name in classes)
        rows.append((text, f"{scores['count']:,}", _percent(scores["accuracy"]), _percent(scores["uar"]), *recalls))
    return _table(("set", "n", "accuracy", "UAR", *classes), rows)


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


def _risks(what: str, curves: Mapping[str, Any], answered: Mapping[str, Any] | None = None) -> str:
    """Return the error in per cent among the surest share of the answers, one row a band."""
    shares = list(next(iter(curves.values()))["risk"])
    header = [what, "n", *(f"surest {100 * float(share):.0f} %" for share in shares), "area"]
    rows = []
    for name, curve in curves.items():
        row = [
            name,
            f"{curve['count']:,}",
            *(_percent(curve["risk"][share]) for share in shares),
            _percent(curve["aurc"]),
        ]
        if answered is not None:
            row += [_percent(answered[name]["share"]), _percent(answered[name]["right"])]
        rows.append(row)
    return _table(header + (["answered", "of these right"] if answered is not None else []), rows)


def _false_shares(measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    return _table(
        ("pictures", "as", "all units", "AU43"),
        (
            (source, way, _percent(shares["all"]), _percent(shares["AU43"]))
            for source, ways in measured.items()
            for way, shares in ways.items()
        ),
    )


def _start(digest: str) -> str:
    return "at random" if digest == "random" else f"from the weights with SHA-256 {digest[:12]}"


def _epochs(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    parts = {"joint": recipe["joint"], "clips": recipe["clips"]}
    said = [f"{name} {part['epochs_done']} of {part['epochs']}" for name, part in parts.items()]
    return ", ".join(said)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

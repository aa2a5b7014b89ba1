"""Linear probes on what a captioner's image encoder and Q-Former see: action units (F1) and emotions (accuracy).

Shape suffixes: N pictures, P positions, W width of the image encoder, Q queries, E width of the Q-Former.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streamfer.captions import load_captioner
from streamfer.captions.query_captioner import QueryCaptioner
from streamfer.errors import ConfigError, UnknownModelError
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.exp_blip.augment import squashed
from streamfer_train.exp_blip.captioned import LabelledPicture
from streamfer_train.exp_blip.data import read_picture
from streamfer_train.metrics.probes import UNKNOWN, Probe

#: What is learned from, and what is scored.
_Sides = tuple[Sequence[LabelledPicture], Sequence[LabelledPicture]]


@torch.inference_mode()
def features(options: argparse.Namespace, pictures: Sequence[LabelledPicture]) -> dict[str, Tensor]:
    """Encode pictures with a captioner's image encoder and Q-Former; float32 on the CPU.

    ``vision`` (N, W) is the mean over positions, ``qformer`` (N, E) or (N, Q * E), pooled: how its query outputs become
    one vector, which the paper does not say.

    Raises:
        UnknownModelError: no such captioner in a folder (a stand-in of transformers has no Q-Former to probe).
    """
    captioner, batch = options.captioner, options.batch
    model = load_captioner(captioner, device=options.device, precision="fp32", attention="torch", batch=batch)
    if not isinstance(model, QueryCaptioner):
        raise UnknownModelError(f"captioner {captioner!r} has no Q-Former to probe; name an exp-blip or exp-vqa one")
    question, size = model.card.text.description_prompt, model.card.pixels.size
    vision, queries = [], []
    for start in range(0, len(pictures), batch):
        views = [squashed(read_picture(one.path), size) for one in pictures[start : start + batch]]
        seen_BPW = model.look(torch.stack(views).permute(0, 2, 3, 1).numpy())
        states_BQE = model.states(seen_BPW, [question] * len(views))
        vision.append(seen_BPW.mean(1).float().cpu())
        pooled = states_BQE.mean(1) if options.pooling == "mean" else states_BQE.flatten(1)
        queries.append(pooled.float().cpu())
    return {"vision": torch.cat(vision), "qformer": torch.cat(queries)}


def probes(
    options: argparse.Namespace, train: Sequence[LabelledPicture], test: Sequence[LabelledPicture]
) -> dict[str, Any]:
    """Train linear probes on one list, if there is one, and score them on another: the entry ``probes`` of a report.

    A ConfigError: neither action units nor emotions are labelled on both sides.
    """
    if not train:
        return {}
    sides = (train, test)
    left, right = (features(options, side) for side in sides)
    report: dict[str, Any] = {"train": len(train), "test": len(test), "pooling": options.pooling}
    for name, ours in left.items():
        theirs, scores = right[name], {}
        for way in ("ours", "as_published"):
            how = Probe(options.probe_epochs, options.seed, way == "as_published")
            scores[way] = {**_units(how, sides, ours, theirs), **_emotions(how, sides, ours, theirs)}
        if not scores["ours"]:
            raise ConfigError("no action unit and no single emotion is labelled on both sides; label the lists")
        report[name] = {**scores.pop("ours"), **scores}
    return {"probes": report}


def _units(how: Probe, sides: _Sides, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    left, right = ({unit for one in side for unit in one.labels.action_units or ()} for side in sides)
    units = sorted(left & right)
    if not units:
        return {}
    targets = [unit_targets([one.labels for one in side], units) for side in sides]
    found = how.units(ours, targets[0], theirs, targets[1], units)
    mean = sum(found.values()) / len(found) if found else 0.0
    return {"unit_f1": {str(unit): round(f1, 4) for unit, f1 in found.items()}, "mean_f1": round(mean, 4)}


def unit_targets(faces: Sequence[FaceLabels], units: Sequence[int]) -> Tensor:
    """Return labels (N, U) float32: 1 present, 0 absent, ``UNKNOWN`` where nobody looked."""
    rows = [
        [1.0 if unit in (face.action_units or ()) else 0.0 if unit in face.absent else UNKNOWN for unit in units]
        for face in faces
    ]
    return torch.tensor(rows).reshape(len(rows), len(units))


def _emotions(how: Probe, sides: _Sides, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """Score faces with one emotion each; emotions that training lacks cannot be found and are left out."""
    known = sorted({emotion for one in sides[0] if (emotion := _only(one.labels))})
    rows = [
        [(place, known.index(emotion)) for place, one in enumerate(side) if (emotion := _only(one.labels)) in known]
        for side in sides
    ]
    if len(known) < 2 or not rows[1]:
        return {}
    places, labels = ([torch.tensor([pair[k] for pair in side]) for side in rows] for k in (0, 1))
    accuracy, recall = how.emotions(ours[places[0]], labels[0], theirs[places[1]], labels[1])
    return {"emotion_accuracy": round(accuracy, 4), "emotion_mean_recall": round(recall, 4)}


def _only(labels: FaceLabels) -> str | None:
    return labels.emotions[0] if len(labels.emotions) == 1 else None

"""Linear probes on what a captioner's image encoder and Q-Former see: action units (F1) and emotions (accuracy).

Shape suffixes: N pictures, P positions, W width of the image encoder, Q queries, E width of the Q-Former.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamfer.captions.folder import check_files, read_card
from streamfer.captions.loading import read_model, read_tokenizers
from streamfer.captions.registry import find_captioner
from streamfer.captions.text import PromptText
from streamfer.errors import ConfigError
from streamfer.models.attention import AttentionChoice
from streamfer.models.precision import choose_device
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.exp_blip.augment import squashed
from streamfer_train.exp_blip.caption_learner import query_states
from streamfer_train.exp_blip.captioned import LabelledPicture
from streamfer_train.exp_blip.data import read_picture
from streamfer_train.exp_blip.vision import encode
from streamfer_train.metrics.probes import Pooling, ProbeRecipe, pool, probe_emotions, probe_units, unit_targets


@dataclass(frozen=True, slots=True)
class Features:
    """Features of pictures, float32 on the CPU: of the image encoder (N, W), the mean over positions, and of the
    Q-Former (N, E) or (N, Q * E), pooled."""

    vision_NW: Tensor
    qformer_ND: Tensor


@torch.inference_mode()
def features(
    captioner: str,
    pictures: Sequence[LabelledPicture],
    *,
    device: str = "auto",
    batch: int = 16,
    pooling: Pooling = "mean",
) -> Features:
    """Encode pictures with a captioner's image encoder and Q-Former.

    Raises:
        UnknownModelError: no such captioner in a folder (a stand-in of transformers has no Q-Former to probe).
        CheckpointError: damaged or incomplete files.
    """
    folder = find_captioner(captioner)
    card = read_card(folder)
    check_files(folder, card)
    place = torch.device(choose_device(device).device)
    model = read_model(folder, card, AttentionChoice("torch", "probing"), dtype=torch.float32)
    model.vision_model.post_layernorm.eps = card.vision_norm_eps
    model = model.eval().to(place)
    asked: dict[str, Tensor] = {}
    if card.architecture == "instructblip":
        text = PromptText(card.text, *read_tokenizers(folder, card))
        ids_BL, mask_BL = text.question_ids([card.text.description_prompt])
        asked = {"question_ids": ids_BL.to(place), "question_mask": mask_BL.to(place)}
    vision, queries = [], []
    for start in range(0, len(pictures), batch):
        pixels = torch.stack(
            [squashed(read_picture(one.path), card.pixels.size) for one in pictures[start : start + batch]]
        ).to(place)
        seen_BPW = encode(model.vision_model, pixels)
        repeated = {name: one.expand(len(pixels), -1) for name, one in asked.items()}
        states_BQE = query_states(model, seen_BPW, repeated)
        vision.append(seen_BPW.mean(1).float().cpu())
        queries.append(pool(states_BQE.float().cpu(), pooling))
    return Features(torch.cat(vision), torch.cat(queries))


def probe(
    captioner: str,
    train: Sequence[LabelledPicture],
    test: Sequence[LabelledPicture],
    *,
    device: str = "auto",
    batch: int = 16,
    pooling: Pooling = "mean",
    recipe: ProbeRecipe | None = None,
) -> dict[str, Any]:
    """Train linear probes on one list and score them on another; returns plain values by feature and task.

    Raises:
        ConfigError: neither units nor emotions are labelled on both sides.
    """
    left, right = (features(captioner, side, device=device, batch=batch, pooling=pooling) for side in (train, test))
    report: dict[str, Any] = {"train": len(train), "test": len(test), "pooling": pooling}
    for name in ("vision_NW", "qformer_ND"):
        ours, theirs = getattr(left, name), getattr(right, name)
        scores = {**_units(ours, theirs, train, test, recipe), **_emotions(ours, theirs, train, test, recipe)}
        if not scores:
            raise ConfigError("no action unit and no single emotion is labelled on both sides; label the lists")
        report["vision" if name == "vision_NW" else "qformer"] = scores
    return report


def _units(
    ours: Tensor,
    theirs: Tensor,
    train: Sequence[LabelledPicture],
    test: Sequence[LabelledPicture],
    recipe: ProbeRecipe | None,
) -> dict[str, Any]:
    left, right = (_present(one.labels for one in side) for side in (train, test))
    units = sorted(left & right)
    if not units:
        return {}
    targets = [unit_targets([one.labels for one in side], units) for side in (train, test)]
    found = probe_units(ours, targets[0], theirs, targets[1], units, recipe)
    return {"unit_f1": {str(unit): round(f1, 4) for unit, f1 in found.f1.items()}, "mean_f1": round(found.mean_f1, 4)}


def _present(faces: Any) -> set[int]:
    return {unit for face in faces for unit in face.action_units or ()}


def _emotions(
    ours: Tensor,
    theirs: Tensor,
    train: Sequence[LabelledPicture],
    test: Sequence[LabelledPicture],
    recipe: ProbeRecipe | None,
) -> dict[str, Any]:
    """Score faces with one emotion each; emotions that training lacks cannot be found and are left out."""
    known = sorted({emotion for one in train if (emotion := _only(one.labels))})
    rows = [
        [(place, known.index(emotion)) for place, one in enumerate(side) if (emotion := _only(one.labels)) in known]
        for side in (train, test)
    ]
    if len(known) < 2 or not rows[1]:
        return {}
    places, labels = ([torch.tensor([pair[k] for pair in side]) for side in rows] for k in (0, 1))
    found = probe_emotions(ours[places[0]], labels[0], theirs[places[1]], labels[1], recipe)
    return {"emotion_accuracy": round(found.accuracy, 4), "emotion_mean_recall": round(found.mean_recall, 4)}


def _only(labels: FaceLabels) -> str | None:
    return labels.emotions[0] if len(labels.emotions) == 1 else None


def recipe_of(epochs: int, seed: int) -> ProbeRecipe:
    """Return the recipe of a number of epochs (the paper: 100 on BP4D, 400 on RAF-AU)."""
    return ProbeRecipe(epochs=epochs, seed=seed)

"""What the shipped network is worth: emotions, action units, motion, robustness and speed, measured on its own path.

Pictures go through the shipped tower as three equal channels, and every label comes from a window of 16 features.
Nothing here was trained on; temperature and thresholds are chosen on the pictures that training watched, and judged on
those that were set aside for the last look.

Shape suffixes: N pictures or clips, B windows, T frames, D feature size, C classes, A action units.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from streamfer.models.dfer_clip import DferClip
from streamfer.models.inference import DferClipModel
from streamfer_builtin.mini import augment, renders
from streamfer_builtin.mini.data import CLASSES, Corpus, Pictures
from streamfer_builtin.mini.networks import FRAMES, MIDDLE, REACH
from streamfer_builtin.mini.thresholds import best_thresholds
from streamfer_builtin.mini.units import BLENDSHAPES, PRESENT, RENDERED_ONLY
from streamfer_builtin.mini.windows import clip_views
from streamfer_builtin.render.actions import ACTION_UNITS
from streamfer_builtin.render.clips import RenderedClips
from streamfer_builtin.render.course import DIRECTIONS
from streamfer_train.metrics import detection
from streamfer_train.metrics.arrays import plain
from streamfer_train.metrics.classification import Report, fit_temperature, report

FloatArray: TypeAlias = NDArray[np.floating[Any]]

#: A unit below this intensity is plainly absent, and at most this share of such may count as present.
ABSENT = 0.2
FALSE_SHARE = 0.05
#: A threshold where no example could choose one.
_UNMEASURED = 0.5
_ONSET, _OFFSET = DIRECTIONS.index("onset"), DIRECTIONS.index("offset")
#: Shares of all votes from which one class is counted as plainly seen.
_AGREED = (0.5, 0.6, 0.7, 0.8)
_YAW_EDGES = (0.0, 10.0, 20.0, 35.0, 180.0)
_PITCH_EDGES = (-180.0, -8.0, 4.0, 16.0, 180.0)


@dataclass(frozen=True, slots=True)
class Network:
    """The shipped model with the picture head of training, which is not shipped: the measure for averaging."""

    model: DferClip
    head: nn.Linear

    @torch.no_grad()
    def encode(self, crops: Tensor, batch: int = 256) -> Tensor:
        """Encode grey crops float32 (N, 1, H, H) in [0, 1] to features (N, D), prepared as the weights file says."""
        side = self.model.config.vision.image_size
        pixels = ((augment.resized(part, side) - MIDDLE) / REACH for part in torch.split(crops, batch))
        colour = (part.expand(-1, 3, -1, -1) for part in pixels)
        return torch.cat(
            [self.model.encode_frames(part.contiguous(memory_format=torch.channels_last)) for part in colour]
        )

    @torch.no_grad()
    def clip_features(self, windows_BTD: Tensor, batch: int = 512) -> Tensor:
        """Read windows to clip features (B, D), not normalised."""
        return torch.cat([self.model.temporal_net(part.float()) for part in torch.split(windows_BTD, batch)])

    @torch.no_grad()
    def logits(self, windows_BTD: Tensor) -> Tensor:
        """Read windows to logits (B, C), uncalibrated."""
        return self.model.clip_logits(self.clip_features(windows_BTD), self.model.class_features())

    def still(self, features_ND: Tensor) -> Tensor:
        """Return the logits of windows that never change, one for each feature."""
        return torch.cat([self.logits(part[:, None].expand(-1, FRAMES, -1)) for part in torch.split(features_ND, 512)])


def encode_plain(network: Network, pictures: Pictures) -> Tensor:
    """Return the features (N, D) of the plain crops."""
    return network.encode(augment.crop(pictures.pixels, pictures.extent))


def encode_views(network: Network, pictures: Pictures, views: int) -> Tensor:
    """Return windows (N, T, D) of drifting, trembling clips made from pictures; `views` divides 16."""
    rng = torch.Generator().manual_seed(11)
    parts = []
    for rows in torch.split(torch.arange(len(pictures)), 32):
        crops = clip_views(pictures, rows, views, rng).flatten(0, 1)
        parts.append(network.encode(crops).view(len(rows), views, -1))
    return torch.cat(parts).repeat_interleave(FRAMES // views, 1)


def encode_rendered(network: Network, clips: RenderedClips) -> Tensor:
    """Return windows (N, T, D) of rendered clips."""
    frames = renders.pictures(clips)
    parts = [network.encode(augment.crop(pixels, frames.extent)) for pixels in torch.split(frames.pixels, FRAMES * 32)]
    return torch.cat(parts).view(len(clips), FRAMES, -1)


@dataclass(frozen=True, slots=True)
class Read:
    """Logits (N, C) of one set: as stills, as clips of drifting views, and of the picture head; never calibrated."""

    still: Tensor
    clips: Tensor
    head: Tensor


def read(network: Network, pictures: Pictures, views: int) -> Read:
    """Read a set in the three ways."""
    plain = encode_plain(network, pictures)
    clips = network.logits(encode_views(network, pictures, views))
    return Read(network.still(plain), clips, network.head(plain))


def truth(pictures: Pictures) -> Tensor:
    """Return what most annotators saw, int64 (N,), or the set's label where nobody voted."""
    return pictures.targets(1.0).argmax(1)


def emotions(network: Network, corpus: Corpus, views: int) -> tuple[dict[str, Any], float]:
    """Score FER2013 by votes and by labels, and aligned faces; returns the numbers and the fitted temperature."""
    chosen, last = read(network, corpus.val, views), read(network, corpus.last_val, views)
    clear, last_clear = corpus.val.clear, corpus.last_val.clear
    labels, last_labels = truth(corpus.val)[clear], truth(corpus.last_val)[last_clear]
    temperature = fit_temperature(torch.cat([chosen.still[clear], chosen.clips[clear]]), torch.cat([labels] * 2))
    calibration: dict[str, Any] = {"temperature": round(temperature, 4), "fitted_on": len(labels)}
    calibration["reported_on"] = len(last_labels)
    for name, logits in (("still", last.still[last_clear]), ("clips", last.clips[last_clear])):
        calibration[f"{name}_ece_before"] = round(report(logits, last_labels, CLASSES).ece, 4)
        calibration[f"{name}_ece"] = round(report(logits / temperature, last_labels, CLASSES).ece, 4)
    faces, last_faces = read(network, corpus.held_out, views), read(network, corpus.last_held_out, views)
    out = {
        "views": views,
        "clear": {name: score(getattr(last, name)[last_clear], last_labels) for name in Read.__slots__},
        "clear_watched": score(chosen.still[clear], labels),
        "fer2013": {name: score(getattr(last, name), corpus.last_val.labels) for name in ("still", "clips")},
        "fer2013_watched": score(chosen.still, corpus.val.labels),
        "faces": {name: score(getattr(last_faces, name), corpus.last_held_out.labels) for name in ("still", "clips")},
        "faces_watched": score(faces.still, corpus.held_out.labels),
        "calibration": calibration,
        "by_agreement": by_agreement(last.still, corpus.last_val),
        "by_pose": by_pose(last.still[last_clear], corpus.last_val.subset(last_clear)),
        "by_quality": by_quality(network, corpus.last_val.subset(last_clear)),
    }
    return out, temperature


def score(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return count, accuracy, UAR and recalls as plain values."""
    return _scores(report(logits, labels, CLASSES))


def by_agreement(logits: Tensor, pictures: Pictures) -> dict[str, Any]:
    """Accuracy where one class has more than a share of all votes."""
    seen, most = truth(pictures), pictures.votes.amax(1)  # nobody's votes are NaN, which compares false
    bands = {f"more than {share:.0%} of the votes": most > share for share in _AGREED}
    return _banded(logits, seen, bands)


def by_pose(logits: Tensor, pictures: Pictures) -> dict[str, Any]:
    """Accuracy in bands of yaw (either side) and pitch, degrees, and where no landmarks were found."""
    yaw, pitch = pictures.pose[:, 0].abs(), pictures.pose[:, 1]
    bands = {"no landmarks": yaw.isnan()}
    for name, value, edges in (("yaw", yaw, _YAW_EDGES), ("pitch", pitch, _PITCH_EDGES)):
        for low, high in itertools.pairwise(edges):
            bands[f"{name} {_band(low, high)}"] = (value >= low) & (value < high)
    seen = truth(pictures)
    return _banded(logits, seen, bands)


def by_quality(network: Network, pictures: Pictures) -> dict[str, Any]:
    """Accuracy on plain crops that were reduced, blurred or darkened first."""
    crops = augment.crop(pictures.pixels, pictures.extent)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "as it is": lambda x: x,
        **{f"crop of {side} px": lambda x, side=side: reduced(x, side) for side in (32, 24, 16, 12)},  # type: ignore[misc]
        **{f"blur, sigma {sigma} px": lambda x, sigma=sigma: blurred(x, sigma) for sigma in (1.0, 2.0)},  # type: ignore[misc]
        "a quarter of the light, noise": _dark,
    }
    return {
        name: _brief(network.still(network.encode(change(crops))), truth(pictures)) for name, change in changes.items()
    }


def action_units(network: Network, corpus: Corpus, rendered: RenderedClips, windows: Tensor) -> dict[str, Any]:
    """Score intensities against the blendshape teacher (FER2013 val) and against what was rendered (val identities).

    Thresholds have the best F1 on the watched pictures, or on half of the rendered identities for units that
    photographs do not have. They are raised where more than `FALSE_SHARE` of plainly absent units would count as
    present, on the pictures as they are, small, blurred or dark.
    """
    chosen, last = corpus.val, corpus.last_val
    photo = network.model.action_intensities(encode_plain(network, chosen))
    best = best_thresholds(photo, chosen.units, ACTION_UNITS, present_above=PRESENT)
    frames = network.model.action_intensities(windows.flatten(0, 1)).view(len(rendered), FRAMES, -1)
    true_frames = torch.from_numpy(rendered.action_units.astype(np.float32))
    clip_fit, clip_told = _identity_halves(rendered)
    own = best_thresholds(
        frames[clip_fit].flatten(0, 1), true_frames[clip_fit].flatten(0, 1), ACTION_UNITS, present_above=PRESENT
    )
    floors = _floors(network, chosen)
    floors = np.fmax(floors, _floors(network, corpus.held_out))
    thresholds = {}
    for name, floor in zip(ACTION_UNITS, floors, strict=True):
        thresholds[name] = _inside(own[name]) if name in RENDERED_ONLY else max(_inside(best[name]), _inside(floor))
    labelled = [ACTION_UNITS.index(name) for name in BLENDSHAPES]
    told = network.model.action_intensities(encode_plain(network, last))[:, labelled]
    photographs = detection.report(
        told, last.units[:, labelled], list(BLENDSHAPES), thresholds=thresholds, present_above=PRESENT
    )
    renders_ = detection.report(
        frames[clip_told].flatten(0, 1),
        true_frames[clip_told].flatten(0, 1),
        ACTION_UNITS,
        thresholds=own,
        present_above=PRESENT,
    )
    return {
        "present_above": PRESENT,
        "absent_below": ABSENT,
        "thresholds": thresholds,
        "photographs": plain(photographs),
        "rendered": plain(renders_),
        "false_share": _false_shares(network, corpus, thresholds),
    }


def _worse(crops: Tensor) -> dict[str, Tensor]:
    return {
        "as it is": crops,
        "24 px": reduced(crops, 24),
        "16 px": reduced(crops, 16),
        "blur 1.5 px": blurred(crops, 1.5),
        "dark": _dark(crops),
    }


def _floors(network: Network, pictures: Pictures) -> FloatArray:
    """Return the intensity that `FALSE_SHARE` of a unit's plainly absent ones exceed in the worst kind of pictures.

    One for each unit, NaN where none is known.
    """
    units = pictures.units.numpy()
    found = np.full(len(ACTION_UNITS), np.nan)
    for crops in _worse(augment.crop(pictures.pixels, pictures.extent)).values():
        rated = network.model.action_intensities(network.encode(crops)).numpy()
        for unit in range(len(ACTION_UNITS)):
            absent = rated[units[:, unit] < ABSENT, unit]
            if len(absent):
                found[unit] = np.fmax(found[unit], np.quantile(absent, 1 - FALSE_SHARE))
    return found


def _false_shares(network: Network, corpus: Corpus, thresholds: dict[str, float]) -> dict[str, Any]:
    """Return how often units that are plainly absent count as present, on the last pictures: of all, and of AU43."""
    found: dict[str, Any] = {}
    limits = np.array([thresholds[name] for name in ACTION_UNITS])
    eyes = ACTION_UNITS.index("AU43")
    for pictures in (corpus.last_val, corpus.last_held_out):
        absent = pictures.units.numpy() < ABSENT
        rows = {}
        for name, crops in _worse(augment.crop(pictures.pixels, pictures.extent)).items():
            wrong = network.model.action_intensities(network.encode(crops)).numpy() >= limits
            rows[name] = {
                "all": round(float(wrong[absent].mean()), 4),
                "AU43": round(float(wrong[:, eyes][absent[:, eyes]].mean()), 4),
            }
        found[pictures.source] = rows
    return found


def motion(
    network: Network, train: RenderedClips, train_windows: Tensor, val: RenderedClips, windows: Tensor
) -> dict[str, Any]:
    """Score rendered clips of unseen identities: temporal model against averaging, and a probe for direction.

    Averaging takes the mean over a clip's frames of the picture head's probabilities, or of the shipped model's own for
    each frame standing still; the better one is what has to be beaten. The probe is a linear classifier of onset
    against offset on the normalised clip feature, fitted on training identities; beside it stands the same probe on
    the mean of the frame features, which knows no order.
    """
    labels = renders.labels_of(val)
    temporal = report(network.logits(windows), labels, CLASSES)
    stills = network.still(windows.flatten(0, 1)).softmax(-1).view(len(val), FRAMES, -1)
    averaged, own = (
        report(means.mean(1).clamp(min=1e-12).log(), labels, CLASSES)
        for means in (network.head(windows).softmax(-1), stills)
    )
    once = torch.from_numpy(val.reverse_of < 0)
    return {
        "clips": len(val),
        "temporal": _scores(temporal),
        "averaging_picture_head": _scores(averaged),
        "averaging_stills": _scores(own),
        "temporal_forward_only": _brief(network.logits(windows[once]), labels[once]),
        "gain_uar": round(temporal.uar - max(averaged.uar, own.uar), 4),
        "onset_or_offset": {
            "clip_feature": _probe(network.clip_features, train, train_windows, val, windows),
            "mean_feature": _probe(lambda w: w.mean(1), train, train_windows, val, windows),
        },
    }


def speed(model: DferClipModel, seconds: float = 2.0) -> dict[str, Any]:
    """Time the loaded model on the threads that torch has now: batches of 64 crops, and single windows."""
    size = model.info.crop.size
    crops = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    window = torch.randn(1, FRAMES, model.info.feature_dim)
    return {
        "threads": torch.get_num_threads(),
        "crops_per_second": round(64 / _timed(lambda: model.encode(crops), seconds)),
        "ms_per_window": round(1000 * _timed(lambda: model.classify(window), seconds / 2), 3),
    }


def _timed(call: Callable[[], object], seconds: float) -> float:
    call()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        rounds += 1
    return (time.perf_counter() - began) / rounds


def _probe(
    feature: Callable[[Tensor], Tensor], train: RenderedClips, seen: Tensor, val: RenderedClips, unseen: Tensor
) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = []
    for clips, windows in ((train, seen), (val, unseen)):
        rows = torch.from_numpy(np.isin(clips.direction, (_ONSET, _OFFSET)))
        features = F.normalize(feature(windows[rows].float()), dim=-1).numpy()
        parts.append((features, clips.direction[rows.numpy()] == _OFFSET))
    (x, y), (unseen_x, unseen_y) = parts
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, y)
    hit = probe.predict(unseen_x) == unseen_y
    recalls = [float(hit[unseen_y == value].mean()) for value in (False, True)]
    return {"count": len(hit), "accuracy": round(float(hit.mean()), 4), "uar": round(float(np.mean(recalls)), 4)}


def _identity_halves(clips: RenderedClips) -> tuple[Tensor, Tensor]:
    odd = torch.from_numpy(clips.identity % 2 == 1)
    return (~odd).nonzero()[:, 0], odd.nonzero()[:, 0]


def _inside(threshold: float) -> float:
    return round(min(max(threshold, 0.01), 0.99), 4) if np.isfinite(threshold) else _UNMEASURED


def reduced(crops: Tensor, side: int) -> Tensor:
    """Reduce crops (B, 1, H, H) to `side` pixels and enlarge them again: what few pixels leave of a face."""
    small = F.interpolate(crops, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=crops.shape[-2:], mode="bilinear").clamp(0, 1)


def blurred(crops: Tensor, sigma: float) -> Tensor:
    """Blur crops (B, 1, H, H) by a Gaussian of `sigma` pixels."""
    reach = round(3 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = F.pad(crops, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))


def _dark(crops: Tensor) -> Tensor:
    noise = torch.randn(crops.shape, generator=torch.Generator().manual_seed(3))
    return (crops / 4 + 0.02 * noise).clamp(0, 1)


def _band(low: float, high: float) -> str:
    if low <= -180:
        return f"below {high:.0f}°"
    return f"from {low:.0f}°" if high >= 180 else f"{low:.0f} to {high:.0f}°"


def _scores(scores: Report) -> dict[str, Any]:
    recalls = {name: None if np.isnan(value) else round(value, 4) for name, value in scores.recalls.items()}
    return {"count": scores.count, "accuracy": round(scores.war, 4), "uar": round(scores.uar, 4), "recalls": recalls}


def _banded(logits: Tensor, labels: Tensor, bands: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the scores of each band that has a picture."""
    return {name: _brief(logits[rows], labels[rows]) for name, rows in bands.items() if bool(rows.any())}


def _brief(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    scores = report(logits, labels, CLASSES)
    return {"count": scores.count, "accuracy": round(scores.war, 4), "uar": round(scores.uar, 4)}

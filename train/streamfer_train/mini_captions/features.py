"""Step `features`: the encoder's rows of every picture, encoded once, kept as float16 files that are mapped.

Encoding goes on where it stopped: what a picture's views are depends on the recipe's seed and on its place alone.

Shape suffixes: N pictures or clips, V views or frames of each, S side of a crop, R numbers of a row.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from streamfer.errors import CheckpointError, ConfigError, OutputError
from streamfer.geometry import CropProfile, tight_crop
from streamfer.models.captioning.patches import FrozenEncoder
from streamfer.models.card import ModelCard
from streamfer.models.inference import prepare_pixels
from streamfer.models.registry import find_model
from streamfer.models.towers import fold_norms
from streamfer.models.weights import digest_of, read_weights
from streamfer_train.mini import augment, renders
from streamfer_train.mini.data import Corpus, Pictures
from streamfer_train.mini_captions.recipe import CaptionRecipe, FeaturesPart
from streamfer_train.render.clips import RenderedClips
from streamfer_train.render.course import FRAMES

log = structlog.get_logger(__name__)

#: Pictures or clips between two notes of how far encoding has come.
_CHUNK = 64
Crops = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Seen:
    """The encoder in use: module, card of its weights file, and the file's digest."""

    encoder: FrozenEncoder
    card: ModelCard
    digest: str


def read_encoder(recipe: CaptionRecipe) -> Seen:
    """Read the recipe's expression model.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: no readable weights, or taps that the encoder lacks.
    """
    path = find_model(recipe.encoder)
    model, card = read_weights(path)
    return Seen(FrozenEncoder.of(model, recipe.features.taps or None), card, digest_of(path))


class FeatureFile:
    """Rows of one set, float16 (N * V, R), mapped from disk; the file is made when the first rows come."""

    def __init__(self, folder: Path, name: str, count: int, views: int, size: int, key: Mapping[str, Any]) -> None:
        """Open or begin one; `key` is what the rows depend on.

        Raises:
            CheckpointError: what is there was made otherwise.
        """
        self.name, self.count, self.views = name, count, views
        self._path, self._notes = folder / f"{name}.f16", folder / f"{name}.json"
        self._key = {**key, "count": count, "views": views, "size": size}
        self.done = self._resume() if self._notes.is_file() else 0
        self._mapped: np.memmap[Any, Any] | None = None

    @property
    def rows(self) -> np.memmap[Any, Any]:
        """The rows; those that are not encoded yet are zero.

        Raises:
            OutputError: the folder takes no file of that size.
        """
        if self._mapped is None:
            shape = (self.count * self.views, self._key["size"])
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._mapped = np.memmap(self._path, np.float16, "r+" if self.done else "w+", shape=shape)
            except (OSError, ValueError) as error:
                raise OutputError(
                    f"{self._path}: cannot be mapped ({error}); make room, or delete the folder"
                ) from error
        return self._mapped

    @property
    def whole(self) -> bool:
        """Whether every picture is encoded."""
        return self.done >= self.count

    def _resume(self) -> int:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            done = int(notes.pop("done"))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{self._notes}: cannot be read; delete it and run again") from error
        for name, value in self._key.items():
            if notes.get(name) != value:
                raise CheckpointError(
                    f"{self._path}: was made with {name} {notes.get(name)}, now it is {value}; delete the folder, or "
                    "choose another work folder"
                )
        return done

    def put(self, first: int, rows_XR: Tensor) -> None:
        """Write the rows of the pictures from `first` on and note it."""
        start = first * self.views
        self.rows[start : start + len(rows_XR)] = rows_XR.numpy().astype(np.float16)
        self.rows.flush()
        self.done = first + len(rows_XR) // self.views
        partial = self._notes.with_suffix(".partial")
        partial.write_text(json.dumps({**self._key, "done": self.done}), encoding="utf-8")
        partial.replace(self._notes)


def open_features(recipe: CaptionRecipe, seen: Seen, counts: Mapping[str, int]) -> dict[str, FeatureFile]:
    """Open the files of all sets by name; `counts` are their pictures or clips."""
    part = recipe.features
    views = {"fer2013_train": part.views, "faces": part.views, "rendered_train": part.frames}
    views |= {"rendered_val": part.frames}
    key = {"encoder": seen.digest, "seed": part.seed, "strength": part.strength, "taps": list(seen.encoder.taps)}
    folder, size = recipe.work / "features", seen.encoder.layout.size
    return {name: FeatureFile(folder, name, count, views.get(name, 1), size, key) for name, count in counts.items()}


def counts_of(corpus: Corpus, train: RenderedClips, val: RenderedClips) -> dict[str, int]:
    """Return the pictures or clips of every set, by the names of :func:`encode_all`."""
    pictures = {source.source: len(source) for source in corpus.train}
    return {
        **pictures,
        "fer2013_val": len(corpus.val),
        "faces_held_out": len(corpus.held_out),
        "rendered_train": len(train),
        "rendered_val": len(val),
    }


def encode_all(
    recipe: CaptionRecipe, seen: Seen, corpus: Corpus, train: RenderedClips, val: RenderedClips
) -> dict[str, FeatureFile]:
    """Encode what is not encoded yet and return the files, whole."""
    part, place = recipe.features, framing(seen.card.crop)
    files = open_features(recipe, seen, counts_of(corpus, train, val))
    crops: dict[str, Crops] = {source.source: _views(source, part, place) for source in corpus.train}
    crops["fer2013_val"] = _plain(corpus.val, place)
    crops["faces_held_out"] = _plain(corpus.held_out, place)
    crops["rendered_train"] = _frames(train, part, place, light=True)
    crops["rendered_val"] = _frames(val, part, place, light=False)
    working = _folded(seen)
    for name, file in files.items():
        _encode(file, working, crops[name], part.seed)
    return files


def _folded(seen: Seen) -> Seen:
    """Return a copy whose norms are part of its convolutions, for speed."""
    encoder = FrozenEncoder(seen.card.config, seen.encoder.taps)
    encoder.load_state_dict(seen.encoder.state_dict())
    if seen.card.config.vision.is_resnet:
        fold_norms(encoder.image_encoder)
    return replace(seen, encoder=encoder)


def whole_features(recipe: CaptionRecipe, seen: Seen, counts: Mapping[str, int]) -> dict[str, FeatureFile]:
    """Open files that must be whole.

    Raises:
        ConfigError: the step has not run to its end.
    """
    files = open_features(recipe, seen, counts)
    for name, file in files.items():
        if not file.whole:
            raise ConfigError(
                f"{name}: {file.done} of {file.count} are encoded; run `streamfer train mini-captions features` first"
            )
    return files


def moments(frames: int) -> list[int]:
    """Return which frames of a rendered clip are kept: evenly, the first and the last among them."""
    return [round(place) for place in np.linspace(0, FRAMES - 1, frames)]


def framing(profile: CropProfile) -> Tensor:
    """Return theta (2, 3) that takes coordinates in an encoder's crop, -1 to 1, to those of the training crop.

    Training crops are framed as `tight_crop` says; an encoder whose crop shows more or less of the head gets that
    much more or less of the picture. A crop by the box has no landmarks to go by and is taken as it is.
    """
    theta = torch.eye(2, 3)
    if profile.landmarks:
        ours = tight_crop(augment.CROP)
        here, there = (torch.tensor(p.landmarks) * (2 / p.size) - 1 for p in (profile, ours))
        centre, target = here.mean(0), there.mean(0)
        scale = ((here - centre) * (there - target)).sum() / ((here - centre) ** 2).sum()
        theta = torch.cat([torch.eye(2) * scale, (target - scale * centre)[:, None]], dim=1)
    return theta


def _encode(file: FeatureFile, seen: Seen, crops: Crops, seed: int) -> None:
    if file.whole:
        return
    log.info("mini_captions.features", set=file.name, done=file.done, count=file.count)
    for first in range(file.done, file.count, _CHUNK):
        rows = torch.arange(first, min(first + _CHUNK, file.count))
        # The same views wherever encoding was interrupted.
        rng = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{file.name}/{first}".encode()))
        file.put(first, torch.cat([encode(seen, part) for part in torch.split(crops(rows, rng), 128)]))
    log.info("mini_captions.encoded", set=file.name, count=file.count)


def encode(seen: Seen, crops_X1SS: Tensor) -> Tensor:
    """Encode grey crops in [0, 1] as the pipeline would: float32 (X, R)."""
    grey_XSS1 = (crops_X1SS * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    rows: Tensor = seen.encoder(prepare_pixels(grey_XSS1.expand(-1, -1, -1, 3), seen.card.pixels))
    return rows


def _placed(theta_X23: Tensor, place: Tensor) -> Tensor:
    """Compose: first the encoder's framing, then what moves the picture."""
    bottom = torch.tensor([[0.0, 0.0, 1.0]])
    return theta_X23 @ torch.cat([place, bottom])


def _views(pictures: Pictures, part: FeaturesPart, place: Tensor) -> Crops:
    strength = augment.Strength().relaxed(part.strength)
    plain = _plain(pictures, place)

    def crops(rows: Tensor, rng: torch.Generator) -> Tensor:
        views = [plain(rows, rng)]
        for _ in range(part.views - 1):
            theta, _ = augment.jitter(len(rows), strength, rng)
            padding = augment.random_padding(rng)
            cut = augment.crop(pictures.pixels[rows], pictures.extent, _placed(theta, place), padding)
            views.append(augment.photometric(cut, strength, rng))
        return torch.stack(views, dim=1).flatten(0, 1)

    return crops


def _plain(pictures: Pictures, place: Tensor) -> Crops:
    def crops(rows: Tensor, _rng: torch.Generator) -> Tensor:
        theta = place.expand(len(rows), 2, 3)
        return augment.crop(pictures.pixels[rows], pictures.extent, theta)

    return crops


def _frames(clips: RenderedClips, part: FeaturesPart, place: Tensor, *, light: bool) -> Crops:
    strength = augment.Strength().relaxed(part.strength)
    kept = torch.tensor(moments(part.frames))
    frames = renders.pictures(clips)

    def crops(rows: Tensor, rng: torch.Generator) -> Tensor:
        index = (rows[:, None] * FRAMES + kept).flatten()
        cut = augment.crop(frames.pixels[index], frames.extent, place.expand(len(index), 2, 3))
        if not light:
            return cut
        mirrored = (torch.rand(len(rows), generator=rng) < 0.5).repeat_interleave(len(kept))
        cut = torch.where(mirrored[:, None, None, None], cut.flip(-1), cut)
        return augment.photometric(cut, strength, rng, group=len(kept))

    return crops
